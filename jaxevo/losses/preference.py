"""Losses of preference: one value per pair of answers, or per answer that was good or bad.

All speak of whole answers, through `sequence_logp`. A margin is how much more likely the better
answer of a pair has become than the worse one:

    m = (ℓ_better − ℓ_ref,better) − (ℓ_worse − ℓ_ref,worse)

`pair_mean` turns values and a mask into a (numerator, denominator) pair, as reducers do for tokens:

    better_P = sequence_logp(logp_PA, mask_PA) - sequence_logp(reference_PA, mask_PA)
    loss = ratio(*pair_mean(direct_preference(better_P - worse_P, beta=0.1)))
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from jaxevo.losses.reduce import masked, refuse_not_positive
from jaxevo.types import Array


def sequence_logp(logp_NA: Array, mask_NA: Array, *, average: bool = False) -> jax.Array:
    """Σₜ m·ℓ of each answer, [N] float32; with `average` over Σₜ m, and 0 for an empty answer.

    Sums are what the losses of log-ratios take (DPO, KTO), averages IPO and SimPO.
    """
    chex.assert_rank(logp_NA, 2)
    chex.assert_equal_shape([logp_NA, mask_NA])
    total_N = masked(logp_NA, mask_NA).sum(1)
    if not average:
        return total_N
    return total_N / jnp.maximum(jnp.asarray(mask_NA, bool).sum(1), 1)


def direct_preference(
    margin_P: Array, *, beta: float = 0.1, label_smoothing: float = 0.0
) -> jax.Array:
    """−(1 − ε)·log σ(β·m) − ε·log σ(−β·m): the better answer shall win (DPO).

    ∂/∂m = β·(σ(β·m) − 1 + ε).

    Args:
      margin_P: m of sums of log-probs, against a reference; differentiable.
      beta: β > 0, how closely the policy is tied to the reference.
      label_smoothing: ε in [0, 0.5), the chance that a preference is the wrong way round.

    Returns:
      loss [P], float32.

    Raises:
      ValueError: for options outside their ranges.

    References:
      Rafailov et al., arXiv 2305.18290, eq. 7. ε: Mitchell, a note on DPO with noisy preferences
      (2023), "conservative DPO".
    """
    refuse_not_positive("beta", beta)
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing={label_smoothing} must lie in [0, 0.5).")
    logit_P = beta * jnp.asarray(margin_P, jnp.float32)
    won_P, lost_P = jax.nn.log_sigmoid(logit_P), jax.nn.log_sigmoid(-logit_P)
    return -(1 - label_smoothing) * won_P - label_smoothing * lost_P


def identity_preference(margin_P: Array, *, tau: float = 0.1) -> jax.Array:
    """(m − 1/(2τ))²: a margin to reach and not to exceed (IPO). ∂/∂m = 2·(m − 1/(2τ)).

    Args:
      margin_P: m of averages of log-probs, against a reference; differentiable. The paper writes
        sums; its authors' results, and TRL, have averages.
      tau: τ > 0, how closely the policy is tied to the reference.

    Returns:
      loss [P], float32.

    Raises:
      ValueError: when `tau` is not positive.

    References:
      Azar et al., arXiv 2310.12036, eq. 17.
    """
    refuse_not_positive("tau", tau)
    return jnp.square(jnp.asarray(margin_P, jnp.float32) - 1 / (2 * tau))


def simple_preference(margin_P: Array, *, beta: float = 2.0, gamma: float = 1.0) -> jax.Array:
    """−log σ(β·m − γ): the better answer shall win by γ, without a reference (SimPO).

    ∂/∂m = β·(σ(β·m − γ) − 1).

    Args:
      margin_P: m of averages of log-probs alone, without a reference; differentiable.
      beta: β > 0, the scale of the averages.
      gamma: γ >= 0, the margin to win by, in units of β·m.

    Returns:
      loss [P], float32.

    Raises:
      ValueError: for options outside their ranges.

    References:
      Meng et al., arXiv 2405.14734, eq. 6.
    """
    refuse_not_positive("beta", beta)
    if gamma < 0:
        raise ValueError(f"gamma={gamma} must be at least 0.")
    return -jax.nn.log_sigmoid(beta * jnp.asarray(margin_P, jnp.float32) - gamma)


def prospect_preference(
    log_ratio_N: Array,
    good_N: Array,
    baseline: Array,
    *,
    beta: float = 0.1,
    good_weight: float = 1.0,
    bad_weight: float = 1.0,
) -> jax.Array:
    """λ_g·(1 − σ(β·(u − z))) for a good answer, λ_b·(1 − σ(β·(z − u))) for a bad one (KTO).

    ∂/∂u = −λ_g·β·σ·(1 − σ) for good answers, the same with the other sign and λ_b for bad ones.

    Args:
      log_ratio_N: u = ℓ − ℓ_ref of whole answers, sums; differentiable.
      good_N: bool, whether the answer is good.
      baseline: z, what an answer of the policy is worth on average: an estimate of KL(π‖ref) such
        as `kl_baseline`; a scalar or [N], without gradient.
      beta: β > 0, how soon gains and losses saturate.
      good_weight: λ_g.
      bad_weight: λ_b.

    Returns:
      loss [N], float32.

    Raises:
      ValueError: when `beta` is not positive.

    References:
      Ethayarajh et al., arXiv 2402.01306, eq. 7.
    """
    refuse_not_positive("beta", beta)
    chex.assert_equal_shape([log_ratio_N, good_N])
    above_N = jnp.asarray(log_ratio_N, jnp.float32) - jax.lax.stop_gradient(jnp.asarray(baseline))
    good_N = jnp.asarray(good_N, bool)
    gain_N = jnp.where(good_N, 1.0, -1.0) * above_N
    return jnp.where(good_N, good_weight, bad_weight) * (1 - jax.nn.sigmoid(beta * gain_N))


def kl_baseline(log_ratio_N: Array, *, real_N: Array | None = None) -> jax.Array:
    """max(0, mean of ℓ − ℓ_ref): KTO's z, a float32 scalar without gradient.

    Args:
      log_ratio_N: of whole answers, sums. Those that the policy sampled estimate KL(π‖ref) without
        bias; KTO and TRL, whose answers are not the policy's, take each problem's with the answer
        of another problem.
      real_N: bool, rows that exist; None means all. Without any the baseline is 0.

    References:
      Ethayarajh et al., arXiv 2402.01306, section 4.1.
    """
    real_N = jnp.ones(log_ratio_N.shape, bool) if real_N is None else jnp.asarray(real_N, bool)
    mean = masked(log_ratio_N, real_N).sum() / jnp.maximum(real_N.sum(), 1)
    return jax.lax.stop_gradient(jnp.maximum(mean, 0.0))


def pair_mean(value_P: Array, *, real_P: Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Σ x over the number of pairs, or of answers, that exist: (numerator, denominator)."""
    real_P = jnp.ones(value_P.shape, bool) if real_P is None else jnp.asarray(real_P, bool)
    chex.assert_equal_shape([value_P, real_P])
    return masked(value_P, real_P).sum(), real_P.sum(dtype=jnp.float32)
