"""What a Pallas kernel moves and computes, counted from its grid, blocks and index maps.

XLA sees nothing inside of a Pallas call, so this is a model: of a kernel as it is written, not of a
clock. A block is copied between HBM and VMEM when its index differs from that of the step before,
as in Pallas' pipeline; the last axis of the grid is innermost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import tpu as pltpu
from jax.extend import core


class Kernel(NamedTuple):
    """One call of a kernel.

    grid: its steps. hbm_bytes: read from and written to HBM; what lies past an array's end does not
    count. flops: of its matrix products, whole blocks. vmem_bytes: two buffers of every block and
    the scratch, padded to tiles; what the compiler keeps beside them comes on top.
    """

    grid: tuple[int, ...]
    hbm_bytes: int
    flops: int
    vmem_bytes: int

    def seconds(self, chip: pltpu.TpuInfo) -> tuple[float, float]:
        """For the bytes and for bfloat16 products, at the peaks of a whole chip."""
        return (
            self.hbm_bytes / (chip.mem_bw_bytes_per_second * chip.num_cores),
            self.flops / (chip.bf16_ops_per_second * chip.num_cores),
        )


def count(fn: Callable[..., Any], *args: Any) -> list[Kernel]:
    """Every Pallas call of `fn(*args)`, in order; arguments may be `jax.ShapeDtypeStruct`s.

    What a kernel does under a condition, explicit copies too, counts as if every step did it: its
    numbers are bounds from above then. An explicit copy is taken to fill its buffer in VMEM.
    """
    jaxpr = jax.make_jaxpr(fn)(*args).jaxpr
    found = [e for e, _ in equations(jaxpr) if e.primitive.name == "pallas_call"]
    return [_counted(e.params["jaxpr"], e.params["grid_mapping"]) for e in found]


def product_flops(fn: Callable[..., Any], *args: Any) -> int:
    """FLOPs of the matrix products of `fn(*args)` outside of Pallas, scans by their length."""
    found = equations(jax.make_jaxpr(fn)(*args).jaxpr)
    return sum(n * dot_flops(e) for e, n in found if e.primitive.name == "dot_general")


def equations(jaxpr: core.Jaxpr, times: int = 1) -> Iterator[tuple[Any, int]]:
    """Every equation, those of inner jaxprs included, and how often scans run it."""

    def is_jaxpr(x: Any) -> bool:
        return isinstance(x, core.Jaxpr | core.ClosedJaxpr)

    for equation in jaxpr.eqns:
        yield equation, times
        inside = times
        if equation.primitive.name == "scan":
            inside *= equation.params["length"]
        for value in filter(is_jaxpr, jax.tree.leaves(equation.params, is_leaf=is_jaxpr)):
            inner = value.jaxpr if isinstance(value, core.ClosedJaxpr) else value
            yield from equations(inner, inside)


def _counted(jaxpr: core.Jaxpr, mapping: Any) -> Kernel:
    grid, steps = mapping.grid, math.prod(mapping.grid)
    blocks = [m for m in mapping.block_mappings if _space(m.block_aval) in _VMEM]
    copies = product_flops = 0
    for equation, _ in equations(jaxpr):
        if equation.primitive.name == "dma_start":
            refs = [v.aval for v in equation.invars if hasattr(v.aval, "memory_space")]
            copies += min(_bytes(ref) for ref in refs if _space(ref) in _VMEM)
        if equation.primitive.name == "dot_general":
            product_flops += dot_flops(equation)
    buffers = [2 * _tiled_bytes(m.block_aval) for m in blocks]
    scratch = [_tiled_bytes(aval) for aval in mapping.scratch_avals if _space(aval) in _VMEM]
    moved = sum(_moved(m, grid) for m in blocks) + copies * steps
    return Kernel(grid, moved, product_flops * steps, sum(buffers) + sum(scratch))


def dot_flops(equation: Any) -> int:
    """Of a `dot_general`: two for each term of each sum."""
    (contract, _), _ = equation.params["dimension_numbers"]
    depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contract)
    return 2 * depth * math.prod(equation.outvars[0].aval.shape)


_VMEM = ("default", "vmem")


def _space(aval: Any) -> str:
    return str(aval.memory_space)


def _bytes(aval: Any) -> int:
    return math.prod(aval.shape) * aval.dtype.itemsize


def _tiled_bytes(aval: Any) -> int:
    """The last two axes in tiles of 32 bytes down by 128 numbers across."""
    itemsize = aval.dtype.itemsize
    *outer, down, across = (1, *aval.shape) if len(aval.shape) == 1 else aval.shape
    tiles = -(-down * itemsize // 32) * -(-across // 128)
    return math.prod(outer) * tiles * 32 * 128


def _moved(mapping: Any, grid: tuple[int, ...]) -> int:
    """Bytes of the blocks whose index differs from the last step's, cut at the array's end."""
    at = np.meshgrid(*(np.arange(n, dtype=np.int32) for n in grid), indexing="ij")
    jaxpr = mapping.index_map_jaxpr
    index_map = jax.vmap(lambda *step: core.jaxpr_as_fun(jaxpr)(*step))
    shape, block = mapping.array_aval.shape, mapping.block_aval.shape
    found = index_map(*(jnp.asarray(axis.ravel()) for axis in at))
    index_SN = np.stack([np.asarray(axis) for axis in found], axis=1)
    is_new_S = np.any(np.diff(index_SN, axis=0, prepend=-1) != 0, axis=1)
    starts_SN = index_SN[is_new_S] * np.array(block)
    lengths_SN = np.clip(np.array(shape) - starts_SN, 0, block)
    return (
        int(np.prod(lengths_SN, axis=1, dtype=np.int64).sum()) * mapping.array_aval.dtype.itemsize
    )
