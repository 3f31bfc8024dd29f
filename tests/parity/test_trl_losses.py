"""Losses against TRL's own code: values and gradients on the numbers of `trl_losses.npz`.

`trl_losses.py` made them with TRL's methods. Tolerance 1e-5 of the largest number: both sides sum
some 40 float32 products in another order, and TRL takes the exp of a sum where we clip it first.

What is written in other words here, or differs:
  * TRL's aggregation is a name of the loss. Rows without a token count in "grpo" and "luspo"
    (`empty_rows="count"`), and "dr_grpo" is `constant_norm` of the longest answer.
  * TRL averages "grpo" and "bnpo" over micro-batches; we sum numerators and denominators, which is
    TRL's "dapo", so that only "dapo" is compared in two micro-batches.
  * TRL bounds the ratio from above for either sign (`delta`), we for A < 0 (`dual_clip`): the same
    wherever the bound is above 1 + epsilon_high, since for A > 0 the clip is nearer.
  * RLOO's ratio is the answer's, and TRL gives an answer without tokens a loss of -A, which has no
    gradient: it is left out on both sides.
  * TRL's CISPO bounds the weight from above alone, at `epsilon_high` itself (`most`).
  * log π − log π_old is clipped to ±20 here; nothing in these numbers is near that.
  * The KL and entropy terms of TRL are added before aggregation; terms here have each their own.
  * TRL's SDPO averages each row's tokens and then over all rows, those without a teacher among
    them, whose tokens so weigh in the denominator (`empty_rows="count"`); the official code and
    `jaxevo.recipes.sdpo` take the mean over the tokens of rows with a teacher. TRL's EMA teacher
    follows every optimizer step, ours every round; its JS at alpha 0 and 1 are the plain KLs, as
    ours are by name.
"""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxevo.losses import (
    categorical_kl,
    clipped_surrogate,
    constant_norm,
    direct_preference,
    entropy_quantile_mask,
    identity_preference,
    importance_weight,
    kl_baseline,
    kl_penalty,
    masked,
    off_policy_mask,
    pair_mean,
    prospect_preference,
    ratio,
    sampled_reverse_kl,
    seq_mean_token_mean,
    seq_mean_token_sum,
    sequence_logp,
    simple_preference,
    soft_clipped_surrogate,
    token_mean,
    weighted_reinforce,
)

TRL = dict(np.load(pathlib.Path(__file__).with_name("trl_losses.npz")))
IN = {name.removeprefix("in/"): x for name, x in TRL.items() if name.startswith("in/")}
MASK_NA, ADVANTAGE_NA = IN["mask"], IN["advantage"][:, None]
CLIP = {"clip_low": 0.2, "clip_high": 0.28}
NARROW = {"clip_low": 0.05, "clip_high": 0.05, "level": "sequence"}


def surrogate(logp_NA, **options):
    options = {**CLIP, **options}
    return clipped_surrogate(logp_NA, IN["old"], ADVANTAGE_NA, mask_NA=MASK_NA, **options)


def with_old(loss, logp_NA, **options):
    return loss(logp_NA, IN["old"], ADVANTAGE_NA, mask_NA=MASK_NA, **options)


def by_row(value_NA):
    return ratio(*seq_mean_token_mean(value_NA, MASK_NA, empty_rows="count"))


def by_token(value_NA):
    return ratio(*token_mean(value_NA, MASK_NA))


def per_length(value_NA):
    return ratio(*constant_norm(value_NA, MASK_NA, length=MASK_NA.shape[1]))


def row_sums(value_NA):
    return ratio(*seq_mean_token_sum(value_NA, MASK_NA, empty_rows="count"))


def in_two_parts(value_NA):
    pairs = [token_mean(value_NA[half], MASK_NA[half]) for half in (slice(0, 3), slice(3, 6))]
    return ratio(*(sum(parts) for parts in zip(*pairs, strict=True)))


def weighed(logp_NA, **options):
    weight_NA = importance_weight(IN["old"], IN["behaviour"], MASK_NA, cap=1.5, **options)
    return by_row(surrogate(logp_NA) * weight_NA)


def by_answer(logp_NA):
    loss_NA = surrogate(logp_NA, level="sequence_sum")
    return ratio(*seq_mean_token_mean(loss_NA, MASK_NA))


def near_policy(logp_NA):
    keep_NA = off_policy_mask(logp_NA, IN["behaviour"], ADVANTAGE_NA, MASK_NA, drop_above=0.1)
    return by_row(masked(surrogate(logp_NA), keep_NA))


def high_entropy(logp_NA):
    keep_NA = entropy_quantile_mask(IN["entropy"], MASK_NA, keep=0.3)
    return by_row(masked(surrogate(logp_NA), keep_NA))


def with_kl(logp_NA):
    kl_NA = kl_penalty(logp_NA, IN["reference"], mask_NA=MASK_NA)
    return by_row(surrogate(logp_NA)) + 0.2 * by_row(kl_NA)


def with_entropy(logp_NA, entropy_NA):
    return by_row(surrogate(logp_NA)) - 0.1 * by_token(entropy_NA)


def margin(logp_NA, reference_NA=0.0, **options):
    """Of pairs whose better answers come first, then all the worse ones, as TRL has them."""
    difference_NA = logp_NA - reference_NA
    better_P, worse_P = jnp.split(sequence_logp(difference_NA, IN["pair_mask"], **options), 2)
    return better_P - worse_P


def direct(logp_NA):
    return ratio(*pair_mean(direct_preference(margin(logp_NA, IN["pair_reference"]), beta=0.1)))


def identity(logp_NA):
    margin_P = margin(logp_NA, IN["pair_reference"], average=True)
    return ratio(*pair_mean(identity_preference(margin_P, tau=0.5)))


def prospect(logp_NA, **weights):
    def log_ratio(logp_NA, reference_NA):
        return sequence_logp(logp_NA - reference_NA, IN["pair_mask"])

    baseline = kl_baseline(log_ratio(IN["kl_logp"], IN["kl_reference"]))
    own_N = log_ratio(logp_NA, IN["pair_reference"])
    value_N = prospect_preference(own_N, IN["good"], baseline, beta=0.1, **weights)
    return ratio(*pair_mean(value_N))


def simple(logits_NSV):
    logp_NSV = jax.nn.log_softmax(logits_NSV[:, :-1])
    logp_NA = jnp.take_along_axis(logp_NSV, IN["words"][:, 1:, None], axis=-1)[..., 0]
    loss_P = simple_preference(margin(logp_NA, average=True), beta=2.0, gamma=1.0)
    return ratio(*pair_mean(loss_P))


def distilled(logits_NAV, weight_NA=1.0, **options):
    """As TRL aggregates it."""
    here_NA = MASK_NA & IN["taught"][:, None]
    kl_NA = masked(categorical_kl(logits_NAV, IN["teacher"], **options), here_NA)
    return ratio(*seq_mean_token_mean(kl_NA * weight_NA, here_NA, empty_rows="count"))


def taken(logits_NAV):
    logp_NAV = jax.nn.log_softmax(logits_NAV)
    return jnp.take_along_axis(logp_NAV, IN["said"][..., None], axis=-1)[..., 0]


def sampled(logits_NAV):
    here_NA = MASK_NA & IN["taught"][:, None]
    teacher_NA = taken(jnp.asarray(IN["teacher"]))
    loss_NA = sampled_reverse_kl(taken(logits_NAV), teacher_NA, mask_NA=here_NA)
    return ratio(*seq_mean_token_mean(loss_NA, here_NA, empty_rows="count"))


def ratio_capped(logits_NAV):
    now_NA = taken(jnp.asarray(IN["student"]))
    weight_NA = importance_weight(now_NA, now_NA + IN["drift"], MASK_NA, cap=1.2)
    return distilled(logits_NAV, weight_NA, kind="reverse")


class Loss(NamedTuple):
    """A loss in our words and in TRL's, our function, and the inputs it is differentiated in."""

    name: str
    trl: str
    fn: Callable[..., jax.Array]
    leaves: tuple[str, ...] = ("logp",)


def correction(name, mode, **options):
    return Loss(name, f"vllm_importance_sampling_mode={mode}", lambda p: weighed(p, **options))


def distillation(name, trl, **options):
    """TRL's alpha 1 is KL(student, teacher)."""
    return Loss(f"distillation, {name}", trl, lambda x: distilled(x, **options), ("student",))


LOSSES = {  # by case of the file
    "grpo": Loss("clipped, row means", "loss_type=grpo", lambda p: by_row(surrogate(p))),
    "bnpo": Loss("clipped, token mean", "loss_type=bnpo", lambda p: by_token(surrogate(p))),
    "dr_grpo": Loss("clipped, constant", "loss_type=dr_grpo", lambda p: per_length(surrogate(p))),
    "dapo": Loss("clipped, token mean", "loss_type=dapo", lambda p: by_token(surrogate(p))),
    "dapo, 2 micro-batches": Loss(
        "clipped, token mean over micro-batches",
        "loss_type=dapo, gradient_accumulation_steps=2",
        lambda p: in_two_parts(surrogate(p)),
    ),
    "sequence": Loss(
        "clipped by row, row means",
        "importance_sampling_level=sequence",
        lambda p: by_row(surrogate(p, **NARROW)),
    ),
    "luspo": Loss(
        "clipped by row, row sums", "loss_type=luspo", lambda p: row_sums(surrogate(p, **NARROW))
    ),
    "delta": Loss("dual clip", "delta", lambda p: by_row(surrogate(p, dual_clip=1.4))),
    "top_entropy_quantile": Loss("tokens of high entropy", "top_entropy_quantile", high_entropy),
    "beta": Loss("KL to a reference, k3", "beta", with_kl),
    "entropy_coef": Loss("entropy bonus", "entropy_coef", with_entropy, ("logp", "entropy")),
    "off_policy_mask_threshold": Loss("far rows dropped", "off_policy_mask_threshold", near_policy),
    "rloo": Loss("clipped by answer (RLOO)", "RLOO", by_answer),
    "cispo": Loss(
        "weighted REINFORCE (CISPO)",
        "loss_type=cispo",
        lambda p: by_token(with_old(weighted_reinforce, p, most=1.2)),
    ),
    "sapo": Loss(
        "soft clip (SAPO)",
        "loss_type=sapo",
        lambda p: by_row(with_old(soft_clipped_surrogate, p)),
    ),
    "token_truncate": correction("TIS by token", "token_truncate"),
    "token_mask": correction("MIS by token", "token_mask", outside="mask"),
    "sequence_truncate": correction("TIS by row", "sequence_truncate", level="sequence"),
    "sequence_mask": correction("MIS by row", "sequence_mask", level="sequence", outside="mask"),
    "clip_min": Loss(
        "MIS by token, from a floor on",
        "vllm_importance_sampling_clip_min",
        lambda p: weighed(p, floor=0.8, outside="mask"),
    ),
    "sdpo": distillation("reverse", "SDPO, distillation_alpha=1", kind="reverse"),
    "sdpo, alpha 0": distillation("forward", "SDPO, distillation_alpha=0", kind="forward"),
    "sdpo, alpha 0.3": distillation("JS", "SDPO, distillation_alpha=0.3", kind="js", alpha=0.3),
    "sdpo, topk": distillation("top-k and tail", "SDPO, topk_logits", kind="reverse", top_k=3),
    "sdpo, topk, alpha 0.3": distillation(
        "JS, top-k and tail",
        "SDPO, topk_logits, distillation_alpha=0.3",
        kind="js",
        alpha=0.3,
        top_k=3,
    ),
    "sdpo, topk, no tail": distillation(
        "top-k renormalised",
        "SDPO, topk_logits, distillation_add_tail=False",
        kind="reverse",
        top_k=3,
        tail=False,
    ),
    "sdpo, sampled_token": Loss(
        "distillation, sampled token", "SDPO, sampled_token", sampled, ("student",)
    ),
    "sdpo, is_clip": Loss(
        "distillation, capped ratio", "SDPO, distillation_is_clip", ratio_capped, ("student",)
    ),
    "sigmoid": Loss("DPO", "DPO, loss_type=sigmoid", direct, ("pair_logp",)),
    "ipo": Loss("IPO", "DPO, loss_type=ipo", identity, ("pair_logp",)),
    "kto": Loss("KTO", "KTO, loss_type=kto", prospect, ("pair_logp",)),
    "kto, weights": Loss(
        "KTO, weights",
        "KTO, desirable_weight, undesirable_weight",
        lambda p: prospect(p, good_weight=1.5, bad_weight=0.75),
        ("pair_logp",),
    ),
    "simpo": Loss("SimPO", "CPO, loss_type=simpo", simple, ("logits",)),
}
NOT_HERE = {"vespo", "use_bias_correction_kl"}  # cases without a loss here


@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_are_those_of_trl(name, record_property):
    loss = LOSSES[name]
    leaves = [jnp.asarray(IN[leaf]) for leaf in loss.leaves]
    value, gradients = jax.value_and_grad(loss.fn, argnums=tuple(range(len(leaves))))(*leaves)
    theirs = [TRL[f"{name}/{leaf}"] for leaf in loss.leaves]
    largest = max(float(np.abs(g - w).max()) for g, w in zip(gradients, theirs, strict=True))
    record_property("loss", loss.name)
    record_property("trl", loss.trl)
    record_property("versions", " ".join(TRL["versions"]))
    record_property("largest_difference", float(abs(value - TRL[f"{name}/value"])))
    record_property("largest_gradient_difference", largest)
    np.testing.assert_allclose(value, TRL[f"{name}/value"], rtol=1e-5, atol=1e-6)
    for gradient, want in zip(gradients, theirs, strict=True):
        assert np.abs(want).max() > 1e-3  # there is something to agree about
        np.testing.assert_allclose(gradient, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def test_every_case_of_the_file_is_compared_or_known_to_be_missing():
    made = {name.rsplit("/", 1)[0] for name in TRL if name.endswith("/value")}
    assert made == set(LOSSES) | NOT_HERE


def test_each_option_of_trl_changes_the_loss():
    """Numbers under which an option does nothing would compare nothing; "dapo" is global "bnpo"."""
    values = {name: x for name, x in TRL.items() if name.endswith("/value")}
    alike = {"bnpo/value", "dapo, 2 micro-batches/value"}
    different = [float(x) for name, x in values.items() if name not in alike]
    assert len(np.unique(np.round(different, 5))) == len(different)
