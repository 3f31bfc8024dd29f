"""`token_kl` as Pallas TPU kernels: values, and both gradients.

Values: grid (M / rows, V / columns), inner axis last

      HBM                              VMEM, per step (i, j)                       HBM
      both hidden [M, D], [M, E] -i->  [rows, D], [rows, E]      stay for all j
      both heads  [V, D], [V, E] -j->  [columns, D], [columns, E]  stream by
                                       two blocks of logits [rows, columns]
                                       running maxima and sums [rows, 1]  -->  [M], at the last j

Gradients: grid (cores, V / columns / cores, M / rows); blocks of both heads stay for all i, hidden
states stream by. ∂/∂head [columns, D] is summed in VMEM; ∂/∂hidden [rows, D] is copied in from HBM,
added to, and copied out at every step. Neither model's logits leave VMEM.

Products of 2 M D V FLOPs: 2 for the value (js: 4, the logarithm of a mixture needs both logsumexps
first) and 4 for the gradients, 6 in all (js: 8).
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
from jaxevo.kernels.token_kl._blocks import teacher_logits
from jaxevo.kernels.token_kl._divergence import terms
from jaxevo.kernels.token_kl._types import (
    Heads,
    Measure,
    Sums,
    sums_of_kl,
    whole_logsumexp,
    whole_sum,
)


def token_kl(
    heads: Heads,
    measure: Measure,
    *,
    block_M: int | None,
    block_V: int | None,
    interpret: bool = False,
) -> jax.Array:
    """`interpret` runs the kernels' steps in XLA.

    Raises:
      ValueError: for top_k, which `chunked` and `reference` alone have.
    """
    if measure.top_k is not None:
        raise ValueError(
            f"top_k={measure.top_k} needs implementation='chunked'; pallas_tpu sums over the whole "
            "vocabulary."
        )
    setting = tpu.choose_setting(
        _arrays(heads), block_M=block_M, block_V=block_V, interpret=interpret
    )
    return _fused(heads, measure, setting)


def fits(heads: Heads, measure: Measure) -> bool:
    """Whether the kernels know the measure and can be compiled for these widths."""
    return measure.top_k is None and tpu.fits(_arrays(heads))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _fused(heads: Heads, measure: Measure, setting: tpu.Setting) -> jax.Array:
    return _forward(heads, measure, setting)[0]


def _arrays(heads: Heads, *columns: jax.Array) -> tpu.Arrays:
    """With the inverse temperature as the last of the columns; the student comes first."""
    return tpu.Arrays(
        (*columns, heads.inverse_M),
        (heads.student_hidden_MD, *heads.teacher_hidden_ME),
        (heads.student_VD, *heads.teacher_VE),
    )


def _logits(read: tpu.Arrays, measure: Measure) -> tuple[jax.Array, jax.Array]:
    """The student's and the teacher's logits over the temperature."""
    (hidden, *of_teacher), (head, *teacher_heads) = (
        [block[...] for block in blocks] for blocks in (read.hidden, read.heads)
    )
    inverse = read.columns[-1][...]
    x = streaming.block_logits(hidden, head, inverse, measure.soft_cap)
    return x, teacher_logits(of_teacher, teacher_heads, inverse, measure)


# ---------------------------------------------------------------------------- values
def _forward(
    heads: Heads, measure: Measure, setting: tpu.Setting
) -> tuple[jax.Array, tuple[Heads, Sums]]:
    def run(kernel: Any, *columns: jax.Array, outputs: int, scratch: int) -> list[jax.Array]:
        bound = functools.partial(kernel, measure=measure)
        arrays = _arrays(heads, *columns)
        return tpu.values(bound, arrays, setting, outputs=outputs, scratch=scratch)

    if measure.needs_both_sums_first:
        own = run(_logsumexp_kernel, outputs=2, scratch=4)
        pair = [whole_logsumexp(own_M, measure) for own_M in own]
        terms_of_part = run(_term_kernel, *pair, outputs=2, scratch=2)
        value_M, slope_M = (whole_sum(own_M, measure) for own_M in terms_of_part)
        return value_M, (heads, Sums(*(x_M[:, None] for x_M in (*pair, slope_M))))
    kl_M1, student_M1, teacher_M1 = (x_M[:, None] for x_M in run(_kl_kernel, outputs=3, scratch=5))
    value_M1, sums = sums_of_kl(kl_M1, student_M1, teacher_M1, measure)
    return value_M1[:, 0], (heads, sums)


def _kl_kernel(
    read: tpu.Arrays, outputs: Sequence[Any], scratch: Sequence[Any], edges: tpu.Edges,
    *, measure: Measure,
) -> None:  # fmt: skip
    """KL(p‖q) = Σ_v p_v (x_v − y_v) − logsumexp x + logsumexp y, p the student if reverse; the sum
    is kept relative to both running maxima."""
    value, student, teacher = outputs
    of_p, of_q, weighted = scratch[:2], scratch[2:4], scratch[4]
    reverse = measure.kind == "reverse"
    tpu.clear(weighted, runs=[of_p, of_q])
    x, y = map(edges.logits, _logits(read, measure))
    p, p_after, p_shifted = tpu.extend(of_p, x if reverse else y)
    q, q_after, q_shifted = tpu.extend(of_q, y if reverse else x)
    moved = (p.max_M1 - p_after.max_M1) - (q.max_M1 - q_after.max_M1)
    weighted[...] = streaming.extend_sum(weighted[...], p, p_after, moved_M1=moved) + jnp.sum(
        jnp.exp(p_shifted) * (p_shifted - q_shifted), axis=1, keepdims=True
    )

    @pl.when(tpu.is_last())
    def _() -> None:
        relative = weighted[...] / p_after.total_M1
        value[...] = relative - jnp.log(p_after.total_M1) + jnp.log(q_after.total_M1)
        pair = (p_after, q_after) if reverse else (q_after, p_after)
        student[...], teacher[...] = map(streaming.logsumexp, pair)


def _logsumexp_kernel(
    read: tpu.Arrays, outputs: Sequence[Any], scratch: Sequence[Any], edges: tpu.Edges,
    *, measure: Measure,
) -> None:  # fmt: skip
    student, teacher = outputs
    of_p, of_q = scratch[:2], scratch[2:]
    tpu.clear(runs=[of_p, of_q])
    x, y = map(edges.logits, _logits(read, measure))
    p, q = tpu.extend(of_p, x)[1], tpu.extend(of_q, y)[1]

    @pl.when(tpu.is_last())
    def _() -> None:
        student[...], teacher[...] = map(streaming.logsumexp, (p, q))


def _term_kernel(
    read: tpu.Arrays, outputs: Sequence[Any], scratch: Sequence[Any], edges: tpu.Edges,
    *, measure: Measure,
) -> None:  # fmt: skip
    """Σ_v of the values and of the slopes, under both logsumexps."""
    student, teacher, _inverse = read.columns
    tpu.clear(*scratch)
    x, y = _logits(read, measure)
    found = terms(x - student[...], y - teacher[...], measure)
    for sum_ref, each in zip(scratch, found, strict=True):
        sum_ref[...] += jnp.sum(jnp.where(edges.is_legal(x), each, 0.0), axis=1, keepdims=True)

    @pl.when(tpu.is_last())
    def _() -> None:
        for output, sum_ref in zip(outputs, scratch, strict=True):
            output[...] = sum_ref[...]


# ---------------------------------------------------------------------------- gradients
def _backward(
    measure: Measure, setting: tpu.Setting, saved: tuple[Heads, Sums], cotangent_M: jax.Array
) -> tuple[Heads]:
    heads, sums = saved
    cotangent_M = _sharded.cotangent(cotangent_M, measure.vocab_axis, of_head=heads.student_VD)
    columns = (cotangent_M * heads.inverse_M, *(x_M1[:, 0] for x_M1 in sums))
    slopes = functools.partial(_slopes, measure=measure)
    dhidden_MD, dhead_VD = tpu.gradients(slopes, _arrays(heads, *columns), setting)
    none = streaming.NO_GRADIENT
    return (Heads(dhidden_MD, dhead_VD, none, none, none),)


def _slopes(read: tpu.Arrays, edges: tpu.Edges, *, measure: Measure) -> jax.Array:
    """∂/∂x_v = slope_v − p_v Σ_u slope_u, times the cotangent, over the temperature."""
    del edges
    scale, student, teacher, slope, inverse = (ref[...] for ref in read.columns)
    x, y = _logits(read, measure)
    logp = x - student
    _, each = terms(logp, y - teacher, measure)
    d = scale * (each - jnp.exp(logp) * slope)
    return streaming.through_cap(d, x, inverse, measure.soft_cap)


_fused.defvjp(_forward, _backward)
