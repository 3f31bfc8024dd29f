"""Preference losses against float64 written from the equations, and as terms of an objective."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxevo.losses import (
    direct_preference,
    identity_preference,
    kl_baseline,
    pair_mean,
    prospect_preference,
    ratio,
    sequence_logp,
    simple_preference,
    token_mean,
)
from jaxevo.losses.terms import answer_preference, pair_preference, refuse_unpaired
from jaxevo.types import Answers, Batch, Stream, bind

RNG = np.random.default_rng(4)
MARGIN = RNG.normal(0, 3, 9)
GOOD = np.array([1, 0, 0, 1, 1, 0, 1, 0, 0], bool)


def sigma(x):
    return 1 / (1 + np.exp(-x))


def assert_value_and_slope(fn, x, value, slope):
    """float32 against float64: 1e-6 of numbers of size 1 to 40."""
    x = jnp.asarray(x, jnp.float32)
    assert_allclose(fn(x), value, rtol=2e-6, atol=1e-6)
    assert_allclose(jax.grad(lambda x: fn(x).sum())(x), slope, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("beta", [0.1, 0.5])
@pytest.mark.parametrize("smooth", [0.0, 0.2])
def test_direct_preference(beta, smooth):
    m = beta * MARGIN
    want = -(1 - smooth) * np.log(sigma(m)) - smooth * np.log(sigma(-m))
    fn = bind(direct_preference, beta=beta, label_smoothing=smooth)
    assert_value_and_slope(fn, MARGIN, want, beta * (sigma(m) - 1 + smooth))


@pytest.mark.parametrize("tau", [0.1, 0.7])
def test_identity_preference(tau):
    gap = MARGIN - 1 / (2 * tau)
    assert_value_and_slope(bind(identity_preference, tau=tau), MARGIN, gap**2, 2 * gap)
    assert identity_preference(np.array([1 / (2 * tau)]), tau=tau)[0] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("beta", "gamma"), [(2.0, 1.0), (2.5, 1.4), (2.0, 0.0)])
def test_simple_preference(beta, gamma):
    m = beta * MARGIN - gamma
    fn = bind(simple_preference, beta=beta, gamma=gamma)
    assert_value_and_slope(fn, MARGIN, -np.log(sigma(m)), beta * (sigma(m) - 1))


@pytest.mark.parametrize(("good", "bad"), [(1.0, 1.0), (1.5, 0.5)])
def test_prospect_preference(good, bad):
    beta, z = 0.3, 0.8
    weight = np.where(GOOD, good, bad)
    s = sigma(beta * np.where(GOOD, MARGIN - z, z - MARGIN))
    slope = -weight * beta * s * (1 - s) * np.where(GOOD, 1, -1)

    def fn(u):
        return prospect_preference(u, GOOD, z, beta=beta, good_weight=good, bad_weight=bad)

    assert_value_and_slope(fn, MARGIN, weight * (1 - s), slope)


def test_the_baseline_is_a_mean_of_real_rows_never_below_zero_and_has_no_gradient():
    u, real = np.array([3.0, -1.0, np.nan]), np.array([1, 1, 0], bool)
    assert kl_baseline(u, real_N=real) == 1.0
    assert kl_baseline(-u, real_N=real) == 0.0
    assert kl_baseline(u[:0]) == 0.0
    assert_array_equal(jax.grad(lambda u: kl_baseline(u))(jnp.ones(3)), 0)
    slope = jax.grad(lambda z: prospect_preference(u[:2], real[:2], z).sum())(0.5)
    assert slope == 0


def test_sums_and_averages_see_the_mask_alone():
    logp = np.array([[-1.0, -2.0, np.nan], [-4.0, np.inf, -6.0], [np.nan] * 3])
    mask = np.array([[1, 1, 0], [1, 0, 1], [0, 0, 0]], bool)
    assert_array_equal(sequence_logp(logp, mask), [-3, -10, 0])
    assert_array_equal(sequence_logp(logp, mask, average=True), [-1.5, -5, 0])
    slope = jax.grad(lambda x: sequence_logp(x, mask, average=True).sum())(jnp.asarray(logp))
    assert_array_equal(slope, np.array([[0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0, 0]]))


def test_pairs_are_averaged_once_over_all_parts():
    value, real = np.array([1.0, 5.0, np.nan, 3.0]), np.array([1, 1, 0, 1], bool)
    parts = [pair_mean(value[c], real_P=real[c]) for c in (slice(0, 1), slice(1, 4))]
    num, den = (sum(x) for x in zip(*parts, strict=True))
    assert ratio(num, den) == 3.0
    assert [float(x) for x in pair_mean(value[:2])] == [6, 2]


@pytest.mark.parametrize(
    ("fn", "options", "says"),
    [
        (direct_preference, {"beta": 0.0}, "beta=0.0 must be positive"),
        (direct_preference, {"label_smoothing": 0.5}, "must lie in"),
        (identity_preference, {"tau": -1.0}, "tau=-1.0 must be positive"),
        (simple_preference, {"gamma": -0.1}, "gamma=-0.1 must be at least 0"),
    ],
)
def test_options_outside_their_ranges_are_refused(fn, options, says):
    with pytest.raises(ValueError, match=says):
        fn(MARGIN, **options)


# ---------------------------------------------------------------------------- terms
N, A = 6, 4  # two pairs whose rows do not stand side by side, and two rows that do not exist
MASK = np.arange(A) < np.array([4, 2, 3, 1, 4, 0])[:, None]
MASK[0, 1] = False
REAL = np.array([1, 1, 1, 1, 0, 0], bool)
GROUP = np.array([7, 3, 3, 7, 7, 0])
ADVANTAGE = np.array([-1, 0.5, -0.5, 1, 9, 9], np.float32)
NOW, BEFORE = -RNG.exponential(1.0, (2, N, A)).astype(np.float32)


def a_batch():
    answers = Answers(np.zeros((N, A), np.int32), MASK, NOW, 0 * NOW, REAL)
    n = np.zeros(N, np.int32)
    return Batch(
        answers={"text": answers},
        reward_N=ADVANTAGE,
        parts={},
        numbers={"baseline": np.where(REAL, 0.3, np.nan).astype(np.float32)},
        group_N=GROUP,
        episode_N=n,
        turn_N=n,
        role_N=n,
        uid_N2=np.zeros((N, 2), np.uint32),
        real_N=REAL,
        temperature=np.float32(1),
        advantage_N=ADVANTAGE,
    )


def by_hand(rows, average=False, reference=True):
    """u of rows, in float64."""
    logp = np.float64(NOW) - (np.float64(BEFORE) if reference else 0)
    sums = np.where(MASK, logp, 0).sum(1)
    return (sums / np.maximum(MASK.sum(1), 1) if average else sums)[rows]


def valued(fn, **options):
    def loss(logp):
        now = {"text": Stream(logp, MASK)}
        frozen = {"reference": {"text": Stream(BEFORE, MASK)}}
        value, mask = fn(now, frozen, {}, a_batch(), **options)
        return ratio(*token_mean(value, mask, rows_N=REAL)), (value, mask)

    (loss_, (_, mask)), slope = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(NOW))
    return loss_, np.asarray(mask), slope


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("view", ["reference", None])
def test_a_pair_is_compared_wherever_its_rows_stand(average, view):
    fn = bind(direct_preference, beta=0.4)
    loss, mask, slope = valued(pair_preference, loss=fn, average=average, view=view)
    u = by_hand([3, 1], average, view is not None) - by_hand([0, 2], average, view is not None)
    assert_allclose(loss, np.mean(-np.log(sigma(0.4 * u))), rtol=1e-6)
    assert_array_equal(np.argwhere(mask), [[1, 0], [3, 0]])
    pull = 0.4 * (sigma(0.4 * u) - 1) / 2  # of the better rows 3 and 1; the worse get the opposite
    of_row = np.zeros(N)
    of_row[[3, 1]], of_row[[0, 2]] = pull, -pull
    length = np.maximum(MASK.sum(1), 1) if average else np.ones(N)
    assert_allclose(slope, MASK * (of_row / length)[:, None], rtol=1e-5, atol=1e-8)


def test_an_answer_is_weighed_against_the_baseline_that_came_with_it():
    loss, mask, slope = valued(answer_preference, loss=bind(prospect_preference, beta=0.4))
    gain = (by_hand(slice(0, 4)) - np.float32(0.3)) * np.array([-1, 1, -1, 1])
    assert_allclose(loss, np.mean(1 - sigma(0.4 * gain)), rtol=1e-6)
    assert mask[:4].sum() == 4
    assert np.isfinite(slope).all()
    assert_array_equal(slope[4:], 0)


def test_groups_that_are_no_pairs_are_refused():
    batch = dataclasses.replace(a_batch(), group_N=np.array([0, 1, 1, 0, 2, 2]))
    with pytest.raises(ValueError, match=r"group 2 has the advantages \[9.0, 9.0\]"):
        refuse_unpaired(batch)
    advantage = np.array([-1, 0.5, -0.5, 1, 9, -9], np.float32)
    refuse_unpaired(dataclasses.replace(batch, advantage_N=advantage))
