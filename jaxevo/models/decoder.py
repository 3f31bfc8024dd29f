"""The decoder: one pure function for training, prefill and decoding.

    x      = embed[ids]
    x      = x + Attention(RMSNorm(x));  x = x + SwiGLU(RMSNorm(x))          for every layer
    hidden = RMSNorm(x)                                                      logits = hidden · head

What families do otherwise is data: `DecoderConfig` says what is normed, where, and what has a bias.

Who sees whom is the caller's business: a mask over slots, and a position for each slot.
So padding, packed sequences, shared prefixes and cached decoding are the same code, and the
sampler's log-probs are the trainer's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxevo.models.attention import UNSEEN, Trees, attend, attend_again, attend_trees
from jaxevo.models.table import DecoderConfig, RopeScaling, Weight, map_table
from jaxevo.types import Array, Params

__all__ = [
    "DecoderConfig",
    "RopeScaling",
    "apply",
    "decode",
    "init_cache",
    "init_params",
    "split_layers",
    "unembed",
]

# Of each layer: keys "k" and values "v" [rows, kv_heads, C, head_dim]. Heads stand before slots, as
# the products over slots want them: no step moves old keys.
Cache = tuple[dict[str, jax.Array], ...]


def apply(
    config: DecoderConfig,
    params: Params,
    ids_BS: Array,
    positions_BS: Array,
    mask: Array | Trees,
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
      mask: bool [B, S, C], query slot s sees key slot c; C = S without a cache, else its capacity.
        Or packed token trees, without a cache. What stands in slots that nobody sees changes
        neither value nor gradient elsewhere.
      cache: keys and values of earlier slots, from `init_cache`. Donate it to be updated in place.
        With a cache the layers are unrolled; weights from `split_layers` are then read in place.
      slot: cache slot of the first new key, the same for all rows; may be traced.
      remat: recompute layers in the backward pass: memory for one layer, about a third more time.

    Returns:
      hidden_BSD after the final norm, and the cache with slots [slot, slot + S) written (None
      without a cache). Norms, rotary positions and softmax are computed in float32.

    References: arXiv:2104.09864 (rotary positions), arXiv:2305.13245 (grouped-query attention),
      arXiv:2002.05202 (SwiGLU), arXiv:1910.07467 (RMSNorm).
    """

    if cache is None:
        return _trunk(config, params, ids_BS, positions_BS, mask, remat=remat), None
    assert not isinstance(mask, Trees)

    def attend_cached(q: jax.Array, k: jax.Array, v: jax.Array, index: int) -> Any:
        kept = _written(cache[index], k, v, slot)
        return attend(q, kept["k"], kept["v"], mask), kept

    return _unrolled(config, params, ids_BS, positions_BS, attend_cached)


def decode(
    config: DecoderConfig,
    params: Params,
    ids_N: Array,
    positions_N: Array,
    prefix: Cache,
    seen_QC: Array,
    own: Cache,
    seen_NR: Array,
    slot: Array,
) -> tuple[jax.Array, Cache]:
    """Final hidden states of one new token of each row; b rows in a block share their prefix.

    Args:
      config, params: as of `apply`.
      ids_N, positions_N: the tokens and their rotary positions; N = Q b, block by block.
      prefix: keys and values of Q prefixes, C slots, read only.
      seen_QC: bool, which slots of its prefix a block sees.
      own: keys and values of what each row has added, R slots.
      seen_NR: bool, which of its own slots a row sees, the new one included.
      slot: where the new token's keys and values are written, the same for all rows.

    Returns:
      hidden_ND, and `own` with that slot written.
    """
    kv_heads, head_dim = config.kv_heads, config.head_dim
    N, Q = ids_N.shape[0], seen_QC.shape[0]

    def by_block(x: jax.Array) -> jax.Array:
        """[N, kv_heads, m, ...] -> [Q, kv_heads, b m, ...]."""
        x = x.reshape(Q, N // Q, *x.shape[1:]).swapaxes(1, 2)
        return x.reshape(Q, kv_heads, -1, x.shape[-1])

    def by_row(x: jax.Array) -> jax.Array:
        """The inverse of `by_block`."""
        x = x.reshape(Q, kv_heads, N // Q, -1, x.shape[-1]).swapaxes(1, 2)
        return x.reshape(N, kv_heads, -1, x.shape[-1])

    def scores(q: jax.Array, k: jax.Array, seen: Array) -> jax.Array:
        product = jnp.einsum("nkmh,nkch->nkmc", q, k, preferred_element_type=jnp.float32)
        return jnp.where(seen[:, None, None], product * head_dim**-0.5, UNSEEN)

    def attend_both(q: jax.Array, k: jax.Array, v: jax.Array, index: int) -> Any:
        kept, before = _written(own[index], k, v, slot), prefix[index]
        q = q.reshape(N, kv_heads, -1, head_dim)
        # All queries of a block against its prefix are one product.
        on_prefix = by_row(scores(by_block(q), before["k"], seen_QC))
        on_own = scores(q, kept["k"], seen_NR)
        weights = jax.nn.softmax(jnp.concatenate((on_prefix, on_own), -1), -1).astype(q.dtype)
        on_prefix, on_own = jnp.split(weights, (on_prefix.shape[-1],), axis=-1)
        mixed = by_row(jnp.einsum("nkmc,nkch->nkmh", by_block(on_prefix), before["v"]))
        mixed = mixed + jnp.einsum("nkmc,nkch->nkmh", on_own, kept["v"])
        return mixed.reshape(N, 1, -1), kept

    hidden_N1D, own = _unrolled(config, params, ids_N[:, None], positions_N[:, None], attend_both)
    return hidden_N1D[:, 0], own


def _trunk(
    config: DecoderConfig,
    params: Params,
    ids_BS: Array,
    positions_BS: Array,
    mask: Array | Trees,
    *,
    remat: bool,
) -> jax.Array:
    """All layers as one scan, over slots that are all there."""
    rotation = rotary(config, positions_BS)
    if isinstance(mask, Trees):
        attend_seen = attend_trees(mask)
    else:
        attend_seen = functools.partial(attend_again, mask_BSC=mask)

    def layer(x: jax.Array, weights: Params) -> tuple[jax.Array, None]:
        q, k, v = _project(config, weights, x, rotation)
        return _after(config, weights, x, attend_seen(q, k, v)), None

    x_BSD = jnp.take(params["embed"], ids_BS, axis=0, mode="clip")
    x_BSD, _ = jax.lax.scan(jax.checkpoint(layer) if remat else layer, x_BSD, params["layers"])
    return rms_norm(x_BSD, params["final_norm"], config.norm_eps)


def _unrolled(
    config: DecoderConfig,
    params: Params,
    ids_BS: Array,
    positions_BS: Array,
    attend: Callable[..., tuple[jax.Array, Any]],
) -> tuple[jax.Array, Cache]:
    """Layer after layer, `attend(q, k, v, index) -> (mixed, cache of the layer)`."""
    rotation, caches = rotary(config, positions_BS), []
    x = jnp.take(params["embed"], ids_BS, axis=0, mode="clip")
    for index in range(config.layers):
        weights = _layer(params["layers"], index)
        mixed, kept = attend(*_project(config, weights, x, rotation), index)
        x = _after(config, weights, x, mixed)
        caches.append(kept)
    return rms_norm(x, params["final_norm"], config.norm_eps), tuple(caches)


def _layer(layers: Any, index: int) -> Params:
    return layers[index] if isinstance(layers, tuple) else jax.tree.map(lambda w: w[index], layers)


def _after(config: DecoderConfig, weights: Params, x: jax.Array, mixed: jax.Array) -> jax.Array:
    """What follows attention in a layer."""
    if config.norm_after:
        x = x + rms_norm(mixed @ weights["o"], weights["attn_norm"], config.norm_eps)
        more = _feed_forward(config, weights, x)
        return x + rms_norm(more, weights["ffn_norm"], config.norm_eps)
    x = x + mixed @ weights["o"]
    return x + _feed_forward(config, weights, rms_norm(x, weights["ffn_norm"], config.norm_eps))


def _feed_forward(config: DecoderConfig, weights: Params, x: jax.Array) -> jax.Array:
    if not config.experts:
        return swiglu(x, weights["gate"], weights["up"], weights["down"])
    flat = x.reshape(-1, x.shape[-1])
    mixed = experts(
        flat,
        *(weights[name] for name in ("router", "gate", "up", "down")),
        each=config.experts_per_token,
        norm=config.norm_topk,
    )
    return mixed.reshape(x.shape)


def experts(
    x_TD: jax.Array,
    router_DE: jax.Array,
    gate_EDF: jax.Array,
    up_EDF: jax.Array,
    down_EFD: jax.Array,
    *,
    each: int,
    norm: bool,
) -> jax.Array:
    """Σ over a token's `each` likeliest experts of probability · SwiGLU, [T, D] (arXiv:2101.03961).

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
    gated, lifted = (jax.lax.ragged_dot(sorted_x, w, sizes_E) for w in (gate_EDF, up_EDF))
    out = jax.lax.ragged_dot(jax.nn.silu(gated) * lifted, down_EFD, sizes_E)
    out = out * share_TK.reshape(-1)[order, None].astype(out.dtype)
    return jnp.zeros_like(x_TD).at[token].add(out)


@jax.jit
def split_layers(layers: Params) -> tuple[Params, ...]:
    """`params["layers"]` as a tuple, from which `apply` and `decode` read without copies."""
    return tuple(_layer(layers, i) for i in range(len(jax.tree.leaves(layers)[0])))


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
    """An empty cache."""
    shape = (rows, config.kv_heads, capacity, config.head_dim)
    return tuple({name: jnp.zeros(shape, dtype) for name in "kv"} for _ in range(config.layers))


@functools.partial(jax.checkpoint, static_argnums=2)  # the backward pass keeps x alone
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
    """q [B, S, heads, head_dim], k and v [B, kv_heads, S, head_dim] of a layer's input."""
    rows, slots, _ = x_BSD.shape
    if not config.norm_after:
        x_BSD = rms_norm(x_BSD, weights["attn_norm"], config.norm_eps)

    def side(name: str, heads: int) -> jax.Array:
        y = x_BSD @ weights[name]
        if config.qkv_bias:
            y = y + weights[f"{name}_bias"]
        if config.qk_norm == "width" and name != "v":
            y = rms_norm(y, weights[f"{name}_norm"], config.norm_eps)
        y = y.reshape(rows, slots, heads, config.head_dim)
        if config.qk_norm == "head" and name != "v":
            y = rms_norm(y, weights[f"{name}_norm"], config.norm_eps)
        return y

    q, k, v = side("q", config.heads), side("k", config.kv_heads), side("v", config.kv_heads)
    return _rotate(q, rotation), _rotate(k, rotation).swapaxes(1, 2), v.swapaxes(1, 2)


def _written(
    kept: dict[str, jax.Array], k: jax.Array, v: jax.Array, slot: Array | int
) -> dict[str, jax.Array]:
    """The cache of a layer with new keys and values from `slot` on."""

    def write(old: jax.Array, new: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), slot, axis=2)

    return {"k": write(kept["k"], k), "v": write(kept["v"], v)}


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
