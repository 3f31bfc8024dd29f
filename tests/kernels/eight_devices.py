"""Both heads on meshes of eight devices against one: prints, as JSON, the worst deviation of each
case's value and gradients, relative to their largest entry."""

from __future__ import annotations

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxevo.kernels import fused_logprob, token_kl

M, D, E, V = 16, 5, 7, 48
MESHES = {"vocabulary": (1, 8), "tokens": (8, 1), "both": (2, 4)}
# Kernels that are interpreted cannot be traced under check_vma; compiled ones can.
CASES = [
    ("vocabulary", "chunked", True),
    ("tokens", "chunked", True),
    ("both", "chunked", True),
    ("both", "chunked", False),
    ("both", "pallas_tpu_interpret", False),
]
QUICK = {"xla_backend_optimization_level": 0}  # halves the compile time
MEASURES = [
    {"kind": "reverse"},
    {"kind": "forward"},
    {"kind": "js"},
    {"kind": "forward", "pointwise_clip": 0.05},
]


def arrays():
    keys = jax.random.split(jax.random.key(0), 6)
    shapes = (M, D), (D, V), (M, E), (E, V), (3, M)
    *heads, weights = (jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=False))
    return *heads, weights, jax.random.randint(keys[5], (M,), 0, V)


def main():
    hidden, unembed, teacher, teacher_EV, weights, targets = arrays()
    rows, columns = PartitionSpec("tokens"), PartitionSpec(None, "vocabulary")

    def measured(loss):
        run = jax.value_and_grad(loss, argnums=(0, 1))
        return jax.tree.leaves(jax.jit(run, compiler_options=QUICK)(hidden, unembed))

    def of_logprobs(run):
        def loss(hidden, unembed):
            out = run(hidden, unembed, targets)
            return sum(jnp.vdot(w, x) for w, x in zip(weights, out, strict=True))

        return measured(loss)

    def of_divergence(run):
        return measured(lambda h, u: jnp.vdot(weights[0], run(h, teacher, u, teacher_EV)))

    ops = {"fused_logprob": (fused_logprob, of_logprobs, (rows, columns, rows))}
    for options in MEASURES:
        fn = functools.partial(token_kl, **options)
        ops[f"token_kl {options}"] = fn, of_divergence, (rows, rows, columns, columns)
    worst = {}
    for op, (fn, measure, in_specs) in ops.items():
        truth = measure(functools.partial(fn, temperature=0.7))
        for mesh, implementation, check_vma in CASES:
            how = {"implementation": implementation, "block_M": 4, "block_V": 5}
            spread = jax.shard_map(
                functools.partial(fn, temperature=0.7, vocab_axis="vocabulary", **how),
                mesh=Mesh(np.array(jax.devices()).reshape(MESHES[mesh]), ("tokens", "vocabulary")),
                in_specs=in_specs,
                out_specs=rows,
                check_vma=check_vma,
            )
            pairs = zip(measure(spread), truth, strict=True)
            worst[f"{op} {mesh} {implementation} {check_vma}"] = max(
                float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in pairs
            )
    print(json.dumps(worst))


if __name__ == "__main__":
    main()
