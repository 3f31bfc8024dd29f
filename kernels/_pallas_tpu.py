"""What the Pallas TPU kernels over (rows, vocabulary) have in common: blocks and ragged edges.

A kernel walks a grid of blocks of hidden states by blocks of the vocabulary. The block of one side
stays in VMEM while those of the other stream by; both have the whole width. Arrays are not padded:
the last block of an axis reaches past the end, where what is read is garbage and what is written is
dropped.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

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


def parameters(chip: str) -> Any:
    """The outer axis of the grid may be split over cores; over the inner one is summed."""
    return pltpu.CompilerParams(
        dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=VMEM[chip]
    )


# ---------------------------------------------------------------------------- inside of a kernel
class Edges(NamedTuple):
    """The sizes M and V, and along which axis of the grid blocks of either are counted."""

    rows: int
    vocabulary: int
    of_head: bool = False  # the gradient of the head: the vocabulary comes first

    @property
    def rows_axis(self) -> int:
        return 1 if self.of_head else 0

    @property
    def columns_axis(self) -> int:
        return 0 if self.of_head else 1

    def ids(self, x: jax.Array) -> jax.Array:
        """Token ids of the columns of a block of logits; those from V on are none."""
        first = pl.program_id(self.columns_axis) * x.shape[1]
        return first + lax.broadcasted_iota(jnp.int32, (1, x.shape[1]), 1)

    def real_rows(self, count: int) -> jax.Array:
        """[count, 1], whether a row of a block exists."""
        first = pl.program_id(self.rows_axis) * count
        return first + lax.broadcasted_iota(jnp.int32, (count, 1), 0) < self.rows

    def hidden(self, block: jax.Array) -> jax.Array:
        """Hidden states with zeros past the end: 0 times garbage may be NaN."""
        if self.rows % block.shape[0] == 0:
            return block
        return jnp.where(self.real_rows(block.shape[0]), block, jnp.zeros_like(block))

    def head(self, block: jax.Array) -> jax.Array:
        """Rows of the head with zeros past the end."""
        if self.vocabulary % block.shape[0] == 0:
            return block
        first = pl.program_id(self.columns_axis) * block.shape[0]
        id_ = first + lax.broadcasted_iota(jnp.int32, (block.shape[0], 1), 0)
        return jnp.where(id_ < self.vocabulary, block, jnp.zeros_like(block))

    def slopes(self, d: jax.Array) -> jax.Array:
        """∂/∂logits with zeros past both ends."""
        return jnp.where((self.ids(d) < self.vocabulary) & self.real_rows(d.shape[0]), d, 0.0)


def is_first() -> jax.Array:
    """Whether nothing has been summed yet."""
    return pl.program_id(1) == 0


def is_last() -> jax.Array:
    """Whether all has been summed."""
    return pl.program_id(1) == pl.num_programs(1) - 1


def clear(*sums: Any, maxima: tuple[Any, ...] = ()) -> None:
    """Zeros, and the lowest finite number, before the first step."""

    @pl.when(is_first())
    def _() -> None:
        for ref in sums:
            ref[...] = jnp.zeros(ref.shape, jnp.float32)
        for ref in maxima:
            ref[...] = jnp.full(ref.shape, jnp.finfo(jnp.float32).min, jnp.float32)


class Step(NamedTuple):
    """A block x that was taken into a running Σ exp(x − max).

    shifted: x − max, weight: exp of that; both 0 where there is no token. moved: by how much the
    max rose, as a number <= 0; before: the sum of before, relative to the max of before.
    """

    shifted: jax.Array
    weight: jax.Array
    moved: jax.Array
    before: jax.Array

    def carried(self, weighted: jax.Array, moved: jax.Array) -> jax.Array:
        """Σ exp(x − max) f of the columns before; all f, being relative, have grown by `moved`."""
        return jnp.exp(self.moved) * (weighted + self.before * moved)


def extend(largest: Any, total: Any, x: jax.Array, real: jax.Array) -> Step:
    """Takes a block of logits into the running max and sum of two refs."""
    before, summed = largest[...], total[...]
    after = jnp.maximum(before, jnp.max(jnp.where(real, x, before), axis=1, keepdims=True))
    shifted = jnp.where(real, x - after, 0.0)
    weight = jnp.where(real, jnp.exp(shifted), 0.0)
    largest[...] = after
    total[...] = jnp.exp(before - after) * summed + jnp.sum(weight, axis=1, keepdims=True)
    return Step(shifted, weight, before - after, summed)
