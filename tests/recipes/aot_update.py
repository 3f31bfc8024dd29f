"""Compiles the updates of a case of `cases.py` for TPUs, at toy depth and real width; prints bytes.

Rounds are collected on the CPU, until every objective has rows, by a model of two layers of
SmolLM2's width and vocabulary that knows the toy's letters. Then each objective's update is
compiled for four chips of a v5e, fsdp 2 x tensor 2, as it would run there. Begin it under
`jaxevo.kernels.aot.ENVIRONMENT`, with two devices on the CPU.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import topologies

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from cases import CASES

from jaxevo import step
from jaxevo.collect.pack import stack
from jaxevo.collect.table import prepare
from jaxevo.kernels.aot import TOPOLOGIES
from jaxevo.models import decoder, toy
from jaxevo.models.hub import LoadedModel
from jaxevo.models.lora import weight_axes
from jaxevo.parallel.mesh import Placement, make_mesh
from jaxevo.run.build import Run, build_run
from jaxevo.run.options import RunOptions
from jaxevo.types import Row

ROUNDS = 8  # at most
FSDP = 2  # on the CPU too, since shapes are declared by it
OPTIONS = RunOptions(
    model="tiny",
    task="add1",
    prompts=8,
    samples=4,
    max_new_tokens=4,
    control="random",
    fsdp=FSDP,
    devices=FSDP,
)


def model() -> LoadedModel:
    shape = {"width": 576, "layers": 2, "heads": 9, "kv_heads": 3, "head_dim": 64}
    config = dataclasses.replace(toy.CONFIG, vocab_size=49_152, ffn_width=1536, **shape)
    params = decoder.init_params(jax.random.key(7), config)
    head = np.array(params["head"])
    head[:, toy.CONFIG.vocab_size :] = 0.0
    head[:, : toy.CONFIG.vocab_size] *= 60.0  # so that the letters have all the mass
    return LoadedModel("wide", config, {**params, "head": head}, toy.tokenizer())


def collected(run: Run) -> dict[str, Sequence[Row]]:
    """Rows for each objective, of the first round that has some for it."""
    found, memory, position = {}, run.memory, 0
    for index in range(ROUNDS):
        state = run.state.replace(counters={**run.state.counters, "round": index})
        lab = run.bench.lab(state.params, learner=run.learner, round_index=index, position=position)
        experience = run.recipe.collect(lab, state, memory)
        memory, position = run.recipe.grow(memory, experience), lab.position
        found = {name: rows for name, rows in experience.items() if rows} | found
        if all(objective.name in found for objective in run.recipe.objectives):
            return found
    missing = [o.name for o in run.recipe.objectives if o.name not in found]
    raise RuntimeError(f"{ROUNDS} rounds have no rows for {', '.join(missing)}")


def main() -> None:
    (case,) = (c for c in CASES if c.name == sys.argv[1])
    run = build_run(case.make(), dataclasses.replace(OPTIONS, **case.run), model=model())
    experience = collected(run)
    topology = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES["v5e"])
    mesh = make_mesh(topology.devices, fsdp=FSDP, tensor=2)
    placement = Placement(mesh, weight_axes(dict(run.learner.forward.options)["config"]))

    def structs(tree, shardings):
        return jax.tree.map(
            lambda x, at: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=at), tree, shardings
        )

    def placed(tree):
        return structs(tree, placement.shardings(tree))

    found = {}
    for objective in run.recipe.objectives:
        rows = experience[objective.name]
        shapes = run.learner.shapes[objective.name]
        table = prepare(rows, objective, shapes.answer, run.bench.model.tokenizer)
        whole = list(range(min(len(rows), shapes.micro * shapes.rows)))
        batch = stack(table, whole, shapes)
        others = {n: p for n, p in run.state.params.items() if n != objective.trains}
        with placement.scope():
            lowered = step.update.lower(
                placed(run.state.params[objective.trains]),
                placed(run.state.optimizer[objective.name]),
                placed(others),
                structs(batch, jax.tree.map(lambda x: placement.rows(np.shape(x)), batch)),
                None if run.learner.base is None else placed(run.learner.base),
                objective=objective,
                forward=run.learner.forward,
                pin=placement.pin,
            )
            memory = lowered.compile().memory_analysis()
        found[objective.name] = {
            "argument_bytes": memory.argument_size_in_bytes,
            "temporary_bytes": memory.temp_size_in_bytes,
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
