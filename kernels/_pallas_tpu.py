"""What the Pallas TPU kernels over (rows, vocabulary) have in common: blocks and ragged edges.

A kernel walks a grid of blocks of hidden states by blocks of the vocabulary. The block of one side
stays in VMEM while those of the other stream by; both have the whole width. Arrays are not padded:
the last block of an axis reaches past the end, where what is read is garbage and what is written is
dropped.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxevo.kernels import _streaming as streaming

VMEM = {"v5e": 128 * 2**20, "v5p": 64 * 2**20, "v6e": 128 * 2**20}  # bytes of a core
_SHARE = 0.8  # of the VMEM that blocks may fill; the compiler keeps values of its own there
_LOGITS = 6  # float32 blocks of logits, and what is made of them, that are alive at once


class Blocks(NamedTuple):
    """Sizes of a kernel's blocks: hidden states, and columns of the vocabulary."""

    rows: int
    columns: int


class Tiles(NamedTuple):
    """Blocks of the three kernels: values, gradient of hidden states, gradient of the head."""

    values: Blocks
    hidden: Blocks
    head: Blocks


class Setting(NamedTuple):
    """Blocks, the chip that sets limits, and whether the kernels' steps run in XLA instead."""

    tiles: Tiles
    chip: str
    interpret: bool


def choose_setting(
    read: int,
    made: int,
    itemsize: int,
    *,
    block_M: int | None,
    block_V: int | None,
    chip: str | None,
    interpret: bool,
) -> Setting:
    """The blocks asked for, or else the largest that fit a core of the chip.

    Every row that stays cuts the traffic of what streams by, so that side is made large first.

    Args:
      read: width of all that is read, D, or D + E of two models.
      made: width of a gradient.
      itemsize: bytes of a number of the inputs.
      block_M, block_V: rows and columns of all kernels' blocks; None leaves the choice here.
      chip: `v5e`, `v5p` or `v6e`; None takes that of the default device.
      interpret: whether to run anywhere, slowly.

    Raises:
      ValueError: where not even the smallest blocks fit.
    """
    chip = chip or this_chip()

    def largest(*, gradient: bool) -> tuple[int, int]:
        for stays in (1024, 512, 256, 128):
            for streams in (512, 256, 128):
                need = vmem_bytes(stays, streams, read, made if gradient else 0, itemsize)
                if need <= _SHARE * VMEM[chip]:
                    return stays, streams
        raise ValueError(f"blocks of 128 rows of width {read} do not fit the VMEM of {chip}.")

    stays, streams = largest(gradient=True)
    chosen = Tiles(Blocks(*largest(gradient=False)), Blocks(stays, streams), Blocks(streams, stays))
    tiles = Tiles(*(Blocks(block_M or b.rows, block_V or b.columns) for b in chosen))
    return Setting(tiles, chip, interpret)


def vmem_bytes(stays: int, streams: int, read: int, made: int, itemsize: int) -> int:
    """Of one kernel: what is read and made lies in two buffers, sums and logits are float32."""
    buffers = 2 * itemsize * (read * (stays + streams) + made * stays)
    return buffers + 4 * made * stays + 4 * _LOGITS * stays * streams


def this_chip() -> str:
    """The chip of the default device; v5e where that is none."""
    kind = jax.devices()[0].device_kind.lower()
    return next((chip for name, chip in _KINDS.items() if name in kind), "v5e")


_KINDS = {"v5 lite": "v5e", "v5e": "v5e", "v6": "v6e", "v5": "v5p"}  # the first that fits


# ---------------------------------------------------------------------------- starting a kernel
class Edges(NamedTuple):
    """The sizes M and V, and which of them the first axis of the grid counts blocks of."""

    rows: int
    vocabulary: int
    of_head: bool = False  # the gradient of the head: the vocabulary comes first

    def ids(self, x: jax.Array) -> jax.Array:
        """Token ids of the columns of a block of logits; those from V on are none."""
        return _numbers(int(not self.of_head), (1, x.shape[1]))

    def real_rows(self, block: jax.Array) -> jax.Array:
        """[rows, 1], whether a row of a block exists."""
        return _numbers(int(self.of_head), (block.shape[0], 1)) < self.rows

    def hidden(self, block: jax.Array) -> jax.Array:
        """Hidden states with zeros past the end: 0 times garbage may be NaN."""
        if self.rows % block.shape[0] == 0:
            return block
        return jnp.where(self.real_rows(block), block, jnp.zeros_like(block))

    def head(self, block: jax.Array) -> jax.Array:
        """Rows of the head with zeros past the end."""
        if self.vocabulary % block.shape[0] == 0:
            return block
        ids = _numbers(int(not self.of_head), (block.shape[0], 1))
        return jnp.where(ids < self.vocabulary, block, jnp.zeros_like(block))

    def logits(self, x: jax.Array) -> jax.Array:
        """Logits with the lowest finite number past the end: its exp, however shifted, is 0."""
        return jnp.where(self.ids(x) < self.vocabulary, x, jnp.finfo(jnp.float32).min)

    def slopes(self, d: jax.Array) -> jax.Array:
        """∂/∂logits with zeros past both ends."""
        return jnp.where((self.ids(d) < self.vocabulary) & self.real_rows(d), d, 0.0)


def _numbers(grid_axis: int, shape: tuple[int, int]) -> jax.Array:
    """Which rows or columns of the whole array a block holds, along the axis that is not 1."""
    axis = shape.index(max(shape))
    return pl.program_id(grid_axis) * shape[axis] + lax.broadcasted_iota(jnp.int32, shape, axis)


def launch(
    kernel: Any,
    edges: Edges,
    blocks: Blocks,
    setting: Setting,
    *,
    columns: Sequence[jax.Array],
    hidden: Sequence[jax.Array],
    heads: Sequence[jax.Array],
    outputs: Sequence[jax.ShapeDtypeStruct],
    scratch: Sequence[int],
) -> list[jax.Array]:
    """Runs `kernel(*refs, edges=edges)` over all blocks; refs in the order of the arguments.

    Args:
      kernel: gets a block of everything; see the head of a file that uses it for what stays.
      columns: [M] each, seen as [rows, 1].
      hidden, heads: [M, ·] and [V, ·].
      outputs: whose first axis is that of the grid.
      scratch: widths of float32 sums, as long as a block of the outputs.
    """

    def spec(array: Any, *, by_rows: bool) -> pl.BlockSpec:
        block = (blocks.rows if by_rows else blocks.columns, array.shape[1])
        return pl.BlockSpec(block, lambda a, b: ((b if by_rows == edges.of_head else a), 0))

    by_rows = [*(x_M[:, None] for x_M in columns), *hidden]
    counts = pl.cdiv(edges.rows, blocks.rows), pl.cdiv(edges.vocabulary, blocks.columns)
    stays = blocks.columns if edges.of_head else blocks.rows
    return pl.pallas_call(
        functools.partial(kernel, edges=edges),
        grid=counts[::-1] if edges.of_head else counts,
        in_specs=[
            *(spec(x, by_rows=True) for x in by_rows),
            *(spec(x, by_rows=False) for x in heads),
        ],
        out_specs=[spec(x, by_rows=not edges.of_head) for x in outputs],
        out_shape=list(outputs),
        scratch_shapes=[pltpu.VMEM((stays, width), jnp.float32) for width in scratch],
        # The outer axis may be split over cores; over the inner one is summed.
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=VMEM[setting.chip]
        ),
        interpret=setting.interpret,
    )(*by_rows, *heads)


# ---------------------------------------------------------------------------- inside of a kernel
def is_last() -> jax.Array:
    """Whether all has been summed."""
    return pl.program_id(1) == pl.num_programs(1) - 1


def clear(*sums: Any, runs: Sequence[tuple[Any, Any]] = ()) -> None:
    """Before the first step: zeros, and pairs of a max and a sum over no columns."""

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        for ref in sums:
            ref[...] = jnp.zeros(ref.shape, jnp.float32)
        for largest, total in runs:
            largest[...], total[...] = streaming.no_columns(total.shape[0])


def extend(
    run: tuple[Any, Any], x: jax.Array
) -> tuple[streaming.Running, streaming.Running, jax.Array]:
    """Takes a block of logits into the max and the sum of two refs: `streaming.extend`, with the
    sums of before first."""
    largest, total = run
    before = streaming.Running(largest[...], total[...])
    after, shifted = streaming.extend(before, x)
    largest[...], total[...] = after
    return before, after, shifted


def add_gradient(
    gradient: Any, summed: Any, d: jax.Array, hidden: jax.Array, head: jax.Array, edges: Edges
) -> None:
    """Adds a block's share, ∂/∂logits times what streams by; writes the sum after the last step.

    Operands of the product have the inputs' dtype, as in the forward pass.
    """
    d = edges.slopes(d).astype(jnp.promote_types(hidden.dtype, head.dtype))
    if edges.of_head:
        summed[...] += streaming.dot(d, hidden, (0, 0))
    else:
        summed[...] += streaming.dot(d, head, (1, 0))

    @pl.when(is_last())
    def _() -> None:
        gradient[...] = summed[...].astype(gradient.dtype)
