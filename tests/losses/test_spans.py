import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxevo.losses import categorical_kl, ratio, seq_mean_token_mean
from jaxevo.losses.credit import broadcast
from jaxevo.losses.spans import spanned
from jaxevo.losses.terms import distillation, over_all_tokens, policy_gradient
from jaxevo.recipes.trace import trace
from jaxevo.types import Answers, Batch, Stream, bind

N, A, D, V = 3, 4, 3, 7
MASK = np.arange(A)[None] < np.array([4, 3, 4])[:, None]
RNG = np.random.default_rng(0)
LOGP = -RNG.exponential(size=(N, A)).astype(np.float32)
HIDDEN = RNG.normal(size=(2, N, A, D)).astype(np.float32)
HEAD = RNG.normal(size=(2, D, V)).astype(np.float32)
SPAN = np.array([[0, 1, 1, 0], [1, 0, 0, np.nan], [0, 0, 1, 1]], np.float32)
TOLD = np.array([1, 1, 0], bool)
ADVANTAGE = np.array([1.0, -0.5, 2.0], np.float32)


def a_batch(fade, span=SPAN, advantage=ADVANTAGE, kept=0.0):
    rows = np.arange(N, dtype=np.int32)
    log_kept = np.full((N, A), kept, np.float32)
    return Batch(
        answers={"text": Answers(np.zeros((N, A), int), MASK, LOGP, log_kept, np.ones(N, bool))},
        reward_N=advantage,
        parts={},
        numbers={"fade": jnp.full(N, fade, jnp.float32)},
        group_N=rows,
        episode_N=rows,
        turn_N=rows,
        role_N=rows,
        uid_N2=np.zeros((N, 2), np.uint32),
        real_N=np.ones(N, bool),
        temperature=np.float32(1.0),
        present={"teacher": TOLD},
        by_token={"span": span},
        advantage_N=advantage,
    )


def streams(hidden=HIDDEN[0], teacher=HIDDEN[1], logp=LOGP):
    now = {"text": Stream(logp, MASK, None, hidden, HEAD[0])}
    old = {"text": Stream(LOGP, MASK)}
    return now, {"old": old, "teacher": {"text": Stream(None, MASK, None, teacher, HEAD[1])}}


INSIDE = MASK & TOLD[:, None] & (SPAN > 0)


@pytest.mark.parametrize("fade", [1.0, 0.5, 0.0])
def test_a_span_is_handed_over_by_shares(fade):
    now, frozen = streams()
    batch = a_batch(fade, kept=-0.25)
    plain = broadcast(batch, now, frozen)["text"]
    found = spanned(batch, now, frozen)["text"]
    assert_array_equal(found["distill_weight"], np.where(INSIDE, fade, 0))
    assert_allclose(found["weight"], plain["weight"] * np.where(INSIDE, 1 - fade, 1))
    assert_array_equal(found["advantage"], plain["advantage"])
    bare = spanned(batch, now, frozen, truncation="ignore")["text"]
    assert_allclose(bare["weight"], np.where(INSIDE, 1 - fade, 1))


def loss(logp, hidden, *, fade, weight=0.5, span=SPAN, teacher=HIDDEN[1], **how):
    """The policy's and the teacher's part of the loss, summed."""
    now, frozen = streams(hidden, teacher, logp)
    batch = a_batch(fade, span)
    credit = spanned(batch, now, frozen)["text"]
    term = bind(over_all_tokens, term=bind(distillation, **how))
    terms = ((1.0, bind(policy_gradient)), (weight, term))
    return sum(w * ratio(*seq_mean_token_mean(*fn(now, frozen, credit, batch))) for w, fn in terms)


def test_the_loss_is_one_mean_per_row():
    """(1/|y|) [Σ over N of l + g Σ over S of l] + λ (|S|/|y|) mean over S of KL, by rows."""
    fade, w0 = 0.5, 0.5
    got = loss(LOGP, HIDDEN[0], fade=fade, kind="forward")
    kl = np.asarray(categorical_kl(HIDDEN[0] @ HEAD[0], HIDDEN[1] @ HEAD[1], kind="forward"))
    rows = []
    for n in range(N):
        inside, outside = INSIDE[n], MASK[n] & ~INSIDE[n]
        policy = -ADVANTAGE[n] * (outside.sum() + (1 - fade) * inside.sum())
        taught = inside.sum() * kl[n][inside].mean() if inside.any() else 0.0
        rows.append((policy + w0 * fade * taught) / MASK[n].sum())
    assert float(got) == pytest.approx(np.mean(rows), rel=1e-5)


def test_worked_numbers_of_a_row():
    """|y| = 4, l = 1, one token in S, KL = 0.3, λ = 0.25, g = 0.5."""
    mask, inside = np.ones((1, 4), bool), np.array([[0, 1, 0, 0]], bool)
    weight, share = np.where(inside, 0.5, 1.0), np.where(inside, 0.5, 0.0)
    policy = ratio(*seq_mean_token_mean(weight, mask))
    taught = ratio(*seq_mean_token_mean(share * 0.3, mask))
    assert float(policy + 0.5 * taught) == pytest.approx(0.89375)


def test_a_span_of_all_tokens_alone_is_distillation():
    now, frozen = streams()
    batch = a_batch(1.0, np.ones((N, A), np.float32))
    credit = spanned(batch, now, frozen)["text"]
    value, mask = distillation(now, frozen, credit, batch, kind="forward")
    want = categorical_kl(HIDDEN[0] @ HEAD[0], HIDDEN[1] @ HEAD[1], kind="forward")
    assert_allclose(value[:2], np.where(MASK, want, 0)[:2], rtol=1e-4)  # float32, other sums
    assert_array_equal(mask, MASK & TOLD[:, None])
    policy, _ = policy_gradient(now, frozen, credit, batch)
    assert not policy[:2].any()


def test_outside_of_spans_nothing_hangs_on_the_teacher():
    graded = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnames=("kind",))
    one, other = (
        graded(LOGP, HIDDEN[0], fade=0.5, kind="reverse", teacher=teacher)
        for teacher in (HIDDEN[1], HIDDEN[1][:, ::-1])
    )
    assert_array_equal(one[0], other[0])
    assert_array_equal(one[1][~INSIDE], other[1][~INSIDE])
    assert not np.asarray(one[1])[~INSIDE].any()
    assert (np.abs(one[1] - other[1]).max(-1) > 0)[INSIDE].all()


def test_faded_out_or_without_spans_the_loss_is_the_policys():
    graded = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), static_argnames=("kind",))
    none = np.where(np.isnan(SPAN), np.nan, 0).astype(np.float32)
    plain, policy = graded(LOGP, HIDDEN[0], fade=0.0, span=none, weight=0.0, kind="forward")
    for how in ({"fade": 0.0}, {"fade": 1.0, "span": none}):
        value, gradient = graded(LOGP, HIDDEN[0], kind="forward", **how)
        assert float(value) == float(plain)
        assert_array_equal(gradient[0], policy[0])
        assert not np.asarray(gradient[1]).any()


# ---------------------------------------------------------------------------- clips
@pytest.mark.parametrize(
    ("kind", "how", "value", "gradient"),
    [
        ("forward", {}, None, 0.48),
        ("reverse", {}, None, 0.0763),
        ("forward", {"pointwise_clip": 0.05}, -0.286472, -0.01),
        ("reverse", {"pointwise_clip": 0.05}, -0.014378, 0.043490),
        ("forward", {"token_clip": 0.05}, 0.05, 0.018854),
        ("reverse", {"token_clip": 0.05}, 0.05, 0.006409),
    ],
)
def test_worked_numbers_of_clips(kind, how, value, gradient):
    """p = [.02, .98], q = [.5, .5]; the gradient is of the logits, the second minus the first."""
    p, q = np.log([0.02, 0.98]), np.log([0.5, 0.5])
    eye, one = jnp.eye(2), np.ones((1, 1), bool)

    def said(logits):
        now = {"text": Stream(None, one, None, logits.reshape(1, 1, 2), eye)}
        teacher = {"text": Stream(None, one, None, jnp.array(q).reshape(1, 1, 2), eye)}
        batch = Batch(
            answers={}, reward_N=one[0], parts={}, numbers={}, group_N=one[0], episode_N=one[0],
            turn_N=one[0], role_N=one[0], uid_N2=one, real_N=one[0], temperature=jnp.float32(1),
            present={"teacher": one[0]},
        )  # fmt: skip
        found, _ = distillation(now, {"teacher": teacher}, {}, batch, kind=kind, **how)
        return found[0, 0]

    got, slope = jax.value_and_grad(said)(jnp.array(p, jnp.float32))
    if value is not None:
        assert float(got) == pytest.approx(value, abs=2e-6)  # six decimals
    digits = 5e-5 if value is None else 2e-6
    assert_allclose(slope, [-gradient, gradient], atol=digits)


def test_what_options_of_the_recipe_do_to_the_divergence():
    now, frozen = streams()
    batch = a_batch(1.0)
    credit = spanned(batch, now, frozen)["text"]

    def said(**options):
        _, term = trace(**options).objectives[0].terms
        return np.asarray(term.fn(now, frozen, credit, batch)[0])

    free = said(kl_clip="off")
    logits = (HIDDEN[0] @ HEAD[0], HIDDEN[1] @ HEAD[1])
    for route, kind in (("wrong", "reverse"), ("right", "forward")):
        want = np.where(INSIDE, categorical_kl(*logits, kind=kind), 0)
        # float32 sums in another order
        assert_allclose(said(kl_clip="off", route=route), want, rtol=1e-4, atol=1e-6)
    cut = said(kl_clip="token", clip_at=0.1)
    assert_allclose(cut, np.minimum(free, 0.1), rtol=1e-5)
    assert (said(clip_at=0.1) < free)[INSIDE].all()
    assert_allclose(said(clip_at=50.0), free, rtol=1e-4, atol=1e-6)
