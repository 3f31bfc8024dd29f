"""Walking a vocabulary in blocks: float32 products, online sums, gradients of a head.

Unembeddings come as rows [V, D] here: a block of rows is contiguous, and the transposed view that
a tied head hands in cancels against the transposition at the door. Suffix b: columns of one block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from jaxevo.kernels import _sharded

Carry = TypeVar("Carry")

_LARGEST_BLOCK = 4096  # columns; larger ones no longer fit the caches of a CPU
_LARGEST_ELEMENTS = 2**25  # of one block of logits: 128 MiB in float32
_LARGEST_KEPT = 2**26  # logits: 256 MiB in float32
_LANES = 128

NO_GRADIENT: Any = None  # a cotangent that JAX takes as a symbolic zero: no array is made


def default_block(rows: int, vocabulary: int) -> int:
    """Columns per block: at most 4096, fewer for many rows, cut so that blocks come out even."""
    largest = max(_LANES, min(_LARGEST_BLOCK, _LARGEST_ELEMENTS // rows))
    count = -(-vocabulary // largest)
    even = -(-vocabulary // count)
    return min(vocabulary, -(-even // _LANES) * _LANES)


def block_bytes(rows: int, vocabulary: int) -> int:
    """What `chunked` holds of logits at a time: a float32 block, its gradient, and a copy."""
    return 3 * 4 * rows * default_block(rows, vocabulary)


def scan_blocks(
    body: Callable[[Carry, jax.Array | int, int], Carry],
    carry: Carry,
    vocabulary: int,
    block: int,
    *,
    first: int = 0,
) -> Carry:
    """The carry after `body(carry, start, width)` over the columns first .. first + vocabulary.

    Full blocks are scanned; what is left over is one narrower call, so that no column is padded,
    masked or computed twice. `width` is static.
    """
    count, rest = divmod(vocabulary, block)
    if count:
        made = jax.eval_shape(lambda carry: body(carry, first, block), carry)
        carry = _sharded.varying(carry, over=_sharded.varying_axes(made))

        def step(carry: Carry, index: jax.Array) -> tuple[Carry, None]:
            return body(carry, first + index * block, block), None

        carry, _ = lax.scan(step, carry, jnp.arange(count, dtype=jnp.int32))
    return body(carry, first + count * block, rest) if rest else carry


def dot(a: jax.Array, b: jax.Array, contract: tuple[int, int]) -> jax.Array:
    """Product of two matrices over the axes `contract`, accumulated and returned in float32.

    Products of float32 are such on every device: a TPU's or GPU's default would round operands.
    """
    dtype = jnp.promote_types(a.dtype, b.dtype)
    return lax.dot_general(
        a.astype(dtype),
        b.astype(dtype),
        (((contract[0],), (contract[1],)), ((), ())),
        precision=lax.Precision.HIGHEST if dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )


def block_rows(unembed_VD: jax.Array, start: jax.Array | int, width: int) -> jax.Array:
    """Rows start .. start + width."""
    return lax.dynamic_slice_in_dim(unembed_VD, start, width, axis=0)


def block_logits(
    hidden_MD: jax.Array, rows_bD: jax.Array, inverse_M1: jax.Array, soft_cap: float | None
) -> jax.Array:
    """Logits of one block over the temperature, [M, b] float32; at most soft_cap before that."""
    return scaled(dot(hidden_MD, rows_bD, (1, 1)), inverse_M1, soft_cap)


def scaled(raw_Mb: jax.Array, inverse_M1: jax.Array, soft_cap: float | None) -> jax.Array:
    """What a product of hidden states and head becomes: capped, and over the temperature."""
    if soft_cap is not None:
        raw_Mb = soft_cap * jnp.tanh(raw_Mb / soft_cap)
    return raw_Mb * inverse_M1


def through_cap(
    d_Mb: jax.Array, x_Mb: jax.Array, inverse_M1: jax.Array, soft_cap: float | None
) -> jax.Array:
    """∂/∂logits before the cap, from ∂/∂logits after it and `block_logits`: 1 − tanh² of it."""
    if soft_cap is None:
        return d_Mb
    return d_Mb * (1.0 - jnp.square(x_Mb / (inverse_M1 * soft_cap)))


def keeps_logits(rows: int, vocabulary: int) -> bool:
    """Whether to keep logits for a gradient: on a CPU, up to 256 MiB of them.

    Keeping one costs 8 bytes of traffic and saves 2 D FLOPs, which take a CPU longer from D = 100
    on; an accelerator's products are quicker than its memory.
    """
    return jax.default_backend() == "cpu" and rows * vocabulary <= _LARGEST_KEPT


class Running(NamedTuple):
    """Σ_v exp(x_v − max) over the columns seen so far, and that max."""

    max_M1: jax.Array
    total_M1: jax.Array


def logsumexp(run: Running) -> jax.Array:
    """log Σ_v exp(x_v), [M, 1]."""
    return run.max_M1 + jnp.log(run.total_M1)


def no_columns(rows: int) -> Running:
    """The sum over no columns; its max is the lowest finite number, since −∞ · 0 is NaN."""
    lowest = jnp.finfo(jnp.float32).min
    return Running(jnp.full((rows, 1), lowest, jnp.float32), jnp.zeros((rows, 1), jnp.float32))


def extend(run: Running, x_Mb: jax.Array) -> tuple[Running, jax.Array]:
    """Takes in one block; also returns its x − max, which lies in (−∞, 0]."""
    max_M1 = jnp.maximum(run.max_M1, jnp.max(x_Mb, axis=1, keepdims=True))
    shifted_Mb = x_Mb - max_M1
    block_M1 = jnp.sum(jnp.exp(shifted_Mb), axis=1, keepdims=True)
    total_M1 = run.total_M1 * jnp.exp(run.max_M1 - max_M1) + block_M1
    return Running(max_M1, total_M1), shifted_Mb


def extend_sum(
    weighted_M1: jax.Array, before: Running, after: Running, *, moved_M1: jax.Array
) -> jax.Array:
    """Σ_v exp(x_v − max) f_v of the columns seen before, re-expressed after a step.

    The weights refer to the max of `after`; the values f, kept relative to shifts of their own so
    that large logits do not cancel, have all grown by `moved_M1`.
    """
    return jnp.exp(before.max_M1 - after.max_M1) * (weighted_M1 + before.total_M1 * moved_M1)


def head_gradients(
    dlogits_of: Callable[[jax.Array | int, int], jax.Array],
    hidden_MD: jax.Array,
    unembed_VD: jax.Array,
    block: int,
    legal: tuple[int, int] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Gradients of hidden states and unembedding, from `dlogits_of(start, width)` [M, b].

    Ids outside of `legal` (the first, and the one behind the last) get zeros; None takes all.

    The products take their operands in the inputs' dtype, like the forward pass. Each block of the
    unembedding's gradient is written once, into the one buffer that the scan carries.
    """
    dtype = jnp.promote_types(hidden_MD.dtype, unembed_VD.dtype)

    def body(
        carry: tuple[jax.Array, jax.Array], start: jax.Array | int, width: int
    ) -> tuple[jax.Array, jax.Array]:
        dhidden_MD, dunembed_VD = carry
        rows_bD = block_rows(unembed_VD, start, width)
        dlogits_Mb = dlogits_of(start, width).astype(dtype)
        drows_bD = dot(dlogits_Mb, hidden_MD, (0, 0)).astype(unembed_VD.dtype)
        return (
            dhidden_MD + dot(dlogits_Mb, rows_bD, (1, 0)),
            lax.dynamic_update_slice_in_dim(dunembed_VD, drows_bD, start, axis=0),
        )

    zeros = jnp.zeros(hidden_MD.shape, jnp.float32), jnp.zeros_like(unembed_VD)
    start, stop = legal or (0, unembed_VD.shape[0])
    dhidden_MD, dunembed_VD = scan_blocks(body, zeros, stop - start, block, first=start)
    return dhidden_MD.astype(hidden_MD.dtype), dunembed_VD
