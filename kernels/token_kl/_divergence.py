"""Divergences of two log-distributions, term by term, and the support they are taken on."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxevo.kernels.token_kl._types import Measure

_LOG_EMPTIEST = math.log(-math.expm1(-1e-7))  # a floor under the tail, so that its log is finite


class Support(NamedTuple):
    """Log-probs of K tokens, and the log of the mass of all others."""

    logp_MK: jax.Array
    log_rest_M: jax.Array


def terms(logp: jax.Array, logq: jax.Array, measure: Measure) -> tuple[jax.Array, jax.Array]:
    """(value_v, slope_v): the divergence is Σ_v value_v, its differential Σ_v slope_v d log p_v.

    p is the student. reverse: KL(p‖q); forward: KL(q‖p); js: (1−α) KL(p‖m) + α KL(q‖m) with
    m = (1−α) p + α q. Multiples of p_v are left out of the slopes, or put in, so that p = q has
    slopes of exactly 0: Σ_v p_v d log p_v = 0. A clip breaks that sum: each slope is then the whole
    ∂value_v / ∂log p_v, and 0 where the value is cut.
    """
    p, q, alpha = jnp.exp(logp), jnp.exp(logq), measure.alpha
    if measure.kind == "reverse":
        value = slope = p * (logp - logq)
        whole = value + p
    elif measure.kind == "forward":
        value, slope, whole = q * (logq - logp), p - q, -q
    else:
        logm = log_mixture(logp, logq, alpha)
        slope = whole = (1.0 - alpha) * p * (logp - logm)
        value = slope + alpha * q * (logq - logm)
    if measure.pointwise_clip is None:
        return value, slope
    is_cut = value > measure.pointwise_clip
    return jnp.where(is_cut, measure.pointwise_clip, value), jnp.where(is_cut, 0.0, whole)


def log_mixture(logp: jax.Array, logq: jax.Array, alpha: float) -> jax.Array:
    """log((1−α) p + α q): finite where both underflow, exactly log p where they agree."""
    share_of_smaller = jnp.where(logq > logp, 1.0 - alpha, alpha)
    # exp(z) − 1 = 2 t / (1 − t) with t = tanh(z / 2): Pallas has no expm1 for TPUs.
    t = jnp.tanh(-0.5 * jnp.abs(logp - logq))
    return jnp.maximum(logp, logq) + jnp.log1p(share_of_smaller * (2.0 * t / (1.0 - t)))


def divergence(logp_MK: jax.Array, logq_MK: jax.Array, measure: Measure) -> jax.Array:
    """Σ of the terms over the last axis, with the gradient to log p that their slopes give."""
    stopped_MK = lax.stop_gradient(logp_MK)
    value_MK, slope_MK = terms(stopped_MK, lax.stop_gradient(logq_MK), measure)
    return jnp.sum(value_MK + slope_MK * (logp_MK - stopped_MK), axis=1)


def on_support(support: Support, *, tail: bool) -> jax.Array:
    """Log-probs of K tokens as a distribution: with one more bucket for the rest, or renormalised.

    The bucket's log is log(−expm1(min(logsumexp_k, −1e-7))). Here the rest is summed up itself: a
    difference to 1 in float32 would leave few digits of a small tail.
    """
    if not tail:
        return support.logp_MK - jax.nn.logsumexp(support.logp_MK, axis=1, keepdims=True)
    rest_M1 = jnp.maximum(support.log_rest_M, _LOG_EMPTIEST)[:, None]
    return jnp.concatenate([support.logp_MK, rest_M1], axis=1)
