"""`fused_logprob` as two Pallas TPU kernels: values, and both gradients.

Values: grid (M / rows, V / columns), inner axis last

      HBM                      VMEM, per step (i, j)                       HBM
      hidden [M, D]   --i-->   hidden [rows, D]     stays for all j
      head   [V, D]   --j-->   head   [columns, D]  streams by
                               logits [rows, columns] = hidden · headᵀ
                               running max, sums [rows, 1]            -->  [M], at the last j

Gradients: grid (cores, V / columns / cores, M / rows), inner axis last

      head   [V, D]   --j-->   head   [columns, D]  stays for all i
      hidden [M, D]   --i-->   hidden [rows, D]     streams by
                               dlogits [rows, columns], from logits computed again
                               Σ_i dlogitsᵀ · hidden [columns, D]     -->  ∂/∂head [V, D], last i
      ∂/∂hidden [M, D] <--->   += dlogits · head [rows, D]            copied in and out, each step

Logits never leave VMEM. They are computed twice: 4 products of 2 M D V FLOPs in all. For values the
head is read M / rows times; for gradients the hidden states and their float32 gradient V / columns
times.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from jaxevo.kernels import _pallas_tpu as tpu
from jaxevo.kernels import _sharded
from jaxevo.kernels import _streaming as streaming
from jaxevo.kernels.fused_logprob._types import Inputs, LogProbs, Options, over_devices, slopes


def fused_logprob(
    inputs: Inputs,
    *,
    options: Options,
    block_M: int | None,
    block_V: int | None,
    interpret: bool = False,
) -> LogProbs:
    """`interpret` runs the kernels' steps in XLA."""
    setting = tpu.choose_setting(
        _arrays(inputs), block_M=block_M, block_V=block_V, interpret=interpret
    )
    return _fused(inputs, options, setting)


def fits(inputs: Inputs) -> bool:
    """Whether the kernels can be compiled for this width."""
    return tpu.fits(_arrays(inputs))


def _arrays(inputs: Inputs, *more: jax.Array) -> tpu.Arrays:
    columns = inputs.targets_M, inputs.inverse_M, *more
    return tpu.Arrays(columns, (inputs.hidden_MD,), (inputs.unembed_VD,))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _fused(inputs: Inputs, options: Options, setting: tpu.Setting) -> LogProbs:
    return _forward(inputs, options, setting)[0]


# ---------------------------------------------------------------------------- values
def _forward(
    inputs: Inputs, options: Options, setting: tpu.Setting
) -> tuple[LogProbs, tuple[Inputs, LogProbs]]:
    arrays = _arrays(inputs)
    kernel = functools.partial(_value_kernel, options=options)
    out = LogProbs(*tpu.values(kernel, arrays, setting, outputs=3, scratch=4, legal=options.legal))
    out = over_devices(out, inputs, options)
    return out, (inputs, out)


def _value_kernel(
    read: tpu.Arrays, outputs: Sequence[Any], scratch: Sequence[Any], edges: tpu.Edges,
    *, options: Options,
) -> None:  # fmt: skip
    (targets, inverse), (logp, entropy, logsumexp) = read.columns, outputs
    *run, weighted, taken = scratch
    tpu.clear(weighted, taken, runs=[run])
    hidden, head = read.hidden[0][...], read.heads[0][...]
    x = edges.logits(streaming.block_logits(hidden, head, inverse[...], options.soft_cap))
    taken[...] += jnp.sum(jnp.where(edges.ids(x) == targets[...], x, 0.0), axis=1, keepdims=True)
    before, after, shifted = tpu.extend(run, x)
    # Σ_v exp(x_v − max) (x_v − max): its values move with the max that the weights have.
    weighted[...] = streaming.extend_sum(
        weighted[...], before, after, moved_M1=before.max_M1 - after.max_M1
    ) + jnp.sum(jnp.exp(shifted) * shifted, axis=1, keepdims=True)

    @pl.when(tpu.is_last())
    def _() -> None:
        logsumexp[...] = streaming.logsumexp(after)
        logp[...] = taken[...] - logsumexp[...]
        entropy[...] = jnp.log(after.total_M1) - weighted[...] / after.total_M1


# ---------------------------------------------------------------------------- gradients
def _backward(
    options: Options,
    setting: tpu.Setting,
    saved: tuple[Inputs, LogProbs],
    cotangent: LogProbs,
) -> tuple[Inputs]:
    inputs, out = saved
    cotangent = _sharded.cotangent(cotangent, options.vocab_axis, of_head=inputs.unembed_VD)
    g, constant_M = slopes(inputs.inverse_M, out, cotangent)
    arrays = _arrays(inputs, out.logsumexp_M, constant_M, g.entropy_M, g.logp_M)
    slopes_of = functools.partial(_slopes, options=options)
    dhidden_MD, dunembed_VD = tpu.gradients(slopes_of, arrays, setting, legal=options.legal)
    return (Inputs(dhidden_MD, dunembed_VD, streaming.NO_GRADIENT, streaming.NO_GRADIENT),)


def _slopes(read: tpu.Arrays, edges: tpu.Edges, *, options: Options) -> jax.Array:
    columns = (ref[...] for ref in read.columns)
    targets, inverse, logsumexp, constant, g_entropy, g_logp = columns
    x = streaming.block_logits(read.hidden[0], read.heads[0], inverse, options.soft_cap)
    logp = x - logsumexp
    d = jnp.exp(logp) * (constant - g_entropy * logp)
    d += jnp.where(edges.ids(x) == targets, g_logp, 0.0)
    return streaming.through_cap(d, x, inverse, options.soft_cap)


_fused.defvjp(_forward, _backward)
