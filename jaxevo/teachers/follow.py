"""How one parameter set follows another, `(own, leader) -> own`, and when, `(counters) -> bool`.

Results have the dtypes of `own`. Averages are taken in float32 or better; a follower stored in
bfloat16 still loses steps below 1/256 of a weight, so keep slow followers in float32.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from jaxevo.types import Array, Counters, Params


def ema(own: Params, leader: Params, *, rate: float) -> Params:
    """Exponential moving average: θ_own ← (1 − rate) θ_own + rate θ_leader.

    Args:
      own: the follower's weights, a tree of floating arrays.
      leader: a tree of the same structure and shapes.
      rate: in [0, 1]. 0 returns `own` bit by bit, 1 copies the leader exactly; both hold even
        where weights are not finite.

    Raises:
      ValueError: for a rate outside [0, 1].
      AssertionError: when structures or shapes differ.
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"ema needs a rate in [0, 1], got {rate}.")
    if rate == 1.0:
        return copy(own, leader)
    chex.assert_trees_all_equal_shapes(own, leader)
    if rate == 0.0:
        return own

    def average(old: Array, new: Array) -> Array:
        wide = jnp.promote_types(old.dtype, jnp.float32)
        mixed = (1.0 - rate) * jnp.asarray(old, wide) + rate * jnp.asarray(new, wide)
        return mixed.astype(old.dtype)

    return jax.tree.map(average, own, leader)


def copy(own: Params, leader: Params) -> Params:
    """The leader's values in new buffers, in the dtypes of `own`: sets never alias.

    Raises:
      AssertionError: when structures or shapes differ.
    """
    chex.assert_trees_all_equal_shapes(own, leader)
    return jax.tree.map(lambda old, new: jnp.array(new, dtype=old.dtype, copy=True), own, leader)


def every(counters: Counters, *, rounds: int) -> bool:
    """True at the end of each `rounds`-th round.

    Raises:
      ValueError: for fewer than 1 rounds.
    """
    if rounds < 1:
        raise ValueError(f"every needs at least 1 rounds, got {rounds}.")
    return (counters["round"] + 1) % rounds == 0


def during(counters: Counters, *, rounds: int, then_every: int = 0) -> bool:
    """True in each of the first `rounds` rounds, and at the end of each `then_every`-th after them.

    then_every: 0 for never again.

    Raises:
      ValueError: for negative numbers of rounds.
    """
    if min(rounds, then_every) < 0:
        raise ValueError(f"rounds={rounds} and then_every={then_every} must be at least 0.")
    done = counters["round"] + 1 - rounds
    return done <= 0 or (then_every > 0 and done % then_every == 0)
