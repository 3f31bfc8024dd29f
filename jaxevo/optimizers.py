"""Optimizers as named functions with plain options, so that an objective can hold them by value."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import jax.numpy as jnp
import optax

from jaxevo.types import Array, Params

Moments: TypeAlias = Literal["full", "factored"]


def adamw(
    *,
    learning_rate: float,
    warmup_updates: int = 0,
    weight_decay: float = 0.0,
    max_grad_norm: float | None = 1.0,
    b1: float = 0.9,
    b2: float = 0.999,
    epsilon: float = 1e-8,
    factors: tuple[tuple[str, float], ...] = (),
    moments: Moments = "full",
) -> optax.GradientTransformation:
    """AdamW after clipping by the global norm; the rate rises linearly over the warm-up updates.

    Args:
      learning_rate: step size per update after the warm-up.
      warmup_updates: updates until the full rate; update i of w takes (i + 1) / w of it.
      weight_decay: decoupled decay per update, times the rate.
      max_grad_norm: longest gradient, None for no clipping.
      b1: decay of the first moment.
      b2: decay of the second moment.
      epsilon: added to the root of the second moment.
      factors: (name, factor) of top-level sub-trees whose steps are that many times as long: a
        head that begins at 0 has a longer way to go than a trained model.
      moments: full keeps both in float32, 8 bytes a weight. factored keeps the first in bfloat16
        and of the second the means over rows and columns of matrices with both sides of 128 or
        more, about 2 bytes a weight: an Adafactor step (arXiv:1804.04235), without its scaling by
        parameter size; b2 and epsilon are its own.
    """
    rate = learning_rate
    if warmup_updates:
        first = learning_rate / warmup_updates
        rate = optax.linear_schedule(first, learning_rate, max(warmup_updates - 1, 1))
    if moments == "factored":
        step = optax.adafactor(
            rate,
            momentum=b1,
            dtype_momentum=jnp.bfloat16,
            multiply_by_parameter_scale=False,
            weight_decay_rate=weight_decay * learning_rate or None,
        )
    else:
        step = optax.adamw(rate, b1=b1, b2=b2, eps=epsilon, weight_decay=weight_decay)
    parts = [] if max_grad_norm is None else [optax.clip_by_global_norm(max_grad_norm)]
    parts.append(step)
    if factors:
        parts.append(optax.stateless(functools.partial(_stretched, dict(factors))))
    return optax.chain(*parts) if len(parts) > 1 else step


def _stretched(factors: Mapping[str, float], changes: Any, params: Params) -> dict[str, Params]:
    del params
    scale = optax.tree_utils.tree_scale
    return {name: scale(factors.get(name, 1.0), part) for name, part in changes.items()}


def adam_moments(state: optax.OptState) -> tuple[Params, Array]:
    """Adam's second moment and its count of updates, out of an optimizer state that has them.

    Raises:
      ValueError: for the state of another optimizer.
    """
    second_moment = optax.tree_utils.tree_get(state, "nu")
    if second_moment is None:
        raise ValueError("this optimizer keeps no second moment; it needs Adam's state.")
    adam = optax.tree_utils.tree_get(state, "ScaleByAdamState")
    return second_moment, adam.count
