"""`token_kl` as Pallas TPU kernels: values, gradient of hidden states, gradient of the head.

Values, and the gradient of the hidden states: grid (M / rows, V / columns), inner axis last

      HBM                              VMEM, per step (i, j)                       HBM
      both hidden [M, D], [M, E] -i->  [rows, D], [rows, E]      stay for all j
      both heads  [V, D], [V, E] -j->  [columns, D], [columns, E]  stream by
                                       two blocks of logits [rows, columns]
                                       two running maxima and sums [rows, 1], or
                                       Σ_j dlogits · head [rows, D], float32  -->  at the last j

Gradient of the head: grid (V / columns, M / rows); blocks of both heads stay, hidden states stream
by, and Σ_i dlogitsᵀ · hidden [columns, D] is summed. Neither model's logits leave VMEM.

Products of 2 M D V FLOPs: 2 for the value (js: 4, the logarithm of a mixture needs both logsumexps
first) and 3 for each gradient, 8 in all (js: 10).
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
from jaxevo.kernels.token_kl._divergence import terms
from jaxevo.kernels.token_kl._types import Heads, Measure


class _Sums(NamedTuple):
    """What the gradient needs: both logsumexps, and Σ_v of the slopes."""

    student_M: jax.Array
    teacher_M: jax.Array
    slope_M: jax.Array


def token_kl(
    heads: Heads,
    measure: Measure,
    *,
    block_M: int | None = None,
    block_V: int | None = None,
    chip: str | None = None,
    interpret: bool = False,
) -> jax.Array:
    """`chip` sets limits and default blocks; `interpret` runs the kernels' steps in XLA.

    Raises:
      ValueError: for top_k, which `chunked` and `reference` alone have.
    """
    if measure.top_k is not None:
        raise ValueError(
            f"top_k={measure.top_k} needs implementation='chunked'; pallas_tpu sums over the whole "
            "vocabulary."
        )
    student, teacher = heads.student_hidden_MD.shape[1], heads.teacher_hidden_ME.shape[1]
    itemsize = max(x.dtype.itemsize for x in heads[:4])
    setting = tpu.choose_setting(
        student + teacher,
        student,
        itemsize,
        block_M=block_M,
        block_V=block_V,
        chip=chip,
        interpret=interpret,
    )
    return _fused(heads, measure, setting)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _fused(heads: Heads, measure: Measure, setting: tpu.Setting) -> jax.Array:
    return _forward(heads, measure, setting)[0]


class _Launch(NamedTuple):
    """What all kernels are started with."""

    heads: Heads
    measure: Measure
    setting: tpu.Setting

    def __call__(
        self,
        kernel: Any,
        columns: tuple[jax.Array, ...],
        blocks: tpu.Blocks,
        out_shape: Any,
        scratch: list[tuple[int, int]],
        *,
        of_head: bool = False,
    ) -> Any:
        """The kernel gets the columns [M] and the inverse temperature, both hidden states, both
        heads, the outputs and the scratch. Outputs lie along the first axis of the grid."""
        heads = self.heads
        (rows, width), vocabulary = heads.student_hidden_MD.shape, heads.student_VD.shape[0]
        other = heads.teacher_hidden_ME.shape[1]

        def spec(size: int, width: int, *, by_rows: bool) -> pl.BlockSpec:
            return pl.BlockSpec((size, width), lambda a, b: ((b if by_rows == of_head else a), 0))

        counts = pl.cdiv(rows, blocks.rows), pl.cdiv(vocabulary, blocks.columns)
        size = blocks.columns if of_head else blocks.rows
        edges = tpu.Edges(rows, vocabulary, of_head)
        columns = (*columns, heads.inverse_M)
        return pl.pallas_call(
            functools.partial(kernel, measure=self.measure, edges=edges),
            grid=counts[::-1] if of_head else counts,
            in_specs=[
                *[spec(blocks.rows, 1, by_rows=True)] * len(columns),
                spec(blocks.rows, width, by_rows=True),
                spec(blocks.rows, other, by_rows=True),
                spec(blocks.columns, width, by_rows=False),
                spec(blocks.columns, other, by_rows=False),
            ],
            out_specs=jax.tree.map(
                lambda x: spec(size, x.shape[1], by_rows=not of_head), out_shape
            ),
            out_shape=out_shape,
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
            compiler_params=tpu.parameters(self.setting.chip),
            interpret=self.setting.interpret,
        )(
            *(x_M[:, None] for x_M in columns),
            heads.student_hidden_MD,
            heads.teacher_hidden_ME,
            heads.student_VD,
            heads.teacher_VE,
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
) -> tuple[jax.Array, tuple[Heads, _Sums]]:
    launch, blocks = _Launch(heads, measure, setting), setting.tiles.values
    number = jax.ShapeDtypeStruct((heads.student_hidden_MD.shape[0], 1), jnp.float32)
    column = (blocks.rows, 1)

    def run(kernel: Any, columns: tuple[jax.Array, ...], outputs: int, scratch: int) -> Any:
        out = launch(kernel, columns, blocks, [number] * outputs, [column] * scratch)
        return [x_M1[:, 0] for x_M1 in out]

    if measure.kind == "js":  # the logarithm of a mixture needs both logsumexps first
        pair = run(_logsumexp_kernel, (), outputs=2, scratch=4)
        value_M, slope_M = run(_mixture_kernel, tuple(pair), outputs=2, scratch=2)
        return value_M, (heads, _Sums(*pair, slope_M))
    value_M, student_M, teacher_M = run(_kl_kernel, (), outputs=3, scratch=5)
    slope_M = value_M if measure.kind == "reverse" else jnp.zeros_like(value_M)
    return value_M, (heads, _Sums(student_M, teacher_M, slope_M))


def _kl_kernel(
    inverse: Any, hidden: Any, other_hidden: Any, head: Any, other_head: Any,
    value: Any, student: Any, teacher: Any,
    p_largest: Any, p_total: Any, q_largest: Any, q_total: Any, weighted: Any,
    *, measure: Measure, edges: tpu.Edges,
) -> None:  # fmt: skip
    """KL(p‖q) = Σ_v p_v (x_v − y_v) − logsumexp x + logsumexp y, p the student if reverse; the sum
    is kept relative to both running maxima."""
    reverse = measure.kind == "reverse"
    tpu.clear(p_total, q_total, weighted, maxima=(p_largest, q_largest))
    x, y = _logits(inverse, hidden[...], other_hidden, head[...], other_head)
    real = edges.ids(x) < edges.vocabulary
    p = tpu.extend(p_largest, p_total, x if reverse else y, real)
    q = tpu.extend(q_largest, q_total, y if reverse else x, real)
    weighted[...] = p.carried(weighted[...], p.moved - q.moved) + jnp.sum(
        p.weight * (p.shifted - q.shifted), axis=1, keepdims=True
    )

    @pl.when(tpu.is_last())
    def _() -> None:
        log_p, log_q = jnp.log(p_total[...]), jnp.log(q_total[...])
        value[...] = weighted[...] / p_total[...] - log_p + log_q
        of_p, of_q = p_largest[...] + log_p, q_largest[...] + log_q
        student[...], teacher[...] = (of_p, of_q) if reverse else (of_q, of_p)


def _logsumexp_kernel(
    inverse: Any, hidden: Any, other_hidden: Any, head: Any, other_head: Any,
    student: Any, teacher: Any,
    p_largest: Any, p_total: Any, q_largest: Any, q_total: Any,
    *, measure: Measure, edges: tpu.Edges,
) -> None:  # fmt: skip
    del measure
    tpu.clear(p_total, q_total, maxima=(p_largest, q_largest))
    x, y = _logits(inverse, hidden[...], other_hidden, head[...], other_head)
    real = edges.ids(x) < edges.vocabulary
    tpu.extend(p_largest, p_total, x, real)
    tpu.extend(q_largest, q_total, y, real)

    @pl.when(tpu.is_last())
    def _() -> None:
        student[...] = p_largest[...] + jnp.log(p_total[...])
        teacher[...] = q_largest[...] + jnp.log(q_total[...])


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
    measure: Measure, setting: tpu.Setting, saved: tuple[Heads, _Sums], cotangent_M: jax.Array
) -> tuple[Heads]:
    """∂/∂x_v = slope_v − p_v Σ_u slope_u, times the cotangent, over the temperature."""
    heads, sums = saved
    launch, columns = _Launch(heads, measure, setting), (cotangent_M * heads.inverse_M, *sums)

    def gradient(like: jax.Array, blocks: tpu.Blocks, *, of_head: bool) -> jax.Array:
        out = jax.ShapeDtypeStruct(like.shape, like.dtype)
        size = blocks.columns if of_head else blocks.rows
        scratch = [(size, like.shape[1])]
        return launch(_gradient_kernel, columns, blocks, out, scratch, of_head=of_head)

    dhidden_MD = gradient(heads.student_hidden_MD, setting.tiles.hidden, of_head=False)
    dhead_VD = gradient(heads.student_VD, setting.tiles.head, of_head=True)
    none = streaming.NO_GRADIENT
    return (Heads(dhidden_MD, dhead_VD, none, none, none),)


def _gradient_kernel(
    scale: Any, student: Any, teacher: Any, slope: Any,
    inverse: Any, hidden: Any, other_hidden: Any, head: Any, other_head: Any,
    gradient: Any,
    summed: Any,
    *, measure: Measure, edges: tpu.Edges,
) -> None:  # fmt: skip
    tpu.clear(summed)
    hidden_block, head_block = edges.hidden(hidden[...]), edges.head(head[...])
    x, y = _logits(inverse, hidden_block, other_hidden, head_block, other_head)
    logp = x - student[...]
    _, each = terms(logp, y - teacher[...], measure.kind, measure.alpha)
    d = edges.slopes(scale[...] * (each - jnp.exp(logp) * slope[...]))
    d = d.astype(jnp.promote_types(hidden.dtype, head.dtype))
    if edges.of_head:
        summed[...] += streaming.dot(d, hidden_block, (0, 0))
    else:
        summed[...] += streaming.dot(d, head_block, (1, 0))

    @pl.when(tpu.is_last())
    def _() -> None:
        gradient[...] = summed[...].astype(gradient.dtype)


_fused.defvjp(_forward, _backward)
