"""What an `Objective` takes as `advantage`, and as `idle`: `(batch) -> [N]`."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxevo.advantages.group import group_relative, leave_one_out
from jaxevo.types import Array, Batch


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
    return np.asarray(batch.advantage_N) == 0.0


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


def _number(batch: Batch, name: str) -> Array:
    if name not in batch.numbers:
        raise ValueError(
            f"the advantage needs {name!r} in the rows' numbers, which have "
            f"{sorted(batch.numbers)}. Set it in collect."
        )
    return batch.numbers[name]
