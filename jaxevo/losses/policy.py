"""Policy-gradient losses per token, and importance weights between sampler and trainer."""

from __future__ import annotations

from typing import Literal, get_args

import chex
import jax
import jax.numpy as jnp

from jaxevo.losses.reduce import masked
from jaxevo.types import Array

Level = Literal["token", "sequence"]
RatioLevel = Literal["token", "sequence", "sequence_token", "sequence_sum"]
LOG_RATIO_LIMIT = 20.0  # e^20 stays far from overflow, and no honest ratio comes near it


def clipped_surrogate(
    logp_NA: Array,
    old_NA: Array,
    advantage_NA: Array,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    level: RatioLevel = "token",
    mask_NA: Array | None = None,
) -> jax.Array:
    """Clipped policy-gradient loss of each token (minimise).

    r = exp(clip(ℓ − ℓ_old, ±20));  loss = max(−A·r, −A·clip(r, 1−ε_lo, 1+ε_hi));
    with a dual clip c, where A < 0:  loss = min(loss, −A·c).
    With level "sequence" the exponent is its mean over the row's tokens, so that all of them have
    one ratio (GSPO); with "sequence_token" that has the same value, but the gradient of token t
    goes through ℓ_t alone: another gradient only where advantages differ within a row. With
    "sequence_sum" the exponent is their sum: the ratio of the whole answers' probabilities.

    Args:
      logp_NA: ℓ, log-prob under the policy that is trained; differentiable.
      old_NA: ℓ_old, log-prob at the start of the phase; no gradient.
      advantage_NA: A, one per token or [N, 1] for one per row; no gradient.
      clip_low: ε_lo, how far the ratio may fall below 1.
      clip_high: ε_hi, how far it may rise above 1; 0.28 is DAPO's clip-higher.
      dual_clip: c > 1, an upper bound on the ratio of tokens with A < 0; None leaves it open.
      level: one ratio per token, or one per row in one of its three forms.
      mask_NA: tokens outside it give loss 0 and gradient 0, whatever stands there.

    Returns:
      loss [N, A], float32.

    Raises:
      ValueError: for a dual clip of 1 or less, which would clip unchanged policies, advantages of
        another shape, or an unknown level.

    References:
      Schulman et al., PPO, arXiv 1707.06347, eq. 7. Ye et al. (dual clip), arXiv 1912.09729.
      Yu et al., DAPO, arXiv 2503.14476. Zheng et al., GSPO, arXiv 2507.18071.
    """
    if dual_clip is not None and dual_clip <= 1:
        raise ValueError(f"dual_clip={dual_clip} must be above 1; None switches it off.")
    log_ratio_NA, advantage_NA = _log_ratio_and_advantage(logp_NA, old_NA, advantage_NA, mask_NA)
    if level == "sequence":
        log_ratio_NA = _row_mean(log_ratio_NA, mask_NA)
    elif level == "sequence_sum":
        log_ratio_NA = _row_sum(log_ratio_NA)
    elif level == "sequence_token":
        stopped_NA = jax.lax.stop_gradient(log_ratio_NA)
        log_ratio_NA = log_ratio_NA - stopped_NA + _row_mean(stopped_NA, mask_NA)
    elif level != "token":
        known = ", ".join(get_args(RatioLevel))
        raise ValueError(f"level must be one of {known}, got {level!r}.")
    ratio_NA = jnp.exp(_limited(log_ratio_NA))
    clipped_NA = jnp.clip(ratio_NA, 1 - clip_low, 1 + clip_high)
    loss_NA = jnp.maximum(-advantage_NA * ratio_NA, -advantage_NA * clipped_NA)
    if dual_clip is not None:
        bounded_NA = jnp.minimum(loss_NA, -advantage_NA * dual_clip)
        loss_NA = jnp.where(advantage_NA < 0, bounded_NA, loss_NA)
    return masked(loss_NA, mask_NA)


def weighted_reinforce(
    logp_NA: Array,
    old_NA: Array,
    advantage_NA: Array,
    *,
    least: float = 0.0,
    most: float = 5.0,
    mask_NA: Array | None = None,
) -> jax.Array:
    """−sg(clip(r, least, most))·A·ℓ, r = exp(clip(ℓ − ℓ_old, ±20)): no token loses its gradient.

    Args:
      logp_NA, old_NA, advantage_NA, mask_NA: as in `clipped_surrogate`.
      least: smallest weight. most: largest weight. Both are ratios, not distances from 1.

    References:
      MiniMax-M1 (CISPO), arXiv 2506.13585, equation 4.
    """
    log_ratio_NA, advantage_NA = _log_ratio_and_advantage(logp_NA, old_NA, advantage_NA, mask_NA)
    weight_NA = jax.lax.stop_gradient(jnp.clip(jnp.exp(_limited(log_ratio_NA)), least, most))
    return weight_NA * reinforce(logp_NA, advantage_NA, mask_NA=mask_NA)


def soft_clipped_surrogate(
    logp_NA: Array,
    old_NA: Array,
    advantage_NA: Array,
    *,
    sharp_positive: float = 1.0,
    sharp_negative: float = 1.05,
    mask_NA: Array | None = None,
) -> jax.Array:
    """−A·(4/τ)·σ(τ(r − 1)), r = exp(clip(ℓ − ℓ_old, ±20)): the gradient fades away from r = 1.

    There its derivative by r is −A, as that of the plain surrogate; its value is −2A/τ.

    Args:
      logp_NA, old_NA, advantage_NA, mask_NA: as in `clipped_surrogate`.
      sharp_positive: τ where A > 0. sharp_negative: τ elsewhere.

    References:
      Soft adaptive policy optimisation (SAPO), arXiv 2511.20347.
    """
    log_ratio_NA, advantage_NA = _log_ratio_and_advantage(logp_NA, old_NA, advantage_NA, mask_NA)
    ratio_NA = jnp.exp(_limited(log_ratio_NA))
    sharp_NA = jnp.where(advantage_NA > 0, sharp_positive, sharp_negative)
    gate_NA = jax.nn.sigmoid(sharp_NA * (ratio_NA - 1)) * 4 / sharp_NA
    return masked(-advantage_NA * gate_NA, mask_NA)


def reinforce(logp_NA: Array, advantage_NA: Array, *, mask_NA: Array | None = None) -> jax.Array:
    """−A·ℓ per token, float32; gradient flows through ℓ only. Masked tokens give 0."""
    advantage_NA = _spread(advantage_NA, logp_NA, mask_NA)
    return masked(-advantage_NA * masked(logp_NA, mask_NA), mask_NA)


def _log_ratio_and_advantage(
    logp_NA: Array, old_NA: Array, advantage_NA: Array, mask_NA: Array | None
) -> tuple[jax.Array, jax.Array]:
    """ℓ − ℓ_old and A of each token, 0 outside the mask; gradient flows through ℓ only."""
    chex.assert_equal_shape([logp_NA, old_NA])
    old_NA = jax.lax.stop_gradient(masked(old_NA, mask_NA))
    return masked(logp_NA, mask_NA) - old_NA, _spread(advantage_NA, logp_NA, mask_NA)


def _spread(advantage_NA: Array, logp_NA: Array, mask_NA: Array | None) -> jax.Array:
    """One advantage per token without gradient, from one per token or one per row [N, 1]."""
    rows, tokens = logp_NA.shape
    if advantage_NA.shape not in ((rows, tokens), (rows, 1)):
        raise ValueError(
            f"advantages have shape {advantage_NA.shape}, but log-probs of shape {logp_NA.shape} "
            f"need it or ({rows}, 1). Write advantage_N[:, None] for one per row."
        )
    spread_NA = jnp.broadcast_to(advantage_NA, (rows, tokens))
    return jax.lax.stop_gradient(masked(spread_NA, mask_NA))


def importance_weight(
    old_NA: Array,
    behaviour_NA: Array,
    mask_NA: Array,
    *,
    level: Level = "token",
    cap: float = 2.0,
    floor: float | None = None,
    outside: Literal["truncate", "mask"] = "truncate",
) -> jax.Array:
    """How much more likely the trainer's policy was to sample a token than the sampler was.

    token:     w = exp(clip(ℓ_old − ℓ_behaviour, ±20))
    sequence:  w = exp(clip(Σₜ m·(ℓ_old − ℓ_behaviour), ±20)), the same for all tokens of a row
    truncate:  min(max(w, floor), cap)  (TIS);   mask: w inside [floor, cap], else 0  (MIS)

    Args:
      old_NA: log-prob under the trainer's numerics and the weights that start the phase.
      behaviour_NA: log-prob of the policy that really sampled.
      mask_NA: tokens that were sampled; all others get weight 1.
      level: one weight per token, or one per row.
      cap: C > 0, the largest weight.
      floor: the smallest weight; None is 0.
      outside: what happens to weights outside [floor, cap].

    Returns:
      w [N, A], float32, without gradient.

    Raises:
      ValueError: for an unknown `level` or `outside`.
    """
    chex.assert_equal_shape([old_NA, behaviour_NA, mask_NA])
    difference_NA = masked(old_NA, mask_NA) - masked(behaviour_NA, mask_NA)
    if level == "sequence":
        difference_NA = _row_sum(difference_NA)
    elif level != "token":
        raise ValueError(f'level must be "token" or "sequence", got {level!r}.')
    weight_NA = jnp.exp(_limited(difference_NA))
    least = 0.0 if floor is None else floor
    if outside == "truncate":
        weight_NA = jnp.clip(weight_NA, least, cap)
    elif outside == "mask":
        weight_NA = jnp.where((least <= weight_NA) & (weight_NA <= cap), weight_NA, 0.0)
    else:
        raise ValueError(f'outside must be "truncate" or "mask", got {outside!r}.')
    return jax.lax.stop_gradient(masked(weight_NA, mask_NA, fill=1.0))


def off_policy_mask(
    logp_NA: Array, behaviour_NA: Array, advantage_NA: Array, mask_NA: Array, *, drop_above: float
) -> jax.Array:
    """Which tokens are kept: those with A >= 0, and those of rows near the policy.

    A row is far from it where its mean of ℓ_behaviour − ℓ over the mask exceeds δ.

    Args:
      logp_NA: ℓ, log-prob under the policy that is trained; no gradient.
      behaviour_NA: log-prob of the policy that really sampled.
      advantage_NA: A, one per token or [N, 1] for one per row.
      mask_NA: tokens that were sampled; all others are kept.
      drop_above: δ, in nats per token.

    Returns:
      [N, A] bool.

    References:
      DeepSeek-V3.2, arXiv 2512.02556.
    """
    chex.assert_equal_shape([logp_NA, behaviour_NA, mask_NA])
    gap_NA = masked(behaviour_NA, mask_NA) - masked(logp_NA, mask_NA)
    far_NA = _row_mean(gap_NA, mask_NA) > drop_above
    return ~((_spread(advantage_NA, logp_NA, mask_NA) < 0) & far_NA)


def _row_mean(x_NA: jax.Array, mask_NA: Array | None) -> jax.Array:
    """Each row's mean over its masked tokens, at every token; x is 0 outside the mask."""
    length = x_NA.shape[1] if mask_NA is None else jnp.asarray(mask_NA, bool).sum(1, keepdims=True)
    return _row_sum(x_NA) / jnp.maximum(length, 1)


def _row_sum(x_NA: jax.Array) -> jax.Array:
    """Each row's sum, at every token; x is 0 outside the mask."""
    return jnp.broadcast_to(x_NA.sum(axis=1, keepdims=True), x_NA.shape)


def _limited(log_ratio_NA: jax.Array) -> jax.Array:
    return jnp.clip(log_ratio_NA, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
