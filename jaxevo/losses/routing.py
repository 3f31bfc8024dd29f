"""Rows that learn from a teacher, and rows that learn from their advantage (SRPO)."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxevo.losses.credit import Correction, Truncation, distilled
from jaxevo.losses.reduce import masked, ratio
from jaxevo.types import Array, Batch, Stream

Frozen = Mapping[str, Mapping[str, Stream]]


def certainty_weight(
    entropy_NA: Array, mask_NA: Array, *, beta: float = 1.0, mean: Array | None = None
) -> jax.Array:
    """w = exp(−β H) over its mean: tokens of which a teacher is sure count more.

    Args:
      entropy_NA: H of the teacher at each token, in nats.
      mask_NA: Ω, the tokens that it teaches; all others get 0.
      beta: β >= 0; 0 gives all tokens of Ω weight 1.
      mean: of exp(−β H); None takes that over Ω. Where Ω is a part of what an update learns from,
        the mean is over all parts.

    Returns:
      [N, A] float32, without gradient.

    References:
      arXiv 2604.02288 (SRPO).
    """
    raw_NA = _raw(entropy_NA, mask_NA, beta)
    if mean is None:
        mean = ratio(raw_NA.sum(), jnp.asarray(mask_NA, jnp.float32).sum())
    return jax.lax.stop_gradient(ratio(raw_NA, mean))


def certainty_sums(
    batch: Batch, now: Mapping[str, Stream], frozen: Frozen, *, view: str, beta: float
) -> dict[str, jax.Array]:
    """What `routed` must know of all rows of an update (`Objective.sums`): Σ_Ω exp(−β H), |Ω|."""
    mask_NA = _taught(batch, now, view)
    raw_NA = _raw(_entropy(frozen, view), mask_NA, beta)
    return {"certainty": raw_NA.sum(), "taught": mask_NA.sum(dtype=jnp.float32)}


def routed(
    batch: Batch,
    now: Mapping[str, Stream],
    frozen: Frozen,
    *,
    view: str = "teacher",
    beta: float = 1.0,
    ratio_cap: float = 2.0,
    correction: Correction = "none",
    cap: float = 2.0,
    truncation: Truncation = "correct",
) -> dict[str, dict[str, jax.Array]]:
    """`distilled`'s credit for rows that the view has a context for, `broadcast`'s for all others.

    Both are to be divided by the tokens of all rows: `over_all_tokens`.

    Args:
      batch: with `sums` of `certainty_sums`, unless beta is 0.
      now, frozen, ratio_cap, correction, cap, truncation: as in `distilled`.
      view: the teacher's.
      beta: of `certainty_weight`.

    Returns:
      for the text: "advantage", "weight" as in `broadcast`; "keep", False on rows of the teacher;
      "distill_weight" of `distilled` times the certainty weight, 0 on all other rows.

    References:
      arXiv 2604.02288 (SRPO).
    """
    how = {"ratio_cap": ratio_cap, "correction": correction, "cap": cap, "truncation": truncation}
    text = distilled(batch, now, frozen, view=view, **how)["text"]
    mask_NA = _taught(batch, now, view)
    weight_NA = jnp.asarray(mask_NA, jnp.float32)
    if beta:
        mean = ratio(batch.sums["certainty"], batch.sums["taught"])
        weight_NA = certainty_weight(_entropy(frozen, view), mask_NA, beta=beta, mean=mean)
    keep_NA = jnp.broadcast_to(~jnp.asarray(batch.present[view], bool)[:, None], mask_NA.shape)
    return {"text": {**text, "keep": keep_NA, "distill_weight": text["distill_weight"] * weight_NA}}


def _taught(batch: Batch, now: Mapping[str, Stream], view: str) -> jax.Array:
    """Ω: the answer tokens of rows that exist and that the view has a context for."""
    rows_N = jnp.asarray(batch.present[view], bool) & jnp.asarray(batch.real_N, bool)
    return jnp.asarray(now["text"].mask_NA, bool) & rows_N[:, None]


def _raw(entropy_NA: Array, mask_NA: Array, beta: float) -> jax.Array:
    return masked(jnp.exp(-beta * masked(entropy_NA, mask_NA)), mask_NA)


def _entropy(frozen: Frozen, view: str) -> Array:
    entropy_NA = frozen[view]["text"].entropy_NA
    if entropy_NA is None:
        raise ValueError(f'certainty weights need entropies: add "entropy" to view {view!r}.')
    return entropy_NA
