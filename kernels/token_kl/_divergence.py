"""Divergences of two log-distributions, term by term, and the support they are taken on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

_FULLEST = -1e-7  # log of the mass that top tokens may hold, so that the tail's log stays finite


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
    return jnp.maximum(logp, logq) + jnp.log1p(share_of_smaller * jnp.expm1(-jnp.abs(logp - logq)))


def divergence(logp_MK: jax.Array, logq_MK: jax.Array, kind: str, alpha: float) -> jax.Array:
    """Σ of the terms over the last axis, with the gradient to log p that their slopes give."""
    stopped_MK = lax.stop_gradient(logp_MK)
    value_MK, slope_MK = terms(stopped_MK, lax.stop_gradient(logq_MK), kind, alpha)
    return jnp.sum(value_MK + slope_MK * (logp_MK - stopped_MK), axis=1)


def on_support(logp_MK: jax.Array, *, tail: bool) -> jax.Array:
    """Log-probs of K tokens as a distribution: with one more bucket for the rest, or renormalised.

    The bucket's log is log(−expm1(min(logsumexp_k, −1e-7))).
    """
    held_M1 = jax.nn.logsumexp(logp_MK, axis=1, keepdims=True)
    if not tail:
        return logp_MK - held_M1
    rest_M1 = jnp.log(-jnp.expm1(jnp.minimum(held_M1, _FULLEST)))
    return jnp.concatenate([logp_MK, rest_M1], axis=1)
