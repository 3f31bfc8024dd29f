"""Blocks of both heads: what the streaming forms of `token_kl` have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax

from jaxevo.kernels import _streaming as streaming
from jaxevo.kernels.token_kl._types import Heads, Measure


def student_logits(heads: Heads, measure: Measure, start: jax.Array | int, width: int) -> jax.Array:
    """The student's logits of one block over the temperature, [M, b] float32."""
    rows_bD = streaming.block_rows(heads.student_VD, start, width)
    inverse_M1 = heads.inverse_M[:, None]
    return streaming.block_logits(heads.student_hidden_MD, rows_bD, inverse_M1, measure.soft_cap)


def both_logits(
    heads: Heads, measure: Measure, start: jax.Array | int, width: int
) -> tuple[jax.Array, jax.Array]:
    """The student's and the teacher's logits of one block."""
    rows_bE = [streaming.block_rows(head_VE, start, width) for head_VE in heads.teacher_VE]
    teacher_Mb = teacher_logits(heads.teacher_hidden_ME, rows_bE, heads.inverse_M[:, None], measure)
    return student_logits(heads, measure, start, width), teacher_Mb


def teacher_logits(
    hidden: Sequence[jax.Array], rows: Sequence[jax.Array], inverse_M1: jax.Array, measure: Measure
) -> jax.Array:
    """Σ share · logits of the teacher's models over the temperature, [M, b] float32."""
    each = [
        streaming.block_logits(hidden_ME, rows_bE, inverse_M1 * share, measure.soft_cap)
        for hidden_ME, rows_bE, share in zip(hidden, rows, measure.shares, strict=True)
    ]
    return sum(each[1:], each[0])


def student_gradients(
    dlogits_of: Callable[[jax.Array | int, int], jax.Array], heads: Heads, block: int
) -> Heads:
    """Cotangents of the heads: the student's from `dlogits_of(start, width)`, no others."""
    dhidden_MD, dunembed_VD = streaming.head_gradients(
        dlogits_of, heads.student_hidden_MD, heads.student_VD, block
    )
    none = streaming.NO_GRADIENT
    return Heads(dhidden_MD, dunembed_VD, none, none, none)
