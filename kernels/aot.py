"""Compiles the ops for real TPUs on a machine without one: `python -m jaxevo.kernels.aot < CASES`.

`libtpu` (the extra `aot`) holds the whole compiler. It must be told of a TPU before JAX starts, so
`compile_ahead` runs this module in a process of its own. What comes back is what the compiler says
of a program, `memory_analysis()`: exact, and the same on every machine.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxevo.kernels import (
    LogProbs,
    entropy_band,
    fused_logprob,
    fused_logprob_sum,
    token_kl,
    token_kl_sum,
)

TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_ENABLE_COMPILATION_CACHE": "false",
}


class Case(NamedTuple):
    """One op with its gradients at one shape.

    op: `fused_logprob`, `token_kl` or `entropy_band`. implementation: of that op; `sum` stands for
    `fused_logprob_sum` or `token_kl_sum`. rows, width, vocabulary: M, D and V; a band has M rows of
    D slots. kind: of `token_kl`. dtype: of hidden states and heads. chip: `v5e`, `v5p` or `v6e`.
    """

    op: str
    implementation: str
    rows: int
    width: int
    vocabulary: int = 0
    kind: str = "reverse"
    dtype: str = "bfloat16"
    chip: str = "v5p"


class Compiled(NamedTuple):
    """HBM bytes of a compiled case: inputs, results, and what lives in between."""

    argument_bytes: int
    output_bytes: int
    temporary_bytes: int


def compile_ahead(cases: Sequence[Case]) -> list[Compiled]:
    """Compiles every case, in order, in a process that has `libtpu`.

    Raises:
      RuntimeError: where `libtpu` is not installed, or the compiler refuses a case.
    """
    done = subprocess.run(
        [sys.executable, "-m", "jaxevo.kernels.aot"],
        input=json.dumps([case._asdict() for case in cases]),
        capture_output=True,
        text=True,
        env=os.environ | ENVIRONMENT,
    )
    if done.returncode:
        raise RuntimeError(f"ahead-of-time compilation failed:\n{done.stderr[-4000:]}")
    return [Compiled(**found) for found in json.loads(done.stdout)]


# ---------------------------------------------------------------------------- programs
def program(case: Case) -> tuple[Callable[..., Any], list[jax.ShapeDtypeStruct]]:
    """What returns a case's values and gradients, and the shapes that it takes.

    Heads lie in memory as rows [V, D]; see `fused_logprob`.
    """
    M, D, V = case.rows, case.width, case.vocabulary
    dtype, f32 = jnp.dtype(case.dtype), jnp.float32
    hidden, head, numbers = ((M, D), dtype), ((V, D), dtype), ((M,), f32)
    way = {"implementation": case.implementation}
    if case.op == "fused_logprob":
        loss = _logprob_sum if case.implementation == "sum" else functools.partial(_logprob, **way)
        shapes = [hidden, head, ((M,), jnp.int32), numbers]
    elif case.op == "token_kl":
        loss = _kl_sum if case.implementation == "sum" else functools.partial(_kl, **way)
        loss = functools.partial(loss, kind=case.kind)
        shapes = [hidden, head, hidden, head, numbers]
    elif case.op == "entropy_band":
        shapes = [((M, D), f32), ((M, D), jnp.bool_)]
        return functools.partial(entropy_band, **way), _structs(shapes)  # type: ignore
    else:
        raise ValueError(f"op={case.op!r}, but it is fused_logprob, token_kl or entropy_band.")
    return jax.grad(loss, argnums=(0, 1), has_aux=True), _structs(shapes)


def _structs(shapes: Sequence[tuple[tuple[int, ...], Any]]) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(*shape) for shape in shapes]


# Each: a sum to differentiate by hidden states and head, and what the op returns.
def _logprob(hidden: Any, head: Any, targets: Any, weights: Any, **way: Any) -> Any:
    out = fused_logprob(hidden, head.T, targets, **way)
    return jnp.sum(weights * (out.logp_M + 0.5 * out.entropy_M)), out


def _logprob_sum(hidden: Any, head: Any, targets: Any, weights: Any) -> Any:
    each = LogProbs(weights, 0.5 * weights, jnp.zeros_like(weights))
    return fused_logprob_sum(hidden, head.T, targets, each), None


def _kl(hidden: Any, head: Any, other: Any, other_head: Any, weights: Any, **how: Any) -> Any:
    out_M = token_kl(hidden, other, head.T, other_head.T, **how)
    return jnp.sum(weights * out_M), out_M


def _kl_sum(hidden: Any, head: Any, other: Any, other_head: Any, weights: Any, **how: Any) -> Any:
    return token_kl_sum(hidden, other, head.T, other_head.T, weights, **how), None


# ---------------------------------------------------------------------------- the other process
def compile_for(
    chip: str, fn: Callable[..., Any], shapes: Sequence[jax.ShapeDtypeStruct]
) -> Compiled:
    """Compiles `fn` for one chip of that kind, in a process that began under `ENVIRONMENT`."""
    topology = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[chip])
    mesh = Mesh(np.array(topology.devices[:1]), ("x",))
    with jax.set_mesh(mesh):
        whole = NamedSharding(mesh, PartitionSpec())
        lowered = jax.jit(fn, in_shardings=whole, out_shardings=whole).lower(*shapes)
        found = lowered.compile().memory_analysis()
    if found is None:
        raise RuntimeError(f"the compiler for {chip} says nothing of its memory.")
    return Compiled(
        found.argument_size_in_bytes, found.output_size_in_bytes, found.temp_size_in_bytes
    )


def _main() -> None:
    cases = [Case(**asked) for asked in json.load(sys.stdin)]
    print(json.dumps([compile_for(case.chip, *program(case))._asdict() for case in cases]))


if __name__ == "__main__":
    _main()
