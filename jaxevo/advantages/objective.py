"""What an `Objective` takes as `advantage`, `[N]` or by token `[N, A]`, and as `idle`, `[N]`."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxevo.advantages.group import best_of_group, group_relative, leave_one_out
from jaxevo.advantages.temporal import at_last, generalised_advantage, token_return, whiten
from jaxevo.losses.entropy_band import entropy_quantile_mask
from jaxevo.losses.reduce import masked
from jaxevo.types import Array, Batch, Bound


def group_advantage(
    batch: Batch,
    *,
    scale: Literal["std", "none", "batch"] = "std",
    ddof: int = 1,
    epsilon: float = 1e-6,
    singleton: Literal["reward", "zero"] = "reward",
) -> jax.Array:
    """`group_relative` of the summed rewards."""
    return group_relative(
        batch.reward_N,
        batch.group_N,
        scale=scale,
        ddof=ddof,
        epsilon=epsilon,
        singleton=singleton,
        real_N=batch.real_N,
    )


def no_advantage(batch: Batch) -> np.ndarray:
    """Rows with advantage 0, which teach nothing where every term is a multiple of it [N]."""
    zero = np.asarray(batch.advantage_N) == 0.0
    return zero.reshape(len(zero), -1).all(1)


def untaught(batch: Batch, *, view: str = "teacher") -> np.ndarray:
    """Rows of advantage 0 that a view has no context for either [N]."""
    return no_advantage(batch) & ~np.asarray(batch.present[view], bool)


def leave_one_out_advantage(batch: Batch) -> jax.Array:
    """`leave_one_out` of the summed rewards."""
    return leave_one_out(batch.reward_N, batch.group_N, real_N=batch.real_N)


def baseline_advantage(batch: Batch, *, number: str = "baseline") -> jax.Array:
    """R − b: the summed rewards less a baseline that came with the rows (`Row.numbers`).

    Raises:
      ValueError: when no row has that number.
    """
    return jnp.asarray(batch.reward_N) - jnp.asarray(_number(batch, number))


def number_advantage(batch: Batch, *, number: str) -> jax.Array:
    """A number that came with the rows, as it is: a target for regression, a weight.

    Raises:
      ValueError: when no row has that number.
    """
    return jnp.asarray(_number(batch, number))


def zero_advantage(batch: Batch) -> jax.Array:
    """0 for every row: for objectives whose terms read no advantage."""
    return jnp.zeros(batch.reward_N.shape, jnp.float32)


def best_advantage(
    batch: Batch, *, scale: Literal["std", "none"] = "std", epsilon: float = 1e-6
) -> jax.Array:
    """`best_of_group` of the summed rewards."""
    return best_of_group(
        batch.reward_N, batch.group_N, scale=scale, epsilon=epsilon, real_N=batch.real_N
    )


def whitened_return_advantage(
    batch: Batch, *, baseline: Literal["none", "group"] = "none", gamma: float = 1.0
) -> jax.Array:
    """Returns of the reward at the last token, whitened over all tokens of the batch, [N, A].

    With the baseline "group" each row's reward is first taken above its group's mean.
    """
    if baseline not in ("none", "group"):
        raise ValueError(f'baseline must be "none" or "group", got {baseline!r}.')
    reward_N, mask_NA = jnp.asarray(batch.reward_N), _acted(batch)
    if baseline == "group":
        reward_N = group_advantage(batch, scale="none", singleton="zero")
    return whiten(token_return(at_last(reward_N, mask_NA), mask_NA, gamma=gamma), mask_NA)


def entropy_band_advantage(batch: Batch, *, of: Bound, keep: float) -> jax.Array:
    """The advantage `of`, and 0 at tokens below the batch's (1 − keep)-quantile of entropy, [N, A].

    The entropies are the sampler's (`Row.by_token["entropy"]`). Tokens left out have no policy
    gradient; they stay in the denominator, and terms that read no advantage speak on them as
    before.

    Raises:
      ValueError: when a row has no entropies.
    """
    entropy_NA, mask_NA = _by_token(batch, "entropy"), _acted(batch)
    advantage = jnp.asarray(of(batch))
    advantage_NA = advantage if advantage.ndim == 2 else advantage[:, None]
    return jnp.where(entropy_quantile_mask(entropy_NA, mask_NA, keep=keep), advantage_NA, 0.0)


def weighed_advantage(batch: Batch, *, of: Bound, number: str = "coefficient") -> jax.Array:
    """The advantage `of`, times a number of each answer token (`Row.by_token`), [N, A].

    Raises:
      ValueError: when a row does not have that number.
    """
    weight_NA, advantage = _by_token(batch, number), jnp.asarray(of(batch))
    advantage_NA = advantage if advantage.ndim == 2 else advantage[:, None]
    return masked(weight_NA, _acted(batch)) * advantage_NA


def temporal_advantage(
    batch: Batch, *, gamma: float = 1.0, lam: float = 0.95, whitened: bool = True
) -> jax.Array:
    """`generalised_advantage` of the summed reward at each answer's last token, [N, A].

    Values are those that came with the rows (`Row.by_token["value"]`).

    Args:
      batch: the whole batch.
      gamma: discount per token.
      lam: λ of GAE.
      whitened: whether the advantages of all tokens get mean 0 and variance 1.

    Raises:
      ValueError: when a row has no values.
    """
    advantage_NA = _temporal(batch, gamma, lam)
    return whiten(advantage_NA, _acted(batch)) if whitened else advantage_NA


def return_target(batch: Batch, *, gamma: float = 1.0, lam: float = 0.95) -> jax.Array:
    """A + V of `temporal_advantage`, not whitened: what the values are regressed on, [N, A]."""
    return _temporal(batch, gamma, lam) + masked(_by_token(batch, "value"), _acted(batch))


def _temporal(batch: Batch, gamma: float, lam: float) -> jax.Array:
    mask_NA = _acted(batch)
    reward_NA = at_last(batch.reward_N, mask_NA)
    return generalised_advantage(
        reward_NA, _by_token(batch, "value"), mask_NA, gamma=gamma, lam=lam
    )


def _acted(batch: Batch) -> jax.Array:
    mask_NA = jnp.asarray(batch.answers["text"].mask_NA, bool)
    return mask_NA & jnp.asarray(batch.real_N, bool)[:, None]


def _by_token(batch: Batch, name: str) -> np.ndarray:
    numbers = np.asarray(batch.by_token.get(name, np.nan))
    mask_NA = np.asarray(_acted(batch))
    if np.isnan(np.broadcast_to(numbers, mask_NA.shape)[mask_NA]).any():
        raise ValueError(
            f"the advantage needs {name!r} by token of every row (`Row.by_token`). Set it in "
            "collect, values with `collect.answers.with_values`."
        )
    return numbers


def _number(batch: Batch, name: str) -> Array:
    if name not in batch.numbers:
        raise ValueError(
            f"the advantage needs {name!r} in the rows' numbers, which have "
            f"{sorted(batch.numbers)}. Set it in collect."
        )
    return batch.numbers[name]
