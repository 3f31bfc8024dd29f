"""Token rewards of two instructions, and a pair's loss with them: the card's numbers for T-REG."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxevo.losses import contrast_reward, ratio, token_mean
from jaxevo.losses.contrast import contrast_rewarded
from jaxevo.losses.preference import direct_preference, simple_preference
from jaxevo.losses.terms import pair_preference, token_reward_alignment
from jaxevo.types import Answers, Batch, Stream, bind

NOW = np.array([[-1.0, -0.5], [-0.8, -1.5]], np.float32)  # the winner's tokens, the loser's
BEFORE = np.array([[-1.2, -0.6], [-0.7, -1.2]], np.float32)
REWARD = np.array([[0.25, 0.1], [-0.3, 0.05]], np.float32)
DPO = {"beta": 0.1}
SIMPO = {"beta": 2.0, "gamma": 1.0, "average": True, "view": None}


def a_batch(mask, advantage, group, **more):
    count = len(mask)
    n, real = np.zeros(count, np.int32), np.asarray(advantage) != 0
    answers = Answers(np.zeros(mask.shape, np.int32), mask, 0.0 * mask, 0.0 * mask, real)
    return Batch(
        answers={"text": answers}, reward_N=n, parts={}, numbers={}, group_N=np.asarray(group),
        episode_N=n, turn_N=n, role_N=n, uid_N2=np.zeros((count, 2), np.uint32), real_N=real,
        temperature=np.float32(1), advantage_N=np.asarray(advantage, np.float32), **more,
    )  # fmt: skip


def valued(logp, reward, how, *, weight=0.25, before=BEFORE, mask=None, batch=None, floor=None):
    """Loss of pairs with token rewards, its pair part, and the gradient by log-prob."""
    mask = np.ones(logp.shape, bool) if mask is None else mask
    batch = a_batch(mask, [1, -1], [0, 0]) if batch is None else batch
    fn = direct_preference if how is DPO else simple_preference
    own = {k: v for k, v in how.items() if k in ("beta", "gamma")}
    other = {k: v for k, v in how.items() if k in ("average", "view")}

    def loss(logp):
        now, frozen = {"text": Stream(logp, mask)}, {"reference": {"text": Stream(before, mask)}}
        credit, parts = {"token_reward": reward}, []
        for term in (
            bind(pair_preference, loss=bind(fn, **own), **other),
            bind(token_reward_alignment, floor=floor, **how),
        ):
            value, seen = term(now, frozen, credit, batch)
            parts.append(ratio(*token_mean(value, seen, rows_N=batch.real_N)))
        return parts[0] + weight * parts[1], parts[0]

    (value, pair), slope = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(logp))
    return float(value), float(pair), np.asarray(slope)


def test_rewards_are_shares_less_a_half():
    a, b = np.array([0.6, 0.1, 0.3]), np.array([0.2, 0.4, 0.3])
    found = contrast_reward(np.log(a), np.log(b))
    assert_allclose(found, [0.25, -0.3, 0.0], atol=1e-6)
    assert_allclose(contrast_reward(np.log(b), np.log(a)), -found, atol=1e-6)
    assert_array_equal(jax.grad(lambda x: contrast_reward(x, -x).sum())(jnp.ones(3)), 0)


def test_the_worked_pair():
    value, pair, slope = valued(NOW, REWARD, DPO)
    assert pair == pytest.approx(0.658760, abs=1e-6)
    assert value == pytest.approx(0.660388, abs=1e-6)
    assert_allclose(slope, [[-0.051266, -0.049457], [0.051870, 0.047648]], atol=1e-6)


def test_the_worked_pair_without_a_reference():
    value, pair, slope = valued(NOW, REWARD, SIMPO)
    assert pair == pytest.approx(0.798139, abs=1e-6)
    assert value == pytest.approx(0.816696, abs=1e-6)
    assert_allclose(slope[0], [-0.584199, -0.563580], atol=1e-6)


@pytest.mark.parametrize("how", [DPO, SIMPO], ids=["dpo", "simpo"])
def test_it_weighs_the_pushes_of_the_pair_and_turns_none(how):
    """Pairs side by side and apart, rows of several lengths, and one that does not exist."""
    rng = np.random.default_rng(3)
    logp, before = -rng.exponential(size=(2, 5, 4)).astype(np.float32)
    reward = rng.uniform(-0.5, 0.5, (5, 4)).astype(np.float32)
    mask = np.arange(4) < np.array([4, 2, 3, 1, 4])[:, None]
    reward[~mask], logp[~mask] = np.nan, np.nan
    advantage = [1, -1, -0.5, 0.5, 0]
    batch = a_batch(mask, advantage, [0, 5, 0, 5, 0])
    how_else = {"before": before, "mask": mask, "batch": batch}
    _, _, plain = valued(logp, reward, how, weight=0.0, **how_else)
    _, _, zero = valued(logp, 0 * reward, how, **how_else)
    assert_array_equal(plain, zero)
    for weight in (0.25, 1.9):
        _, _, found = valued(logp, reward, how, weight=weight, **how_else)
        sign = np.sign(np.array(advantage))[:, None]
        want = plain * (1 + weight * sign * np.where(mask, reward, 0))
        assert_allclose(found, want, rtol=1e-5, atol=1e-7)
        assert (np.sign(found) == np.sign(plain)).all()
    half = np.where(mask, 0.5, 0).astype(np.float32)
    _, _, found = valued(logp, half, how, **how_else)
    assert_allclose(found[[0, 3]], 1.125 * plain[[0, 3]], rtol=1e-5)
    assert_allclose(found[[1, 2]], 0.875 * plain[[1, 2]], rtol=1e-5)


def test_a_pair_that_is_told_apart_is_left_alone():
    far = NOW + np.array([[0.0, 0.0], [-800.0, -800.0]], np.float32)
    value, _, slope = valued(far, REWARD, DPO)
    assert abs(value) < 1e-6
    assert_allclose(slope, 0, atol=1e-12)


def test_below_the_floor_only_the_pair_pushes():
    logp = np.array([[-1.0, -25.0], [-0.8, -1.5]], np.float32)
    _, _, plain = valued(logp, REWARD, DPO, weight=0.0)
    _, _, found = valued(logp, REWARD, DPO, floor=-20.0)
    assert found[0, 1] == plain[0, 1]
    assert (found != plain).sum() == 3


def test_rows_that_lack_an_instruction_have_no_token_rewards():
    rng, mask = np.random.default_rng(0), np.array([[1, 1, 0], [1, 1, 1]], bool)
    better, worse = -rng.exponential(size=(2, 2, 3)).astype(np.float32)
    better[0, 2] = np.nan
    said = {"better": np.array([True, True]), "worse": np.array([True, False])}
    batch = a_batch(mask, [1, -1], [0, 0], present=said)
    now = {"text": Stream(np.zeros((2, 3), np.float32), mask)}
    frozen = {
        "old": now,
        "better": {"text": Stream(better, mask)},
        "worse": {"text": Stream(worse, mask)},
    }
    found = contrast_rewarded(batch, now, frozen)["text"]
    gap = better[0, :2] - worse[0, :2]
    assert_allclose(found["token_reward"][0, :2], 1 / (1 + np.exp(-gap)) - 0.5, rtol=1e-5)
    assert_array_equal(found["token_reward"][0, 2:], 0)
    assert_array_equal(found["token_reward"][1], 0)
    assert_array_equal(found["advantage"], np.where(mask, [[1.0], [-1.0]], 0))
    frozen["worse"] = {"text": Stream(None, mask)}
    with pytest.raises(ValueError, match="token rewards need the view 'worse'"):
        contrast_rewarded(batch, now, frozen)
