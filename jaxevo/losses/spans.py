"""Spans of an answer that learn from a teacher, where the rest learns by its advantage (TRACE)."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxevo.losses.credit import Correction, Truncation, broadcast
from jaxevo.losses.reduce import masked
from jaxevo.types import Batch, Stream


def spanned(
    batch: Batch,
    now: Mapping[str, Stream],
    frozen: Mapping[str, Mapping[str, Stream]],
    *,
    view: str = "teacher",
    span: str = "span",
    number: str = "fade",
    correction: Correction = "none",
    cap: float = 2.0,
    truncation: Truncation = "correct",
) -> dict[str, dict[str, jax.Array]]:
    """`broadcast`'s credit, and a share f of the span's tokens handed to a teacher.

    A token of the span S has f of the divergence to the teacher and 1 − f of its policy gradient;
    all others have no divergence and all of their policy gradient.

    Args:
      batch: with `numbers[number]`, f in [0, 1] of each row, and `by_token[span]`, above 0 in S.
      now, frozen, correction, cap, truncation: as in `broadcast`.
      view: the teacher's; rows without its context have no span.
      span, number: names of the two.

    Returns:
      for the text: "advantage" as in `broadcast`; "weight" of `broadcast` times 1 − f on S;
      "distill_weight", f on S and 0 elsewhere.

    References:
      arXiv 2605.10194 (TRACE).
    """
    credit = broadcast(batch, now, frozen, correction=correction, cap=cap, truncation=truncation)
    text, mask_NA = credit["text"], jnp.asarray(now["text"].mask_NA, bool)
    here_NA = mask_NA & jnp.asarray(batch.present[view], bool)[:, None]
    inside_NA = masked(batch.by_token[span], here_NA) > 0
    fade_N1 = masked(batch.numbers[number], batch.real_N)[:, None]
    share_NA = jnp.where(inside_NA, fade_N1, 0.0)
    found = {"weight": text.get("weight", 1.0) * (1.0 - share_NA), "distill_weight": share_NA}
    return {**credit, "text": {**text, **jax.lax.stop_gradient(found)}}
