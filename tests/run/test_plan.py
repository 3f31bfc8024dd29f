"""The plan of a run: what it counts is what there is."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxevo import step
from jaxevo.models import hub
from jaxevo.recipes.grpo import grpo
from jaxevo.recipes.sdpo import sdpo
from jaxevo.run.build import build_run
from jaxevo.run.cli import main
from jaxevo.run.costs import head_flops, trunk_flops
from jaxevo.run.options import RunOptions
from jaxevo.run.plan import GB, _largest, make_plan
from jaxevo.sampling.sizes import cache_need

OPTIONS = RunOptions(model="toy", samples=16, max_new_tokens=12, eval_problems=0)


def size(tree):
    return sum(x.size * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))


@pytest.fixture(scope="module")
def run():
    return build_run(sdpo(), OPTIONS)


def test_a_plan_holds_what_a_run_holds(run):
    found = make_plan(sdpo(), OPTIONS)
    assert found.shapes == run.learner.shapes
    for phase in ("rollout", "update policy"):
        for name, params in run.state.params.items():
            assert found.memory[phase][f"weights, {name}"] == size(params)
        assert found.memory[phase]["optimizer, policy"] == size(run.state.optimizer["policy"])
    assert found.memory["rollout"]["the sampler's copy"] == size(run.state.params["policy"])
    assert found.memory["update policy"]["gradient"] == size(run.state.params["policy"])


@pytest.mark.parametrize("axes", [{}, {"fsdp": 2}, {"tensor": 2}], ids=str)
def test_the_plan_of_a_mesh_is_that_of_each_device(axes):
    options = dataclasses.replace(OPTIONS, devices=2, **axes)
    run = build_run(grpo(), options)
    found, alone = make_plan(grpo(), options), make_plan(grpo(), OPTIONS)

    def on_first(tree):
        first = jax.devices()[0]
        parts = [
            p for x in jax.tree.leaves(tree) for p in x.addressable_shards if p.device == first
        ]
        return sum(part.data.nbytes for part in parts)

    memory, before = found.memory["update policy"], alone.memory["update policy"]
    assert memory["weights, policy"] == on_first(run.state.params["policy"])
    assert memory["optimizer, policy"] == on_first(run.state.optimizer["policy"])
    copy = run.bench.publish(run.state.params["policy"])
    assert found.memory["rollout"]["the sampler's copy"] == on_first(copy)
    rows = 1 if "tensor" in axes else 2  # devices that rows are spread over
    assert memory["activations"] == pytest.approx(before["activations"] / rows, rel=0.1)
    whole = [sum(work.flops for work in plan.work) for plan in (alone, found)]
    assert whole[1] == pytest.approx(whole[0] / 2, rel=0.1)


def test_rounds_ahead_sample_while_the_update_stands(run):
    recipe = grpo(correction="token")
    plain, ahead = (
        make_plan(recipe, dataclasses.replace(OPTIONS, off_policy=steps)).memory for steps in (0, 1)
    )
    assert ahead["rollout"] == plain["rollout"]
    more = {
        name: n for name, n in ahead["update policy"].items() if name not in plain["update policy"]
    }
    assert more.pop("weights of the round before") == size(run.state.params["policy"])
    assert more.items() <= plain["rollout"].items()
    assert len(more) == 3


def test_models_without_weights_have_the_shapes_of_those_with():
    with_weights, without = hub.load("toy"), hub.load("toy", weights=False)
    told = jax.tree.map(lambda x: (x.shape, np.dtype(x.dtype)), with_weights.params)
    assert told == jax.tree.map(lambda x: (x.shape, np.dtype(x.dtype)), without.params)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "dots", "layers"])
def test_an_update_takes_as_much_memory_as_planned(remat):
    options = dataclasses.replace(OPTIONS, remat=remat, max_new_tokens=48)
    recipe = grpo()
    run = build_run(recipe, options)
    (objective,) = recipe.objectives
    batch = _largest(objective, run.learner.shapes["policy"])
    batch = dataclasses.replace(batch, advantage_N=np.zeros(len(batch.real_N), np.float32))
    lowered = step.update.lower(
        run.state.params["policy"],
        run.state.optimizer["policy"],
        {},
        jax.tree.map(lambda x: x[None], batch),
        objective=objective,
        forward=run.learner.forward,
    )
    needed = lowered.compile().memory_analysis().temp_size_in_bytes
    classes = make_plan(recipe, options).memory["update policy"]
    planned = sum(classes[name] for name in ("gradient", "activations", "loss"))
    assert 0.7 * needed < planned < 1.5 * needed


def test_work_is_counted_as_products():
    config = hub.load("toy", weights=False).config
    width, ffn, heads = config.width, config.ffn_width, config.heads * config.head_dim
    weights = width * (2 * heads + 2 * config.kv_heads * config.head_dim + 3 * ffn)
    layer = 2 * 10 * weights + 2 * 2 * 7 * heads  # 10 slots; 7 pairs: a score, and a weighted sum
    assert trunk_flops(config, 10, 7) == config.layers * layer
    assert head_flops(config, 5, 4) == 4 * 2 * 5 * width * config.vocab_size


def test_keys_and_values_are_those_of_the_blocks_that_fit():
    config = hub.load("toy", weights=False).config
    slot = 2 * config.layers * config.kv_heads * config.head_dim * 4
    sizes = {"prompts": 4, "samples": 8, "prompt_slots": 16, "new_tokens": 9}
    block = slot * (16 + 4 * 8)
    assert cache_need(config, 4, **sizes, most=2**31) == 8 * block
    assert cache_need(config, 4, **sizes, most=5 * block) == 4 * block


def test_a_run_that_fits_is_printed(capsys):
    assert main(["plan", "grpo", "--model", "toy", "--task", "add1", "--memory-gb", "4"]) == 0
    said = capsys.readouterr().out
    for part in ("weights, policy", "activations", "packed rows x slots", "dominated by: update"):
        assert part in said


def test_a_run_that_does_not_fit_is_refused_with_what_to_change(capsys):
    need = make_plan(grpo(), OPTIONS).peak / GB
    command = ["plan", "grpo", "--model", "toy", "--samples", "16", "--max-new-tokens", "12"]
    assert main([*command, "--memory-gb", f"{0.9 * need:.6f}"]) == 2
    said = capsys.readouterr().err
    assert f"needs {need:.2f} GB" in said
    assert "--micro-batches 2 brings it to" in said
    assert main([*command, "--memory-gb", "0.001"]) == 2
    assert "Take a smaller model" in capsys.readouterr().err
