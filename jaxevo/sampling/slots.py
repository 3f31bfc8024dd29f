"""The device half of sampling: slots for rows in the making, and the four programs that move them.

Rows stand in blocks of b that share a prompt, whose keys and values are kept once per block. What
rows add is kept in rings of R places, one per row, all written at the same place in the same step:
a row that came later just sees fewer of them. So a step writes one plain slice, and a row that has
ended can make room for another at any time.

On a mesh blocks and rows are spread over its data and fsdp axes in as many lanes, the first Q / L
blocks being the first lane's. What is said of a block is said within its lane: nothing but whether
any row is live goes from lane to lane.

    read      prompts -> their keys and values, and what each says of its next token
    start     those -> a slot for each of their rows, the first token drawn
    decode    up to T more tokens for every row, in place
    arrange   chosen blocks and rows of old and new slots, in rings of another size
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxevo.models import decoder
from jaxevo.models.attention import capped
from jaxevo.parallel.mesh import by_rows
from jaxevo.sampling.drawing import Ends, Rows, Tokens, draw, no_tokens
from jaxevo.types import Array, Params, register

CHUNK = 512  # of a longer prompt, so many tokens pass through the model at a time


@register
@dataclasses.dataclass(frozen=True)
class Slots:
    """Q blocks of b rows, N = Q b, in lanes of Q / L.

    prefix: the prompts' keys and values, C slots of each block. prefix_length_Q: tokens of each.
    own: the rings, R places of each row. place: of the ring, written next.
    """

    rows: Rows
    prefix: decoder.Cache
    prefix_length_Q: Array
    own: decoder.Cache
    place: Array

    @property
    def ring(self) -> int:
        """R."""
        return self.own[0]["k"].shape[2]


@register
@dataclasses.dataclass(frozen=True)
class Shared:
    """What P prompts have in common with M kept ones, whose keys and values are not read again.

    pool: of the kept ones. row_P, shared_P: which one each begins as, and for how many tokens.
    """

    pool: decoder.Cache
    row_P: Array
    shared_P: Array


@register
@dataclasses.dataclass(frozen=True)
class Prompts:
    """P prompts that were read: keys and values in C slots, lengths, logits of the next token."""

    cache: decoder.Cache
    length_P: Array
    logits_PV: Array


@functools.partial(jax.jit, static_argnames=("config", "prefix"))
def read(
    params: Params,
    read_PS: Array,
    length_P: Array,
    shared: Shared | None = None,
    *,
    config: decoder.DecoderConfig,
    prefix: int,
) -> Prompts:
    """What later steps need of P prompts.

    Args:
      params, config: the model.
      read_PS: right-padded prompts, or what follows their shared beginnings; S is a multiple of
        `CHUNK` or at most as large.
      length_P: of the whole prompts.
      shared: beginnings that are not read again.
      prefix: C, slots for a whole prompt.
    """
    read_PS = by_rows(read_PS)
    cache, hidden_PD = _read(params, read_PS, length_P, shared, config=config, prefix=prefix)
    logits_PV = _logits(config, params, hidden_PD)
    cache = by_rows(cache, then="kv_heads")
    return Prompts(cache, by_rows(length_P), by_rows(logits_PV))


@functools.partial(jax.jit, static_argnames=("lanes", "ring", "truncates", "greedy"))
def start(
    prompts: Prompts,
    prompt_Q: Array,
    rows: Rows,
    ends: Ends,
    *,
    lanes: int,
    ring: int,
    truncates: bool,
    greedy: bool,
) -> tuple[Slots, Tokens]:
    """Slots for Q blocks of rows, and the first token of each.

    Args:
      prompts: P that were read.
      prompt_Q: the prompt of each block, of the P / L of its lane.
      rows: N = Q b, nothing drawn.
      ends: of all answers.
      lanes: L, which divides P and Q.
      ring: R, at least the most tokens of an answer less one.
      truncates, greedy: whether any row cuts tokens, or has temperature 0.
    """
    N, Q = rows.length_N.shape[0], prompt_Q.shape[0]
    chosen = functools.partial(_chosen, lanes=lanes)
    logits_NV = chosen(jnp.repeat(prompt_Q, N // Q), prompts.logits_PV)
    rows, tokens = draw(logits_NV, by_rows(rows), ends, truncates=truncates, greedy=greedy)
    of_blocks = jax.tree.map(functools.partial(chosen, prompt_Q), prompts.cache)
    own = jax.tree.map(lambda x: jnp.zeros((N, x.shape[1], ring, x.shape[3]), x.dtype), of_blocks)
    length_Q = chosen(prompt_Q, prompts.length_P)
    return _spread(Slots(rows, of_blocks, length_Q, own, jnp.int32(0))), tokens


def _read(
    params: Params,
    read_PS: Array,
    length_P: Array,
    shared: Shared | None,
    *,
    config: decoder.DecoderConfig,
    prefix: int,
) -> tuple[decoder.Cache, Array]:
    """Keys and values of whole prompts in C slots, and the hidden state of each one's last token.

    New keys go behind the C slots of the shared beginnings, at the same place in every row, and
    move up to them at the end.
    """
    P, S = read_PS.shape
    chunk = min(S, CHUNK)
    if shared is None:
        first_new, shared_P = 0, jnp.zeros_like(length_P)
        cache = decoder.init_cache(config, P, prefix, params["embed"].dtype)
    else:
        first_new, shared_P = prefix, shared.shared_P
        room = ((0, 0), (0, 0), (0, S), (0, 0))
        begun = jax.tree.map(lambda x: x[shared.row_P], shared.pool)
        begun = by_rows(begun, then="kv_heads")
        cache = jax.tree.map(lambda x: jnp.pad(_slots_of(x, prefix), room), begun)
    new_P = length_P - shared_P
    slots_C = jnp.arange(cache[0]["k"].shape[2])
    kept_PC = slots_C < jnp.minimum(shared_P, first_new)[:, None]
    nth_C = slots_C - first_new  # of the new tokens
    is_new_PC = (nth_C >= 0) & (nth_C < new_P[:, None])

    def part(cache: decoder.Cache, first: Array) -> tuple[decoder.Cache, Array]:
        at_S = first + jnp.arange(chunk)
        mask_PSC = kept_PC[:, None] | (is_new_PC[:, None] & (nth_C <= at_S[:, None]))
        ids_PS = jax.lax.dynamic_slice_in_dim(read_PS, first, chunk, axis=1)
        positions_PS = shared_P[:, None] + at_S
        hidden_PSD, grown = decoder.apply(
            config,
            params,
            ids_PS,
            positions_PS,
            mask_PSC,
            cache=cache,
            slot=first_new + first,
            key_positions_BC=jnp.where(slots_C < first_new, slots_C, shared_P[:, None] + nth_C),
        )
        assert grown is not None
        last_P = jnp.clip(new_P - 1 - first, 0, chunk - 1)
        return grown, jnp.take_along_axis(hidden_PSD, last_P[:, None, None], axis=1)[:, 0]

    cache, hidden_JPD = jax.lax.scan(part, cache, jnp.arange(0, S, chunk))
    if shared is not None:
        whole_C = jnp.arange(prefix)
        behind_PC = jnp.minimum(whole_C - shared_P[:, None], S - 1) + first_new
        from_PC = jnp.where(whole_C < shared_P[:, None], whole_C, behind_PC)
        moved = jax.vmap(lambda x_HCD, from_C: x_HCD[:, from_C])
        cache = jax.tree.map(lambda x: moved(x, from_PC), cache)
    of_chunk_P = (new_P - 1) // chunk
    return cache, jnp.take_along_axis(hidden_JPD, of_chunk_P[None, :, None], axis=0)[0]


def _slots_of(x: jax.Array, slots: int) -> jax.Array:
    """The first slots of a cache, with room where there are fewer."""
    x = x[:, :, :slots]
    return jnp.pad(x, ((0, 0), (0, 0), (0, slots - x.shape[2]), (0, 0)))


@functools.partial(
    jax.jit, static_argnames=("config", "steps", "truncates", "greedy"), donate_argnames="slots"
)
def decode(
    params: Params,
    slots: Slots,
    ends: Ends,
    *,
    config: decoder.DecoderConfig,
    steps: int,
    truncates: bool,
    greedy: bool,
) -> tuple[Slots, Tokens]:
    """Up to `steps` more tokens for every live row; stops when none is left."""
    prefix, ring_R = slots.prefix, jnp.arange(slots.ring)
    seen_QC = jnp.arange(prefix[0]["k"].shape[2]) < slots.prefix_length_Q[:, None]

    def unfinished(carry: tuple) -> Array:
        step, rows, _, _, _ = carry
        return (step < steps) & rows.live_N.any()

    def advance(carry: tuple) -> tuple:
        step, rows, own, place, drawn = carry
        age_R = (place - ring_R) % slots.ring  # 0 is the token that goes in now
        position_N = rows.length_N + rows.drawn_N - 1
        hidden_ND, own = decoder.decode(
            config,
            params,
            rows.last_N,
            position_N,
            prefix,
            seen_QC,
            own,
            age_R < rows.drawn_N[:, None],
            place,
            position_N[:, None] - age_R,
        )
        rows, tokens = draw(
            _logits(config, params, hidden_ND), rows, ends, truncates=truncates, greedy=greedy
        )
        drawn = jax.tree.map(lambda x_TN, x_N: x_TN.at[step].set(x_N), drawn, tokens)
        return step + 1, rows, own, (place + 1) % slots.ring, drawn

    empty = no_tokens(steps, slots.rows.length_N.shape[0])
    first = (jnp.int32(0), slots.rows, slots.own, slots.place, empty)
    _, rows, own, place, drawn = jax.lax.while_loop(unfinished, advance, first)
    return _spread(dataclasses.replace(slots, rows=rows, own=own, place=place)), drawn


@functools.partial(jax.jit, static_argnames=("lanes", "ring"))
def arrange(
    parts: Sequence[Slots], take_Q: Array, take_N: Array, used_N: Array, *, lanes: int, ring: int
) -> Slots:
    """The chosen blocks and rows of all parts one after the other, lane by lane.

    Args:
      parts: slots; all but the first are new, with nothing in their rings.
      take_Q, take_N: which of a lane's blocks, and which of its rows for the places in them.
      used_N: False where a place stays empty.
      lanes: L.
      ring: R of the result, at least that of the first part, which the others share.
    """
    old, first = parts[0].ring, parts[0].place
    chosen = functools.partial(_chosen, lanes=lanes)

    def unrolled(x: Array) -> Array:
        """Oldest first, and room behind."""
        if ring == old:
            return x
        x = jnp.take(x, (first + jnp.arange(old)) % old, axis=2)
        return jnp.pad(x, ((0, 0), (0, 0), (0, ring - old), (0, 0)))

    rows = jax.tree.map(functools.partial(chosen, take_N), *(part.rows for part in parts))
    own = jax.tree.map(lambda *xs: unrolled(chosen(take_N, *xs)), *(part.own for part in parts))
    return _spread(
        Slots(
            rows=dataclasses.replace(rows, live_N=rows.live_N & used_N),
            prefix=jax.tree.map(
                functools.partial(chosen, take_Q), *(part.prefix for part in parts)
            ),
            prefix_length_Q=chosen(take_Q, *(part.prefix_length_Q for part in parts)),
            own=own,
            place=first if ring == old else jnp.int32(old),
        )
    )


def _chosen(take: Array, *xs: Array, lanes: int) -> jax.Array:
    """concatenate(xs)[take] lane by lane, so that no device needs what another has."""
    if lanes == 1:
        return jnp.concatenate(xs)[take]
    together = jnp.concatenate([_by_lane(x, lanes) for x in xs], axis=1)
    chosen = jax.vmap(lambda own, own_take: own[own_take])(together, _by_lane(take, lanes))
    return chosen.reshape(-1, *chosen.shape[2:])


def _by_lane(x: Array, lanes: int) -> jax.Array:
    """[N, ...] -> [L, N / L, ...]."""
    return by_rows(jnp.reshape(x, (lanes, -1, *np.shape(x)[1:])))


def _spread(slots: Slots) -> Slots:
    """The slots with blocks and rows over the devices of a mesh, as every program has them."""
    return Slots(
        rows=by_rows(slots.rows),
        prefix=by_rows(slots.prefix, then="kv_heads"),
        prefix_length_Q=by_rows(slots.prefix_length_Q),
        own=by_rows(slots.own, then="kv_heads"),
        place=slots.place,
    )


def _logits(config: decoder.DecoderConfig, params: Params, hidden_ND: Array) -> Array:
    head_DV = decoder.unembed(config, params)
    logits_NV = jnp.dot(hidden_ND, head_DV, preferred_element_type=jnp.float32)
    return capped(logits_NV, config.logit_cap)
