"""Soft clipping, clipped weights, the two sequence forms, row masks, clipped values."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxevo.losses import (
    clipped_surrogate,
    constant_norm,
    ratio,
    reinforce,
    seq_mean_token_mean,
    soft_clipped_surrogate,
    token_mean,
    weighted_reinforce,
)

N, A = 3, 4
MASK = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0]], bool)
RNG = np.random.default_rng(5)
OLD = -RNG.exponential(size=(N, A)).astype(np.float32)
LOGP = OLD + np.float32(0.8) * RNG.normal(size=(N, A)).astype(np.float32)
ADVANTAGE = RNG.normal(size=(N, A)).astype(np.float32)


def slope64(fn, x, h=1e-6):
    """Central differences of Σ fn in float64."""
    x = np.float64(x)
    return (fn(x + h) - fn(x - h)) / (2 * h)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def soft64(logp):
    sharp = np.where(ADVANTAGE > 0, 1.0, 1.05)
    r = np.exp(logp - np.float64(OLD))
    return -np.float64(ADVANTAGE) * 4 / sharp * sigmoid(sharp * (r - 1))


def test_soft_clipping_equals_the_formula_and_its_slope():
    value, back = jax.vjp(lambda x: soft_clipped_surrogate(x, OLD, ADVANTAGE), LOGP)
    assert_allclose(value, soft64(np.float64(LOGP)), rtol=1e-5)
    assert_allclose(back(np.ones_like(value))[0], slope64(soft64, LOGP), rtol=1e-4, atol=1e-6)


def test_soft_clipping_at_ratio_one():
    value, back = jax.vjp(lambda x: soft_clipped_surrogate(x, LOGP, ADVANTAGE), LOGP)
    assert_allclose(value, -2 * ADVANTAGE / np.where(ADVANTAGE > 0, 1.0, 1.05), rtol=1e-6)
    assert_allclose(back(np.ones_like(value))[0], -ADVANTAGE, rtol=1e-6)


@pytest.mark.parametrize(("least", "most"), [(0.0, 5.0), (0.8, 1.2), (0.0, 1.1)])
def test_clipped_weights_never_take_a_tokens_gradient(least, most):
    fn = lambda x: weighted_reinforce(x, OLD, ADVANTAGE, least=least, most=most)  # noqa: E731
    value, back = jax.vjp(fn, LOGP)
    weight = np.clip(np.exp(np.float64(LOGP) - OLD), least, most)
    assert_allclose(value, -weight * ADVANTAGE * LOGP, rtol=1e-5)
    assert_allclose(back(np.ones_like(value))[0], -weight * ADVANTAGE, rtol=1e-5)


def gradient(fn, logp):
    return jax.grad(lambda x: fn(x).sum())(logp)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: clipped_surrogate(x, LOGP, ADVANTAGE),
        lambda x: clipped_surrogate(x, LOGP, ADVANTAGE, level="sequence_token"),
        lambda x: weighted_reinforce(x, LOGP, ADVANTAGE),
        lambda x: soft_clipped_surrogate(x, LOGP, ADVANTAGE),
    ],
)
def test_at_ratio_one_every_loss_has_the_reinforce_gradient(fn):
    assert_allclose(gradient(fn, LOGP), -ADVANTAGE, rtol=1e-6)
    assert_array_equal(gradient(lambda x: reinforce(x, ADVANTAGE), LOGP), -ADVANTAGE)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("fn", [soft_clipped_surrogate, weighted_reinforce, clipped_surrogate])
def test_garbage_under_the_mask_is_not_seen(fn, garbage):
    options = {"level": "sequence_token"} if fn is clipped_surrogate else {}

    def loss(logp, old, advantage):
        return ratio(*token_mean(fn(logp, old, advantage, mask_NA=MASK, **options), MASK))

    arrays = (LOGP, OLD, ADVANTAGE)
    clean, dirty = arrays, [np.where(MASK, x, np.float32(garbage)) for x in arrays]
    for one, other in zip(
        jax.value_and_grad(loss)(*clean), jax.value_and_grad(loss)(*dirty), strict=True
    ):
        assert_array_equal(one, other)


@pytest.mark.parametrize(
    "reduce",
    [token_mean, seq_mean_token_mean, lambda v, m: constant_norm(v, m, length=4.0)],
)
def test_both_sequence_forms_have_one_gradient_where_a_row_has_one_advantage(reduce):
    def loss(x, level, advantage):
        value = clipped_surrogate(
            x, OLD, advantage, clip_low=0.95, clip_high=0.2, level=level, mask_NA=MASK
        )
        return ratio(*reduce(value, MASK))

    def slope(level, advantage):
        return jax.grad(lambda x: loss(x, level, advantage))(LOGP)

    one = np.array([[1.0], [-1.0], [1.0]], np.float32)
    assert np.abs(slope("sequence", one)).max() > 1e-3
    assert_allclose(slope("sequence", one), slope("sequence_token", one), atol=1e-6)
    assert np.abs(slope("sequence", ADVANTAGE) - slope("sequence_token", ADVANTAGE)).max() > 1e-3


def test_the_row_ratio_is_a_geometric_mean():
    gap = np.array([[0.3, -0.1, 0.1]], np.float32)
    value = clipped_surrogate(gap, 0 * gap, np.ones((1, 1)), clip_high=9.0, level="sequence_token")
    assert_allclose(value, np.full((1, 3), -1.105171), rtol=1e-6)
    assert np.exp(gap.sum()) == pytest.approx(1.349859, rel=1e-6)
