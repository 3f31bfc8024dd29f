"""The losses of this package as `Term.fn`: they return per-action values and their mask.

Each is called as `fn(now, frozen, credit, batch, stream=...)` and speaks on that stream. `now` is
the current forward (differentiable), `frozen` the views, `credit` the stream's stop-gradient
arrays of `Objective.credit`. A Term's weight is its coefficient.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxevo.kernels import Blend
from jaxevo.losses.divergence import Kind
from jaxevo.losses.kl import Estimator, kl_penalty, sampled_reverse_kl
from jaxevo.losses.policy import RatioLevel, clipped_surrogate
from jaxevo.losses.preference import sequence_logp
from jaxevo.losses.reduce import masked
from jaxevo.losses.value import clipped_error
from jaxevo.parallel.heads import token_kl
from jaxevo.types import Array, Batch, Bound, Stream, bind

Streams: TypeAlias = Mapping[str, Stream]
Credit: TypeAlias = Mapping[str, Array]
Valued: TypeAlias = tuple[jax.Array, Array]


def surrogate(
    now: Streams,
    frozen: Mapping[str, Streams],
    credit: Credit,
    batch: Batch,
    *,
    loss: Bound,
    stream: str = "text",
) -> Valued:
    """A loss of the current policy against the old one: `loss(ℓ, ℓ_old, A, mask_NA=...)`.

    Reads credit["advantage"]; credit["weight"], if there, multiplies the loss after clipping;
    where credit["keep"], if there, is False the loss is 0 but the token stays in the mask.
    """
    del batch
    mask_NA = now[stream].mask_NA
    loss_NA = loss(
        _read(now[stream].logp_NA, "logp", stream),
        _read(frozen["old"][stream].logp_NA, "logp", stream),
        credit["advantage"],
        mask_NA=mask_NA,
    )
    if "weight" in credit:
        loss_NA = loss_NA * masked(credit["weight"], mask_NA)
    if "keep" in credit:
        loss_NA = masked(loss_NA, credit["keep"])
    return loss_NA, mask_NA


def policy_gradient(
    now: Streams,
    frozen: Mapping[str, Streams],
    credit: Credit,
    batch: Batch,
    *,
    stream: str = "text",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    level: RatioLevel = "token",
) -> Valued:
    """The clipped surrogate (`clipped_surrogate`), credited as in `surrogate`."""
    clip = {"clip_low": clip_low, "clip_high": clip_high, "dual_clip": dual_clip}
    loss = bind(clipped_surrogate, level=level, **clip)
    return surrogate(now, frozen, credit, batch, loss=loss, stream=stream)


def reference_kl(
    now: Streams,
    frozen: Mapping[str, Streams],
    credit: Credit,
    batch: Batch,
    *,
    view: str = "reference",
    estimator: Estimator = "k3",
    stream: str = "text",
) -> Valued:
    """`kl_penalty` to a frozen view, on the rows that have that view."""
    del credit
    mask_NA = now[stream].mask_NA & batch.present[view][:, None]
    logp_NA = _read(now[stream].logp_NA, "logp", stream)
    ref_NA = _read(frozen[view][stream].logp_NA, "logp", stream)
    return kl_penalty(logp_NA, ref_NA, estimator=estimator, mask_NA=mask_NA), mask_NA


def imitation(
    now: Streams,
    frozen: Mapping[str, Streams],
    credit: Credit,
    batch: Batch,
    *,
    only: str | None = None,
    stream: str = "text",
) -> Valued:
    """−log π(token): supervised learning of the tokens that the objective learns from, in nats.

    only: of these, the tokens where that number of `Row.by_token` is above 0; None for all.
    """
    del frozen, credit
    mask_NA = now[stream].mask_NA
    if only is not None:
        mask_NA = mask_NA & (jnp.asarray(batch.by_token[only]) > 0)
    return -masked(_read(now[stream].logp_NA, "logp", stream), mask_NA), mask_NA


def value_regression(
    now: Streams,
    frozen: Mapping[str, Streams],
    credit: Credit,
    batch: Batch,
    *,
    clip: float | None = None,
    stream: str = "text",
) -> Valued:
    """(v − target)² of the value head, on the slots that the objective learns from.

    Reads credit["advantage"] as the target; an objective of probes learns one value per row. With a
    clip c, `clipped_error` from the values that came with the rows (`Row.by_token["value"]`).
    """
    del frozen
    mask_NA = now[stream].mask_NA
    value_NA = _read(now[stream].values_NA, "values", stream)
    if clip is None:
        return masked(value_NA - credit["advantage"], mask_NA) ** 2, mask_NA
    before_NA, target_NA = batch.by_token["value"], credit["advantage"]
    return clipped_error(value_NA, before_NA, target_NA, clip=clip, mask_NA=mask_NA), mask_NA


def pair_preference(
    now: Streams,
    frozen: Mapping[str, Streams],
    credit: Credit,
    batch: Batch,
    *,
    loss: Bound,
    average: bool = False,
    view: str | None = "reference",
    stream: str = "text",
) -> Valued:
    """`loss(margin)` of each group's two rows, once per pair: at the better one's first token.

    The better row is that of a positive advantage. The margin is of sums of log-probs, or of
    averages, less those of a frozen view, unless that is None. Groups of two rows of advantages on
    either side of 0 are needed (`refuse_unpaired`).
    """
    del credit
    score_N = _answer_scores(now, frozen, view=view, average=average, stream=stream)
    margin_N = _over_pairs(score_N, batch, sign=-1.0)
    return _at_better(loss(margin_N), batch, now[stream].mask_NA)


def token_reward_alignment(
    now: Streams,
    frozen: Mapping[str, Streams],
    credit: Credit,
    batch: Batch,
    *,
    beta: float,
    gamma: float = 0.0,
    average: bool = False,
    view: str | None = "reference",
    floor: float | None = None,
    stream: str = "text",
) -> Valued:
    """−w β Σ r log π over the tokens of each pair's two rows, at the better one's first token.

    Reads credit["token_reward"], r. w = sg σ(γ − β m), of the same margin m as `pair_preference`,
    is how strongly that pulls a pair apart, so that a pair that is told apart has no pull left.
    With `average` each row's sum is over its number of tokens. Log-probs below `floor` in nats
    count as the floor, without gradient.

    References:
      arXiv 2412.02685 (T-REG).
    """
    mask_NA = now[stream].mask_NA
    score_N = _answer_scores(now, frozen, view=view, average=average, stream=stream)
    margin_N = _over_pairs(jax.lax.stop_gradient(score_N), batch, sign=-1.0)
    logp_NA = _read(now[stream].logp_NA, "logp", stream)
    if floor is not None:
        logp_NA = jnp.maximum(logp_NA, floor)
    rewarded_NA = masked(credit["token_reward"], mask_NA) * masked(logp_NA, mask_NA)
    aligned_N = _over_pairs(sequence_logp(rewarded_NA, mask_NA, average=average), batch, sign=1.0)
    weight_N = jax.nn.sigmoid(gamma - beta * margin_N)
    return _at_better(-beta * weight_N * aligned_N, batch, mask_NA)


def answer_preference(
    now: Streams,
    frozen: Mapping[str, Streams],
    credit: Credit,
    batch: Batch,
    *,
    loss: Bound,
    view: str = "reference",
    number: str = "baseline",
    stream: str = "text",
) -> Valued:
    """`loss(log_ratio, good, baseline)` of each row, at its first token.

    The log-ratio to a frozen view is of sums; a positive advantage means a good row; the baseline
    comes with the rows (`Row.numbers`).
    """
    del credit
    mask_NA = now[stream].mask_NA
    log_ratio_N = _answer_scores(now, frozen, view=view, average=False, stream=stream)
    good_N = jnp.asarray(batch.advantage_N) > 0
    baseline_N = masked(batch.numbers[number], batch.real_N)
    return _at_first(loss(log_ratio_N, good_N, baseline_N), mask_NA)


def refuse_unpaired(batch: Batch) -> None:
    """Host-side check that each group is a pair, one row of advantage above and one below 0.

    Raises:
      ValueError: for any other group.
    """
    advantage_N, group_N = np.asarray(batch.advantage_N), np.asarray(batch.group_N)
    for group in np.unique(group_N):
        found = advantage_N[group_N == group]
        if len(found) != 2 or not found.min() < 0 < found.max():
            raise ValueError(
                f"a preference needs pairs, a better row and a worse one, but group {group} has "
                f"the advantages {found.tolist()}. Choose two rows of different rewards in collect."
            )


def _answer_scores(
    now: Streams,
    frozen: Mapping[str, Streams],
    *,
    view: str | None,
    average: bool,
    stream: str,
) -> jax.Array:
    """Log-prob of each row's answer [N], less that of a frozen view if there is one."""
    mask_NA = now[stream].mask_NA
    own = _read(now[stream].logp_NA, "logp", stream)
    own_N = sequence_logp(own, mask_NA, average=average)
    if view is None:
        return own_N
    reference = jax.lax.stop_gradient(_read(frozen[view][stream].logp_NA, "logp", stream))
    return own_N - sequence_logp(reference, mask_NA, average=average)


def _over_pairs(value_N: jax.Array, batch: Batch, *, sign: float) -> jax.Array:
    """Of each row's group: the better row's value, and the worse one's times `sign`, added, [N]."""
    better_N = jnp.asarray(batch.advantage_N) > 0
    group_N, real_N = jnp.asarray(batch.group_N), jnp.asarray(batch.real_N, bool)
    same_NN = (group_N[:, None] == group_N) & real_N
    return jnp.where(same_NN, jnp.where(better_N, value_N, sign * value_N), 0.0).sum(1)


def _at_better(value_N: jax.Array, batch: Batch, mask_NA: Array) -> Valued:
    """One value per pair, at the first token of its better row."""
    better_N = (jnp.asarray(batch.advantage_N) > 0) & jnp.asarray(batch.real_N, bool)
    return _at_first(value_N, jnp.asarray(mask_NA, bool) & better_N[:, None])


def _at_first(value_N: jax.Array, mask_NA: Array) -> Valued:
    """One value per row, at its first token under the mask."""
    mask_NA = jnp.asarray(mask_NA, bool)
    first_NA = mask_NA & (jnp.cumsum(mask_NA, axis=1) == 1)
    return jnp.where(first_NA, value_N[:, None], 0.0), first_NA


def entropy_bonus(
    now: Streams,
    frozen: Mapping[str, Streams],
    credit: Credit,
    batch: Batch,
    *,
    stream: str = "text",
) -> Valued:
    """−H of the current policy at each token, in nats: minimising it raises the entropy."""
    del frozen, credit, batch
    mask_NA = now[stream].mask_NA
    return -masked(_read(now[stream].entropy_NA, "entropy", stream), mask_NA), mask_NA


def distillation(
    now: Streams,
    frozen: Mapping[str, Streams],
    credit: Credit,
    batch: Batch,
    *,
    view: str = "teacher",
    kind: Kind = "reverse",
    alpha: float = 0.5,
    top_k: int | None = None,
    tail: bool = True,
    pointwise_clip: float | None = None,
    token_clip: float | None = None,
    cap: float | None = None,
    stream: str = "text",
) -> Valued:
    """Divergence over the whole vocabulary between the policy and a frozen view of itself.

    Options as in `categorical_kl`, at the sampling temperature; rows without the view's context
    are outside the mask. `pointwise_clip` cuts each term of the sum over the vocabulary at that
    many nats (`kernels.token_kl`), which may turn a token's gradient round; `token_clip` scales a
    token's divergence D by sg(min(1, clip / D)), which keeps its direction; `cap` cuts D, which has
    no gradient then. credit["distill_weight"], if there, multiplies what is left. A view that
    blends two sets is a teacher of mixed logits.
    """
    student, teacher = now[stream], frozen[view][stream]
    mask_NA = student.mask_NA & batch.present[view][:, None]
    second = teacher.blend
    kl_M = token_kl(
        _flat_hidden(student.hidden_NAD, mask_NA, stream),
        _flat_hidden(teacher.hidden_NAD, mask_NA, stream),
        jnp.asarray(_read(student.head_DV, "hidden", stream)),
        jnp.asarray(_read(teacher.head_DV, "hidden", stream)),
        blend=second
        and Blend(
            _flat_hidden(second.hidden_NAD, mask_NA, stream),
            jnp.asarray(second.head_DV),
            second.share,
        ),
        kind=kind,
        alpha=alpha,
        top_k=top_k,
        tail=tail,
        pointwise_clip=pointwise_clip,
        temperature=batch.temperature,
        soft_cap=student.logit_cap,
    )
    kl_NA = masked(kl_M.reshape(mask_NA.shape), mask_NA)
    if token_clip is not None:
        kl_NA = kl_NA * jax.lax.stop_gradient(token_clip / jnp.maximum(kl_NA, token_clip))
    if cap is not None:
        kl_NA = jnp.minimum(kl_NA, cap)
    return _weighed(kl_NA, credit, mask_NA), mask_NA


def sampled_distillation(
    now: Streams,
    frozen: Mapping[str, Streams],
    credit: Credit,
    batch: Batch,
    *,
    view: str = "teacher",
    stream: str = "text",
) -> Valued:
    """`sampled_reverse_kl` to a frozen view, on the rows that have it; weighed as `distillation`.

    Its values are no divergence; only their gradient means something.
    """
    mask_NA = now[stream].mask_NA & batch.present[view][:, None]
    loss_NA = sampled_reverse_kl(
        _read(now[stream].logp_NA, "logp", stream),
        _read(frozen[view][stream].logp_NA, "logp", stream),
        mask_NA=mask_NA,
    )
    return _weighed(loss_NA, credit, mask_NA), mask_NA


def over_all_tokens(
    now: Streams,
    frozen: Mapping[str, Streams],
    credit: Credit,
    batch: Batch,
    *,
    term: Bound,
    stream: str = "text",
) -> Valued:
    """Another term, 0 outside of its mask, where every token counts in the denominator."""
    value_NA, _ = term(now, frozen, credit, batch, stream=stream)
    return value_NA, now[stream].mask_NA


def _weighed(loss_NA: jax.Array, credit: Credit, mask_NA: Array) -> jax.Array:
    """Times credit["distill_weight"], if that is there."""
    if "distill_weight" not in credit:
        return loss_NA
    return loss_NA * masked(credit["distill_weight"], mask_NA)


def _flat_hidden(hidden_NAD: Array | None, mask_NA: Array, stream: str) -> jax.Array:
    """Hidden states as [M, D], 0 where the mask is not set; their own dtype is kept."""
    hidden_NAD = _read(hidden_NAD, "hidden", stream)
    hidden_NAD = jnp.where(mask_NA[..., None], hidden_NAD, jnp.zeros((), hidden_NAD.dtype))
    return hidden_NAD.reshape(-1, hidden_NAD.shape[-1])


def _read(x: Array | None, what: str, stream: str) -> Array:
    if x is None:
        raise ValueError(
            f'a term needs {what!r} of stream {stream!r}, but it was not computed. Add "{what}" to '
            "`read` of the objective or view."
        )
    return x
