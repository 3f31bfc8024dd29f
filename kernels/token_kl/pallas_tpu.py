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
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from jaxevo.kernels import _pallas_tpu as tpu
from jaxevo.kernels import _streaming as streaming
from jaxevo.kernels.token_kl._divergence import terms
from jaxevo.kernels.token_kl._types import Heads, Measure, Sums


def token_kl(
    heads: Heads,
    measure: Measure,
    *,
    block_M: int | None = None,
    block_V: int | None = None,
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
    (rows, width), vocabulary = heads.student_hidden_MD.shape, heads.student_VD.shape[0]
    both = width + heads.teacher_hidden_ME.shape[1]
    itemsize = max(x.dtype.itemsize for x in heads[:4])
    setting = tpu.choose_setting(
        rows, vocabulary, both, width, itemsize,
        block_M=block_M, block_V=block_V, interpret=interpret,
    )  # fmt: skip
    return _fused(heads, measure, setting)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _fused(heads: Heads, measure: Measure, setting: tpu.Setting) -> jax.Array:
    return _forward(heads, measure, setting)[0]


def _arrays(heads: Heads, *columns: jax.Array) -> tpu.Arrays:
    """With the inverse temperature as the last of the columns; the student comes first."""
    return tpu.Arrays(
        (*columns, heads.inverse_M),
        (heads.student_hidden_MD, heads.teacher_hidden_ME),
        (heads.student_VD, heads.teacher_VE),
    )


def _logits(
    inverse: Any, hidden: jax.Array, other_hidden: Any, head: jax.Array, other_head: Any
) -> tuple[jax.Array, jax.Array]:
    """The student's and the teacher's logits over the temperature."""
    x = streaming.dot(hidden, head, (1, 1)) * inverse[...]
    return x, streaming.dot(other_hidden[...], other_head[...], (1, 1)) * inverse[...]


# ---------------------------------------------------------------------------- values
def _forward(
    heads: Heads, measure: Measure, setting: tpu.Setting
) -> tuple[jax.Array, tuple[Heads, Sums]]:
    def run(kernel: Any, *columns: jax.Array, outputs: int, scratch: int) -> list[jax.Array]:
        bound = functools.partial(kernel, measure=measure)
        arrays = _arrays(heads, *columns)
        return tpu.values(bound, arrays, setting, outputs=outputs, scratch=scratch)

    if measure.kind == "js":  # the logarithm of a mixture needs both logsumexps first
        pair = run(_logsumexp_kernel, outputs=2, scratch=4)
        value_M, slope_M = run(_mixture_kernel, *pair, outputs=2, scratch=2)
        student_M, teacher_M = pair
    else:
        value_M, student_M, teacher_M = run(_kl_kernel, outputs=3, scratch=5)
        slope_M = value_M if measure.kind == "reverse" else jnp.zeros_like(value_M)
    sums = Sums(*(x_M[:, None] for x_M in (student_M, teacher_M, slope_M)))
    return value_M, (heads, sums)


def _kl_kernel(
    inverse: Any, hidden: Any, other_hidden: Any, head: Any, other_head: Any,
    value: Any, student: Any, teacher: Any,
    p_largest: Any, p_total: Any, q_largest: Any, q_total: Any, weighted: Any,
    *, measure: Measure, edges: tpu.Edges,
) -> None:  # fmt: skip
    """KL(p‖q) = Σ_v p_v (x_v − y_v) − logsumexp x + logsumexp y, p the student if reverse; the sum
    is kept relative to both running maxima."""
    reverse = measure.kind == "reverse"
    of_p, of_q = (p_largest, p_total), (q_largest, q_total)
    tpu.clear(weighted, runs=[of_p, of_q])
    x, y = map(edges.logits, _logits(inverse, hidden[...], other_hidden, head[...], other_head))
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
    inverse: Any, hidden: Any, other_hidden: Any, head: Any, other_head: Any,
    student: Any, teacher: Any,
    p_largest: Any, p_total: Any, q_largest: Any, q_total: Any,
    *, measure: Measure, edges: tpu.Edges,
) -> None:  # fmt: skip
    del measure
    of_p, of_q = (p_largest, p_total), (q_largest, q_total)
    tpu.clear(runs=[of_p, of_q])
    x, y = map(edges.logits, _logits(inverse, hidden[...], other_hidden, head[...], other_head))
    (_, p, _), (_, q, _) = tpu.extend(of_p, x), tpu.extend(of_q, y)

    @pl.when(tpu.is_last())
    def _() -> None:
        student[...], teacher[...] = map(streaming.logsumexp, (p, q))


def _mixture_kernel(
    student: Any, teacher: Any,
    inverse: Any, hidden: Any, other_hidden: Any, head: Any, other_head: Any,
    value: Any, slope: Any,
    value_sum: Any, slope_sum: Any,
    *, measure: Measure, edges: tpu.Edges,
) -> None:  # fmt: skip
    tpu.clear(value_sum, slope_sum)
    x, y = _logits(inverse, hidden[...], other_hidden, head[...], other_head)
    real = edges.ids(x) < edges.vocabulary
    found = terms(x - student[...], y - teacher[...], measure.kind, measure.alpha)
    for sum_ref, each in zip((value_sum, slope_sum), found, strict=True):
        sum_ref[...] += jnp.sum(jnp.where(real, each, 0.0), axis=1, keepdims=True)

    @pl.when(tpu.is_last())
    def _() -> None:
        value[...], slope[...] = value_sum[...], slope_sum[...]


# ---------------------------------------------------------------------------- gradients
def _backward(
    measure: Measure, setting: tpu.Setting, saved: tuple[Heads, Sums], cotangent_M: jax.Array
) -> tuple[Heads]:
    heads, sums = saved
    columns = (cotangent_M * heads.inverse_M, *(x_M1[:, 0] for x_M1 in sums))
    slopes = functools.partial(_slopes, measure=measure)
    dhidden_MD, dhead_VD = tpu.gradients(slopes, _arrays(heads, *columns), setting)
    none = streaming.NO_GRADIENT
    return (Heads(dhidden_MD, dhead_VD, none, none, none),)


def _slopes(
    columns: tuple[Any, ...], hidden: tuple[Any, Any], head: tuple[Any, Any], edges: tpu.Edges,
    *, measure: Measure,
) -> jax.Array:  # fmt: skip
    """∂/∂x_v = slope_v − p_v Σ_u slope_u, times the cotangent, over the temperature."""
    del edges
    *numbers, inverse = columns
    scale, student, teacher, slope = (ref[...] for ref in numbers)
    x, y = _logits(inverse, *hidden, *head)
    logp = x - student
    _, each = terms(logp, y - teacher, measure.kind, measure.alpha)
    return scale * (each - jnp.exp(logp) * slope)


_fused.defvjp(_forward, _backward)
