import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxevo.losses import evidence_weight
from jaxevo.losses.credit import broadcast
from jaxevo.losses.evidence import contrasted
from jaxevo.types import Answers, Batch, Stream

N, A = 4, 5
MASK = np.arange(A)[None] < np.array([5, 3, 2, 4])[:, None]
RNG = np.random.default_rng(0)
OLD, FOR, AGAINST = -RNG.exponential(size=(3, N, A)).astype(np.float32)
ADVANTAGE = np.array([1.3, -0.7, 0.0, -0.2], np.float32)


def told(change, advantage, *, mix=0.5, clip=0.2):
    """A row's advantage times its weight."""
    return advantage * evidence_weight([[change]], [[advantage]], mix=mix, clip=clip)[0, 0]


@pytest.mark.parametrize(
    ("change", "preferred", "rejected"),
    [
        (0.1, 1.052585, -0.952419),
        (0.5, 1.1, -0.9),
        (-0.5, 0.9, -1.1),
        (0.0, 1.0, -1.0),
        (90.0, 1.1, -0.9),
    ],
)
def test_worked_numbers(change, preferred, rejected):
    assert told(change, 1.0) == pytest.approx(preferred, abs=5e-7)  # six decimals are given
    assert told(change, -1.0) == pytest.approx(rejected, abs=5e-7)


def test_it_saturates_at_the_logs_of_the_bounds():
    for bound, where in ((1.1, 0.182322), (0.9, -0.223144)):
        assert told(where, 1.0) == pytest.approx(bound, abs=1e-6)
        assert told(where * 0.99, 1.0) != pytest.approx(bound, abs=1e-4)
        assert told(where * 1.01, 1.0) == pytest.approx(bound, abs=2e-7)


def test_weights_follow_the_formula_and_turn_no_advantage():
    change, advantage = 3 * RNG.normal(size=(50, A)), RNG.normal(size=(50, 1))
    mix, clip = RNG.uniform(size=50).astype(np.float32), 0.9
    found = np.asarray(evidence_weight(change, advantage, mix=mix, clip=clip))
    ratio = np.clip(np.exp(np.sign(advantage) * change), 1 - clip, 1 + clip)
    assert_allclose(found, 1 - mix[:, None] + mix[:, None] * ratio, rtol=1e-6)
    assert (found > 0).all()
    assert (abs(found - 1) <= mix[:, None] * clip + 1e-6).all()


def test_nothing_to_tell_is_a_weight_of_exactly_1():
    change, advantage = RNG.normal(size=(2, 8, A)).astype(np.float32)
    ones = np.ones((8, A), np.float32)
    for mix, clip, said, row in (
        (0.0, 0.2, change, advantage),
        (0.48, 0.0, change, advantage),
        (0.48, 0.2, 0 * change, advantage),
        (0.48, 0.2, change, 0 * advantage),
    ):
        assert_array_equal(evidence_weight(said, row, mix=mix, clip=clip), ones)


def test_the_other_way_round_it_is_the_inverse():
    change, advantage = 0.1 * RNG.normal(size=(2, 8, A))
    one, other = (evidence_weight(x, advantage, mix=1.0, clip=0.9) for x in (change, -change))
    assert_allclose(one * other, np.ones((8, A)), rtol=1e-6)
    assert_allclose(other, evidence_weight(change, -advantage, mix=1.0, clip=0.9), rtol=1e-6)


# ---------------------------------------------------------------------------- as credit
def a_batch(*, right=(1, 1, 1, 1), wrong=(1, 1, 1, 1), mix=0.5):
    known = np.ones(N, bool)
    kept = np.where(MASK, np.float32(-0.25), np.nan).astype(np.float32)
    rows = np.arange(N, dtype=np.int32)
    return Batch(
        answers={"text": Answers(np.zeros((N, A), np.int32), MASK, OLD, kept, known)},
        reward_N=ADVANTAGE,
        parts={},
        numbers={"mix": np.full(N, mix, np.float32)},
        group_N=rows,
        episode_N=rows,
        turn_N=rows,
        role_N=rows,
        uid_N2=np.zeros((N, 2), np.uint32),
        real_N=np.ones(N, bool),
        temperature=np.float32(1.0),
        present={"right": np.array(right, bool), "wrong": np.array(wrong, bool)},
        advantage_N=ADVANTAGE,
    )


def streams(wrong=AGAINST):
    frozen = {"old": OLD, "right": FOR, "wrong": wrong}
    padded = {name: np.where(MASK, x, np.nan) for name, x in frozen.items()}
    now = {"text": Stream(None, MASK)}
    return now, {name: {"text": Stream(x, MASK)} for name, x in padded.items()}


def test_each_token_has_its_row_times_its_weight():
    now, frozen = streams()
    plain = broadcast(a_batch(), now, frozen)["text"]
    credit = contrasted(a_batch(), now, frozen, clip=0.4)["text"]
    assert_allclose(credit["evidence"], np.where(MASK, FOR - AGAINST, 0), rtol=1e-6, atol=1e-7)
    row = ADVANTAGE[:, None]
    ratio = np.clip(np.exp(np.sign(row) * (FOR - AGAINST)), 0.6, 1.4)
    want = np.where(MASK, row * (0.5 + 0.5 * ratio), 0)
    assert_allclose(credit["advantage"], want, rtol=1e-6, atol=1e-7)
    assert_array_equal(np.sign(credit["advantage"]), np.sign(plain["advantage"]))
    assert_array_equal(credit["weight"], plain["weight"])


def test_rows_without_a_wrong_answer_are_compared_with_the_policy():
    now, frozen = streams()
    some = contrasted(a_batch(wrong=(1, 0, 0, 1)), now, frozen)["text"]["evidence"]
    want = FOR - np.where(np.array([1, 0, 0, 1], bool)[:, None], AGAINST, OLD)
    assert_allclose(some, np.where(MASK, want, 0), rtol=1e-6, atol=1e-7)
    none = contrasted(a_batch(), now, frozen, wrong=None)["text"]
    as_one = contrasted(a_batch(), now, streams(wrong=OLD)[1])["text"]
    jax.tree.map(assert_array_equal, none, as_one)


def test_rows_without_a_right_answer_are_left_alone():
    now, frozen = streams()
    plain = broadcast(a_batch(), now, frozen)["text"]["advantage"]
    found = contrasted(a_batch(right=(0, 1, 0, 1)), now, frozen)["text"]
    assert_array_equal(found["advantage"][::2], plain[::2])
    assert not found["evidence"][::2].any()
    assert (found["advantage"][1::2] != plain[1::2]).any()
    for batch, options in ((a_batch(mix=0.0), {}), (a_batch(), {"clip": 0.0})):
        same = contrasted(batch, now, frozen, **options)["text"]["advantage"]
        assert_array_equal(same, plain)


def test_no_gradient_and_no_rows_without_a_mix():
    now, frozen = streams()

    def total(x):
        changed = {**frozen, "right": {"text": Stream(x, MASK)}}
        return contrasted(a_batch(), now, changed)["text"]["advantage"].sum()

    assert_array_equal(jax.grad(total)(jnp.asarray(FOR)), np.zeros((N, A)))
    bare = dataclasses.replace(a_batch(), numbers={})
    with pytest.raises(ValueError, match="needs 'mix' in the rows' numbers"):
        contrasted(bare, now, frozen)
    unread = {**frozen, "wrong": {"text": Stream(None, MASK)}}
    with pytest.raises(ValueError, match="needs the wrong teacher's log-probs"):
        contrasted(a_batch(), now, unread)
