"""The decoder: one pure function for training, prefill and decoding.

    x      = embed[ids]
    x      = x + Attention(RMSNorm(x));  x = x + SwiGLU(RMSNorm(x))          for every layer
    hidden = RMSNorm(x)                                                      logits = hidden · head

Who sees whom is the caller's business: a boolean mask over slots, and a position for each slot.
So padding, packed sequences, shared prefixes and cached decoding are the same code, and the
sampler's log-probs are the trainer's.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxevo.models.table import DecoderConfig, RopeScaling, Weight, map_table
from jaxevo.types import Array, Params

__all__ = ["DecoderConfig", "RopeScaling", "apply", "init_cache", "init_params", "unembed"]

# Finite, so that a slot that sees nothing averages over all slots instead of becoming NaN; below
# any score by so much that exp() of the difference is exactly 0 in float32.
UNSEEN = -1e30

Cache = dict[str, jax.Array]


def apply(
    config: DecoderConfig,
    params: Params,
    ids_BS: Array,
    positions_BS: Array,
    mask_BSC: Array,
    *,
    cache: Cache | None = None,
    slot: Array | int = 0,
    remat: bool = False,
) -> tuple[jax.Array, Cache | None]:
    """Final hidden states of a batch of slots.

    Args:
      config: the shape of the model.
      params: nested dict as in `jaxevo.models.table`; its dtype is the dtype of the result.
      ids_BS: token ids; ids outside the vocabulary (only sensible in padding) are clipped.
      positions_BS: rotary position of every slot, from 0; any order, any repetition.
      mask_BSC: bool, query slot s sees key slot c. C = S without a cache, else its capacity.
        What stands in slots that nobody sees changes neither value nor gradient elsewhere.
      cache: keys and values of earlier slots, from `init_cache`. Donate it to be updated in place.
      slot: cache slot of the first new key, the same for all rows; may be traced.
      remat: recompute layers in the backward pass: memory for one layer, about a third more time.

    Returns:
      hidden_BSD after the final norm, and the cache with slots [slot, slot + S) written (None
      without a cache). Norms, rotary positions and softmax are computed in float32.

    References: arXiv:2104.09864 (rotary positions), arXiv:2305.13245 (grouped-query attention),
      arXiv:2002.05202 (SwiGLU), arXiv:1910.07467 (RMSNorm).
    """
    x_BSD = jnp.take(params["embed"], ids_BS, axis=0, mode="clip")
    rotation = rotary(config, positions_BS)

    def layer(carry: tuple[jax.Array, Cache | None], scanned: tuple[Any, jax.Array]) -> Any:
        x, kept = carry
        weights, index = scanned
        normed = rms_norm(x, weights["attn_norm"], config.norm_eps)
        q, k, v = _project(config, weights, normed, rotation)
        if kept is not None:
            kept = {"k": _write(kept["k"], k, index, slot), "v": _write(kept["v"], v, index, slot)}
            k, v = kept["k"][index], kept["v"][index]
        x = x + _attend(q, k, v, mask_BSC) @ weights["o"]
        normed = rms_norm(x, weights["ffn_norm"], config.norm_eps)
        x = x + swiglu(normed, weights["gate"], weights["up"], weights["down"])
        return (x, kept), None

    body = jax.checkpoint(layer) if remat else layer
    scanned = (params["layers"], jnp.arange(config.layers))
    (x_BSD, cache), _ = jax.lax.scan(body, (x_BSD, cache), scanned)
    return rms_norm(x_BSD, params["final_norm"], config.norm_eps), cache


def unembed(config: DecoderConfig, params: Params) -> jax.Array:
    """head_DV, the matrix that turns hidden states into logits."""
    return params["embed"].T if config.tied else params["head"]


def init_params(key: jax.Array, config: DecoderConfig, dtype: Any = jnp.float32) -> Params:
    """Random weights as the weight table says. A weight's values depend on its name alone."""

    def draw(name: str, weight: Weight) -> jax.Array:
        if weight.std is None:
            return jnp.ones(weight.shape, dtype)
        own_key, size = jax.random.fold_in(key, _hash(name)), math.prod(weight.shape)
        draws = _normal(own_key, size=-(-size // _BLOCK) * _BLOCK)[:size]
        return (weight.std * draws.reshape(weight.shape)).astype(dtype)

    return map_table(draw, config)


def init_cache(config: DecoderConfig, rows: int, capacity: int, dtype: Any = jnp.float32) -> Cache:
    """An empty cache: k and v of shape [layers, rows, kv_heads, capacity, head_dim].

    Heads stand before slots, as the products over slots want them: no step moves old keys.
    """
    shape = (config.layers, rows, config.kv_heads, capacity, config.head_dim)
    return {"k": jnp.zeros(shape, dtype), "v": jnp.zeros(shape, dtype)}


def rms_norm(x: jax.Array, scale_D: jax.Array, eps: float) -> jax.Array:
    """x / √(mean(x²) + eps) · scale over the last axis, computed in float32."""
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return wide.astype(x.dtype) * scale_D


@jax.custom_vjp
def swiglu(x_BSD: Array, gate_DF: Array, up_DF: Array, down_FD: Array) -> jax.Array:
    """(silu(x · gate) ⊙ (x · up)) · down, the feed-forward layer of arXiv:2002.05202 (eq. 6).

    The backward pass keeps the two inner products and nothing else, and forms the rest again
    from them: against plain autodiff three arrays of [B, S, F] less per layer.
    """
    return _swiglu(x_BSD, gate_DF, up_DF, down_FD)[0]


def _swiglu(x: Array, gate: Array, up: Array, down: Array) -> tuple[jax.Array, tuple]:
    gated, lifted = x @ gate, x @ up
    return (jax.nn.silu(gated) * lifted) @ down, (x, gated, lifted, gate, up, down)


def _swiglu_backward(kept: tuple, dy: jax.Array) -> tuple[jax.Array, ...]:
    gate, up, down = kept[3:]
    x, gated, lifted, dy = (a.reshape(-1, a.shape[-1]) for a in (*kept[:3], dy))
    sigmoid = jax.nn.sigmoid(gated)
    silu = gated * sigmoid
    dhidden = dy @ down.T
    dlifted = dhidden * silu
    dgated = dhidden * lifted * (sigmoid + silu * (1 - sigmoid))
    dx = dgated @ gate.T + dlifted @ up.T
    return dx.reshape(kept[0].shape), x.T @ dgated, x.T @ dlifted, (silu * lifted).T @ dy


swiglu.defvjp(_swiglu, _swiglu_backward)


def rotary(config: DecoderConfig, positions_BS: Array) -> tuple[jax.Array, jax.Array]:
    """cos and sin of position · θ^(-2i/head_dim), each [B, S, 1, head_dim / 2], float32."""
    exponents = jnp.arange(0, config.head_dim, 2, dtype=jnp.float32) / config.head_dim
    frequency = 1.0 / config.rope_theta**exponents
    if config.rope_scaling is not None:
        frequency = _stretch(frequency, config.rope_scaling)
    angle = jnp.asarray(positions_BS, jnp.float32)[:, :, None, None] * frequency
    return jnp.cos(angle), jnp.sin(angle)


def _stretch(frequency: jax.Array, scaling: RopeScaling) -> jax.Array:
    """Divides slow frequencies by `factor`, keeps fast ones, and blends in between."""
    turns = scaling.original_max_positions * frequency / (2 * jnp.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    keep = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
    return keep * frequency + (1.0 - keep) * frequency / scaling.factor


def _rotate(x: jax.Array, rotation: tuple[jax.Array, jax.Array]) -> jax.Array:
    cos, sin = rotation
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1)
    return rotated.astype(x.dtype)


def _project(config: DecoderConfig, weights: Params, x_BSD: jax.Array, rotation: Any) -> Any:
    rows, slots, _ = x_BSD.shape
    q = (x_BSD @ weights["q"]).reshape(rows, slots, config.heads, config.head_dim)
    k = (x_BSD @ weights["k"]).reshape(rows, slots, config.kv_heads, config.head_dim)
    v = (x_BSD @ weights["v"]).reshape(rows, slots, config.kv_heads, config.head_dim)
    return _rotate(q, rotation), _rotate(k, rotation).swapaxes(1, 2), v.swapaxes(1, 2)


def _write(cache: jax.Array, new: jax.Array, layer: jax.Array, slot: Array | int) -> jax.Array:
    zero = jnp.zeros((), jnp.int32)
    start = (layer, zero, zero, jnp.asarray(slot, jnp.int32), zero)
    return jax.lax.dynamic_update_slice(cache, new[None].astype(cache.dtype), start)


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, mask_BSC: Array) -> jax.Array:
    """softmax(q · kᵀ / √head_dim) · v, each key-value head shared by a group of query heads.

    q: [B, S, heads, head_dim]; k and v: [B, kv_heads, C, head_dim].
    """
    rows, slots, heads, head_dim = q.shape
    kv_heads = k.shape[1]
    grouped = q.reshape(rows, slots, kv_heads, heads // kv_heads, head_dim)
    scores = jnp.einsum("bskgh,bkch->bkgsc", grouped, k, preferred_element_type=jnp.float32)
    scores = jnp.where(mask_BSC[:, None, None], scores * head_dim**-0.5, UNSEEN)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    mixed = jnp.einsum("bkgsc,bkch->bskgh", weights, v)
    return mixed.reshape(rows, slots, heads * head_dim)


# XLA on CPU takes seconds to compile a draw of some small shapes, e.g. (3, 24, 12). Whole blocks
# compile fast, and the weights of a tiny model share one program.
_BLOCK = 4096


@functools.partial(jax.jit, static_argnames="size")
def _normal(key: jax.Array, *, size: int) -> jax.Array:
    return jax.random.normal(key, (size,))


def _hash(name: str) -> np.uint32:
    """A stable number for a name (FNV-1a); Python's own hash differs between processes."""
    value = 2166136261
    for byte in name.encode():
        value = (value ^ byte) * 16777619 % 2**32
    return np.uint32(value)
