import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from jaxevo.losses import (
    clipped_surrogate,
    importance_weight,
    off_policy_mask,
    ratio,
    reinforce,
    token_mean,
)

N, A = 3, 4
MASK = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0]], bool)


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    logp = -rng.exponential(size=(N, A)).astype(np.float32)
    old = logp + 0.4 * rng.normal(size=(N, A)).astype(np.float32)
    advantage = rng.normal(size=(N, A)).astype(np.float32)
    return logp, old, advantage


def reference(logp, old, advantage, low, high, dual):
    logp, old, advantage = (np.float64(x) for x in (logp, old, advantage))
    r = np.exp(np.clip(logp - old, -20, 20))
    loss = np.maximum(-advantage * r, -advantage * np.clip(r, 1 - low, 1 + high))
    if dual is None:
        return loss
    return np.where(advantage < 0, np.minimum(loss, -advantage * dual), loss)


@pytest.mark.parametrize("dual", [None, 3.0])
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.1, 0.28)])
def test_clipped_surrogate_equals_the_float64_reference(low, high, dual):
    fn = jax.jit(lambda *x: clipped_surrogate(*x, clip_low=low, clip_high=high, dual_clip=dual))

    @settings(max_examples=15, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.floats(0.1, 60))
    def check(seed, spread):
        logp, old, advantage = arrays(seed)
        old = np.float32(logp + (old - logp) * spread)
        want = reference(logp, old, advantage, low, high, dual)
        # exp of a float32 log-ratio of up to 20, itself the difference of numbers of that size
        assert_allclose(fn(logp, old, advantage), want, rtol=2e-5, atol=1e-6)

    check()


@pytest.mark.parametrize(
    ("advantage", "r", "options", "loss", "slope"),
    [
        (-1.0, 5.0, {}, 5.0, 5.0),
        (-1.0, 5.0, {"dual_clip": 3.0}, 3.0, 0.0),
        (1.0, 5.0, {"dual_clip": 3.0}, -1.2, 0.0),
        (1.0, 1.25, {}, -1.2, 0.0),
        (1.0, 1.25, {"clip_high": 0.28}, -1.25, -1.25),
        (-1.0, 0.7, {}, 0.8, 0.0),
        (-1.0, 0.7, {"clip_low": 0.4}, 0.7, 0.7),
        (1.0, 0.5, {}, -0.5, -0.5),
    ],
)
def test_clip_clip_higher_and_dual_clip_by_hand(advantage, r, options, loss, slope):
    x = jnp.full((1, 1), np.log(r), jnp.float32)
    fn = lambda logp: clipped_surrogate(  # noqa: E731
        logp, np.zeros((1, 1)), np.full((1, 1), advantage), **options
    ).sum()
    value, grad = jax.value_and_grad(fn)(x)
    assert_allclose(value, loss, rtol=1e-6)
    assert_allclose(grad, [[slope]], rtol=1e-6)


def test_log_ratio_is_limited():
    got = clipped_surrogate(np.zeros((1, 1)), np.full((1, 1), -500.0), np.full((1, 1), -1.0))
    assert_allclose(got, [[np.exp(20)]], rtol=1e-5)


def test_at_ratio_one_all_policy_losses_have_the_reinforce_gradient():
    logp, _, advantage = arrays()
    clip = jax.grad(lambda x: clipped_surrogate(x, logp, advantage).sum())(logp)
    dual = jax.grad(lambda x: clipped_surrogate(x, logp, advantage, dual_clip=3.0).sum())(logp)
    plain = jax.grad(lambda x: reinforce(x, advantage).sum())(logp)
    assert_array_equal(plain, -advantage)
    assert_allclose(clip, plain, rtol=1e-6)
    assert_allclose(dual, plain, rtol=1e-6)


def test_zero_advantage_gives_exactly_no_gradient():
    logp, old, _ = arrays()
    for fn in (
        lambda x: clipped_surrogate(x, old, np.zeros((N, A)), dual_clip=3.0).sum(),
        lambda x: reinforce(x, np.zeros((N, A))).sum(),
    ):
        assert_array_equal(jax.grad(fn)(logp), np.zeros((N, A)))


def test_old_log_probs_and_advantages_get_no_gradient():
    logp, old, advantage = arrays()
    grads = jax.grad(lambda o, a: clipped_surrogate(logp, o, a).sum(), argnums=(0, 1))
    for grad in grads(old, advantage):
        assert_array_equal(grad, np.zeros((N, A)))
    grad = jax.grad(lambda a: reinforce(logp, a).sum())(advantage)
    assert_array_equal(grad, np.zeros((N, A)))


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e4])
@pytest.mark.parametrize("fn", [clipped_surrogate, reinforce])
def test_garbage_under_the_mask_changes_neither_loss_nor_gradient(fn, garbage):
    inputs = arrays() if fn is clipped_surrogate else arrays()[::2]

    def loss(*x):
        return ratio(*token_mean(fn(*x, mask_NA=MASK), MASK))

    clean, clean_grad = jax.value_and_grad(loss)(*inputs)
    dirty_inputs = [jnp.where(MASK, x, garbage) for x in inputs]
    dirty, dirty_grad = jax.value_and_grad(loss)(*dirty_inputs)
    assert clean == dirty
    assert_array_equal(clean_grad, dirty_grad)
    assert_array_equal(np.asarray(dirty_grad)[~MASK], 0)


@pytest.mark.parametrize("shifted", range(4))
def test_a_shift_by_one_of_any_input_changes_the_loss(shifted):
    logp, old, advantage = arrays()

    def loss(logp, old, advantage, mask):
        value = clipped_surrogate(logp, old, advantage, mask_NA=mask)
        return float(ratio(*token_mean(value, mask)))

    inputs = [logp, old, advantage, MASK]
    straight = loss(*inputs)
    inputs[shifted] = np.roll(inputs[shifted], 1, axis=1)
    assert abs(loss(*inputs) - straight) > 1e-3


def test_importance_weights_by_hand():
    difference = np.array([[0.1, 1.2, -0.5]])
    zeros, mask = np.zeros((1, 3)), np.ones((1, 3), bool)

    def weight(**options):
        return importance_weight(difference, zeros, mask, **options)

    assert_allclose(weight(), [[1.105171, 2, 0.606531]], rtol=1e-6)
    assert_allclose(weight(cap=5.0), np.exp(difference), rtol=1e-6)
    assert_allclose(weight(floor=0.8), [[1.105171, 2, 0.8]], rtol=1e-6)
    assert_allclose(weight(outside="mask"), [[1.105171, 0, 0.606531]], rtol=1e-6)
    assert_allclose(weight(outside="mask", floor=0.8), [[1.105171, 0, 0]], rtol=1e-6)
    assert_allclose(weight(level="sequence"), np.full((1, 3), 2.0), rtol=1e-6)
    assert_allclose(weight(level="sequence", cap=9.0), np.full((1, 3), np.exp(0.8)), rtol=1e-6)
    assert_allclose(weight(level="sequence", outside="mask"), np.zeros((1, 3)))


def test_importance_weight_reads_valid_tokens_only_and_has_no_gradient():
    logp, old, _ = arrays()
    clean = importance_weight(logp, old, MASK, level="sequence", cap=50.0)
    dirty = importance_weight(
        np.where(MASK, logp, np.nan), np.where(MASK, old, -np.inf), MASK, level="sequence", cap=50.0
    )
    assert_array_equal(clean, dirty)
    assert_array_equal(np.asarray(clean)[~MASK], 1)
    want = np.exp(((logp - old) * MASK).sum(axis=1))
    assert_allclose(np.asarray(clean)[0, 0], want[0], rtol=1e-5)
    grad = jax.grad(lambda x: importance_weight(x, old, MASK).sum())(logp)
    assert_array_equal(grad, np.zeros((N, A)))


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_importance_weight_is_one_when_sampler_and_trainer_agree(level):
    logp, _, _ = arrays()
    assert_array_equal(importance_weight(logp, logp, MASK, level=level), np.ones((N, A)))


def test_importance_log_ratio_is_limited():
    far = np.full((1, 1), 500.0)
    for level in ("token", "sequence"):
        weight = importance_weight(far, -far, np.ones((1, 1)), level=level, cap=1e30)
        assert_allclose(weight, [[np.exp(20)]], rtol=1e-5)


def test_refusals():
    x = np.zeros((1, 1))
    with pytest.raises(ValueError, match=r"dual_clip=1\.0"):
        clipped_surrogate(x, x, x, dual_clip=1.0)
    with pytest.raises(ValueError, match="level must be"):
        importance_weight(x, x, x, level="row")
    with pytest.raises(ValueError, match="outside must be"):
        importance_weight(x, x, x, outside="drop")
    with pytest.raises(ValueError, match="advantages have shape"):
        clipped_surrogate(x, x, np.zeros(1))


def test_an_advantage_per_row_is_spread_over_its_tokens():
    rng = np.random.default_rng(3)
    logp, old = rng.normal(size=(2, 3, 4)).astype(np.float32)
    row = rng.normal(size=(3, 1)).astype(np.float32)
    whole = np.broadcast_to(row, (3, 4))
    for loss in (lambda a: clipped_surrogate(logp, old, a), lambda a: reinforce(logp, a)):
        np.testing.assert_array_equal(loss(row), loss(whole))
        with pytest.raises(ValueError, match=r"advantages have shape \(3,\), but log-probs"):
            loss(row[:, 0])


def test_a_sequence_has_one_ratio_the_mean_of_its_log_ratios():
    """GSPO: s_i = exp(mean_t(l - l_old)); on a row of log ratios (.3, -.1, .4) s = e^.2, and with
    a clip of .1 from above the loss of a positive advantage stops at 1.1."""
    old_NA = np.array([[-1.0, -2.0, -0.5, -9.0], [-1.0, -1.0, -1.0, -1.0]], np.float32)
    gap_NA = np.array([[0.3, -0.1, 0.4, 5.0], [-0.2, 0.1, -0.1, -0.2]], np.float32)
    mask_NA = np.array([[1, 1, 1, 0], [1, 1, 1, 1]], bool)
    advantage_NA = np.array([[2.0], [-1.0]], np.float32)

    def loss(logp_NA, clip=10.0):
        return clipped_surrogate(
            logp_NA, old_NA, advantage_NA, clip_low=0.05, clip_high=clip, level="sequence",
            mask_NA=mask_NA,
        )  # fmt: skip

    got = loss(old_NA + gap_NA)
    np.testing.assert_allclose(got[0], [-2 * np.exp(0.2)] * 3 + [0], rtol=1e-6)
    np.testing.assert_allclose(got[1], [0.95] * 4, rtol=1e-6)  # e^-.1 < .95, and A < 0: clipped
    np.testing.assert_allclose(loss(old_NA + gap_NA, clip=0.1)[0, :3], [-2.2] * 3, rtol=1e-6)
    # the gradient of the row's mean loss is the token form's: -A s / length at every token
    slope = jax.grad(lambda x: loss(x)[0, :3].mean())(old_NA + gap_NA)
    np.testing.assert_allclose(slope[0], [-2 * np.exp(0.2) / 3] * 3 + [0], rtol=1e-5)
    with pytest.raises(ValueError, match="level must be one of token, seq"):
        clipped_surrogate(old_NA, old_NA, advantage_NA, level="row")


def test_an_answer_has_one_ratio_the_product_of_its_tokens():
    """On a row of log ratios (.3, -.1, .2) it is e^.4, and the clip of .2 stops it at 1.2."""
    gap_NA = np.array([[0.3, -0.1, 0.2, 5.0]], np.float32)
    old_NA = np.full((1, 4), -1.0, np.float32)
    mask_NA = np.array([[1, 1, 1, 0]], bool)

    def loss(logp_NA, clip):
        options = {"clip_high": clip, "level": "sequence_sum", "mask_NA": mask_NA}
        return clipped_surrogate(logp_NA, old_NA, np.ones((1, 1), np.float32), **options)

    assert_allclose(loss(old_NA + gap_NA, 9.0), [[-np.exp(0.4)] * 3 + [0]], rtol=1e-6)
    assert_allclose(loss(old_NA + gap_NA, 0.2), [[-1.2] * 3 + [0]], rtol=1e-6)
    # the row's mean has the gradient of -A pi(answer) / pi_old(answer): the ratio at every token
    slope = jax.grad(lambda x: loss(x, 9.0)[0, :3].mean())(old_NA + gap_NA)
    assert_allclose(slope, [[-np.exp(0.4)] * 3 + [0]], rtol=1e-5)


def test_rows_far_from_their_sampler_are_dropped_only_where_they_are_pushed_down():
    """Means of l_behaviour - l: 0.5, 0.5, 0.1; the garbage under mask 0 is not counted."""
    logp_NA = np.zeros((3, 3), np.float32)
    behaviour_NA = np.array([[0.9, 0.1, 99], [0.5, 0.5, 99], [0.1, 0.1, np.nan]], np.float32)
    mask_NA = np.array([[1, 1, 0]] * 3, bool)
    advantage_N1 = np.array([[-1.0], [1.0], [-1.0]], np.float32)
    keep = off_policy_mask(logp_NA, behaviour_NA, advantage_N1, mask_NA, drop_above=0.3)
    assert_array_equal(keep, [[False, False, True], [True] * 3, [True] * 3])
