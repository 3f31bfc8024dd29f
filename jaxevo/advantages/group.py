"""Advantages from comparing rows of one group.

Groups are dense ids that travel with the rows: any integers in [0, N), in any order. Rows where
`real_N` is False are padding: they get advantage 0 and enter no statistic.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxevo.types import Array


def group_relative(
    reward_N: Array,
    group_N: Array,
    *,
    scale: Literal["std", "none", "batch"] = "std",
    ddof: int = 1,
    epsilon: float = 1e-6,
    singleton: Literal["reward", "zero"] = "reward",
    real_N: Array | None = None,
) -> jax.Array:
    """Reward above the group's mean, scaled.

    std (GRPO):      A = (R − mean_g R) / (std_g R + ε)
    none (Dr.GRPO):  A = R − mean_g R
    batch:           A = (R − mean_g R) / (std over all rows + ε)

    A group whose rewards are all equal gets exactly 0, not a rounding error divided by ε.

    Args:
      reward_N: one reward per row, finite on real rows.
      group_N: group ids, integers in [0, N).
      scale: see above.
      ddof: the std divides by n − ddof; 1 in TRL, verl and Tunix, 0 in the papers.
      epsilon: ε, added to the std.
      singleton: a group of one row gets its reward ("reward": mean 0 and, where the group's std
        would scale, std 1, as in verl) or 0 ("zero", as in TRL).
      real_N: bool, rows that exist; None means all.

    Returns:
      A [N], float32, without gradient.

    Raises:
      ValueError: for an unknown option or, outside jit, for group ids outside [0, N).

    References:
      Shao et al., DeepSeekMath (GRPO), arXiv 2402.03300. Liu et al. (Dr.GRPO), arXiv 2503.20783.
    """
    if scale not in ("std", "none", "batch"):
        raise ValueError(f'scale must be "std", "none" or "batch", got {scale!r}.')
    if singleton not in ("reward", "zero"):
        raise ValueError(f'singleton must be "reward" or "zero", got {singleton!r}.')
    if ddof not in (0, 1):
        raise ValueError(f"ddof={ddof} must be 0 or 1.")
    groups = _grouped(reward_N, group_N, real_N)
    centred_N = groups.reward_N - groups.mean_N
    advantage_N = centred_N
    if scale == "std":
        square_N = groups.total(jnp.square(centred_N))
        std_N = jnp.sqrt(square_N / jnp.maximum(groups.size_N - ddof, 1.0))
        advantage_N = centred_N / (std_N + epsilon)
    divisor = _batch_std(groups, ddof) + epsilon if scale == "batch" else 1.0
    advantage_N = jnp.where(groups.constant_N, 0.0, advantage_N / divisor)
    if singleton == "reward":
        advantage_N = jnp.where(groups.size_N == 1, groups.reward_N / divisor, advantage_N)
    return jnp.where(groups.real_N, advantage_N, 0.0)


def leave_one_out(reward_N: Array, group_N: Array, *, real_N: Array | None = None) -> jax.Array:
    """RLOO: A_i = R_i − (Σ_g R − R_i) / (n_g − 1), the reward above the mean of the others.

    Args:
      reward_N: one reward per row, finite on real rows.
      group_N: group ids, integers in [0, N).
      real_N: bool, rows that exist; None means all.

    Returns:
      A [N], float32, without gradient; exactly 0 for groups of one and groups of equal rewards.

    Raises:
      ValueError: outside jit, for group ids outside [0, N).

    References:
      Ahmadian et al., Back to basics, arXiv 2402.14740.
    """
    groups = _grouped(reward_N, group_N, real_N)
    others_N = jnp.maximum(groups.size_N - 1.0, 1.0)
    advantage_N = (groups.reward_N - groups.mean_N) * (groups.size_N / others_N)
    return jnp.where(groups.constant_N, 0.0, advantage_N)


def best_of_group(
    reward_N: Array,
    group_N: Array,
    *,
    scale: Literal["std", "none"] = "std",
    ddof: int = 1,
    epsilon: float = 1e-6,
    real_N: Array | None = None,
) -> jax.Array:
    """A = (R_max − R_second) / (std_g R + ε) for the best row of each group, 0 for all others.

    What a group's maximum, so its pass@k with k = G, owes to each row: taking any but the best
    away changes nothing. Where two rows are best, nobody gets anything; a group of one gets 0.

    Args:
      reward_N, group_N, real_N: as in `leave_one_out`.
      scale: "none" leaves the difference undivided.
      ddof, epsilon: as in `group_relative`.

    References:
      Tang et al., arXiv 2503.19595.
    """
    if scale not in ("std", "none"):
        raise ValueError(f'scale must be "std" or "none", got {scale!r}.')
    groups = _grouped(reward_N, group_N, real_N)
    count = groups.reward_N.shape[0]
    own_N = jnp.where(groups.real_N, groups.reward_N, -jnp.inf)
    high_N = jax.ops.segment_max(own_N, groups.group_N, count)[groups.group_N]
    best_N = groups.real_N & (own_N == high_N)
    second_N = jax.ops.segment_max(jnp.where(best_N, -jnp.inf, own_N), groups.group_N, count)
    alone_N = groups.total(best_N.astype(jnp.float32)) == 1
    gain_N = groups.reward_N - second_N[groups.group_N]
    if scale == "std":
        square_N = groups.total(jnp.square(groups.reward_N - groups.mean_N))
        gain_N = gain_N / (jnp.sqrt(square_N / jnp.maximum(groups.size_N - ddof, 1.0)) + epsilon)
    return jnp.where(best_N & alone_N & ~groups.constant_N, gain_N, 0.0)


def zero_variance_share(
    reward_N: Array, group_N: Array, *, real_N: Array | None = None
) -> jax.Array:
    """Share of groups, in [0, 1], whose rewards are all equal, so that they teach nothing.

    A group of one counts as equal. Without real rows the share is 0. Arguments and errors as in
    `leave_one_out`; returns a float32 scalar.
    """
    groups = _grouped(reward_N, group_N, real_N)
    share_N = jnp.where(groups.real_N, 1.0 / jnp.maximum(groups.size_N, 1.0), 0.0)
    count = jnp.maximum(jnp.round(share_N.sum()), 1.0)
    return jnp.round((share_N * groups.constant_N).sum()) / count


def undecided_chance(success: float | Array, samples: int) -> np.ndarray:
    """u(p) = 1 − (1 − p)^G − p^G: the chance that a group teaches, rewards being 0 and 1.

    It is 1 less the expected `zero_variance_share`: symmetric about p = 1/2, where it is largest,
    concave, and near G·p for small p.

    Args:
      success: p, the chance that one answer is right, in [0, 1].
      samples: G, answers of a group, of which each is right or wrong by itself.

    References:
      arXiv 2602.03143.
    """
    p = np.asarray(success, np.float64)
    return 1.0 - (1.0 - p) ** samples - p**samples


class _Groups(NamedTuple):
    """Rewards and the statistics of each row's group, all [N]; padding rows have reward 0."""

    reward_N: jax.Array
    group_N: jax.Array
    real_N: jax.Array
    size_N: jax.Array
    mean_N: jax.Array
    constant_N: jax.Array

    def total(self, x_N: jax.Array) -> jax.Array:
        """Σ over the real rows of each row's group."""
        return _total(jnp.where(self.real_N, x_N, 0.0), self.group_N)


def _grouped(reward_N: Array, group_N: Array, real_N: Array | None) -> _Groups:
    chex.assert_rank(reward_N, 1)
    real_N = jnp.ones(reward_N.shape, bool) if real_N is None else jnp.asarray(real_N, bool)
    chex.assert_equal_shape([reward_N, group_N, real_N])
    _refuse_foreign_groups(group_N, real_N)
    group_N = jnp.where(real_N, jnp.asarray(group_N), 0)
    reward_N = jax.lax.stop_gradient(jnp.asarray(reward_N, jnp.float32))
    reward_N = jnp.where(real_N, reward_N, 0.0)
    count = reward_N.shape[0]
    size_N = _total(real_N.astype(jnp.float32), group_N)
    mean_N = _total(reward_N, group_N) / jnp.maximum(size_N, 1.0)
    high_N = jax.ops.segment_max(jnp.where(real_N, reward_N, -jnp.inf), group_N, count)[group_N]
    low_N = jax.ops.segment_min(jnp.where(real_N, reward_N, jnp.inf), group_N, count)[group_N]
    return _Groups(reward_N, group_N, real_N, size_N, mean_N, (high_N == low_N) | ~real_N)


def _total(x_N: jax.Array, group_N: jax.Array) -> jax.Array:
    return jax.ops.segment_sum(x_N, group_N, num_segments=x_N.shape[0])[group_N]


def _batch_std(groups: _Groups, ddof: int) -> jax.Array:
    count = groups.real_N.sum(dtype=jnp.float32)
    mean = groups.reward_N.sum() / jnp.maximum(count, 1.0)
    square_N = jnp.where(groups.real_N, jnp.square(groups.reward_N - mean), 0.0)
    return jnp.sqrt(square_N.sum() / jnp.maximum(count - ddof, 1.0))


def _refuse_foreign_groups(group_N: Array, real_N: jax.Array) -> None:
    if isinstance(group_N, Tracer) or isinstance(real_N, Tracer):
        return
    foreign_N = real_N & ((group_N < 0) | (group_N >= len(group_N)))
    if foreign_N.any():
        raise ValueError(
            f"group_N has the id {int(group_N[int(foreign_N.argmax())])}, but the ids of "
            f"{len(group_N)} rows must lie in [0, {len(group_N)}). Number the groups 0, 1, 2, ..."
        )
