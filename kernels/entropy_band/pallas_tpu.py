"""`entropy_band` as one Pallas TPU kernel: a block of rows at a time, counted in registers.

      grid (N / 8)
        step i    HBM                     VMEM                            HBM
                  entropy [8, A]  ----->  keys, 4 order statistics,  -->  fork [8, A]
                  mask    [8, A]          ties by position                low, high [8, 1]
                  places  7 x [8, 1]

Every number is read once and written once; all 32 counts of an order statistic run on the block
that lies in VMEM. Rows are padded to a multiple of 8, positions to a multiple of 128; padding has
mask 0, so it is never counted.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxevo.kernels.entropy_band import _bisect
from jaxevo.kernels.entropy_band._types import Band, Places

_ROWS, _LANES = 8, 128


def entropy_band(
    entropy_NA: jax.Array, mask_NA: jax.Array, places: Places, *, interpret: bool = False
) -> Band:
    """`interpret` runs the kernel's steps in XLA, on any machine."""
    rows, slots = entropy_NA.shape
    wide = (-(-rows // _ROWS) * _ROWS, -(-slots // _LANES) * _LANES)
    leaves, tree = jax.tree.flatten(places)
    columns = [_padded(leaf[:, None], (wide[0], 1)) for leaf in leaves]

    def kernel(entropy_ref, mask_ref, *refs):  # type: ignore[no-untyped-def]
        *place_refs, fork_ref, low_ref, high_ref = refs
        block_places = jax.tree.unflatten(tree, [ref[...] for ref in place_refs])
        found = _bisect.entropy_band(entropy_ref[...], mask_ref[...] != 0, block_places)
        fork_ref[...] = found.fork_NA.astype(jnp.int32)
        low_ref[...] = found.low_N1
        high_ref[...] = found.high_N1

    whole_row = pl.BlockSpec((_ROWS, wide[1]), lambda i: (i, 0))
    column = pl.BlockSpec((_ROWS, 1), lambda i: (i, 0))
    number = functools.partial(jax.ShapeDtypeStruct, (wide[0], 1))
    fork, low, high = pl.pallas_call(
        kernel,
        grid=(wide[0] // _ROWS,),
        in_specs=[whole_row, whole_row, *[column] * len(columns)],
        out_specs=[whole_row, column, column],
        out_shape=[
            jax.ShapeDtypeStruct(wide, jnp.int32),
            number(jnp.float32),
            number(jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        interpret=interpret,
    )(_padded(entropy_NA, wide), _padded(mask_NA.astype(jnp.int32), wide), *columns)
    return Band(fork[:rows, :slots] != 0, low[:rows, 0], high[:rows, 0])


def _padded(x: jax.Array, shape: tuple[int, int]) -> jax.Array:
    return jnp.pad(x, [(0, to - now) for to, now in zip(shape, x.shape, strict=True)])
