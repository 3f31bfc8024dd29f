"""`fused_logprob` as three Pallas TPU kernels: values, gradient of hidden states, of the head.

Values, and the gradient of the hidden states: grid (M / rows, V / columns), inner axis last

      HBM                      VMEM, per step (i, j)                       HBM
      hidden [M, D]   --i-->   hidden [rows, D]     stays for all j
      head   [V, D]   --j-->   head   [columns, D]  streams by
                               logits [rows, columns] = hidden · headᵀ
                               running max, sums [rows, 1], or
                               Σ_j dlogits · head [rows, D], float32  -->  at the last j

Gradient of the head: grid (V / columns, M / rows), the same with the parts of hidden and head
exchanged: a block of the head stays, hidden states stream by, Σ_i dlogitsᵀ · hidden is summed.

Logits never leave VMEM. They are computed three times: 5 products of 2 M D V FLOPs in all. The head
is read M / rows times, the hidden states V / columns times.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxevo.kernels import _pallas_tpu as tpu
from jaxevo.kernels import _streaming as streaming
from jaxevo.kernels.fused_logprob._types import LogProbs


class _Inputs(NamedTuple):
    hidden_MD: jax.Array
    unembed_VD: jax.Array
    targets_M: jax.Array
    inverse_M: jax.Array


def fused_logprob(
    hidden_MD: jax.Array,
    unembed_DV: jax.Array,
    targets_M: jax.Array,
    inverse_M: jax.Array,
    *,
    block_M: int | None = None,
    block_V: int | None = None,
    chip: str | None = None,
    interpret: bool = False,
) -> LogProbs:
    """`chip` sets limits and default blocks; `interpret` runs the kernels' steps in XLA."""
    width = hidden_MD.shape[1]
    itemsize = max(hidden_MD.dtype.itemsize, unembed_DV.dtype.itemsize)
    setting = tpu.choose_setting(
        width, width, itemsize, block_M=block_M, block_V=block_V, chip=chip, interpret=interpret
    )
    return _fused(_Inputs(hidden_MD, unembed_DV.T, targets_M, inverse_M), setting)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _fused(inputs: _Inputs, setting: tpu.Setting) -> LogProbs:
    return _forward(inputs, setting)[0]


# ---------------------------------------------------------------------------- values
def _forward(inputs: _Inputs, setting: tpu.Setting) -> tuple[LogProbs, tuple[_Inputs, LogProbs]]:
    (rows, width), vocabulary = inputs.hidden_MD.shape, inputs.unembed_VD.shape[0]
    blocks = setting.tiles.values
    column = pl.BlockSpec((blocks.rows, 1), lambda i, j: (i, 0))
    out = pl.pallas_call(
        functools.partial(_value_kernel, edges=tpu.Edges(rows, vocabulary)),
        grid=(pl.cdiv(rows, blocks.rows), pl.cdiv(vocabulary, blocks.columns)),
        in_specs=[
            column,
            column,
            pl.BlockSpec((blocks.rows, width), lambda i, j: (i, 0)),
            pl.BlockSpec((blocks.columns, width), lambda i, j: (j, 0)),
        ],
        out_specs=[column] * 3,
        out_shape=[jax.ShapeDtypeStruct((rows, 1), jnp.float32)] * 3,
        scratch_shapes=[pltpu.VMEM((blocks.rows, 1), jnp.float32)] * 4,
        compiler_params=tpu.parameters(setting.chip),
        interpret=setting.interpret,
    )(inputs.targets_M[:, None], inputs.inverse_M[:, None], inputs.hidden_MD, inputs.unembed_VD)
    out = LogProbs(*(x_M1[:, 0] for x_M1 in out))
    return out, (inputs, out)


def _value_kernel(
    targets: Any, inverse: Any, hidden: Any, head: Any,
    logp: Any, entropy: Any, logsumexp: Any,
    largest: Any, total: Any, weighted: Any, taken: Any,
    *, edges: tpu.Edges,
) -> None:  # fmt: skip
    tpu.clear(total, weighted, taken, maxima=(largest,))
    x = streaming.dot(hidden[...], head[...], (1, 1)) * inverse[...]
    ids = edges.ids(x)
    taken[...] += jnp.sum(jnp.where(ids == targets[...], x, 0.0), axis=1, keepdims=True)
    step = tpu.extend(largest, total, x, ids < edges.vocabulary)
    # Σ_v exp(x_v − max) (x_v − max): its values move with the max that the weights have.
    weighted[...] = step.carried(weighted[...], step.moved) + jnp.sum(
        step.weight * step.shifted, axis=1, keepdims=True
    )

    @pl.when(tpu.is_last())
    def _() -> None:
        log_total = jnp.log(total[...])
        logsumexp[...] = largest[...] + log_total
        logp[...] = taken[...] - logsumexp[...]
        entropy[...] = log_total - weighted[...] / total[...]


# ---------------------------------------------------------------------------- gradients
def _backward(
    setting: tpu.Setting, saved: tuple[_Inputs, LogProbs], cotangent: LogProbs
) -> tuple[_Inputs]:
    """∂/∂x_v = p_v (g_lse − g_logp − g_H H − g_H log p_v) + g_logp 1[v = target]."""
    (hidden_MD, unembed_VD, targets_M, inverse_M), out = saved
    (rows, width), vocabulary = hidden_MD.shape, unembed_VD.shape[0]
    # Logits are x · temperature: one more factor 1 / temperature, taken up by the cotangents.
    g_logp_M, g_entropy_M, g_logsumexp_M = (g_M * inverse_M for g_M in cotangent)
    constant_M = g_logsumexp_M - g_logp_M - g_entropy_M * out.entropy_M
    columns = targets_M, inverse_M, out.logsumexp_M, constant_M, g_entropy_M, g_logp_M

    def gradient(like: jax.Array, blocks: tpu.Blocks, *, of_head: bool) -> jax.Array:
        def spec(size: int, width: int, *, by_rows: bool) -> pl.BlockSpec:
            # The grid's first axis is that of the gradient, whose block stays.
            return pl.BlockSpec((size, width), lambda a, b: ((b if by_rows == of_head else a), 0))

        counts = pl.cdiv(rows, blocks.rows), pl.cdiv(vocabulary, blocks.columns)
        size = blocks.columns if of_head else blocks.rows
        return pl.pallas_call(
            functools.partial(_gradient_kernel, edges=tpu.Edges(rows, vocabulary, of_head)),
            grid=counts[::-1] if of_head else counts,
            in_specs=[
                *[spec(blocks.rows, 1, by_rows=True)] * len(columns),
                spec(blocks.rows, width, by_rows=True),
                spec(blocks.columns, width, by_rows=False),
            ],
            out_specs=spec(size, width, by_rows=not of_head),
            out_shape=jax.ShapeDtypeStruct(like.shape, like.dtype),
            scratch_shapes=[pltpu.VMEM((size, width), jnp.float32)],
            compiler_params=tpu.parameters(setting.chip),
            interpret=setting.interpret,
        )(*(x_M[:, None] for x_M in columns), hidden_MD, unembed_VD)

    dhidden_MD = gradient(hidden_MD, setting.tiles.hidden, of_head=False)
    dunembed_VD = gradient(unembed_VD, setting.tiles.head, of_head=True)
    return (_Inputs(dhidden_MD, dunembed_VD, streaming.NO_GRADIENT, streaming.NO_GRADIENT),)


def _gradient_kernel(
    targets: Any, inverse: Any, logsumexp: Any, constant: Any, g_entropy: Any, g_logp: Any,
    hidden: Any, head: Any,
    gradient: Any,
    summed: Any,
    *, edges: tpu.Edges,
) -> None:  # fmt: skip
    tpu.clear(summed)
    hidden_block, head_block = edges.hidden(hidden[...]), edges.head(head[...])
    x = streaming.dot(hidden_block, head_block, (1, 1)) * inverse[...]
    logp = x - logsumexp[...]
    d = jnp.exp(logp) * (constant[...] - g_entropy[...] * logp)
    d += jnp.where(edges.ids(x) == targets[...], g_logp[...], 0.0)
    d = edges.slopes(d).astype(jnp.promote_types(hidden.dtype, head.dtype))
    if edges.of_head:
        summed[...] += streaming.dot(d, hidden_block, (0, 0))
    else:
        summed[...] += streaming.dot(d, head_block, (1, 0))

    @pl.when(tpu.is_last())
    def _() -> None:
        gradient[...] = summed[...].astype(gradient.dtype)


_fused.defvjp(_forward, _backward)
