from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxevo.kernels.traffic import Kernel, count

TILE = 8 * 128 * 4


def matmul(a, b, *, block=(64, 128, 256)):
    """Blocks (m, k) and (k, n) stream by; a block (m, n) of the result is summed over k."""
    (m, k, n), (M, K), N = block, a.shape, b.shape[1]

    def kernel(a_ref, b_ref, c_ref, sum_ref):
        sum_ref[...] += jnp.dot(a_ref[...], b_ref[...])
        c_ref[...] = sum_ref[...]

    return pl.pallas_call(
        kernel,
        grid=(pl.cdiv(M, m), pl.cdiv(N, n), pl.cdiv(K, k)),
        in_specs=[
            pl.BlockSpec((m, k), lambda i, j, s: (i, s)),
            pl.BlockSpec((k, n), lambda i, j, s: (s, j)),
        ],
        out_specs=pl.BlockSpec((m, n), lambda i, j, s: (i, j)),
        out_shape=jax.ShapeDtypeStruct((M, N), jnp.float32),
        scratch_shapes=[pltpu.VMEM((m, n), jnp.float32)],
    )(a, b)


def shapes(M, K, N):
    return jax.ShapeDtypeStruct((M, K), jnp.float32), jax.ShapeDtypeStruct((K, N), jnp.float32)


def test_a_plain_product():
    M, K, N = 256, 512, 1024
    (found,) = count(matmul, *shapes(M, K, N))
    read = M * K * (N // 256) + K * N * (M // 64)  # each operand once per block of the other side
    vmem = 2 * (64 * 128 + 128 * 256 + 64 * 256) + 64 * 256
    assert found == Kernel((4, 4, 4), 4 * (read + M * N), 2 * M * K * N, 4 * vmem)


def test_a_block_that_stays_is_read_once():
    M, K, N = 256, 128, 1024  # one block of K: that of a stays while those of b stream by
    (found,) = count(matmul, *shapes(M, K, N))
    assert found.hbm_bytes == 4 * (M * K + K * N * (M // 64) + M * N)


def test_bytes_past_the_end_do_not_count_but_their_products_do():
    M, K, N = 100, 128, 300
    (found,) = count(matmul, *shapes(M, K, N))
    assert found.hbm_bytes == 4 * (M * K + K * N * 2 + M * N)
    assert found.flops == 2 * 128 * K * 512


def test_explicit_copies_and_padded_tiles():
    def kernel(x_ref, y_ref, scratch, arrived):
        copy = pltpu.make_async_copy(x_ref.at[pl.ds(pl.program_id(0) * 8, 8), :], scratch, arrived)
        copy.start()
        copy.wait()
        y_ref[...] = jnp.sum(scratch[...], axis=1, keepdims=True)

    def sums(x):
        return pl.pallas_call(
            kernel,
            grid=(4,),
            in_specs=[pl.BlockSpec(memory_space=pl.ANY)],
            out_specs=pl.BlockSpec((8, 1), lambda i: (i, 0)),
            out_shape=jax.ShapeDtypeStruct((32, 1), jnp.float32),
            scratch_shapes=[pltpu.VMEM((8, 256), jnp.float32), pltpu.SemaphoreType.DMA],
        )(x)

    (found,) = count(sums, jax.ShapeDtypeStruct((32, 256), jnp.float32))
    assert found == Kernel((4,), 4 * (32 * 256 + 32), 0, 2 * TILE + 2 * TILE)


@pytest.mark.parametrize(("dtype", "tiles"), [(jnp.float32, 4), (jnp.bfloat16, 2)])
def test_small_dtypes_fill_tiles_of_more_rows(dtype, tiles):
    def copied(x):
        return pl.pallas_call(
            lambda x_ref, y_ref: y_ref.__setitem__(..., x_ref[...]),
            grid=(1,),
            in_specs=[pl.BlockSpec((32, 128), lambda i: (0, 0))],
            out_specs=pl.BlockSpec((32, 128), lambda i: (0, 0)),
            out_shape=jax.ShapeDtypeStruct((32, 128), dtype),
        )(x)

    (found,) = count(copied, jax.ShapeDtypeStruct((32, 128), dtype))
    assert found.vmem_bytes == 4 * tiles * TILE
