"""Attention over masks and over packed token trees.

A mask is dense: every product is computed, and hidden ones are thrown away. Trees are laid out
depth first, so that no slot sees one behind it; a TPU computes only the blocks in which anything is
seen, with the splash kernels that come with JAX.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

from jaxevo.kernels import is_one_tpu
from jaxevo.types import Array, register

# Finite, so that a slot that sees nothing averages over all slots instead of becoming NaN; below
# any score by so much that exp() of the difference is exactly 0 in float32.
UNSEEN = -1e30

Attend: TypeAlias = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

FEW, MOST_PARTS = 96, 8  # slots whose dense attention is computed at a time, or an eighth of all
LANES = 128  # splash takes slots and head widths in multiples of a TPU's lanes
BLOCKS = (512, 256, 128)  # slots of a splash block, the largest that divides

Implementation: TypeAlias = Literal["dense", "splash", "splash_interpret"]


@register
@dataclasses.dataclass(frozen=True)
class Trees:
    """Who sees whom in packed token trees: slot k is seen by slots q with k <= q < until_BS[b, k].

    A slot of padding has 0 there; it sees itself and is seen by nobody else.
    """

    until_BS: Array

    def mask(self) -> jax.Array:
        """The same as mask_BSS."""
        slots = jnp.arange(self.until_BS.shape[1])
        behind = (slots <= slots[:, None]) & (slots[:, None] < self.until_BS[:, None, :])
        return behind | (slots == slots[:, None])


def capped(scores: jax.Array, cap: float | None) -> jax.Array:
    """cap · tanh(scores / cap), or the scores where there is none."""
    return scores if cap is None else cap * jnp.tanh(scores / cap)


def near(positions_BS: Array, positions_BC: Array, window: int) -> jax.Array:
    """mask_BSC: which keys stand among the last `window` positions of a slot, its own included."""
    return jnp.asarray(positions_BS)[:, :, None] - jnp.asarray(positions_BC)[:, None] < window


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, mask_BSC: Array, cap: float | None = None
) -> jax.Array:
    """softmax(q · kᵀ / √head_dim) · v, each key-value head shared by a group of query heads.

    Args:
      q: [B, S, heads, head_dim].
      k, v: [B, kv_heads, C, head_dim].
      mask_BSC: bool, who sees whom.
      cap: of scores, as `capped` has it.

    Returns:
      [B, S, heads * head_dim]; the softmax is computed in float32.
    """
    B, S, heads, head_dim = q.shape
    kv_heads, C = k.shape[1:3]
    shared = heads // kv_heads  # query heads of a key-value head: their products are one
    q = q.reshape(B, S, kv_heads, shared, head_dim).transpose(0, 2, 3, 1, 4)
    q = q.reshape(B, kv_heads, shared * S, head_dim)
    scores = jnp.einsum("bkmh,bkch->bkmc", q, k, preferred_element_type=jnp.float32)
    scores = capped(scores.reshape(B, kv_heads, shared, S, C) * head_dim**-0.5, cap)
    scores = jnp.where(mask_BSC[:, None, None], scores, UNSEEN)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype).reshape(B, kv_heads, shared * S, C)
    mixed = jnp.einsum("bkmc,bkch->bkmh", weights, v).reshape(B, kv_heads, shared, S, head_dim)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(B, S, heads * head_dim)


# Its backward pass keeps queries, keys and values, and forms the scores, S² per head, again.
attend_again = jax.checkpoint(attend, static_argnums=4)


def attend_trees(
    trees: Trees,
    *,
    near_BSS: Array | None = None,
    cap: float | None = None,
    implementation: Implementation | None = None,
) -> Attend:
    """`attend` without its mask, for all layers of a model: `(q, k, v) -> mixed`.

    Args:
      trees: as many packed rows as q, k and v will have.
      near_BSS: of what trees let a slot see, what it does see; None for everything.
      cap: of scores, as `capped` has it.
      implementation: `dense`, `splash` (for TPUs) or `splash_interpret` (its steps in XLA, to be
        tested anywhere); None for `splash` on one TPU, else `dense`.

    Raises:
      ValueError: for an implementation that there is not.
    """
    name = implementation or ("splash" if is_one_tpu() else "dense")
    if name == "dense":
        return functools.partial(_dense, mask_BSS=_mask(trees, near_BSS), cap=cap)
    if name not in ("splash", "splash_interpret"):
        raise ValueError(
            f"implementation={name!r} is unknown; use 'dense', 'splash', 'splash_interpret' or "
            "None."
        )
    return _splash(trees, near_BSS, cap, interpret=name == "splash_interpret")


def _mask(trees: Trees, near_BSS: Array | None) -> jax.Array:
    return trees.mask() if near_BSS is None else trees.mask() & near_BSS


def _dense(
    q: jax.Array, k: jax.Array, v: jax.Array, *, mask_BSS: jax.Array, cap: float | None
) -> jax.Array:
    """`attend` for a few slots after the other, each with the slots up to their last.

    No slot sees a later one, so half of the products fall away, and scores of 96 slots stay in a
    CPU's caches: on two cores less than half the time, forward and backward.
    """
    S = q.shape[1]
    step = max(FEW, -(-S // MOST_PARTS))
    parts = []
    for start in range(0, S, step):
        stop = min(start + step, S)
        seen = (k[:, :, :stop], v[:, :, :stop], mask_BSS[:, start:stop, :stop])
        parts.append(attend_again(q[:, start:stop], *seen, cap))
    return jnp.concatenate(parts, axis=1)


def _splash(trees: Trees, near_BSS: Array | None, cap: float | None, *, interpret: bool) -> Attend:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash

    more_slots = -trees.until_BS.shape[1] % LANES
    whole = Trees(jnp.pad(trees.until_BS, ((0, 0), (0, more_slots))))
    if near_BSS is not None:  # padding sees itself
        room = ((0, 0), (0, more_slots), (0, more_slots))
        near_BSS = jnp.pad(near_BSS, room, constant_values=True)
    whole_BSS = _mask(whole, near_BSS)
    block = next(size for size in BLOCKS if whole_BSS.shape[1] % size == 0)
    blocks = splash.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=block,
        block_kv_dq=block,
    )

    def one(row: tuple[jax.Array, ...]) -> jax.Array:
        mask_SS, *qkv = row
        made: Any = splash.make_splash_mha_single_device(
            mask_SS[None],
            block_sizes=blocks,
            attn_logits_soft_cap=cap,
            interpret=interpret,
        )
        # Under jit the maker turns a flag of the masks into an array, which its kernel branches on.
        masks = (made.fwd_mask_info, made.dq_mask_info, made.dkv_mask_info)
        masks = (mask._replace(is_dynamic_mask=True) for mask in masks)
        kernel: Any = splash.SplashAttentionKernel(*masks, **made.kwargs)
        return kernel(*qkv)

    def attend_with(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        rows, slots, heads, head_dim = q.shape
        padding = ((0, 0), (0, 0), (0, more_slots), (0, -head_dim % LANES))
        scaled = q.swapaxes(1, 2) * head_dim**-0.5
        mixed = jax.lax.map(one, (whole_BSS, *(jnp.pad(x, padding) for x in (scaled, k, v))))
        return mixed[:, :, :slots, :head_dim].swapaxes(1, 2).reshape(rows, slots, heads * head_dim)

    return attend_with
