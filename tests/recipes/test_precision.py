"""Options that change how numbers are kept: bfloat16 products, factored moments."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES

from jaxevo.run.build import build_run
from jaxevo.run.checkpoint import Checkpoints

BY_NAME = {case.name: case for case in CASES}


@pytest.mark.parametrize("name", ["grpo", pytest.param("grpo-lora", marks=pytest.mark.soak)])
def test_products_in_bfloat16_leave_weights_in_float32(name, start, drive):
    state, _, metrics, records = drive(start(BY_NAME[name], compute="bfloat16"), 2)
    whole, _, exact, _ = drive(start(BY_NAME[name]), 1)
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert {x.dtype for x in jax.tree.leaves(state.optimizer)} <= {
        jnp.dtype("float32"), jnp.dtype("int32"),
    }  # fmt: skip
    assert state.counters["skipped"] == 0
    assert all(0.0 < m["logp_mismatch"] < 0.1 for m in metrics)  # both sides round, not alike
    assert metrics[0]["entropy"] == pytest.approx(exact[0]["entropy"], rel=0.02)
    assert any(r["trained"] for r in records[0])
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), state.params, whole.params)
    assert max(jax.tree.leaves(moved)) > 0.0


def test_factored_moments_train_and_are_saved(start, drive, tmp_path):
    run = start(BY_NAME["grpo"], moments="factored")
    state, memory, metrics, _ = drive(run, 1)
    assert any(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(state.optimizer))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, memory, {})
    whole, _, more, _ = drive(run, 1, state, memory)
    assert all(np.isfinite(m["loss"]) for m in metrics + more)
    fresh = start(BY_NAME["grpo"], moments="factored")
    with Checkpoints(tmp_path) as checkpoints:
        state, memory, _ = checkpoints.restore(fresh.state, fresh.memory)
    resumed, _, _, _ = drive(fresh, 1, state, memory)
    left, right = (jax.device_get((s.params, s.optimizer)) for s in (whole, resumed))
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_another_optimizer_is_refused(start, tiny_model):
    import optax

    from jaxevo.types import bind

    run = start(BY_NAME["grpo"])
    (objective,) = run.recipe.objectives
    other = dataclasses.replace(objective, optimizer=bind(optax.sgd, learning_rate=0.1))
    recipe = dataclasses.replace(run.recipe, objectives=(other,))
    options = dataclasses.replace(run.options, moments="factored")
    with pytest.raises(ValueError, match="--moments factored is for adamw, but objective 'policy'"):
        build_run(recipe, options, model=tiny_model)
