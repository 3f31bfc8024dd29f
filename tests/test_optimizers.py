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
