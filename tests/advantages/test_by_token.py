"""Advantages by token that look at the whole batch, and those of the best answer alone."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxevo.advantages import (
    best_advantage,
    best_of_group,
    entropy_band_advantage,
    group_advantage,
    no_advantage,
    token_return,
    weighed_advantage,
    whiten,
    whitened_return_advantage,
)
from jaxevo.types import Answers, Batch, bind

N, A = 4, 6
RNG = np.random.default_rng(2)
MASK = RNG.random((N, A)) < 0.6
MASK[3] = False
REWARD = RNG.normal(size=(N, A)).astype(np.float32)
ENTROPY = RNG.random((N, A)).astype(np.float32)


def a_batch():
    text = Answers(None, MASK, MASK * 0.0, MASK * 0.0, np.ones(N, bool))
    n = np.zeros(N, np.int32)
    return Batch(
        answers={"text": text},
        reward_N=np.array([1, 0, 0.5, 0], np.float32),
        parts={},
        numbers={},
        group_N=np.array([0, 0, 1, 1], np.int32),
        episode_N=n,
        turn_N=n,
        role_N=n,
        uid_N2=np.zeros((N, 2), np.uint32),
        real_N=np.array([1, 1, 1, 0], bool),
        temperature=np.float32(1),
        by_token={
            "entropy": np.where(MASK, ENTROPY, np.nan),
            "weight": np.where(MASK, 1 + ENTROPY, np.nan),
            "one": np.where(MASK, 1.0, np.nan),
        },
    )


def test_a_return_is_what_comes_from_here_on():
    want = np.zeros((N, A))
    for n, t in zip(*np.nonzero(MASK), strict=True):
        later = np.flatnonzero(MASK[n])
        later = later[later >= t]
        want[n, t] = sum(0.5**k * REWARD[n, u] for k, u in enumerate(later))
    assert_allclose(token_return(REWARD, MASK, gamma=0.5), want, atol=1e-6)


def test_an_advantage_can_be_weighed_by_token():
    batch = a_batch()
    of = bind(group_advantage)
    row = np.asarray(of(batch))[:, None]
    real = MASK & batch.real_N[:, None]
    got = weighed_advantage(batch, of=of, number="weight")
    assert_allclose(got, np.where(real, row * (1 + ENTROPY), 0), rtol=1e-6)
    assert_array_equal(weighed_advantage(batch, of=of, number="one"), np.where(real, row, 0))
    with pytest.raises(ValueError, match="needs 'coefficient' by token of every row"):
        weighed_advantage(batch, of=of)


@pytest.mark.parametrize("equal", [0.7, 0.1])
def test_equal_numbers_are_whitened_to_exactly_0(equal):
    assert_array_equal(whiten(np.full((N, A), equal, np.float32), MASK), np.zeros((N, A)))


def test_returns_are_whitened_over_the_tokens_of_all_rows():
    batch = a_batch()
    length = MASK.sum(1)[:3]
    for baseline, reward in (("none", [1, 0, 0.5]), ("group", [0.5, -0.5, 0])):
        token = np.repeat(reward, length)
        want = (token - token.mean()) / np.sqrt(token.var(ddof=1) + 1e-8)
        got = np.asarray(whitened_return_advantage(batch, baseline=baseline))
        assert_allclose(got[:3][MASK[:3]], want, rtol=1e-5)
    shorter = np.asarray(whitened_return_advantage(batch, gamma=0.5))
    assert np.abs(shorter - np.asarray(whitened_return_advantage(batch))).max() > 0.1
    with pytest.raises(ValueError, match="baseline must be"):
        whitened_return_advantage(batch, baseline="mean")


def test_tokens_below_the_batchs_quantile_of_entropy_get_no_advantage():
    batch, of = a_batch(), bind(group_advantage, scale="none")
    mask = MASK & batch.real_N[:, None]
    least = np.quantile(ENTROPY[mask], 0.75)
    got = entropy_band_advantage(batch, of=of, keep=0.25)
    want = np.where(mask & (least <= ENTROPY), np.asarray(of(batch))[:, None], 0)
    assert_array_equal(got, want)
    stale = {"entropy": np.full((N, A), np.nan)}
    with pytest.raises(ValueError, match="needs 'entropy' by token"):
        entropy_band_advantage(dataclasses.replace(batch, by_token=stale), of=of, keep=0.25)


def test_a_row_of_zero_advantages_by_token_is_idle():
    by_token = np.array([[0, 0], [0, 1.0]])
    got = no_advantage(dataclasses.replace(a_batch(), advantage_N=by_token))
    assert_array_equal(got, [True, False])


def test_the_best_of_a_group_gets_its_lead():
    reward = np.array([1.0, 0.25, 0, 0.5, 0.5, 0.7, 0.7, 3.0, 9.0], np.float32)
    group = np.array([0, 0, 0, 1, 1, 2, 2, 3, 0], np.int32)
    real = np.arange(9) < 8
    want = np.zeros(9)
    want[0] = 0.75
    assert_array_equal(best_of_group(reward, group, scale="none", real_N=real), want)
    want[0] = 0.75 / (np.std([1, 0.25, 0], ddof=1) + 1e-6)
    assert_allclose(best_of_group(reward, group, real_N=real), want, rtol=1e-6)
    assert_allclose(
        best_of_group(reward, group, ddof=0, real_N=real)[0], 0.75 / np.std([1, 0.25, 0]), rtol=1e-5
    )
    got = best_advantage(a_batch(), scale="none")
    assert_array_equal(got, [1, 0, 0, 0])
    with pytest.raises(ValueError, match="scale must be"):
        best_of_group(reward, group, scale="batch")


def test_two_best_rows_share_nothing():
    assert_array_equal(best_of_group(np.array([1.0, 1, 0]), np.zeros(3, int)), np.zeros(3))
