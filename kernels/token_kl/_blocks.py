"""Blocks of both heads: what the streaming forms of `token_kl` have in common."""

from __future__ import annotations

from collections.abc import Callable

import jax

from jaxevo.kernels import _streaming as streaming
from jaxevo.kernels.token_kl._types import Heads


def student_logits(heads: Heads, start: jax.Array | int, width: int) -> jax.Array:
    """The student's logits of one block over the temperature, [M, b] float32."""
    rows_bD = streaming.block_rows(heads.student_VD, start, width)
    return streaming.block_logits(heads.student_hidden_MD, rows_bD, heads.inverse_M)


def both_logits(heads: Heads, start: jax.Array | int, width: int) -> tuple[jax.Array, jax.Array]:
    """The student's and the teacher's logits of one block."""
    rows_bE = streaming.block_rows(heads.teacher_VE, start, width)
    teacher_Mb = streaming.block_logits(heads.teacher_hidden_ME, rows_bE, heads.inverse_M)
    return student_logits(heads, start, width), teacher_Mb


def student_gradients(
    dlogits_of: Callable[[jax.Array | int, int], jax.Array], heads: Heads, block: int
) -> Heads:
    """Cotangents of the heads: the student's from `dlogits_of(start, width)`, no others."""
    dhidden_MD, dunembed_VD = streaming.head_gradients(
        dlogits_of, heads.student_hidden_MD, heads.student_VD, block
    )
    none = streaming.NO_GRADIENT
    return Heads(dhidden_MD, dunembed_VD, none, none, none)
