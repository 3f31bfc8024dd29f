"""Divergences estimated from the sampled tokens alone.

An estimator's value and its gradient estimate different things. With tokens y ~ π and gradients
through ℓ = log π(y) only:

    k1 = ℓ − ℓ_ref                        E[k1] = KL(π‖ref)    E[∇k1] = 0
    k2 = ½ (ℓ − ℓ_ref)²                   E[k2] is biased      E[∇k2] = ∇KL(π‖ref)
    k3 = e^(ℓ_ref−ℓ) − (ℓ_ref−ℓ) − 1      E[k3] = KL(π‖ref)    E[∇k3] = ∇KL(ref‖π)
"""

from __future__ import annotations

from typing import Literal

import chex
import jax
import jax.numpy as jnp

from jaxevo.losses.reduce import masked
from jaxevo.types import Array

EXPONENT_LIMIT = 20.0

Estimator = Literal["k1", "k2", "k3"]


def kl_penalty(
    logp_NA: Array,
    ref_NA: Array,
    *,
    estimator: Estimator = "k3",
    mask_NA: Array | None = None,
) -> jax.Array:
    """Estimate of KL(π‖ref) at each sampled token, in nats.

    As a loss, take "k2" to pull π towards the reference along ∇KL(π‖ref), or "k3" for
    ∇KL(ref‖π). "k1" is the value to report or to subtract from a reward; as a loss it regularises
    nothing, because its expected gradient on the policy's own tokens is exactly zero.

    Args:
      logp_NA: ℓ under the policy that sampled the tokens and is trained; differentiable.
      ref_NA: ℓ_ref under the reference; no gradient.
      estimator: "k1", "k2" or "k3", see the module's docstring. k3 clips ℓ_ref − ℓ to ±20, beyond
        which its gradient is zero.
      mask_NA: tokens outside it give 0 and gradient 0, whatever stands there.

    Returns:
      [N, A], float32. "k2" and "k3" are never negative.

    Raises:
      ValueError: for an unknown estimator.

    References:
      J. Schulman, Approximating KL divergence (2020), http://joschu.net/blog/kl-approx.html.
    """
    chex.assert_equal_shape([logp_NA, ref_NA])
    ref_NA = jax.lax.stop_gradient(masked(ref_NA, mask_NA))
    difference_NA = ref_NA - masked(logp_NA, mask_NA)
    if estimator == "k1":
        kl_NA = -difference_NA
    elif estimator == "k2":
        kl_NA = 0.5 * jnp.square(difference_NA)
    elif estimator == "k3":
        limited_NA = jnp.clip(difference_NA, -EXPONENT_LIMIT, EXPONENT_LIMIT)
        kl_NA = jnp.expm1(limited_NA) - limited_NA
    else:
        raise ValueError(f'estimator must be "k1", "k2" or "k3", got {estimator!r}.')
    return masked(kl_NA, mask_NA)


def sampled_reverse_kl(
    logp_NA: Array, teacher_NA: Array, *, mask_NA: Array | None = None
) -> jax.Array:
    """sg(ℓ_p − ℓ_q)·ℓ_p: distillation from the log-probs of the sampled tokens alone.

    Its gradient, averaged over tokens drawn from the student p, is ∇KL(p‖q), provided that the
    teacher q does not depend on the sampled token (a teacher that has read the finished answer
    does). Its value is no divergence and may have any sign: report the mean of ℓ_p − ℓ_q.

    Args:
      logp_NA: ℓ_p under the student; differentiable.
      teacher_NA: ℓ_q of the same tokens under the teacher; no gradient.
      mask_NA: tokens outside it give 0 and gradient 0, whatever stands there.

    Returns:
      [N, A], float32.

    References:
      Reinforcement Learning via Self-Distillation (SDPO), arXiv 2601.20802.
    """
    chex.assert_equal_shape([logp_NA, teacher_NA])
    logp_NA, teacher_NA = masked(logp_NA, mask_NA), masked(teacher_NA, mask_NA)
    return masked(jax.lax.stop_gradient(logp_NA - teacher_NA) * logp_NA, mask_NA)
