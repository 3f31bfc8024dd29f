"""Losses of value heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxevo.losses import clipped_error


def test_clipped_error_and_its_slope():
    rng = np.random.default_rng(0)
    value, before, target = rng.normal(size=(3, 4, 6))
    mask = rng.random((4, 6)) < 0.7
    near = np.clip(value, before - 0.3, before + 0.3)
    own, held = (value - target) ** 2, (near - target) ** 2
    want = np.where(mask, np.maximum(own, held), 0)
    inside = np.abs(value - before) < 0.3
    slope = np.where(mask & ((own > held) | inside), 2 * (value - target), 0)
    assert (mask & (own < held)).sum() > 0  # some move too far towards their targets
    dirty = [jnp.asarray(np.where(mask, x, np.nan), jnp.float32) for x in (value, before, target)]

    def loss(value):
        return clipped_error(value, *dirty[1:], clip=0.3, mask_NA=mask)

    assert_allclose(loss(dirty[0]), want, rtol=1e-5, atol=1e-6)
    assert_allclose(jax.grad(lambda v: loss(v).sum())(dirty[0]), slope, rtol=1e-5, atol=1e-6)
    assert_allclose(clipped_error(value, value, target, clip=0.1), own, rtol=1e-5)
    with pytest.raises(ValueError, match="clip=0 must be positive"):
        clipped_error(value, before, target, clip=0)
