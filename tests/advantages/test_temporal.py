"""Advantages by token against the card's worked numbers and a float64 loop."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxevo.advantages import (
    at_last,
    generalised_advantage,
    return_target,
    temporal_advantage,
    whiten,
)
from jaxevo.collect.table import tabulate
from jaxevo.losses.credit import broadcast
from jaxevo.types import Message, Row, Segment, Stream, Task

REWARD, VALUE = np.array([[0.0, 0, 1]]), np.array([[0.2, 0.4, 0.6]])


@pytest.mark.parametrize(
    ("lam", "mask", "want"),
    [
        (0.95, [1, 1, 1], [0.751, 0.58, 0.4]),
        (1.0, [1, 1, 1], [0.8, 0.6, 0.4]),
        (0.95, [1, 0, 1], [0.78, 0.0, 0.4]),
    ],
)
def test_worked_numbers(lam, mask, want):
    found = generalised_advantage(REWARD, VALUE, np.array([mask], bool), lam=lam)
    assert_allclose(found, [want], rtol=1e-6)


def by_hand(reward, value, mask, gamma, lam):
    """One row after the other, over its masked tokens alone, in float64."""
    out = np.zeros(reward.shape)
    for n in range(len(reward)):
        tokens = np.flatnonzero(mask[n])
        for i in range(len(tokens) - 1, -1, -1):
            last = i == len(tokens) - 1
            after = 0.0 if last else value[n, tokens[i + 1]]
            delta = reward[n, tokens[i]] + gamma * after - value[n, tokens[i]]
            later = 0.0 if last else out[n, tokens[i + 1]]
            out[n, tokens[i]] = delta + gamma * lam * later
    return out


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (0.99, 0.0), (1.0, 1.0)])
def test_masked_tokens_are_passed_over_whatever_stands_there(gamma, lam):
    rng = np.random.default_rng(1)
    mask = rng.random((5, 9)) < 0.6
    mask[4] = False
    reward, value = rng.normal(size=(2, *mask.shape))
    want = by_hand(reward, value, mask, gamma, lam)
    dirty = [np.where(mask, x, np.nan) for x in (reward, value)]
    found = generalised_advantage(*dirty, mask, gamma=gamma, lam=lam)
    assert_allclose(found, want, rtol=1e-5, atol=1e-6)
    assert_array_equal(found[4], 0)


def test_without_values_it_is_the_reward_to_go():
    rng = np.random.default_rng(2)
    reward = rng.normal(size=(3, 6))
    found = generalised_advantage(reward, 0 * reward, np.ones((3, 6), bool), lam=1.0)
    assert_allclose(found, reward[:, ::-1].cumsum(1)[:, ::-1], rtol=1e-5)


def test_whitening_is_over_all_tokens_of_the_mask():
    rng = np.random.default_rng(3)
    x, mask = rng.normal(3, 5, (4, 6)), rng.random((4, 6)) < 0.5
    want = (x - x[mask].mean()) / np.sqrt(x[mask].var(ddof=1) + 1e-8)
    assert_allclose(whiten(np.where(mask, x, np.inf), mask), np.where(mask, want, 0), rtol=1e-5)
    assert_array_equal(whiten(np.full((2, 2), 0.7), np.ones((2, 2), bool)), 0)


@pytest.mark.parametrize("option", [{"gamma": 1.1}, {"lam": -0.1}])
def test_shares_outside_their_range_are_refused(option):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        generalised_advantage(REWARD, VALUE, np.ones((1, 3), bool), **option)


# ---------------------------------------------------------------------------- of a batch
def row(n, answer, reward, values):
    segments = [Segment(np.array([5]), "prompt")]
    segments += [Segment(np.zeros(count, np.int32), source) for source, count in answer]
    by_token = {} if values is None else {"value": np.array(values)}
    task = Task("t", (Message("user", ""),), "")
    return Row(n, task, n, tuple(segments), rewards={"correct": reward}, by_token=by_token)


ROWS = (
    row(0, [("policy", 3)], 1.0, [0.2, 0.4, 0.6]),
    row(1, [("policy", 1), ("tool", 1), ("policy", 1)], 1.0, [0.2, 9.0, 0.6]),
    row(2, [("policy", 2), ("tool", 2)], -2.0, [0.1, 0.3, 9.0, 9.0]),
)


def test_the_reward_stands_at_the_last_token_that_was_acted():
    batch = tabulate(ROWS, answer_slots=4).batch
    at = at_last(batch.reward_N, batch.answers["text"].mask_NA)
    assert_array_equal(at, [[0, 0, 1, 0], [0, 0, 1, 0], [0, -2, 0, 0]])


def test_a_batch_gets_advantages_and_targets_by_token():
    batch = tabulate(ROWS, answer_slots=4).batch
    found = temporal_advantage(batch, whitened=False)
    want = [[0.751, 0.58, 0.4, 0], [0.78, 0, 0.4, 0], [0.2 - 0.95 * 2.3, -2.3, 0, 0]]
    assert_allclose(found, want, rtol=1e-6)
    mask = batch.answers["text"].mask_NA
    target = found + np.where(mask, batch.by_token["value"], 0)
    assert_allclose(return_target(batch), target, rtol=1e-6)
    assert_allclose(temporal_advantage(batch), whiten(found, mask), rtol=1e-6)


def test_credit_takes_advantages_by_token_as_they_are():
    batch = tabulate(ROWS, answer_slots=4).batch
    advantage = np.asarray(temporal_advantage(batch))
    now = {"text": Stream(None, batch.answers["text"].mask_NA)}
    credit = broadcast(dataclasses.replace(batch, advantage_N=advantage), now, {})
    assert_array_equal(credit["text"]["advantage"], advantage)


def test_numbers_by_token_must_be_one_each_and_there():
    with pytest.raises(ValueError, match=r"by token of shape \(2,\), but 3 answer tokens"):
        tabulate([row(0, [("policy", 3)], 1.0, [0.1, 0.2])], answer_slots=4)
    valued, bare = ROWS[0], row(1, [("policy", 3)], 1.0, None)
    for rows in ([bare], [valued, bare]):
        batch = tabulate(rows, answer_slots=4).batch
        with pytest.raises(ValueError, match="needs 'value' by token of every row"):
            temporal_advantage(batch)
    assert np.isnan(tabulate([valued, bare], answer_slots=4).batch.by_token["value"][1]).all()
