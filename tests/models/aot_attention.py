"""Run by test_attention: splash with its gradients, compiled for a TPU. Prints its bytes."""

import sys

import jax
import jax.numpy as jnp

from jaxevo.kernels.aot import compile_for
from jaxevo.models.attention import Trees, attend_trees, near

chip, (rows, slots, heads, kv_heads, head_dim, window) = sys.argv[1], map(int, sys.argv[2:])


def loss(q, k, v, until_BS, positions_BS):
    limits = {"near_BSS": near(positions_BS, positions_BS, window), "cap": 50.0} if window else {}
    mixed = attend_trees(Trees(until_BS), implementation="splash", **limits)(q, k, v)
    return jnp.sum(mixed.astype(jnp.float32))


shape = jax.ShapeDtypeStruct
q = shape((rows, slots, heads, head_dim), jnp.bfloat16)
k = shape((rows, kv_heads, slots, head_dim), jnp.bfloat16)
by_slot = shape((rows, slots), jnp.int32)
arguments = (q, k, k, by_slot, by_slot)
print(compile_for(chip, jax.grad(loss, argnums=(0, 1, 2)), arguments).temporary_bytes)
