"""Divergences and entropy over the whole vocabulary, from logits held in memory.

These are the plain definitions, for small vocabularies, notebooks and tests. The kernels
`jaxevo.kernels.token_kl` and `fused_logprob` compute the same without an array of all logits.
"""

from __future__ import annotations

from typing import Literal

import chex
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxevo.losses.reduce import masked
from jaxevo.types import Array

LEAST_TAIL = 1e-7  # bounds the log of the tail bucket, below which its gradient is zero

Kind = Literal["reverse", "forward", "js"]


def categorical_kl(
    student_logits: Array,
    teacher_logits: Array,
    *,
    kind: Kind = "reverse",
    alpha: float = 0.5,
    top_k: int | None = None,
    tail: bool = True,
    temperature: float = 1.0,
    mask: Array | None = None,
) -> jax.Array:
    """Divergence between student p and teacher q over the last axis, in nats.

    reverse: KL(p‖q);  forward: KL(q‖p);
    js: (1−α)·KL(p‖m) + α·KL(q‖m) with m = (1−α)p + αq, for 0 < α < 1.

    The js divergence tends to 0 at both ends of α and is not rescaled, so a learning rate has to
    follow α. The gradient reaches the student only and is the closed form, without the rounding
    of terms that cancel:

    reverse: p·(log(p/q) − KL);  forward: p − q;  js: (1−α)·p·(log(p/m) − KL(p‖m)).

    With `top_k` both are first reduced to the k tokens that the student finds most likely. The
    rest becomes one more bucket of mass max(1 − Σₖ, 1e-7) (`tail`), or is dropped and the k
    renormalised.

    Args:
      student_logits: [..., V]; differentiable. A logit of −inf forbids a token.
      teacher_logits: [..., V]; no gradient.
      kind: see above.
      alpha: α, the teacher's share in m; only "js" reads it.
      top_k: k <= V tokens to keep; None keeps all.
      tail: keep the mass outside the top k as one bucket; read only with `top_k`.
      temperature: both sides use logits / temperature.
      mask: [...] positions that count; the others give 0 and gradient 0, whatever stands there.

    Returns:
      [...], float32: finite for logits of any size, and +inf (with an undefined gradient) where
      "reverse" or "forward" meets a token that the second distribution forbids.

    Raises:
      ValueError: for an unknown kind, an α outside (0, 1) with "js", or a `top_k` outside [1, V].

    References:
      Reinforcement Learning via Self-Distillation (SDPO), arXiv 2601.20802.
      Agarwal et al. (generalised JS), arXiv 2306.13649.
    """
    chex.assert_equal_shape([student_logits, teacher_logits])
    logp = _log_softmax(student_logits, temperature, mask)
    logq = stop_gradient(_log_softmax(teacher_logits, temperature, mask))
    if top_k is not None:
        logp, logq = _student_top_k(logp, logq, top_k, tail)
    if kind == "reverse":
        return masked(_mean_under(logp, logp - logq), mask)
    if kind == "forward":
        # d/dp of −Σ q log p would be −q; the second part, of value 0, adds the normaliser's +p.
        value = stop_gradient(_mean_under(logq, logq - logp))
        return masked(value + _zero_with_gradient(logp, -jnp.exp(logq)), mask)
    if kind != "js":
        raise ValueError(f'kind must be "reverse", "forward" or "js", got {kind!r}.')
    if not 0 < alpha < 1:
        raise ValueError(
            f'alpha={alpha} with kind="js" must lie inside (0, 1); for the plain KLs use '
            '"reverse" or "forward".'
        )
    logm = jnp.logaddexp(logp + jnp.log1p(-alpha), logq + jnp.log(alpha))
    to_student = _mean_under(logp, logp - logm)
    to_teacher = stop_gradient(_mean_under(logq, logq - logm))  # Σ m·∂log m = 0 leaves no gradient
    return masked((1 - alpha) * to_student + alpha * to_teacher, mask)


def entropy(logits: Array, *, temperature: float = 1.0, mask: Array | None = None) -> jax.Array:
    """H = −Σ p log p over the last axis, in nats, with p = softmax(logits / temperature).

    Args:
      logits: [..., V]; differentiable. A logit of −inf forbids a token.
      temperature: divides the logits.
      mask: [...] positions that count; the others give 0 and gradient 0, whatever stands there.

    Returns:
      [...], float32, in [0, log V].
    """
    logp = _log_softmax(logits, temperature, mask)
    return masked(_mean_under(logp, -logp), mask)


def _log_softmax(logits: Array, temperature: float, mask: Array | None) -> jax.Array:
    kept = None if mask is None else jnp.asarray(mask)[..., None]
    logits = masked(logits, kept)
    # Taking the maximum off first keeps the digits of large logits: it is exact, a division is not.
    logits -= stop_gradient(logits.max(axis=-1, keepdims=True))
    return jax.nn.log_softmax(logits / temperature, axis=-1)


def _mean_under(logw: jax.Array, value: jax.Array) -> jax.Array:
    """Σ w·value with 0·∞ = 0; the gradient goes through w alone.

    In each divergence above the gradient through `value` sums to a multiple of ∂Σw = 0. Left in,
    it would only add rounding.
    """
    w = jnp.exp(logw)
    return jnp.sum(w * stop_gradient(jnp.where(w > 0, value, 0.0)), axis=-1)


def _zero_with_gradient(logp: jax.Array, other: jax.Array) -> jax.Array:
    """0, with gradient p + other with respect to log p."""
    slope = stop_gradient(jnp.exp(logp) + other)
    finite = jnp.where(jnp.isfinite(logp), logp, 0.0)
    return jnp.sum(slope * (finite - stop_gradient(finite)), axis=-1)


def _student_top_k(
    logp: jax.Array, logq: jax.Array, top_k: int, tail: bool
) -> tuple[jax.Array, jax.Array]:
    """Both distributions on the student's k likeliest tokens and, with `tail`, the rest."""
    if not 1 <= top_k <= logp.shape[-1]:
        raise ValueError(f"top_k={top_k} must lie in [1, {logp.shape[-1]}], the vocabulary.")
    _, index = jax.lax.top_k(stop_gradient(logp), top_k)
    kept = jnp.put_along_axis(jnp.zeros(logp.shape, bool), index, True, axis=-1, inplace=False)

    def reduced(logw: jax.Array) -> jax.Array:
        logw_k = jnp.take_along_axis(logw, index, axis=-1)
        if not tail:
            return jax.nn.log_softmax(logw_k, axis=-1)
        # Summing the rest keeps digits that 1 − Σₖ loses in float32 when the rest is small.
        rest = jnp.where(kept, 0.0, jnp.exp(logw)).sum(axis=-1, keepdims=True)
        return jnp.concatenate([logw_k, jnp.log(jnp.maximum(rest, LEAST_TAIL))], axis=-1)

    return reduced(logp), reduced(logq)
