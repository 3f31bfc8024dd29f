"""Rewards of tokens from two instructions for one answer: which of them would rather have it."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxevo.losses.credit import broadcast, logp_of
from jaxevo.losses.reduce import masked
from jaxevo.types import Array, Batch, Stream


def contrast_reward(better_NA: Array, worse_NA: Array) -> jax.Array:
    """σ(ℓ_better − ℓ_worse) − ½, in (−½, ½): with probabilities a and b, a / (a + b) − ½.

    Args:
      better_NA: log-probs of tokens where a better answer is asked for.
      worse_NA: where a worse one is asked for.

    Returns:
      [N, A] float32, without gradient.

    References:
      arXiv 2412.02685 (T-REG).
    """
    gap_NA = jnp.asarray(better_NA, jnp.float32) - jnp.asarray(worse_NA, jnp.float32)
    return jax.lax.stop_gradient(jax.nn.sigmoid(gap_NA) - 0.5)


def contrast_rewarded(
    batch: Batch,
    now: Mapping[str, Stream],
    frozen: Mapping[str, Mapping[str, Stream]],
    *,
    better: str = "better",
    worse: str = "worse",
) -> dict[str, dict[str, jax.Array]]:
    """`broadcast`'s credit, and `contrast_reward` as "token_reward".

    Args:
      batch, now, frozen: as in `broadcast`.
      better, worse: the views of the two instructions, which read `logp`. Rows that lack either
        have rewards of 0.

    Returns:
      for the text: "advantage" as in `broadcast`, and "token_reward" [N, A].
    """
    credit = broadcast(batch, now, frozen)
    both_N = jnp.asarray(batch.present[better], bool) & jnp.asarray(batch.present[worse], bool)
    here_NA = jnp.asarray(now["text"].mask_NA, bool) & both_N[:, None]
    said_NA, other_NA = (
        masked(logp_of(frozen[name], "text", f"token rewards need the view {name!r}'s"), here_NA)
        for name in (better, worse)
    )
    return {
        **credit,
        "text": {**credit["text"], "token_reward": contrast_reward(said_NA, other_NA)},
    }
