"""From options to a run: model, task, sampler, learner and declared shapes."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from jaxevo.collect.lab import Lab, Learner, RolloutConfig
from jaxevo.collect.pack import Bucket, Rung, Shapes
from jaxevo.kernels import is_one_tpu
from jaxevo.models import hub
from jaxevo.models.lora import init_adapters, weight_axes, with_adapters
from jaxevo.models.scorer import score
from jaxevo.models.table import DecoderConfig
from jaxevo.models.tokenizer import Template, Tokenizer
from jaxevo.optimizers import Moments, adamw
from jaxevo.parallel.hosts import fetch, several
from jaxevo.parallel.mesh import Placement, make_mesh, own_mesh
from jaxevo.rewards.control import random_reward
from jaxevo.run.costs import trunk_flops
from jaxevo.run.options import RunOptions
from jaxevo.run.sharing import SharedSampler, published_here, share_verdicts
from jaxevo.run.storage import place_of
from jaxevo.run.trackers import check_trackers
from jaxevo.sampling.drawing import FINISH
from jaxevo.sampling.sampler import Published, Sampler, publish
from jaxevo.sampling.stops import stop_table
from jaxevo.state import initial_state, state_shapes
from jaxevo.tasks import load_task
from jaxevo.tasks.arithmetic import plain
from jaxevo.types import (
    OWN,
    Objective,
    Params,
    Recipe,
    Size,
    Sizes,
    Task,
    TaskSource,
    TrainState,
    bind,
)

EVALUATION = 0x65766C  # folded into the run's key, so that evaluation draws its own tokens
ADAPTERS = 0x6C6F7261  # folded into the run's key for the adapters' first values
HEADS = 0x686561  # folded into the run's key for what parameter sets add to the model
RUNGS = 13  # shapes of an update: 2^(-k/4) of the worst case, down to an eighth
WIDEST_PAIR = 512  # slots of a packed row up to which two groups share it: attention is quadratic
LEAST_SAVED = 1e9  # FLOPs of an update: what a shape must save over the next to be compiled for it
PAIR = 3.0  # seconds of a FLOP of dense attention over those of a layer's products, on two cores
PROBED = 4096  # problems whose prompts are measured to declare the prompt shape


@dataclasses.dataclass(frozen=True)
class Bench:
    """What can sample and score: a model, its tokenizer, problems, a sampler and sizes.

    publish: makes the sampler's own copy of a parameter set.
    """

    model: hub.LoadedModel
    source: TaskSource
    sampler: Sampler
    rollout: RolloutConfig
    seed: int
    control: str = "none"
    publish: Callable[[Params], Params] = publish

    def lab(
        self,
        sets: Mapping[str, Params],
        *,
        learner: Learner | None = None,
        round_index: int = 0,
        position: int = 0,
        weights_version: int | None = None,
        evaluation: bool = False,
    ) -> Lab:
        """One round's instruments over named parameter sets; evaluation has its own randomness.

        weights_version: rounds that the sets have been through, None for all before this one.

        The sampler gets its own copy of a set when a round first asks for it. `lab.map` needs a
        learner.
        """
        key = jax.random.key(self.seed)
        coin = random_reward if self.control == "random" and not evaluation else None
        return Lab(
            config=self.rollout,
            source=self.source,
            tokenizer=self.model.tokenizer,
            sample_fn=SharedSampler(self.sampler) if several() else self.sampler,
            key=jax.random.fold_in(key, EVALUATION) if evaluation else key,
            finish_names=FINISH,
            sets=sets,
            publish=self.publish,
            conversations=self.sampler.conversations,
            round_index=round_index,
            position=position,
            seed=self.seed,
            weights_version=round_index if weights_version is None else weights_version,
            coin=coin,
            learner=learner,
            share=share_verdicts if several() else None,
        )


def build_bench(
    *,
    model: hub.LoadedModel,
    task: str | TaskSource,
    rollout: RolloutConfig,
    seed: int,
    prompt_tokens: int = 0,
    problems: int = PROBED,
    control: str = "none",
    template: Template = "chatml",
) -> Bench:
    """Loads the task, measures its prompts and makes the sampler.

    Args:
      task: its name, or a source.
      template: prompt form of everything that the bench renders.
      prompt_tokens: longest prompt; 0 measures up to `problems` training and all held-out prompts.
    """
    source = load_task(task, seed=seed) if isinstance(task, str) else task
    model = dataclasses.replace(model, tokenizer=model.tokenizer.with_template(template))
    if not model.tokenizer.chat:
        source = plain(source)
    slots = prompt_tokens or longest_prompt(model.tokenizer, source, problems)
    return Bench(
        model=model,
        source=source,
        sampler=make_sampler(model, slots),
        rollout=rollout,
        seed=seed,
        control=control,
    )


def make_sampler(model: hub.LoadedModel, prompt_slots: int) -> Sampler:
    """A sampler for a loaded model."""
    tokens = model.tokenizer

    @functools.cache
    def table(stops: tuple[str, ...]) -> Any:
        return stop_table(stops, [tokens.token_bytes(v) for v in range(model.config.vocab_size)])

    return Sampler(model.config, tuple(tokens.eos_ids), prompt_slots, table)


def longest_prompt(tokenizer: Tokenizer, source: TaskSource, problems: int) -> int:
    """Tokens of the longest prompt among the first training problems and all held-out ones.

    Of a mixture as many of each part, as a recipe may ask one part alone.
    """
    count, sources = min(problems, PROBED), source.parts or (source,)
    tasks: list[Task] = [own.train(i) for own in sources for i in range(count)]
    tasks += [source.held_out(i) for i in range(source.held_out_size)]
    unique = {task.messages for task in tasks}
    return max(len(tokenizer.render(messages)) for messages in unique)


# ---------------------------------------------------------------------------- training
@dataclasses.dataclass(frozen=True)
class Run:
    """A training run ready to start.

    placement: where it learns. sampling: where this process samples.
    """

    recipe: Recipe
    options: RunOptions
    bench: Bench
    learner: Learner
    state: TrainState
    memory: Any
    placement: Placement
    sampling: Placement

    def sampling_scope(self) -> contextlib.AbstractContextManager[Any]:
        """In which the run samples."""
        return self.sampling.scope()


def build_run(recipe: Recipe, options: RunOptions, model: hub.LoadedModel | None = None) -> Run:
    """Builds everything a run needs; errors about options come from here, before any work.

    Of a model without weights (`hub.load(..., weights=False)`) the state is shapes as well.

    Raises:
      ValueError: sizes that do not divide, unknown models or tasks, rounds ahead that the recipe
        cannot weigh, a task that the recipe cannot use, trackers that are not installed.
    """
    check_trackers(options.log)
    if options.checkpoint_dir:
        place_of(options.checkpoint_dir)
    recipe = _with_moments(recipe, options.moments)
    source = load_task(options.task, seed=options.seed)
    _refuse_unfit(recipe, options, source)
    mesh = _mesh(options)
    fresh = []  # filled when weights are read for this run alone

    def put(config: DecoderConfig) -> Callable[[str, Any], jax.Array]:
        fresh.append(config)
        return Placement(mesh, weight_axes(config)).put_weight

    model = hub.load(options.model, put=put) if model is None else model
    lora = options.lora()
    if lora is not None:
        model = dataclasses.replace(model, config=with_adapters(model.config, lora))
    bench = build_bench(
        model=model,
        task=source,
        rollout=options.rollout(),
        seed=options.seed,
        prompt_tokens=options.prompt_tokens,
        problems=options.rounds * options.prompts,
        control=options.control,
        template=options.template,
    )
    placement = Placement(mesh, weight_axes(model.config))
    sizes = _sizes(recipe, options, bench)
    bench = dataclasses.replace(
        bench, sampler=dataclasses.replace(bench.sampler, prompt_slots=sizes.context)
    )
    shapes = {
        o.name: declare_shapes(
            o,
            sizes.objectives[o.name],
            options.micro_batches,
            config=model.config,
            devices=placement.row_devices,
        )
        for o in recipe.objectives
    }
    learner = Learner(
        forward=bind(score, config=model.config, remat=options.remat, compute=options.compute),
        shapes=shapes,
        place=placement.batch,
        pin=placement.pin if mesh.size > 1 else None,
        fetch=fetch,
        scope=placement.scope,
    )
    key = jax.random.fold_in(jax.random.key(options.seed), HEADS)
    sampling, dtype = placement, None if options.compute == "float32" else options.compute
    copy = bind(publish, dtype=dtype, place=placement.for_sampling if mesh.size > 1 else None)
    if several():
        sampling = dataclasses.replace(placement, mesh=own_mesh(tensor=options.tensor))
        copy = bind(published_here, dtype=dtype, placement=sampling)
    bench = dataclasses.replace(bench, publish=copy)
    shapes_only = isinstance(jax.tree.leaves(model.params)[0], jax.ShapeDtypeStruct)
    own, base = model.params, None
    if lora is not None:
        its_key = jax.random.fold_in(jax.random.key(options.seed), ADAPTERS)
        own, base = init_adapters(its_key, model.config, lora), model.params
        base = base if shapes_only else placement.put(base)
        bench = dataclasses.replace(bench, publish=Published(base, copy))
    start = state_shapes if shapes_only else initial_state
    give = bool(fresh) and base is None
    state = start(recipe, own, key=key, place=placement.put, base=base, give=give)
    bench = dataclasses.replace(bench, model=dataclasses.replace(model, params=None))
    learner = dataclasses.replace(learner, base=base)
    return Run(recipe, options, bench, learner, state, recipe.memory(), placement, sampling)


def _mesh(options: RunOptions) -> Mesh:
    """The devices of the run, cut as the options say."""
    if several() and (options.devices or options.off_policy):
        raise ValueError(
            f"{jax.process_count()} processes need --devices 0 and --off-policy 0: all devices "
            "take part, and all processes go the same way."
        )
    devices = jax.devices()[: options.devices or None]
    if len(devices) < options.devices:
        raise ValueError(f"--devices is {options.devices}, but there are {len(devices)}.")
    return make_mesh(devices, fsdp=options.fsdp, tensor=options.tensor)


def _with_moments(recipe: Recipe, moments: Moments) -> Recipe:
    """The recipe whose optimizers keep that of a gradient's past."""
    if moments == "full":
        return recipe
    changed = []
    for objective in recipe.objectives:
        if objective.optimizer.fn is not adamw:
            raise ValueError(
                f"--moments {moments} is for adamw, but objective {objective.name!r} has "
                f"{objective.optimizer!r}."
            )
        optimizer = bind(objective.optimizer, moments=moments)
        changed.append(dataclasses.replace(objective, optimizer=optimizer))
    return dataclasses.replace(recipe, objectives=tuple(changed))


def _refuse_unfit(recipe: Recipe, options: RunOptions, source: TaskSource) -> None:
    if recipe.needs is not None:
        recipe.needs(source)
    for objective in recipe.objectives:
        if options.off_policy and not objective.weighs_stale:
            raise ValueError(
                f"--off-policy {options.off_policy} gives {recipe.name!r} answers of older "
                f"weights, which its objective {objective.name!r} does not correct for. Take "
                "--off-policy 0, or where the recipe has --correction, set it to token or sequence."
            )


def _sizes(recipe: Recipe, options: RunOptions, bench: Bench) -> Sizes:
    longest = bench.sampler.prompt_slots
    if recipe.sizes is None:
        return single_turn_sizes(recipe, options, longest)
    sizes = recipe.sizes(bench.rollout, longest, bench.model.tokenizer)
    return dataclasses.replace(sizes, context=max(longest, sizes.context))  # evaluation samples too


def single_turn_sizes(recipe: Recipe, options: RunOptions, prompt_slots: int) -> Sizes:
    """P prompts x G answers in one turn: whole groups per micro-batch, one tree per group."""
    for objective in recipe.objectives:
        if options.prompts % (objective.minibatch.count * options.micro_batches):
            raise ValueError(
                f"--prompts {options.prompts} cannot be cut into {objective.minibatch.count} "
                f"minibatches x {options.micro_batches} micro-batches of whole groups."
            )
    G, A = options.samples, options.max_new_tokens
    size = Size(options.prompts * G, answer=A, group=G, slots=prompt_slots + G * (A - 1))
    return Sizes(prompt_slots, {objective.name: size for objective in recipe.objectives})


def declare_shapes(
    objective: Objective,
    size: Size,
    micro_batches: int,
    *,
    config: DecoderConfig | None = None,
    devices: int = 1,
) -> Shapes:
    """The static shapes of an objective's updates: a ladder from an eighth of the worst case up.

    The worst case is as many prefix trees per micro-batch as rows of the size's groups need. Trees
    of few slots stand in pairs in a packed row, where that leaves a row for each device: rows that
    fill up together waste less. Trees of long answers are cut, as attention within a packed row is
    quadratic: by the FLOPs of a model of the shape `config`, or never. Each rung has a sixth fewer
    slots than the one above, so an update computes at most that much padding, and what its rows
    differ by; of a small model there are fewer, where so little work is not worth a program.
    """
    trees = -(-size.rows // size.group)
    trees = -(-trees // (objective.minibatch.count * micro_batches))
    answers = size.group if config is None else _answers_per_row(size, config)
    slots = size.slots - (size.group - answers) * (size.answer - 1)
    cuts = size.group // answers
    beside = 1
    if cuts == 1 and trees % (2 * devices) == 0 and 2 * slots <= WIDEST_PAIR:
        beside = 2
    longest = {OWN: 0}  # slots of a row whose context is its own; 0 where it shares its group's
    for view in objective.views:
        if view.context is not None:
            limit = dict(view.context.options)["max_prompt_tokens"]
            longest[view.name] = limit + size.answer - 1
    reads = beside * answers * size.answer
    by_slots = {}
    for fewer in range(RUNGS - 1, -1, -1):
        share = 2.0 ** (-fewer / 4)
        rung = []
        for name, least in longest.items():
            worst = beside * max(slots, answers * least)
            some = min(max(_eights(share * worst), least), worst)
            # The last token of an answer is read, and takes no slot.
            read = min(reads, _eights(share * reads) + beside * answers)
            rung.append((name, Bucket(trees * cuts // beside, some, read)))
        by_slots[tuple(bucket.slots for _, bucket in rung)] = tuple(rung)
    ladder = list(by_slots.values())
    if config is not None:
        ladder = _worth_programs(ladder, micro_batches, config)
    return Shapes(trees * size.group, size.answer, micro_batches, tuple(ladder), size.group)


def _worth_programs(
    ladder: Sequence[Rung], micro_batches: int, config: DecoderConfig
) -> list[Rung]:
    """The largest rung, and of the others each that saves enough over the next that is kept."""

    def flops(rung: Rung) -> float:
        buckets = [bucket for _, bucket in rung]
        once = [b.rows * trunk_flops(config, b.slots, PAIR * b.slots**2 / 2) for b in buckets]
        return 3 * micro_batches * sum(once)

    kept = [ladder[-1]]
    for rung in reversed(ladder[:-1]):
        if flops(kept[0]) - flops(rung) >= LEAST_SAVED:
            kept.insert(0, rung)
    return kept


def _answers_per_row(size: Size, config: DecoderConfig) -> int:
    """How many answers of a group share a packed row: all, or as many halvings as save FLOPs."""
    prefix, counts = size.slots - size.group * (size.answer - 1), [size.group]
    if is_one_tpu():  # attention that computes only what is seen
        return size.group
    while counts[-1] % 2 == 0:
        counts.append(counts[-1] // 2)

    def cost(count: int) -> float:
        slots = prefix + count * (size.answer - 1)
        return trunk_flops(config, slots, PAIR * slots**2 / 2) / count

    return min(counts, key=cost)


def _eights(count: float) -> int:
    """Rounded up to a multiple of 8."""
    return -(-math.ceil(count) // 8) * 8
