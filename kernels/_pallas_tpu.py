"""What the Pallas TPU kernels over (rows, vocabulary) have in common: blocks and ragged edges.

A kernel walks a grid of blocks of hidden states by blocks of the vocabulary. The block of one side
stays in VMEM while those of the other stream by; both have the whole width. Arrays are not padded:
the last block of an axis reaches past the end, where what is read is garbage and what is written is
dropped.

Both gradients come from one kernel, so that logits are computed once for the two. It visits every
pair of blocks once, with a block of the head staying; thus the gradient of that block is summed in
VMEM, and the gradient of the hidden states in HBM: each step copies its rows' sum in, adds, and
copies it out, while products run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AbstractDevice, AbstractMesh, ManualAxisType, use_abstract_mesh

from jaxevo.kernels import _sharded
from jaxevo.kernels import _streaming as streaming

_SHARE = 0.85  # of the VMEM that blocks may fill; the compiler keeps values of its own there
_LOGITS = 6  # float32 blocks of logits, and what is made of them, that are alive at once
_NEVER = -1e30  # far enough from the end of float32 for a block of it to be summed up first
_NUMBERS = 14  # float32 buffers of one number per row; each row is padded to 128 of them


class Blocks(NamedTuple):
    """Sizes of a kernel's blocks: hidden states, and columns of the vocabulary."""

    rows: int
    columns: int


class Setting(NamedTuple):
    """Blocks of the kernel of values and that of gradients, and the chip that they are made for;
    `interpret` runs the kernels' steps in XLA."""

    values: Blocks
    gradients: Blocks
    chip: pltpu.TpuInfo
    interpret: bool


class Arrays(NamedTuple):
    """What a kernel reads: numbers [M] of the rows, hidden states [M, ·], heads [V, ·].

    Gradients are of the first of the hidden states and of the heads. Inside of a kernel, refs of a
    block of each: [rows, 1], [rows, ·], [columns, ·]. A ref is read where it is needed: what is
    read before a condition and used behind it takes up VMEM of its own.
    """

    columns: tuple[jax.Array, ...]
    hidden: tuple[jax.Array, ...]
    heads: tuple[jax.Array, ...]


def choose_setting(
    arrays: Arrays, *, block_M: int | None, block_V: int | None, interpret: bool
) -> Setting:
    """The blocks asked for, or else the largest that fit a core of the chip, cut evenly.

    What stays cuts the traffic of what streams by, so that side is made large first.

    Args:
      arrays: of the kernels; their columns do not matter here.
      block_M, block_V: rows and columns of both kernels' blocks; None leaves the choice here.
      interpret: whether to run anywhere, slowly.

    Raises:
      ValueError: where not even the smallest blocks fit.
    """
    chip, widths = this_chip(), _widths(arrays)
    rows, vocabulary = arrays.hidden[0].shape[0], arrays.heads[0].shape[0]

    def blocks(of_rows: int, of_columns: int) -> Blocks:
        return Blocks(block_M or _even(rows, of_rows), block_V or _even(vocabulary, of_columns))

    values = blocks(*_largest(chip, widths._replace(made=0)))
    return Setting(values, blocks(*_largest(chip, widths)[::-1]), chip, interpret)


def fits(arrays: Arrays) -> bool:
    """Whether the smallest blocks fit a core of the chip."""
    return vmem_bytes(128, 128, _widths(arrays)) <= _room(this_chip())


class Widths(NamedTuple):
    """Widths of all that a kernel reads together, and of a gradient that it makes, 0 for none;
    bytes of a number of the inputs."""

    read: int
    made: int
    itemsize: int


def _widths(arrays: Arrays) -> Widths:
    every = (*arrays.hidden, *arrays.heads)
    read = sum(x.shape[1] for x in arrays.hidden)
    return Widths(read, arrays.hidden[0].shape[1], max(x.dtype.itemsize for x in every))


def _room(chip: pltpu.TpuInfo) -> float:
    return _SHARE * chip.vmem_capacity_bytes


def _largest(chip: pltpu.TpuInfo, widths: Widths) -> tuple[int, int]:
    """Rows of the block that stays, and of the one that streams by."""
    for stays in (2048, 1536, 1024, 768, 512, 256, 128):
        for streams in (256, 128):
            fills_mxu = streams >= chip.mxu_column_size or stays == 128
            if fills_mxu and vmem_bytes(stays, streams, widths) <= _room(chip):
                return stays, streams
    raise ValueError(
        f"blocks of 128 rows of width {widths.read} do not fit the VMEM of a {chip.chip_version}. "
        "Use implementation='chunked'."
    )


def _even(length: int, block: int) -> int:
    """At most `block`, in whole tiles, so that no block is much emptier than the others."""
    tile = 128 if length > 128 else 16
    return pl.cdiv(pl.cdiv(length, pl.cdiv(length, block)), tile) * tile


def vmem_bytes(stays: int, streams: int, widths: Widths) -> int:
    """Of one kernel: what is read and made lies in two buffers, sums and logits are float32."""
    read, made, itemsize = widths
    buffers = 2 * itemsize * (read * (stays + streams) + made * stays)
    sums = 2 * 4 * made * (stays + streams)  # and the products that are added to them
    logits = 4 * _LOGITS * stays * streams
    return buffers + sums + logits + 4 * 128 * _NUMBERS * (streams if made else stays)


def this_chip() -> pltpu.TpuInfo:
    """The chip of the mesh that is set, else of the default device; v5e where that is no TPU."""
    if pltpu.is_tpu_device():
        return pltpu.get_tpu_info()
    return pltpu.get_tpu_info_for_chip(pltpu.ChipVersion.TPU_V5E, 1)


CHIPS = {"v5e": ("TPU v5 lite", 1), "v5p": ("TPU v5", 2), "v6e": ("TPU v6 lite", 1)}


def made_for(chip: str) -> Any:
    """A context in which kernels are made for that chip of `CHIPS`, on any machine."""
    kind, cores = CHIPS[chip]
    device = AbstractDevice(device_kind=kind, num_cores=cores, platform="tpu")
    return use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=device))


# ---------------------------------------------------------------------------- ragged edges
class Edges(NamedTuple):
    """The sizes M and V, the first legal id and the one behind the last, and which blocks of rows
    and columns a step of the grid works on."""

    rows: int
    vocabulary: int
    legal: tuple[int, int]
    row_block: Any
    column_block: Any

    def ids(self, x: jax.Array) -> jax.Array:
        """Token ids of the columns of a block of logits."""
        return _numbers(self.column_block, (1, x.shape[1]))

    def is_legal(self, x: jax.Array) -> jax.Array:
        """[1, columns], whether a column of a block of logits counts; none does past the end."""
        start, stop = self.legal
        return (self.ids(x) >= start) & (self.ids(x) < stop)

    def real_rows(self, block: jax.Array) -> jax.Array:
        """[rows, 1], whether a row of a block exists."""
        return _numbers(self.row_block, (block.shape[0], 1)) < self.rows

    def hidden(self, block: jax.Array) -> jax.Array:
        """Hidden states with zeros past the end: 0 times garbage may be NaN."""
        if self.rows % block.shape[0] == 0:
            return block
        return jnp.where(self.real_rows(block), block, jnp.zeros_like(block))

    def head(self, block: jax.Array) -> jax.Array:
        """Rows of the head with zeros past the end."""
        if self.vocabulary % block.shape[0] == 0:
            return block
        ids = _numbers(self.column_block, (block.shape[0], 1))
        return jnp.where(ids < self.vocabulary, block, jnp.zeros_like(block))

    def logits(self, x: jax.Array) -> jax.Array:
        """Logits, where illegal `_NEVER`: its exp, shifted by any legal logit, is 0."""
        return jnp.where(self.is_legal(x), x, _NEVER)

    def slopes(self, d: jax.Array) -> jax.Array:
        """∂/∂logits with zeros past the rows and where illegal."""
        return jnp.where(self.is_legal(d) & self.real_rows(d), d, 0.0)


def _numbers(block: Any, shape: tuple[int, int]) -> jax.Array:
    """Which rows or columns of the whole array a block holds, along the axis that is not 1."""
    axis = shape.index(max(shape))
    return block * shape[axis] + lax.broadcasted_iota(jnp.int32, shape, axis)


# ---------------------------------------------------------------------------- kernels of values
def values(
    kernel: Callable[..., None],
    arrays: Arrays,
    setting: Setting,
    *,
    outputs: int,
    scratch: int,
    legal: tuple[int, int] | None = None,
) -> list[jax.Array]:
    """Runs `kernel(blocks, outputs, scratch, edges)` over all blocks, the vocabulary innermost.

    Args:
      kernel: gets refs, those of outputs and scratch [rows, 1].
      arrays: the whole of what is read.
      outputs, scratch: how many numbers a row gets, and how many sums it needs, all float32.
      legal: the first id that counts and the one behind the last; None for all.

    Returns:
      [M] each.
    """
    rows, vocabulary = arrays.hidden[0].shape[0], arrays.heads[0].shape[0]
    blocks = setting.values

    def body(*refs: Any) -> None:
        read, made = _parted(refs, arrays)
        at = pl.program_id(0), pl.program_id(1)
        edges = Edges(rows, vocabulary, legal or (0, vocabulary), *at)
        kernel(read, made[:outputs], made[outputs:], edges)

    row_block, column_block = (lambda i, j: i), (lambda i, j: j)
    found = pl.pallas_call(
        body,
        grid=(pl.cdiv(rows, blocks.rows), pl.cdiv(vocabulary, blocks.columns)),
        in_specs=_read_specs(arrays, blocks, row_block, column_block),
        out_specs=[_spec(blocks.rows, 1, row_block)] * outputs,
        out_shape=[_shape((rows, 1), jnp.float32, arrays)] * outputs,
        scratch_shapes=[pltpu.VMEM((blocks.rows, 1), jnp.float32)] * scratch,
        # Rows may be split over cores; over the vocabulary is summed.
        compiler_params=_compiler_params(setting, ("parallel", "arbitrary")),
        interpret=setting.interpret,
    )(*_flat(arrays))
    return [x_M1[:, 0] for x_M1 in found]


def _shape(shape: tuple[int, ...], dtype: Any, arrays: Arrays) -> jax.ShapeDtypeStruct:
    """Of a result, which differs over the mesh axes over which what is read does."""
    over = ManualAxisType(varying=_sharded.varying_axes(arrays))
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=over)


def _flat(arrays: Arrays) -> list[jax.Array]:
    return [*(x_M[:, None] for x_M in arrays.columns), *arrays.hidden, *arrays.heads]


def _parted(refs: Sequence[Any], arrays: Arrays) -> tuple[Arrays, Sequence[Any]]:
    """The refs of `_flat(arrays)` in their places, and those that follow."""
    parts = iter(refs)
    return Arrays(*(tuple(next(parts) for _ in part) for part in arrays)), list(parts)


def _read_specs(
    arrays: Arrays, blocks: Blocks, row_block: Any, column_block: Any
) -> list[pl.BlockSpec]:
    widths = [1 for _ in arrays.columns] + [x.shape[1] for x in arrays.hidden]
    by_rows = [_spec(blocks.rows, width, row_block) for width in widths]
    return by_rows + [_spec(blocks.columns, x.shape[1], column_block) for x in arrays.heads]


def _spec(length: int, width: int, number: Callable[..., Any]) -> pl.BlockSpec:
    """Blocks of whole rows; `number` maps indices of the grid to a block's."""
    return pl.BlockSpec((length, width), lambda *at: (number(*at), 0))


def _compiler_params(setting: Setting, semantics: Sequence[Any]) -> pltpu.CompilerParams:
    return pltpu.CompilerParams(
        dimension_semantics=semantics, vmem_limit_bytes=setting.chip.vmem_capacity_bytes
    )


def is_last() -> jax.Array:
    """Whether a kernel of values has seen the whole vocabulary."""
    return pl.program_id(1) == pl.num_programs(1) - 1


def clear(*sums: Any, runs: Sequence[Sequence[Any]] = ()) -> None:
    """Before the first block: zeros, and pairs of a max and a sum over no columns."""

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        for ref in sums:
            ref[...] = jnp.zeros(ref.shape, jnp.float32)
        for largest, total in runs:
            largest[...], total[...] = streaming.no_columns(total.shape[0])


def extend(
    run: Sequence[Any], x: jax.Array
) -> tuple[streaming.Running, streaming.Running, jax.Array]:
    """Takes a block of logits into the max and the sum of two refs: `streaming.extend`, with the
    sums of before first."""
    largest, total = run
    before = streaming.Running(largest[...], total[...])
    after, shifted = streaming.extend(before, x)
    largest[...], total[...] = after
    return before, after, shifted


# ---------------------------------------------------------------------------- gradients
class _Walk(NamedTuple):
    """Sizes of the arrays and the grid (cores, blocks of V of a core, blocks of M) over them."""

    rows: int
    vocabulary: int
    legal: tuple[int, int]
    row_blocks: int
    column_blocks: int
    cores: int

    @property
    def per_core(self) -> int:
        return pl.cdiv(self.column_blocks, self.cores)

    def column_block(self, core: Any, j: Any) -> Any:
        """The last core may have fewer blocks of V: it then stays at its last one."""
        return jnp.minimum(core * self.per_core + j, self.column_blocks - 1)


def gradients(
    slopes_of: Callable[..., jax.Array],
    arrays: Arrays,
    setting: Setting,
    *,
    legal: tuple[int, int] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Σ_v d_mv head_v and Σ_m d_mv hidden_m of ∂/∂logits d, in the dtypes of hidden and head.

    `slopes_of(blocks, edges)` returns d [rows, columns] for refs of blocks, of which the first
    hidden and head are arrays; what it returns past the ends is dropped.
    Operands of the products have the inputs' dtype, as in the forward pass. Where a chip has two
    cores, each takes half of the vocabulary and has a sum of ∂/∂hidden of its own.
    """
    (hidden, *_), (head, *_), blocks = arrays.hidden, arrays.heads, setting.gradients
    (rows, width), vocabulary = hidden.shape, head.shape[0]
    column_blocks = pl.cdiv(vocabulary, blocks.columns)
    cores = min(setting.chip.num_cores, column_blocks)
    walk = _Walk(
        rows,
        vocabulary,
        legal or (0, vocabulary),
        pl.cdiv(rows, blocks.rows),
        column_blocks,
        cores,
    )

    def kernel(*refs: Any) -> None:
        read, sums = _parted(refs, arrays)
        _gradient_step(slopes_of, read, _Sums(*sums), walk)

    def row_block(core: Any, j: Any, i: Any) -> Any:
        del core, j
        return i

    def column_block(core: Any, j: Any, i: Any) -> Any:
        del i
        return walk.column_block(core, j)

    partial, dhead = pl.pallas_call(
        kernel,
        grid=(cores, walk.per_core, walk.row_blocks),
        in_specs=_read_specs(arrays, blocks, row_block, column_block),
        out_specs=[pl.BlockSpec(memory_space=pl.ANY), _spec(blocks.columns, width, column_block)],
        out_shape=[
            _shape((cores, walk.row_blocks * blocks.rows, width), jnp.float32, arrays),
            _shape(head.shape, head.dtype, arrays),
        ],
        scratch_shapes=[
            pltpu.VMEM((blocks.rows, width), jnp.float32),
            pltpu.VMEM((blocks.columns, width), jnp.float32),
            pltpu.SemaphoreType.DMA,
            pltpu.SemaphoreType.DMA,
        ],
        compiler_params=_compiler_params(setting, ("parallel", "arbitrary", "arbitrary")),
        interpret=setting.interpret,
    )(*_flat(arrays))
    return jnp.sum(partial, axis=0)[:rows].astype(hidden.dtype), dhead


class _Sums(NamedTuple):
    """Refs of ∂/∂hidden, in HBM: [cores, M, D] and a block of it in VMEM, with the semaphores of
    the copies between them; and of ∂/∂head, a block of the result and its sum in float32."""

    partial: Any
    dhead: Any
    rows_sum: Any
    head_sum: Any
    copied_in: Any
    copied_out: Any


def _gradient_step(
    slopes_of: Callable[..., jax.Array], refs: Arrays, sums: _Sums, walk: _Walk
) -> None:
    """Adds one pair of blocks to both sums.

    The copies of the rows' sum run beside the products: that of the last step leaves while logits
    are computed, that of this step comes in while d is multiplied.
    """
    core, j, i = (pl.program_id(axis) for axis in range(3))
    this, last_row_block = core * walk.per_core + j, i == walk.row_blocks - 1
    is_last_of_core = last_row_block & ((j == walk.per_core - 1) | (this == walk.column_blocks - 1))
    edges = Edges(walk.rows, walk.vocabulary, walk.legal, i, this)
    block_rows = sums.rows_sum.shape[0]
    place = sums.partial.at[core, pl.ds(i * block_rows, block_rows), :]
    copy_in = pltpu.make_async_copy(place, sums.rows_sum, sums.copied_in)
    copy_out = pltpu.make_async_copy(sums.rows_sum, place, sums.copied_out)

    @pl.when(this < walk.column_blocks)
    def _() -> None:
        first = edges.hidden(refs.hidden[0][...]), edges.head(refs.heads[0][...])
        d = slopes_of(
            refs._replace(hidden=(first[0], *refs.hidden[1:]), heads=(first[1], *refs.heads[1:])),
            edges,
        )
        d = edges.slopes(d).astype(jnp.promote_types(first[0].dtype, first[1].dtype))
        pl.when((i > 0) | (j > 0))(copy_out.wait)
        pl.when(j > 0)(copy_in.start)

        @pl.when(i == 0)
        def _() -> None:
            sums.head_sum[...] = jnp.zeros(sums.head_sum.shape, jnp.float32)

        sums.head_sum[...] += streaming.dot(d, edges.hidden(refs.hidden[0][...]), (0, 0))
        share = streaming.dot(d, edges.head(refs.heads[0][...]), (1, 0))

        @pl.when(last_row_block)
        def _() -> None:
            sums.dhead[...] = sums.head_sum[...].astype(sums.dhead.dtype)

        @pl.when(j == 0)
        def _() -> None:
            sums.rows_sum[...] = share

        @pl.when(j > 0)
        def _() -> None:
            copy_in.wait()
            sums.rows_sum[...] += share

        copy_out.start()
        pl.when(is_last_of_core)(copy_out.wait)
