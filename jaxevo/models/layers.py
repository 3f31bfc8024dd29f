"""What layers are made of: norms, rotary positions, gated feed-forward layers and experts."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxevo.models.table import DecoderConfig, LinearScaling, Scaling, YarnScaling
from jaxevo.types import Array


# The backward pass keeps x alone.
@functools.partial(jax.checkpoint, static_argnums=(2, 3))
def rms_norm(x: jax.Array, scale_D: Array, eps: float, plus_one: bool = False) -> jax.Array:
    """x / √(mean(x²) + eps) · scale over the last axis, computed in float32.

    plus_one: · (1 + scale), in float32 as well.
    """
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    if plus_one:
        return (wide * (1.0 + jnp.asarray(scale_D, jnp.float32))).astype(x.dtype)
    return wide.astype(x.dtype) * scale_D


ACTIVATIONS: dict[str, Callable[[Any], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def gated(
    x_BSD: Array, gate_DF: Array, up_DF: Array, down_FD: Array, activation: str = "silu"
) -> jax.Array:
    """(act(x · gate) ⊙ (x · up)) · down, the feed-forward layers of arXiv:2002.05202 (eq. 6).

    The backward pass keeps the two inner products and nothing else, and forms the rest again
    from them: against plain autodiff three arrays of [B, S, F] less per layer.
    """
    return _gated(x_BSD, gate_DF, up_DF, down_FD, activation)[0]


def _gated(
    x: Array, gate: Array, up: Array, down: Array, activation: str
) -> tuple[jax.Array, tuple]:
    opened, lifted = x @ gate, x @ up
    return (ACTIVATIONS[activation](opened) * lifted) @ down, (x, opened, lifted, gate, up, down)


def _gated_backward(activation: str, kept: tuple, dy: jax.Array) -> tuple[jax.Array, ...]:
    gate, up, down = kept[3:]
    x, opened, lifted, dy = (a.reshape(-1, a.shape[-1]) for a in (*kept[:3], dy))
    active, through = jax.vjp(ACTIVATIONS[activation], opened)
    dhidden = dy @ down.T
    dlifted = dhidden * active
    (dopened,) = through(dhidden * lifted)
    dx = dopened @ gate.T + dlifted @ up.T
    return dx.reshape(kept[0].shape), x.T @ dopened, x.T @ dlifted, (active * lifted).T @ dy


gated.defvjp(_gated, _gated_backward)


def experts(
    x_TD: jax.Array,
    router_DE: jax.Array,
    gate_EDF: jax.Array,
    up_EDF: jax.Array,
    down_EFD: jax.Array,
    *,
    each: int,
    norm: bool,
    activation: str = "silu",
) -> jax.Array:
    """Σ over a token's `each` likeliest experts of probability · gated, [T, D] (arXiv:2101.03961).

    Tokens are sorted by expert, and each expert's weights meet its tokens alone; none is dropped. A
    token's value does not depend on who else is there. norm: the probabilities kept sum to 1.
    """
    E = router_DE.shape[-1]
    share_TE = jax.nn.softmax((x_TD @ router_DE).astype(jnp.float32), axis=-1)
    share_TK, expert_TK = jax.lax.top_k(share_TE, each)
    if norm:
        share_TK = share_TK / share_TK.sum(-1, keepdims=True)
    order = jnp.argsort(expert_TK.reshape(-1))
    token, sizes_E = order // each, jnp.bincount(expert_TK.reshape(-1), length=E)
    sorted_x = x_TD[token]
    opened, lifted = (jax.lax.ragged_dot(sorted_x, w, sizes_E) for w in (gate_EDF, up_EDF))
    out = jax.lax.ragged_dot(ACTIVATIONS[activation](opened) * lifted, down_EFD, sizes_E)
    out = out * share_TK.reshape(-1)[order, None].astype(out.dtype)
    return jnp.zeros_like(x_TD).at[token].add(out)


def rotary(
    config: DecoderConfig, positions_BS: Array, *, windowed: bool = False
) -> tuple[jax.Array, jax.Array]:
    """cos and sin of position · θ^(-2i/head_dim), each [B, S, 1, head_dim / 2], float32.

    windowed: for layers with a window, whose positions may be other ones.
    """
    theta, scaling = config.rope_theta, config.rope_scaling
    if windowed and config.window_theta is not None:
        theta, scaling = config.window_theta, None
    exponents = jnp.arange(0, config.head_dim, 2, dtype=jnp.float32) / config.head_dim
    frequency = 1.0 / theta**exponents
    if scaling is not None:
        frequency = _stretch(frequency, scaling, theta)
    angle = jnp.asarray(positions_BS, jnp.float32)[:, :, None, None] * frequency
    length = scaling.attention_factor if isinstance(scaling, YarnScaling) else 1.0
    return jnp.cos(angle) * length, jnp.sin(angle) * length


def _stretch(frequency: jax.Array, scaling: Scaling, theta: float) -> jax.Array:
    """Divides slow frequencies by `factor`, keeps fast ones, and blends in between; or all."""
    if isinstance(scaling, LinearScaling):
        return frequency / scaling.factor
    if isinstance(scaling, YarnScaling):
        dims = 2 * len(frequency)

        def pair_that_turns(times: float) -> float:
            context = scaling.original_max_positions / (times * 2 * math.pi)
            return dims * math.log(context) / (2 * math.log(theta))

        first = max(math.floor(pair_that_turns(scaling.beta_fast)), 0)
        last = min(math.ceil(pair_that_turns(scaling.beta_slow)), dims - 1)
        ramp = (jnp.arange(len(frequency)) - first) / max(last - first, 1e-3)
        keep = 1.0 - jnp.clip(ramp, 0.0, 1.0)
    else:
        turns = scaling.original_max_positions * frequency / (2 * jnp.pi)
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        keep = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
    return keep * frequency + (1.0 - keep) * frequency / scaling.factor


def rotate(x: jax.Array, rotation: tuple[jax.Array, jax.Array]) -> jax.Array:
    """x [..., heads, head_dim] turned by cos and sin: pairs are (i, i + head_dim / 2)."""
    cos, sin = rotation
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1)
    return rotated.astype(x.dtype)
