"""What a round costs in FLOPs, counted from sizes: a model of the work, not a measurement.

A product of [m, k] and [k, n] counts 2 m k n. Norms, softmax and the like count nothing: they are
bytes, not products.
"""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp

from jaxevo.kernels import keeps_logits
from jaxevo.models.decoder import DecoderConfig


def trunk_flops(config: DecoderConfig, slots: float, pairs: float) -> float:
    """Forward pass of all layers over so many slots, and pairs of a slot and one that it sees."""
    attention = 4.0 * config.heads * config.head_dim * pairs
    return config.layers * (2.0 * config.layer_weights * slots + attention)


def head_flops(config: DecoderConfig, reads: float, products: int = 1) -> float:
    """Products of hidden states with the unembedding, over the whole vocabulary."""
    return 2.0 * products * config.width * config.vocab_size * reads


def head_update_flops(config: DecoderConfig, reads: int) -> float:
    """The head's forward and backward pass; its logits are made twice where they are not kept."""
    return head_flops(config, reads, 3 if keeps_logits(reads, config.vocab_size) else 4)


def matmul_rate(size: int = 2048, dtype: jax.typing.DTypeLike = jnp.float32) -> float:
    """FLOP/s of a large matrix product on this machine, the best of three."""
    ones = jnp.ones((size, size), dtype)
    return 2.0 * size**3 / _seconds(jax.jit(lambda a: a @ a), ones)


def memory_rate(size: int = 2**27) -> float:
    """Bytes per second of reading and writing an array of `size` bytes, the best of three."""
    ones = jnp.ones(size // 4, jnp.float32)
    return 2.0 * size / _seconds(jax.jit(lambda a: a * 1.5), ones)


def _seconds(fn: jax.stages.Wrapped, argument: jax.Array) -> float:
    jax.block_until_ready(fn(argument))
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready(fn(argument))
        best = min(best, time.perf_counter() - start)
    return best
