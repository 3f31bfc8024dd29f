"""What a run will need on this machine, before it starts: bytes, shapes, FLOPs, what dominates.

Nothing is loaded and nothing is compiled: shapes are traced. Weights, optimizers and activations
are counted as JAX keeps them, the rest by formulas; FLOPs are those of `jaxevo.run.costs`. All of
it is for the longest prompts and answers that the options allow.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxevo.base import over
from jaxevo.collect.pack import Shapes, lay_out, take_rows
from jaxevo.collect.table import tabulate
from jaxevo.kernels import block_bytes
from jaxevo.models import hub
from jaxevo.models.scorer import score
from jaxevo.run.build import Run, build_run
from jaxevo.run.costs import (
    head_flops,
    head_update_flops,
    matmul_rate,
    memory_rate,
    trunk_flops,
)
from jaxevo.run.options import RunOptions
from jaxevo.sampling.sizes import cache_need
from jaxevo.types import OWN, Batch, Bound, Message, Objective, Recipe, Row, Segment, Task, bind

GB = 10**9
HEADROOM = 0.9  # of what is free; the rest is for programs, Python and what the model leaves out
ADAM_PASSES = 7  # over the weights: read weight, gradient and two moments, write all but one


@dataclasses.dataclass(frozen=True)
class Work:
    """One part of a round: its products, and the bytes that it cannot but move."""

    name: str
    flops: float
    bytes: float

    def seconds(self, rates: tuple[float, float]) -> float:
        """The least that it takes at so many FLOP/s and bytes per second."""
        return max(self.flops / rates[0], self.bytes / rates[1])


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run on paper.

    memory: phase -> class -> bytes, of the phases `rollout` and `update <objective>`. shapes: of
    each objective. work: the parts of a round. devices: how many share it; memory and work are
    those of each. What tensor parallelism saves is counted for weights and products alone.
    """

    memory: Mapping[str, Mapping[str, int]]
    shapes: Mapping[str, Shapes]
    work: tuple[Work, ...]
    devices: int = 1

    @property
    def peak(self) -> int:
        """Bytes of the largest phase."""
        return max(sum(classes.values()) for classes in self.memory.values())


def plan(recipe: Recipe, options: RunOptions, *, memory_gb: float = 0.0) -> int:
    """Prints the plan of a run, and says what to change where it cannot fit.

    Raises:
      ValueError: for a run that does not fit into `memory_gb`, or with 0 into what is free here.
    """
    found = make_plan(recipe, options)
    free = int(memory_gb * GB) if memory_gb else free_bytes(found.devices)
    for line in told(found, (matmul_rate(), memory_rate()), free):
        print(line)
    if found.peak <= HEADROOM * free:
        return 0
    refusal = f"this run needs {found.peak / GB:.2f} GB, but {free / GB:.2f} GB are free"
    for change, flags in _remedies(recipe, options):
        less = make_plan(recipe, change).peak
        if less <= HEADROOM * free:
            raise ValueError(f"{refusal}. {flags} brings it to {less / GB:.2f} GB.")
    raise ValueError(
        f"{refusal}, and --remat layers with more --micro-batches does not help. Take a smaller "
        "model, shorter answers or fewer samples."
    )


def make_plan(recipe: Recipe, options: RunOptions) -> Plan:
    """The plan of a run; its errors about options are those of the run."""
    model = hub.load(options.model, weights=False)
    run = build_run(recipe, options, model=model)
    state, config, placement = run.state, model.config, run.placement
    base, each = run.learner.base, placement.bytes_each
    sets = {f"weights, {name}": each(tree) for name, tree in state.params.items()}
    if base is not None:  # and the sampler's own, which stays
        sets = {"weights, base": each(base) + each(base, sampling=True), **sets}
    optimizers = {f"optimizer, {name}": each(tree) for name, tree in state.optimizer.items()}
    held = {**sets, **optimizers}
    trained = {objective.trains for objective in recipe.objectives}
    item = np.dtype(jax.tree.leaves(model.params)[0].dtype).itemsize
    sampled = min(item, jnp.dtype(options.compute).itemsize)  # of the sampler's numbers
    copies = sum(each(state.params[name], sampling=True) for name in trained) * sampled // item
    rollout, sampler = run.bench.rollout, run.bench.sampler
    own_prompts = -(-rollout.prompts // placement.row_devices)
    cache = cache_need(
        config,
        sampled,
        prompts=own_prompts,
        samples=rollout.samples,
        prompt_slots=sampler.prompt_slots,
        new_tokens=rollout.new_tokens,
        most=sampler.cache_bytes,
    )
    sampling = {
        "the sampler's copy": copies,
        "keys and values": 2 * cache,  # two arrangements stand side by side when rows move
        "logits": 2 * 4 * own_prompts * rollout.samples * config.vocab_size,
    }
    # What a checkpoint is written from on a CPU, while the next rollout goes on.
    saved = sum(held.values()) - held.get("weights, base", 0)
    saving = {"a checkpoint's copy": saved} if jax.default_backend() == "cpu" else {}
    memory: dict[str, dict[str, int]] = {"rollout": {**held, **sampling, **saving}}
    before = sum(each(state.params[name]) for name in trained)
    meanwhile = {"weights of the round before": before, **sampling} if options.off_policy else {}
    for objective in recipe.objectives:
        shapes = run.learner.shapes[objective.name]
        gradient = each(state.params[objective.trains])
        reads = sum(bucket.rows * bucket.reads for _, bucket in shapes.ladder[-1])
        memory[f"update {objective.name}"] = {
            **held,
            **meanwhile,
            "gradient": gradient * (1 if shapes.micro == 1 else 2),
            "activations": _activations(run, objective) // placement.row_devices,
            "loss": block_bytes(reads // placement.row_devices, config.vocab_size),
        }
    return Plan(memory, run.learner.shapes, tuple(round_work(run)), placement.mesh.size)


def free_bytes(devices: int = 1) -> int:
    """Bytes that the first device can still hold; so many simulated ones share the machine's."""
    device = jax.devices()[0]
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    if sys.platform == "linux":
        lines = Path("/proc/meminfo").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith("MemAvailable"))
        return int(line.split()[1]) * 1024 // devices
    raise ValueError(f"this machine ({sys.platform}) does not say how much memory is free.")


def told(found: Plan, rates: tuple[float, float], free: int) -> Iterator[str]:
    """The lines of a plan."""
    phases = list(found.memory)
    classes = list(dict.fromkeys(name for phase in phases for name in found.memory[phase]))
    wide = max(map(len, [*classes, *(work.name for work in found.work)])) + 2
    if found.devices > 1:
        yield f"on each of {found.devices} devices:"
    yield f"{f'GB ({free / GB:.2f} free)':<{wide}}" + "".join(f"{name:>18}" for name in phases)
    for name in classes:
        counts = (found.memory[phase].get(name) for phase in phases)
        yield f"{name:<{wide}}" + "".join(
            f"{'-' if count is None else f'{count / GB:.3f}':>18}" for count in counts
        )
    totals = (sum(found.memory[phase].values()) / GB for phase in phases)
    yield f"{'together':<{wide}}" + "".join(f"{total:>18.3f}" for total in totals)
    for name, shapes in found.shapes.items():
        yield ""
        yield (
            f"shapes of update {name}: {shapes.micro} x {shapes.rows} rows of up to "
            f"{shapes.answer} answer tokens; compiled when first met, packed rows x slots:"
        )
        for rung in shapes.ladder:
            yield "  " + ", ".join(f"{view} {b.rows} x {b.slots}" for view, b in rung)
    yield ""
    yield (
        f"{'a round at most':<{wide}}{'TFLOP':>18}{'GB moved':>18}{'seconds at least':>18}"
        f"   at {rates[0] / 1e9:.0f} GFLOP/s and {rates[1] / GB:.1f} GB/s"
    )
    for work in found.work:
        yield (
            f"{work.name:<{wide}}{work.flops / 1e12:>18.3f}{work.bytes / GB:>18.2f}"
            f"{work.seconds(rates):>18.2f}"
        )
    seconds = {work.name: work.seconds(rates) for work in found.work}
    most = max(seconds, key=lambda name: seconds[name])
    share = seconds[most] / sum(seconds.values())
    yield f"{'together':<{wide}}{'':>36}{sum(seconds.values()):>18.2f}"
    yield f"dominated by: {most} ({share:.0%})"


# ---------------------------------------------------------------------------- counting
def _activations(run: Run, objective: Objective) -> int:
    """What autodiff keeps of the forward pass of one micro-batch, and a layer's backward pass."""
    remat = run.options.remat
    config, compute = run.bench.sampler.config, run.options.compute
    kept = _kept(run, objective, bind(score, config=config, remat=remat, compute=compute))
    if remat == "none":
        return kept + kept // config.layers
    whole = _kept(run, objective, bind(score, config=config, compute=compute))
    return kept + 2 * (whole // config.layers)


def _kept(run: Run, objective: Objective, forward: Bound) -> int:
    """Bytes of the residuals of a forward pass, its weights not counted."""
    batch = _largest(objective, run.learner.shapes[objective.name])
    params = run.state.params[objective.trains]
    base = run.learner.base

    def said(params: Any, batch: Batch, base: Any) -> Any:
        packed, temperature = batch.layouts[OWN], batch.temperature
        whole = over(base, forward)
        stream = whole(params, packed, batch.answers, temperature, read=objective.read)["text"]
        read = (stream.logp_NA, stream.entropy_NA, stream.values_NA, stream.hidden_NAD)
        return sum((x.sum() for x in read if x is not None), jnp.float32(0))

    def backward(params: Any, batch: Batch, base: Any) -> Any:
        return jax.vjp(lambda params: said(params, batch, base), params)[1]

    residuals = jax.eval_shape(backward, params, batch, base)
    weights = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves((params, base))]
    count = 0
    for leaf in jax.tree.leaves(residuals):
        if (leaf.shape, leaf.dtype) in weights:
            weights.remove((leaf.shape, leaf.dtype))
        else:
            count += leaf.size * np.dtype(leaf.dtype).itemsize
    return count


def _largest(objective: Objective, shapes: Shapes) -> Batch:
    """A micro-batch of the largest declared shape, with nothing in it."""
    task = Task("plan/0", (Message("user", ""),), "")
    answer = Segment(np.zeros(1, np.int32), "policy", logp=np.zeros(1, np.float32))
    row = Row(0, task, 0, (Segment(np.zeros(1, np.int32), "prompt"), answer))
    table = tabulate([row], answer_slots=shapes.answer, learns=objective.learns)
    layouts = {view: lay_out(table, [], OWN, shapes, b) for view, b in shapes.ladder[-1]}
    return dataclasses.replace(take_rows(table.batch, [], shapes.rows), layouts=layouts)


def round_work(run: Run) -> Iterator[Work]:
    """The parts of a round of longest prompts and answers, each device's share."""
    config, rollout = run.bench.sampler.config, run.bench.rollout
    prompt, steps = run.bench.sampler.prompt_slots, rollout.new_tokens
    P, N = rollout.prompts, rollout.prompts * rollout.samples
    each, devices = run.placement.bytes_each, run.placement.mesh.size
    read = [run.state.params[run.recipe.objectives[0].trains], run.learner.base]
    weights = sum(each(tree, sampling=True) for tree in read if tree is not None)
    prefill = trunk_flops(config, P * prompt, P * prompt**2 / 2)
    yield Work("prompts", (prefill + head_flops(config, P)) / devices, weights)
    drawn, seen = N * (steps - 1), N * (steps - 1) * (prompt + steps / 2)
    decode = trunk_flops(config, drawn, seen) + head_flops(config, drawn)
    yield Work("decoding", decode / devices, weights * (steps - 1))
    for objective in run.recipe.objectives:
        shapes = run.learner.shapes[objective.name]
        updates = objective.updates * shapes.micro
        share = updates / devices
        buckets = dict(shapes.ladder[-1])
        size = each(run.state.params[objective.trains])
        # A base has no gradient of its own: one product of three less.
        passes = (3 if run.learner.base is None else 2) + (run.options.remat == "layers")

        def trunk(view: str, buckets: Mapping[str, Any] = buckets) -> float:
            bucket = buckets[view]
            slots = bucket.rows * bucket.slots
            return trunk_flops(config, slots, slots * bucket.slots / 2)

        def reads(view: str, buckets: Mapping[str, Any] = buckets) -> int:
            return buckets[view].rows * buckets[view].reads

        head = head_update_flops(config, reads(OWN))
        name = f"update {objective.name}"
        yield Work(f"{name}: layers", share * passes * trunk(OWN), updates * 3 * size)
        yield Work(f"{name}: head", share * head, 0.0)
        for view in objective.views:
            layout = view.name if view.context else OWN
            flops = share * (trunk(layout) + head_flops(config, reads(layout)))
            sets = len(view.sets)
            yield Work(f"{name}: view {view.name}", sets * flops, sets * updates * size)
        yield Work(f"{name}: optimizer", 0.0, objective.updates * ADAM_PASSES * size)


def _remedies(recipe: Recipe, options: RunOptions) -> Iterator[tuple[RunOptions, str]]:
    """Options that need less memory and change no number, cheapest first."""
    for remat in dict.fromkeys((options.remat, "dots", "layers")):
        for more in (1, 2, 4, 8, 16):
            micro = options.micro_batches * more
            counts = [objective.minibatch.count for objective in recipe.objectives]
            if all(options.prompts % (count * micro) == 0 for count in counts):
                flags = [f"--remat {remat}"] if remat != "none" else []
                flags += [f"--micro-batches {micro}"] if micro > 1 else []
                changed = dataclasses.replace(options, remat=remat, micro_batches=micro)
                yield changed, " ".join(flags)
