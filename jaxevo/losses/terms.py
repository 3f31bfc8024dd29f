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

from jaxevo.kernels import token_kl
from jaxevo.losses.divergence import Kind
from jaxevo.losses.kl import Estimator, kl_penalty
from jaxevo.losses.policy import Level, clipped_surrogate
from jaxevo.losses.reduce import masked
from jaxevo.types import Array, Batch, Stream

Streams: TypeAlias = Mapping[str, Stream]
Credit: TypeAlias = Mapping[str, Array]
Valued: TypeAlias = tuple[jax.Array, Array]


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
    level: Level = "token",
) -> Valued:
    """The clipped surrogate (`clipped_surrogate`) of the current policy against the old one.

    Reads credit["advantage"]; credit["weight"], if there, multiplies the loss after clipping;
    where credit["keep"], if there, is False the loss is 0 but the token stays in the mask.
    """
    del batch
    mask_NA = now[stream].mask_NA
    loss_NA = clipped_surrogate(
        _read(now[stream].logp_NA, "logp", stream),
        _read(frozen["old"][stream].logp_NA, "logp", stream),
        credit["advantage"],
        clip_low=clip_low,
        clip_high=clip_high,
        dual_clip=dual_clip,
        level=level,
        mask_NA=mask_NA,
    )
    if "weight" in credit:
        loss_NA = loss_NA * masked(credit["weight"], mask_NA)
    if "keep" in credit:
        loss_NA = masked(loss_NA, credit["keep"])
    return loss_NA, mask_NA


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
    stream: str = "text",
) -> Valued:
    """−log π(token): supervised learning of the tokens that the objective learns from, in nats."""
    del frozen, credit, batch
    mask_NA = now[stream].mask_NA
    return -masked(_read(now[stream].logp_NA, "logp", stream), mask_NA), mask_NA


def value_regression(
    now: Streams,
    frozen: Mapping[str, Streams],
    credit: Credit,
    batch: Batch,
    *,
    stream: str = "text",
) -> Valued:
    """(v − target)² of the value head, on the slots that the objective learns from.

    Reads credit["advantage"] as the target; an objective of probes learns one value per row.
    """
    del frozen, batch
    mask_NA = now[stream].mask_NA
    error_NA = masked(_read(now[stream].values_NA, "values", stream) - credit["advantage"], mask_NA)
    return error_NA**2, mask_NA


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
    stream: str = "text",
) -> Valued:
    """Divergence over the whole vocabulary between the policy and a frozen view of itself.

    Options as in `categorical_kl`, at the sampling temperature; rows without the view's context
    are outside the mask. credit["distill_weight"], if there, multiplies the divergence.
    """
    student, teacher = now[stream], frozen[view][stream]
    mask_NA = student.mask_NA & batch.present[view][:, None]
    kl_M = token_kl(
        _flat_hidden(student, mask_NA, stream),
        _flat_hidden(teacher, mask_NA, stream),
        jnp.asarray(_read(student.head_DV, "hidden", stream)),
        jnp.asarray(_read(teacher.head_DV, "hidden", stream)),
        kind=kind,
        alpha=alpha,
        top_k=top_k,
        tail=tail,
        temperature=batch.temperature,
        soft_cap=student.logit_cap,
    )
    kl_NA = masked(kl_M.reshape(mask_NA.shape), mask_NA)
    if "distill_weight" in credit:
        kl_NA = kl_NA * masked(credit["distill_weight"], mask_NA)
    return kl_NA, mask_NA


def _flat_hidden(said: Stream, mask_NA: Array, stream: str) -> jax.Array:
    """Hidden states as [M, D], 0 where the mask is not set; their own dtype is kept."""
    hidden_NAD = _read(said.hidden_NAD, "hidden", stream)
    hidden_NAD = jnp.where(mask_NA[..., None], hidden_NAD, jnp.zeros((), hidden_NAD.dtype))
    return hidden_NAD.reshape(-1, hidden_NAD.shape[-1])


def _read(x: Array | None, what: str, stream: str) -> Array:
    if x is None:
        raise ValueError(
            f'a term needs {what!r} of stream {stream!r}, but it was not computed. Add "{what}" to '
            "`read` of the objective or view."
        )
    return x
