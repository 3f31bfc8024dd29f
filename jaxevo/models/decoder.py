"""The decoder: one pure function for training, prefill and decoding.

    x      = embed[ids]
    x      = x + Attention(RMSNorm(x));  x = x + SwiGLU(RMSNorm(x))          for every layer
    hidden = RMSNorm(x)                                                      logits = hidden · head

What families do otherwise is data: `DecoderConfig` says what is normed, and where, what has a bias,
a cap or a window, and which layers have experts.

Who sees whom is the caller's business: a mask over slots, and a position for each slot.
So padding, packed sequences, shared prefixes and cached decoding are the same code, and the
sampler's log-probs are the trainer's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxevo.models.attention import (
    UNSEEN,
    Attend,
    Trees,
    attend,
    attend_again,
    attend_trees,
    capped,
    near,
)
from jaxevo.models.layers import ACTIVATIONS, experts, gated, rms_norm, rotary, rotate
from jaxevo.models.table import DecoderConfig, Weight, map_table
from jaxevo.parallel.heads import embedded
from jaxevo.parallel.mesh import by_rows
from jaxevo.types import Array, Params

__all__ = [
    "DecoderConfig",
    "apply",
    "decode",
    "init_cache",
    "init_params",
    "split_layers",
    "unembed",
]

Remat: TypeAlias = Literal["none", "dots", "layers"]

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
    key_positions_BC: Array | None = None,
    remat: Remat = "none",
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
      key_positions_BC: rotary positions of the cache's slots, new ones included, which windows are
        measured by; None where slot c holds position c.
      remat: what the backward pass computes again. "none" keeps all; "dots" keeps the products with
        weights and forms the rest from them; "layers" keeps each layer's input alone: memory for
        one layer, about a third more time.

    Returns:
      hidden_BSD after the final norm, and the cache with slots [slot, slot + S) written (None
      without a cache). Norms, rotary positions and softmax are computed in float32.

    References: arXiv:2104.09864 (rotary positions), arXiv:2305.13245 (grouped-query attention),
      arXiv:2002.05202 (SwiGLU), arXiv:1910.07467 (RMSNorm).
    """

    if cache is None:
        return _trunk(config, params, ids_BS, positions_BS, mask, remat=remat), None
    assert not isinstance(mask, Trees)
    masks = {False: jnp.asarray(mask)}
    if config.windowed:
        if key_positions_BC is None:
            key_positions_BC = jnp.arange(cache[0]["k"].shape[2])[None]
        masks[True] = masks[False] & near(positions_BS, key_positions_BC, config.window)

    def attend_cached(q: jax.Array, k: jax.Array, v: jax.Array, index: int) -> Any:
        kept = _written(cache[index], k, v, slot)
        mask_BSC = masks[_has_window(config, index)]
        return attend(q, kept["k"], kept["v"], mask_BSC, config.score_cap), kept

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
    own_positions_NR: Array | None = None,
) -> tuple[jax.Array, Cache]:
    """Final hidden states of one new token of each row; b rows in a block share their prefix.

    Args:
      config, params: as of `apply`.
      ids_N, positions_N: the tokens and their rotary positions; N = Q b, block by block.
      prefix: keys and values of Q prefixes, C slots, read only; slot c holds position c.
      seen_QC: bool, which slots of its prefix a block sees.
      own: keys and values of what each row has added, R slots.
      seen_NR: bool, which of its own slots a row sees, the new one included.
      slot: where the new token's keys and values are written, the same for all rows.
      own_positions_NR: rotary positions of a row's own slots, which windows are measured by; needed
        where the config has any.

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

    def scores(q: jax.Array, k: jax.Array) -> jax.Array:
        product = jnp.einsum("nkmh,nkch->nkmc", q, k, preferred_element_type=jnp.float32)
        return capped(product * head_dim**-0.5, config.score_cap)

    whole_NC = jnp.concatenate((jnp.repeat(seen_QC, N // Q, axis=0), seen_NR), axis=-1)
    seen = {False: whole_NC[:, None, None]}
    if config.windowed:
        assert own_positions_NR is not None
        prefix_NC = jnp.broadcast_to(jnp.arange(seen_QC.shape[1]), (N, seen_QC.shape[1]))
        keys_NC = jnp.concatenate((prefix_NC, own_positions_NR), axis=-1)
        is_near = near(jnp.asarray(positions_N)[:, None], keys_NC, config.window)
        seen[True] = seen[False] & is_near[:, None]

    def attend_both(q: jax.Array, k: jax.Array, v: jax.Array, index: int) -> Any:
        kept, before = _written(own[index], k, v, slot), prefix[index]
        q = q.reshape(N, kv_heads, -1, head_dim)
        # All queries of a block against its prefix are one product.
        on_prefix = by_row(scores(by_block(q), before["k"]))
        both = jnp.concatenate((on_prefix, scores(q, kept["k"])), -1)
        both = jnp.where(seen[_has_window(config, index)], both, UNSEEN)
        on_prefix, on_own = jnp.split(
            jax.nn.softmax(both, -1).astype(q.dtype), (on_prefix.shape[-1],), axis=-1
        )
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
    remat: Remat,
) -> jax.Array:
    """All layers as one scan, over slots that are all there."""

    def attend_seen(near_BSS: Array | None) -> Attend:
        if isinstance(mask, Trees):
            return attend_trees(mask, near_BSS=near_BSS, cap=config.score_cap)
        seen = jnp.asarray(mask) if near_BSS is None else jnp.asarray(mask) & near_BSS
        return lambda q, k, v: attend_again(q, k, v, seen, config.score_cap)

    whole = attend_seen(None)
    rotations = {False: rotary(config, positions_BS)}
    if config.windowed:
        windowed = attend_seen(near(positions_BS, positions_BS, config.window))
        rotations[True] = rotary(config, positions_BS, windowed=True)

    def layer(x: jax.Array, of_layer: tuple[Params, Array | None]) -> tuple[jax.Array, None]:
        weights, has_window = of_layer
        x = by_rows(x)
        if has_window is None:
            mixed = whole(*_project(config, weights, x, rotations[False]))
        else:
            chosen = functools.partial(jnp.where, has_window)
            rotation = jax.tree.map(chosen, rotations[True], rotations[False])
            mixed = jax.lax.cond(
                has_window, windowed, whole, *_project(config, weights, x, rotation)
            )
        return _after(config, weights, x, mixed), None

    x_BSD = by_rows(_embedded(config, params, ids_BS))
    layers = (params["layers"], jnp.asarray(config.windowed) if config.windowed else None)
    x_BSD, _ = jax.lax.scan(_again(layer, remat), x_BSD, layers)
    return _norm(config, x_BSD, params["final_norm"])


def _again(layer: Callable[..., Any], remat: Remat) -> Callable[..., Any]:
    """The layer, of which the backward pass keeps what `remat` says."""
    if remat == "none":
        return layer
    products = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return jax.checkpoint(layer, policy=products if remat == "dots" else None)


def _has_window(config: DecoderConfig, index: int) -> bool:
    return bool(config.windowed) and config.windowed[index]


def _embedded(config: DecoderConfig, params: Params, ids_BS: Array) -> jax.Array:
    x_BSD = embedded(params["embed"], ids_BS)
    return x_BSD * jnp.asarray(config.width**0.5, x_BSD.dtype) if config.embed_scale else x_BSD


def _unrolled(
    config: DecoderConfig,
    params: Params,
    ids_BS: Array,
    positions_BS: Array,
    attend: Callable[..., tuple[jax.Array, Any]],
) -> tuple[jax.Array, Cache]:
    """Layer after layer, `attend(q, k, v, index) -> (mixed, cache of the layer)`."""
    rotations = {w: rotary(config, positions_BS, windowed=w) for w in {False, *config.windowed}}
    x, caches = by_rows(_embedded(config, params, ids_BS)), []
    for index in range(config.layers):
        weights, rotation = _layer(params["layers"], index), rotations[_has_window(config, index)]
        mixed, kept = attend(*_project(config, weights, x, rotation), index)
        x = by_rows(_after(config, weights, x, mixed))
        caches.append(by_rows(kept, then="kv_heads"))
    return _norm(config, x, params["final_norm"]), tuple(caches)


def _layer(layers: Any, index: int) -> Params:
    return layers[index] if isinstance(layers, tuple) else jax.tree.map(lambda w: w[index], layers)


def _after(config: DecoderConfig, weights: Params, x: jax.Array, mixed: jax.Array) -> jax.Array:
    """What follows attention in a layer."""
    x = _added(config, weights, "attn", x, _product(config, weights, "o", mixed))
    inner = x if config.norms == "after" else _norm(config, x, weights["ffn_norm"])
    return _added(config, weights, "ffn", x, _feed_forward(config, weights, inner))


def _added(
    config: DecoderConfig, weights: Params, part: str, x: jax.Array, said: jax.Array
) -> jax.Array:
    """The stream and what a part of a layer says, normed where the config has it."""
    return x + (
        said if config.norms == "before" else _norm(config, said, weights[f"{part}_out_norm"])
    )


def _feed_forward(config: DecoderConfig, weights: Params, x: jax.Array) -> jax.Array:
    if any(f"{name}_lora_a" in weights for name in ("gate", "up", "down")):
        opened, lifted = (_product(config, weights, name, x) for name in ("gate", "up"))
        return _product(config, weights, "down", ACTIVATIONS[config.activation](opened) * lifted)
    if not config.experts:
        return gated(x, weights["gate"], weights["up"], weights["down"], config.activation)
    flat = x.reshape(-1, x.shape[-1])
    mixed = experts(
        flat,
        *(weights[name] for name in ("router", "gate", "up", "down")),
        each=config.experts_per_token,
        norm=config.norm_topk,
        activation=config.activation,
    )
    return mixed.reshape(x.shape)


def _product(config: DecoderConfig, weights: Params, name: str, x: jax.Array) -> jax.Array:
    """x W, and s · (x A) B where the matrix has an adapter (`lora.py`)."""
    y = x @ weights[name]
    if f"{name}_lora_a" not in weights:
        return y
    low = x @ weights[f"{name}_lora_a"]
    return y + config.adapter_scale * (low @ weights[f"{name}_lora_b"])


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


def _norm(config: DecoderConfig, x: jax.Array, scale: Array) -> jax.Array:
    return rms_norm(x, scale, config.norm_eps, config.norm_plus_one)


def _project(config: DecoderConfig, weights: Params, x_BSD: jax.Array, rotation: Any) -> Any:
    """q [B, S, heads, head_dim], k and v [B, kv_heads, S, head_dim] of a layer's input."""
    rows, slots, _ = x_BSD.shape
    if config.norms != "after":
        x_BSD = _norm(config, x_BSD, weights["attn_norm"])

    def side(name: str, heads: int) -> jax.Array:
        y = _product(config, weights, name, x_BSD)
        if config.qkv_bias:
            y = y + weights[f"{name}_bias"]
        if config.qk_norm == "width" and name != "v":
            y = _norm(config, y, weights[f"{name}_norm"])
        y = y.reshape(rows, slots, heads, config.head_dim)
        if config.qk_norm == "head" and name != "v":
            y = _norm(config, y, weights[f"{name}_norm"])
        return y

    q, k, v = side("q", config.heads), side("k", config.kv_heads), side("v", config.kv_heads)
    if config.query_scalar is not None:  # attention divides by √head_dim
        q = q * (config.head_dim / config.query_scalar) ** 0.5
    return rotate(q, rotation), rotate(k, rotation).swapaxes(1, 2), v.swapaxes(1, 2)


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
