"""Three rounds on a mesh of eight devices against one: prints, as JSON, what differs.

Called with a recipe and the sizes of fsdp and tensor. Told are rounds with other tokens, the
largest deviation of losses and of gradient norms (relative), how far weights are apart, of the
distance that they have moved, and, of the mesh that is split along all axes, whether its checkpoint
opens on four devices and on one.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
import tempfile

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent))
jax.config.update("jax_disable_most_optimizations", True)

from cases import CASES  # noqa: E402

from jaxevo.models import decoder, toy  # noqa: E402
from jaxevo.models.hub import LoadedModel  # noqa: E402
from jaxevo.run.build import build_run  # noqa: E402
from jaxevo.run.checkpoint import Checkpoints  # noqa: E402
from jaxevo.run.loop import one_round  # noqa: E402
from jaxevo.run.options import RunOptions  # noqa: E402

ROUNDS = 3
OPTIONS = RunOptions(
    model="tiny", task="add1", rounds=ROUNDS, prompts=8, samples=4, max_new_tokens=4,
    control="random",
)  # fmt: skip


def model() -> LoadedModel:
    shape = {"width": 32, "layers": 2, "heads": 8, "kv_heads": 8, "head_dim": 4, "ffn_width": 48}
    # A vocabulary that two and eight devices divide; the toy's tokens are the first of it.
    config = dataclasses.replace(toy.CONFIG, vocab_size=24, **shape)
    params = decoder.init_params(jax.random.key(7), config)
    embed = np.array(params["embed"])
    embed[toy.CONFIG.vocab_size :] = -100.0 * np.sign(embed).sum(0) / len(embed)
    return LoadedModel("tiny", config, params, toy.tokenizer())


def go(case, rounds=ROUNDS, state=None, **changes):
    run = build_run(case.make(), dataclasses.replace(OPTIONS, **changes), model=model())
    state, memory = run.state if state is None else state(run), run.memory
    seen = []
    for _ in range(rounds):
        state, memory, metrics, records = one_round(run, state, memory)
        seen.append((metrics, records))
    return run, state, memory, seen


def deviation(one, other):
    """Of two lists of (metrics, records)."""
    ids, others = ([[r["ids"] for r in records] for _, records in seen] for seen in (one, other))
    losses, norms = [], []
    for (a, _), (b, _) in zip(one, other, strict=True):
        losses += [abs(a[k] - b[k]) for k in a if k.endswith("loss")]
        norms += [abs(a[k] - b[k]) / max(a[k], 1e-9) for k in a if k.endswith("grad_norm")]
    tokens = sum(x != y for x, y in zip(ids, others, strict=True))
    return {"rounds_with_other_tokens": tokens, "loss": max(losses), "grad_norm": max(norms)}


def weights(params):
    return jax.tree.leaves(jax.device_get(params))


def apart(one, other):
    """The Euclidean distance of two parameter sets."""
    pairs = zip(weights(one), weights(other), strict=True)
    return float(np.sqrt(sum(np.square(a - b).sum(dtype=np.float64) for a, b in pairs)))


def main() -> None:
    name, axes = sys.argv[1], {"fsdp": int(sys.argv[2]), "tensor": int(sys.argv[3])}
    (case,) = (c for c in CASES if c.name == name)
    _, alone, _, seen = go(case)
    _, state, memory, own = go(case, devices=8, **axes)
    placed = {str(x.sharding.spec) for x in jax.tree.leaves(state.params["policy"])}
    moments = {str(x.sharding.spec) for x in jax.tree.leaves(state.optimizer)}
    moved = apart(alone.params["policy"], model().params)
    found = {
        **deviation(seen, own),
        "weights": apart(alone.params, state.params) / moved,
        "placements": sorted(placed),
        "moments": sorted(moments),
    }
    if axes == {"fsdp": 2, "tensor": 2}:
        found["restored"] = {
            4: restored(case, state, memory, **axes),
            1: restored(case, state, memory),
        }
    print(json.dumps(found))


def restored(case, state, memory, *, fsdp=1, tensor=1):
    """How far weights are from a checkpoint's on fewer devices, where another round is done."""
    changed = dataclasses.replace(OPTIONS, devices=fsdp * tensor, fsdp=fsdp, tensor=tensor)
    other = build_run(case.make(), changed, model=model())
    with tempfile.TemporaryDirectory() as folder:
        with Checkpoints(folder) as checkpoints:
            checkpoints.save(state, memory, {})
        with Checkpoints(folder, writes=False) as checkpoints:
            again, _, _ = checkpoints.restore(other.state, other.memory)
    difference = apart(state.params, again.params)
    one_round(other, again, memory)
    return difference


if __name__ == "__main__":
    main()
