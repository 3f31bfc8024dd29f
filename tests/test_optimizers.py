"""Optimizers as options."""

import jax
import numpy as np
import pytest

from jaxevo.optimizers import adamw

PARAMS = {"embed": np.ones((3, 2), np.float32), "head": {"w": np.full(4, 2.0, np.float32)}}
GRADIENT = {"embed": np.full((3, 2), 0.1, np.float32), "head": {"w": np.arange(4, dtype="f4")}}


def one_step(**options):
    optimizer = adamw(learning_rate=0.01, **options)
    return optimizer.update(GRADIENT, optimizer.init(PARAMS), PARAMS)[0]


@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
def test_a_factor_lengthens_the_steps_of_one_sub_tree(max_grad_norm):
    plain = one_step(max_grad_norm=max_grad_norm)
    longer = one_step(max_grad_norm=max_grad_norm, factors=(("head", 20.0),))
    np.testing.assert_array_equal(longer["embed"], plain["embed"])
    np.testing.assert_allclose(longer["head"]["w"], 20 * plain["head"]["w"], rtol=1e-6)
    assert np.abs(plain["head"]["w"][1:]).min() > 0


def test_the_first_step_of_adam_is_the_rate_in_the_gradients_sign():
    for x, g in zip(jax.tree.leaves(one_step()), jax.tree.leaves(GRADIENT), strict=True):
        np.testing.assert_allclose(x, -0.01 * np.sign(g), atol=1e-5)


def bytes_of(tree):
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def test_factored_moments_take_a_quarter_of_the_memory_and_go_the_same_way():
    params = {"w": np.zeros((3, 256, 128), np.float32)}
    gradient = {"w": np.random.default_rng(0).normal(size=(3, 256, 128)).astype(np.float32)}
    changes, bytes_kept = {}, {}
    for moments in ("full", "factored"):
        optimizer = adamw(learning_rate=0.01, max_grad_norm=None, moments=moments)
        state = optimizer.init(params)
        bytes_kept[moments] = bytes_of(state)
        for _ in range(20):
            step, state = optimizer.update(gradient, state, params)
        changes[moments] = step["w"]
    assert bytes_kept["full"] > 8 * params["w"].size
    assert bytes_kept["factored"] < 2.1 * params["w"].size
    full, factored = (np.asarray(changes[m], np.float64).ravel() for m in ("full", "factored"))
    assert np.dot(full, factored) > 0.75 * np.linalg.norm(full) * np.linalg.norm(factored)
    assert 0.5 < np.linalg.norm(factored) / np.linalg.norm(full) < 1.5
