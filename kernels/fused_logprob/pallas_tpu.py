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
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from jaxevo.kernels import _pallas_tpu as tpu
from jaxevo.kernels import _streaming as streaming
from jaxevo.kernels.fused_logprob._types import Inputs, LogProbs, slopes


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
    return _fused(Inputs(hidden_MD, unembed_DV.T, targets_M, inverse_M), setting)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _fused(inputs: Inputs, setting: tpu.Setting) -> LogProbs:
    return _forward(inputs, setting)[0]


# ---------------------------------------------------------------------------- values
def _forward(inputs: Inputs, setting: tpu.Setting) -> tuple[LogProbs, tuple[Inputs, LogProbs]]:
    edges = tpu.Edges(inputs.hidden_MD.shape[0], inputs.unembed_VD.shape[0])
    found = tpu.launch(
        _value_kernel,
        edges,
        setting.tiles.values,
        setting,
        columns=(inputs.targets_M, inputs.inverse_M),
        hidden=(inputs.hidden_MD,),
        heads=(inputs.unembed_VD,),
        outputs=[jax.ShapeDtypeStruct((edges.rows, 1), jnp.float32)] * 3,
        scratch=[1] * 4,
    )
    out = LogProbs(*(x_M1[:, 0] for x_M1 in found))
    return out, (inputs, out)


def _value_kernel(
    targets: Any, inverse: Any, hidden: Any, head: Any,
    logp: Any, entropy: Any, logsumexp: Any,
    largest: Any, total: Any, weighted: Any, taken: Any,
    *, edges: tpu.Edges,
) -> None:  # fmt: skip
    run = (largest, total)
    tpu.clear(weighted, taken, runs=[run])
    x = edges.logits(streaming.dot(hidden[...], head[...], (1, 1)) * inverse[...])
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
    setting: tpu.Setting, saved: tuple[Inputs, LogProbs], cotangent: LogProbs
) -> tuple[Inputs]:
    (hidden_MD, unembed_VD, targets_M, inverse_M), out = saved
    scaled, constant_M = slopes(inverse_M, out, cotangent)

    def gradient(like: jax.Array, blocks: tpu.Blocks, *, of_head: bool) -> jax.Array:
        (found,) = tpu.launch(
            _gradient_kernel,
            tpu.Edges(hidden_MD.shape[0], unembed_VD.shape[0], of_head),
            blocks,
            setting,
            columns=(
                targets_M, inverse_M, out.logsumexp_M, constant_M, scaled.entropy_M, scaled.logp_M
            ),
            hidden=(hidden_MD,),
            heads=(unembed_VD,),
            outputs=[jax.ShapeDtypeStruct(like.shape, like.dtype)],
            scratch=[like.shape[1]],
        )  # fmt: skip
        return found

    dhidden_MD = gradient(hidden_MD, setting.tiles.hidden, of_head=False)
    dunembed_VD = gradient(unembed_VD, setting.tiles.head, of_head=True)
    return (Inputs(dhidden_MD, dunembed_VD, streaming.NO_GRADIENT, streaming.NO_GRADIENT),)


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
    tpu.add_gradient(gradient, summed, d, hidden_block, head_block, edges)


_fused.defvjp(_forward, _backward)
