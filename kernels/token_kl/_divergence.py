"""Divergences of two log-distributions, term by term, and the support they are taken on."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

_LOG_EMPTIEST = math.log(-math.expm1(-1e-7))  # a floor under the tail, so that its log is finite


class Support(NamedTuple):
    """Log-probs of K tokens, and the log of the mass of all others."""

    logp_MK: jax.Array
    log_rest_M: jax.Array


def terms(logp: jax.Array, logq: jax.Array, kind: str, alpha: float) -> tuple[jax.Array, jax.Array]:
    """(value_v, slope_v): the divergence is Σ_v value_v, its differential Σ_v slope_v d log p_v.

    p is the student. reverse: KL(p‖q); forward: KL(q‖p); js: (1−α) KL(p‖m) + α KL(q‖m) with
    m = (1−α) p + α q. Multiples of p_v are left out of the slopes, or put in, so that p = q has
    slopes of exactly 0: Σ_v p_v d log p_v = 0.
    """
    p, q = jnp.exp(logp), jnp.exp(logq)
    if kind == "reverse":
        value = p * (logp - logq)
        return value, value
    if kind == "forward":
        return q * (logq - logp), p - q
    logm = log_mixture(logp, logq, alpha)
    of_student = (1.0 - alpha) * p * (logp - logm)
    return of_student + alpha * q * (logq - logm), of_student


def log_mixture(logp: jax.Array, logq: jax.Array, alpha: float) -> jax.Array:
    """log((1−α) p + α q): finite where both underflow, exactly log p where they agree."""
    share_of_smaller = jnp.where(logq > logp, 1.0 - alpha, alpha)
    # exp(z) − 1 = 2 t / (1 − t) with t = tanh(z / 2): Pallas has no expm1 for TPUs.
    t = jnp.tanh(-0.5 * jnp.abs(logp - logq))
    return jnp.maximum(logp, logq) + jnp.log1p(share_of_smaller * (2.0 * t / (1.0 - t)))


def divergence(logp_MK: jax.Array, logq_MK: jax.Array, kind: str, alpha: float) -> jax.Array:
    """Σ of the terms over the last axis, with the gradient to log p that their slopes give."""
    stopped_MK = lax.stop_gradient(logp_MK)
    value_MK, slope_MK = terms(stopped_MK, lax.stop_gradient(logq_MK), kind, alpha)
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
