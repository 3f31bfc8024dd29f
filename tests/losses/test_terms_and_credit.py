import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxevo.losses import (
    categorical_kl,
    clipped_surrogate,
    importance_weight,
    kl_penalty,
    ratio,
    token_mean,
)
from jaxevo.losses.credit import broadcast, distilled, refuse_uncorrectable
from jaxevo.losses.terms import (
    distillation,
    entropy_bonus,
    over_all_tokens,
    policy_gradient,
    reference_kl,
    sampled_distillation,
)
from jaxevo.losses.total import blended
from jaxevo.types import Answers, Batch, Stream, bind

N, A, D, V = 4, 5, 3, 11
MASK = np.arange(A)[None] < np.array([5, 3, 2, 0])[:, None]
REAL = np.array([1, 1, 1, 0], bool)
RNG = np.random.default_rng(0)
OLD = -RNG.exponential(size=(N, A)).astype(np.float32)
NOW = OLD + np.float32(0.3) * RNG.normal(size=(N, A)).astype(np.float32)
FULL = OLD + np.float32(0.2) * RNG.normal(size=(N, A)).astype(np.float32)  # the sampler's, uncut
KEPT = np.log(RNG.uniform(0.6, 1.0, size=(N, A))).astype(np.float32)
KEPT[1] = 0.0  # a row that was sampled without cutting
ENTROPY = RNG.uniform(size=(N, A)).astype(np.float32)
HIDDEN = RNG.normal(size=(2, N, A, D)).astype(np.float32)
HEAD = RNG.normal(size=(2, D, V)).astype(np.float32)
ADVANTAGE = np.array([1.0, -0.5, 2.0, 0.0], np.float32)


def a_batch(*, kept=KEPT, known=(True, True, True, False)):
    answers = Answers(np.zeros((N, A), np.int32), MASK, FULL - kept, kept, np.array(known))
    n = np.zeros(N, np.int32)
    return Batch(
        answers={"text": answers},
        reward_N=ADVANTAGE,
        parts={},
        numbers={},
        group_N=n,
        episode_N=n,
        turn_N=n,
        role_N=n,
        uid_N2=np.zeros((N, 2), np.uint32),
        real_N=REAL,
        temperature=np.float32(0.8),
        present={"reference": REAL, "teacher": np.array([1, 0, 1, 0], bool)},
        advantage_N=ADVANTAGE,
    )


def streams():
    now = {"text": Stream(NOW, MASK, ENTROPY, HIDDEN[0], HEAD[0])}
    frozen = {
        "old": {"text": Stream(OLD, MASK)},
        "reference": {"text": Stream(FULL, MASK)},
        "teacher": {"text": Stream(None, MASK, None, HIDDEN[1], HEAD[1])},
    }
    return now, frozen


def spread(x_N):
    return np.broadcast_to(x_N[:, None], (N, A))


# ---------------------------------------------------------------------------- terms
def test_policy_gradient_reads_now_old_and_advantage():
    now, frozen = streams()
    credit = {"advantage": spread(ADVANTAGE)}
    for options in ({}, {"clip_low": 0.05, "clip_high": 0.01}, {"dual_clip": 1.05}):
        value, mask = policy_gradient(now, frozen, credit, a_batch(), **options)
        want = clipped_surrogate(NOW, OLD, spread(ADVANTAGE), **options)
        assert_allclose(value, np.where(MASK, want, 0), rtol=1e-6)
        assert_array_equal(mask, MASK)


def test_policy_gradient_multiplies_the_weight_and_keeps_the_denominator():
    now, frozen = streams()
    credit = {"advantage": spread(ADVANTAGE)}
    plain, _ = policy_gradient(now, frozen, credit, a_batch())
    weight = np.where(MASK, RNG.uniform(0.5, 2, size=(N, A)), np.nan)
    keep = RNG.integers(0, 2, size=(N, A)).astype(bool)
    value, mask = policy_gradient(
        now, frozen, {**credit, "weight": weight, "keep": keep}, a_batch()
    )
    assert_allclose(value, np.where(MASK & keep, plain * weight, 0), rtol=1e-6)
    assert_array_equal(mask, MASK)


def test_reference_kl_speaks_on_rows_that_have_the_view():
    now, frozen = streams()
    for estimator in ("k1", "k2", "k3"):
        value, mask = reference_kl(now, frozen, {}, a_batch(), estimator=estimator)
        want = np.where(MASK, kl_penalty(NOW, FULL, estimator=estimator), 0)
        assert_allclose(value, want, rtol=1e-6)
        assert_array_equal(mask, MASK)
    frozen["teacher"] = {"text": Stream(np.full((N, A), np.nan, np.float32), MASK)}
    frozen["teacher"]["text"].logp_NA[[0, 2]] = OLD[[0, 2]]
    value, mask = reference_kl(now, frozen, {}, a_batch(), view="teacher", estimator="k1")
    here = MASK & np.array([1, 0, 1, 0], bool)[:, None]
    assert_array_equal(mask, here)
    assert_allclose(value, np.where(here, NOW - OLD, 0), rtol=1e-6)


def test_entropy_bonus_is_the_negative_entropy():
    now, frozen = streams()
    value, mask = entropy_bonus(now, frozen, {}, a_batch())
    assert_allclose(value, np.where(MASK, -ENTROPY, 0), rtol=1e-6)
    assert_array_equal(mask, MASK)


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "reverse"},
        {"kind": "js", "alpha": 0.3},
        {"kind": "reverse", "top_k": 4},
        {"kind": "reverse", "top_k": 4, "tail": False},
    ],
)
def test_distillation_equals_the_divergence_of_all_logits(options):
    weight = RNG.uniform(0.5, 2, size=(N, A)).astype(np.float32)
    here = MASK & np.array([1, 0, 1, 0], bool)[:, None]
    _, frozen = streams()
    garbage = dataclasses.replace(
        frozen["teacher"]["text"], hidden_NAD=jnp.where(here[..., None], HIDDEN[1], jnp.nan)
    )
    frozen["teacher"] = {"text": garbage}

    def loss(hidden, head):
        hidden = jnp.where(MASK[..., None], hidden, jnp.nan)
        now = {"text": Stream(NOW, MASK, ENTROPY, hidden, head)}
        credit = {"distill_weight": np.where(MASK, weight, np.nan)}
        value, mask = distillation(now, frozen, credit, a_batch(), **options)
        return ratio(*token_mean(value, mask)), mask

    def want(hidden, head):
        kl = categorical_kl(hidden @ head, HIDDEN[1] @ HEAD[1], temperature=0.8, **options)
        return jnp.where(here, kl * weight, 0).sum() / here.sum()

    graded = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (got, mask), grads = graded(HIDDEN[0], HEAD[0])
    expected, expected_grads = jax.jit(jax.value_and_grad(want, argnums=(0, 1)))(HIDDEN[0], HEAD[0])
    assert_array_equal(mask, here)
    assert_allclose(got, expected, rtol=1e-4)  # float32 logits, summed in another order
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        assert_allclose(grad, expected_grad, rtol=1e-3, atol=1e-5)
    assert_array_equal(np.asarray(grads[0])[~here], 0)


@pytest.mark.parametrize("top_k", [None, 4])
def test_a_blended_view_is_a_teacher_of_mixed_logits(top_k):
    here = MASK & np.array([1, 0, 1, 0], bool)[:, None]
    now, frozen = streams()
    second = RNG.normal(size=(N, A, D)).astype(np.float32), HEAD[0]
    frozen["teacher"] = blended(frozen["teacher"], {"text": Stream(None, MASK, None, *second)}, 0.3)
    value, _ = distillation(now, frozen, {}, a_batch(), top_k=top_k)
    mixed = 0.7 * HIDDEN[1] @ HEAD[1] + 0.3 * second[0] @ second[1]
    want = categorical_kl(HIDDEN[0] @ HEAD[0], mixed, temperature=0.8, kind="reverse", top_k=top_k)
    assert_allclose(value, np.where(here, want, 0), rtol=1e-4, atol=1e-6)


def test_sampled_distillation_reads_log_probs_of_rows_with_a_teacher():
    here = MASK & np.array([1, 0, 1, 0], bool)[:, None]
    teacher = np.where(here, FULL, np.nan)
    weight = RNG.uniform(0.5, 2, size=(N, A))

    def total(logp, credit):
        now = {"text": Stream(logp, MASK)}
        frozen = {"teacher": {"text": Stream(teacher, MASK)}}
        value, mask = sampled_distillation(now, frozen, credit, a_batch())
        assert_array_equal(mask, here)
        return value.sum()

    slope = jax.grad(total)(NOW, {})
    assert_allclose(slope, np.where(here, NOW - FULL, 0), rtol=1e-5, atol=1e-7)
    weighed = jax.grad(total)(NOW, {"distill_weight": np.where(here, weight, np.nan)})
    assert_allclose(weighed, np.where(here, (NOW - FULL) * weight, 0), rtol=1e-5, atol=1e-7)


def test_over_all_tokens_counts_those_that_a_term_leaves_out():
    now, frozen = streams()
    value, mask = over_all_tokens(now, frozen, {}, a_batch(), term=bind(distillation))
    assert_array_equal(mask, MASK)
    assert_array_equal(value, distillation(now, frozen, {}, a_batch())[0])


def test_a_row_without_a_teacher_and_a_batch_without_teachers():
    now, frozen = streams()
    batch = dataclasses.replace(a_batch(), present={"teacher": np.zeros(N, bool)})
    value, mask = distillation(now, frozen, {}, batch)
    assert_array_equal(value, np.zeros((N, A)))
    assert ratio(*token_mean(value, mask)) == 0


def test_all_zero_rewards_teach_by_distillation_only():
    def losses(hidden):
        logits = hidden @ HEAD[0]
        logp = jax.nn.log_softmax(logits)[..., 0]
        now = {"text": Stream(logp, MASK, None, hidden, HEAD[0])}
        frozen = {**streams()[1], "old": {"text": Stream(jax.lax.stop_gradient(logp), MASK)}}
        credit = {"advantage": np.zeros((N, A), np.float32)}
        policy = ratio(*token_mean(*policy_gradient(now, frozen, credit, a_batch())))
        return policy, ratio(*token_mean(*distillation(now, frozen, {}, a_batch())))

    policy_grad, distill_grad = jax.jit(jax.jacrev(losses))(HIDDEN[0])
    assert_array_equal(policy_grad, np.zeros((N, A, D)))
    assert np.abs(distill_grad).max() > 1e-3


@pytest.mark.parametrize("term", [policy_gradient, entropy_bonus, reference_kl, distillation])
def test_a_stream_that_was_not_computed_is_named(term):
    _, frozen = streams()
    with pytest.raises(ValueError, match="of stream 'text', but it was not computed"):
        term({"text": Stream(None, MASK)}, frozen, {"advantage": spread(ADVANTAGE)}, a_batch())


# ---------------------------------------------------------------------------- credit
def test_broadcast_gives_every_token_its_rows_advantage():
    now, frozen = streams()
    credit = broadcast(a_batch(), now, frozen, truncation="ignore")["text"]
    assert list(credit) == ["advantage"]
    assert_array_equal(credit["advantage"], np.where(MASK, spread(ADVANTAGE), 0))


@pytest.mark.parametrize(
    ("correction", "truncation", "want"),
    [
        ("none", "correct", np.exp(KEPT)),
        ("token", "correct", np.exp(OLD - FULL + KEPT)),
        ("token", "ignore", np.exp(OLD - FULL)),
        (
            "sequence",
            "correct",
            np.exp(((OLD - FULL + KEPT) * MASK).sum(axis=1, keepdims=True)) * np.ones((1, A)),
        ),
    ],
)
def test_weights_by_correction_and_truncation(correction, truncation, want):
    now, frozen = streams()
    options = {"correction": correction, "truncation": truncation}
    weight = broadcast(a_batch(), now, frozen, cap=50.0, **options)["text"]["weight"]
    assert_allclose(weight, np.where(MASK, want, 1), rtol=1e-5)
    if correction != "none":
        capped = broadcast(a_batch(), now, frozen, cap=1.01, **options)["text"]["weight"]
        assert_allclose(capped, np.minimum(weight, 1.01), rtol=1e-6)
        behaviour = FULL if truncation == "ignore" else FULL - KEPT
        direct = importance_weight(OLD, behaviour, MASK, level=correction, cap=1.01)
        assert_allclose(capped, direct, rtol=1e-5)
        options["correction"] += "_mask"
        cap = float(np.median(np.asarray(weight)[MASK])) + 1e-4
        kept = broadcast(a_batch(), now, frozen, cap=cap, **options)["text"]["weight"]
        assert 0 < np.sum(MASK & (weight > cap)) < MASK.sum()
        assert_allclose(kept, np.where(MASK & (weight > cap), 0, weight), rtol=1e-6)


def test_weights_are_one_at_equal_weights_when_truncation_is_ignored():
    now, frozen = streams()
    frozen["old"] = {"text": Stream(FULL, MASK)}
    for correction in ("token", "sequence"):
        options = {"correction": correction, "truncation": "ignore"}
        credit = broadcast(a_batch(), now, frozen, **options)["text"]
        # behaviour + log kept gives the log-prob back to an ulp of float32, summed over a row
        assert_allclose(credit["weight"], np.ones((N, A)), rtol=2e-6)


def test_unknown_rows_get_weight_one():
    now, frozen = streams()
    batch = a_batch(known=(False, True, True, False))
    answers = batch.answers["text"]
    answers.behaviour_NA[0] = np.nan
    for correction in ("none", "token", "sequence"):
        weight = np.asarray(broadcast(batch, now, frozen, correction=correction)["text"]["weight"])
        assert_array_equal(weight[0], np.ones(A))
        assert (weight[2, :2] != 1).all()


def test_credit_has_no_gradient():
    now, frozen = streams()

    def total(advantage, old):
        batch = dataclasses.replace(a_batch(), advantage_N=advantage)
        frozen["old"] = {"text": Stream(old, MASK)}
        credit = broadcast(batch, now, frozen, correction="token")["text"]
        return sum(jnp.sum(x) for x in credit.values())

    for grad in jax.grad(total, argnums=(0, 1))(ADVANTAGE, OLD):
        assert_array_equal(grad, np.zeros_like(grad))


def test_broadcast_refuses_what_it_cannot_read():
    now, frozen = streams()
    with pytest.raises(ValueError, match="advantage_N is None"):
        broadcast(dataclasses.replace(a_batch(), advantage_N=None), now, frozen)
    frozen["old"] = {"text": Stream(None, MASK)}
    with pytest.raises(ValueError, match="needs the old log-probs"):
        broadcast(a_batch(), now, frozen, correction="token")
    for options in ({"correction": "row"}, {"truncation": "drop"}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
            broadcast(a_batch(), now, frozen, **options)
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
            refuse_uncorrectable(a_batch(), **options)


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("correction", ["none", "token", "sequence", "token_mask"])
@pytest.mark.parametrize("truncation", ["correct", "refuse", "ignore"])
def test_refusals_are_exactly_the_uncorrectable_cases(cut, known, correction, truncation):
    kept = np.zeros((N, A), np.float32)
    kept[0, 1] = -0.1 if cut else 0.0
    kept[2, 4] = kept[3, 0] = -0.3  # outside the mask, and in a padding row: no token was cut
    batch = a_batch(kept=kept, known=(known, True, True, False))
    weight_one_is_wrong = not known and (correction != "none" or (cut and truncation != "ignore"))
    refused = weight_one_is_wrong or (cut and truncation == "refuse")
    if refused:
        with pytest.raises(ValueError, match="1 of 3 rows"):
            refuse_uncorrectable(batch, correction=correction, truncation=truncation)
    else:
        refuse_uncorrectable(batch, correction=correction, truncation=truncation)


@pytest.mark.parametrize("correction", ["none", "token"])
def test_distilled_weighs_by_ratio_and_sampler(correction):
    now, frozen = streams()
    now["text"] = dataclasses.replace(now["text"], logp_NA=np.where(MASK, NOW, np.nan))
    credit = distilled(a_batch(), now, frozen, ratio_cap=1.1, correction=correction, cap=1.2)
    plain = broadcast(a_batch(), now, frozen, correction=correction, cap=1.2)
    ratio_NA = np.minimum(np.exp(NOW - OLD), 1.1)
    want = np.where(MASK, ratio_NA, 1) * plain["text"]["weight"]
    assert_allclose(credit["text"].pop("distill_weight"), want, rtol=1e-6)
    jax.tree.map(assert_array_equal, credit, plain)


def test_worked_number_of_the_ratio():
    # log-ratio 1 is e = 2.718, cut at 2; log-ratio 0.5 is 1.648721.
    old = np.zeros((1, 2), np.float32)
    now = {"text": Stream(np.array([[1.0, 0.5]], np.float32), np.ones((1, 2), bool))}
    batch = dataclasses.replace(
        a_batch(),
        answers={"text": Answers(None, old > -1, old, old, np.array([True]))},
        advantage_N=np.zeros(1, np.float32),
    )
    credit = distilled(batch, now, {"old": {"text": Stream(old, old > -1)}})
    assert_allclose(credit["text"]["distill_weight"], [[2.0, 1.648721]], rtol=1e-6)


# ---------------------------------------------------------------------------- all together
def test_micro_batches_padding_and_garbage_leave_the_whole_loss_unchanged():
    def pairs(logp, rows, garbage):
        """Policy term plus KL term of some rows as one padded micro-batch."""
        mask = np.zeros((N, A), bool)
        mask[: len(rows)] = MASK[rows]

        def take(x):
            out = np.zeros(x.shape, x.dtype)
            out[: len(rows)] = x[rows]
            return out

        def dirty(x):
            return jnp.where(mask, x, garbage)

        batch = dataclasses.replace(
            a_batch(),
            advantage_N=take(ADVANTAGE),
            present={"reference": take(REAL)},
            answers={
                "text": Answers(
                    take(MASK), mask, dirty(take(FULL - KEPT)), dirty(take(KEPT)), take(REAL)
                )
            },
        )
        picked = jnp.zeros((N, A)).at[: len(rows)].set(logp[np.array(rows)])
        now = {"text": Stream(dirty(picked), mask)}
        frozen = {
            "old": {"text": Stream(dirty(take(OLD)), mask)},
            "reference": {"text": Stream(dirty(take(FULL)), mask)},
        }
        credit = broadcast(batch, now, frozen, correction="token")["text"]
        return (
            token_mean(*policy_gradient(now, frozen, credit, batch)),
            token_mean(*reference_kl(now, frozen, credit, batch)),
        )

    def loss(logp, split, garbage):
        parts = [pairs(logp, rows, garbage) for rows in split]
        policy = ratio(*(sum(p[0][i] for p in parts) for i in (0, 1)))
        return policy + 0.1 * ratio(*(sum(p[1][i] for p in parts) for i in (0, 1)))

    def graded(split, garbage):
        return jax.jit(jax.value_and_grad(lambda x: loss(x, split, garbage)))(NOW)

    whole, whole_grad = graded([[0, 1, 2, 3]], 0.0)
    for split, garbage in (
        ([[0], [1], [2]], np.nan),
        ([[2, 0], [1, 3]], np.inf),
        ([[0, 1, 2]], 1e4),
    ):
        value, grad = graded(split, np.float32(garbage))
        assert_allclose(value, whole, rtol=1e-6)
        assert_allclose(grad, whole_grad, atol=1e-7)  # the order of float32 sums


# ---------------------------------------------------------------------------- rows far off
def test_rows_with_negative_advantage_far_from_their_sampler_are_not_kept():
    now, frozen = streams()
    batch = a_batch()
    gap = ((FULL - KEPT - NOW) * MASK).sum(1) / np.maximum(MASK.sum(1), 1)
    for advantage in ([1.0, -0.5, 2.0, 0.0], [-1.0, 0.5, -2.0, 0.0]):
        advantage = np.array(advantage, np.float32)
        batch = dataclasses.replace(batch, advantage_N=advantage)
        for limit in (-9.0, float(np.median(gap[:3])), 9.0):
            keep = broadcast(batch, now, frozen, drop_above=limit)["text"]["keep"]
            drop = (advantage < 0) & (gap > limit)
            assert_array_equal(keep, ~(MASK & drop[:, None]))


def test_the_floor_of_weights_is_handed_on():
    now, frozen = streams()
    plain = broadcast(a_batch(), now, frozen, correction="token", cap=9.0)["text"]["weight"]
    for kind, low in (("token", 0.9), ("token_mask", 0.0)):
        got = broadcast(a_batch(), now, frozen, correction=kind, cap=9.0, floor=0.9)
        assert_allclose(got["text"]["weight"], np.where(plain < 0.9, low, plain), rtol=1e-6)
        assert (np.asarray(plain)[MASK] < 0.9).any()


def test_advantages_by_token_stay_with_their_tokens():
    now, frozen = streams()
    by_token = RNG.normal(size=(N, A)).astype(np.float32)
    batch = dataclasses.replace(a_batch(), advantage_N=by_token)
    got = broadcast(batch, now, frozen)["text"]["advantage"]
    assert_array_equal(got, np.where(MASK, by_token, 0))
