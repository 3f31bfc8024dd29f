"""Advantages of single tokens, from values by token and rewards at the end of answers."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from jaxevo.losses.reduce import masked
from jaxevo.types import Array


def generalised_advantage(
    reward_NA: Array,
    value_NA: Array,
    mask_NA: Array,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
) -> jax.Array:
    """GAE: δₜ = rₜ + γ·Vₜ₊₁ − Vₜ;  Aₜ = δₜ + γλ·Aₜ₊₁, with V and A 0 after the last token.

    Tokens outside the mask are passed over: what stands for t+1 is the next token of the mask, so
    that an answer with a tool's words in it has one chain of credit. A + V is what the values are
    regressed on.

    Args:
      reward_NA: r, what came of each token; of a verified answer, 0 but at its last token
        (`at_last`).
      value_NA: V, what was expected before each token.
      mask_NA: tokens that were acted.
      gamma: γ in [0, 1], discount per token.
      lam: λ in [0, 1]: 0 is one step's surprise, 1 the return less the value.

    Returns:
      A [N, A], float32, without gradient; 0 outside the mask.

    Raises:
      ValueError: for γ or λ outside [0, 1].

    References:
      Schulman et al., arXiv 1506.02438, eq. 16.
    """
    chex.assert_rank(mask_NA, 2)
    chex.assert_equal_shape([reward_NA, value_NA, mask_NA])
    for name, share in (("gamma", gamma), ("lam", lam)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name}={share} must lie in [0, 1].")
    mask_NA = jnp.asarray(mask_NA, bool)
    reward_NA, value_NA = masked(reward_NA, mask_NA), masked(value_NA, mask_NA)

    def back(later: tuple[jax.Array, jax.Array], token: tuple) -> tuple:
        advantage_N, next_N = later
        reward_N, value_N, acted_N = token
        surprise_N = reward_N + gamma * next_N - value_N
        here_N = surprise_N + gamma * lam * advantage_N
        carried = jnp.where(acted_N, here_N, advantage_N), jnp.where(acted_N, value_N, next_N)
        return carried, jnp.where(acted_N, here_N, 0.0)

    nothing_N = jnp.zeros(mask_NA.shape[0], jnp.float32)
    tokens = (reward_NA.T, value_NA.T, mask_NA.T)
    _, advantage_AN = jax.lax.scan(back, (nothing_N, nothing_N), tokens, reverse=True)
    return jax.lax.stop_gradient(advantage_AN.T)


def at_last(reward_N: Array, mask_NA: Array) -> jax.Array:
    """Each row's reward at its last token under the mask, 0 elsewhere; [N, A] float32."""
    mask_NA = jnp.asarray(mask_NA, bool)
    later_NA = jnp.cumsum(mask_NA[:, ::-1], axis=1)[:, ::-1]  # tokens from here on
    return masked(jnp.asarray(reward_N)[:, None], mask_NA & (later_NA == 1))


def token_return(reward_NA: Array, mask_NA: Array, *, gamma: float = 1.0) -> jax.Array:
    """ρₜ = rₜ + γ·ρₜ₊₁: `generalised_advantage` without values, with λ = 1."""
    nothing_NA = jnp.zeros(jnp.shape(reward_NA))
    return generalised_advantage(reward_NA, nothing_NA, mask_NA, gamma=gamma, lam=1.0)


def whiten(x_NA: Array, mask_NA: Array, *, epsilon: float = 1e-8) -> jax.Array:
    """(x − mean) / √(var + ε) over all tokens of the mask, var with n − 1; 0 outside, float32.

    Numbers that are all equal become exactly 0. Statistics are those of the array that it is given:
    call it on the whole batch.
    """
    chex.assert_equal_shape([x_NA, mask_NA])
    mask_NA = jnp.asarray(mask_NA, bool)
    x_NA, count = masked(x_NA, mask_NA), mask_NA.sum(dtype=jnp.float32)
    centred_NA = masked(x_NA - x_NA.sum() / jnp.maximum(count, 1.0), mask_NA)
    variance = jnp.square(centred_NA).sum() / jnp.maximum(count - 1.0, 1.0)
    highest = jnp.where(mask_NA, x_NA, -jnp.inf).max()
    equal = jnp.where(mask_NA, x_NA, jnp.inf).min() >= highest
    return jnp.where(equal, 0.0, centred_NA * jax.lax.rsqrt(variance + epsilon))
