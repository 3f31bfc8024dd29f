"""Streaming top-k of the student, with the teacher's log-probs of the same tokens."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxevo.kernels import _streaming as streaming
from jaxevo.kernels.token_kl._blocks import both_logits, student_gradients, student_logits
from jaxevo.kernels.token_kl._types import Heads


class _Best(NamedTuple):
    """The student's best K logits so far, the teacher's there, and their columns."""

    student_MK: jax.Array
    teacher_MK: jax.Array
    ids_MK: jax.Array


class _Saved(NamedTuple):
    heads: Heads
    logsumexp_M: jax.Array
    ids_MK: jax.Array


_Carry = tuple[streaming.Running, streaming.Running, _Best]


def top_k_logp(heads: Heads, k: int, block: int) -> tuple[jax.Array, jax.Array]:
    """log p and log q [M, K] of the student's top k tokens, best first; ties to the lower id."""
    return _streamed(heads, k, block)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _streamed(heads: Heads, k: int, block: int) -> tuple[jax.Array, jax.Array]:
    return _forward(heads, k, block)[0]


def _forward(heads: Heads, k: int, block: int) -> tuple[tuple[jax.Array, jax.Array], _Saved]:
    rows = heads.student_hidden_MD.shape[0]

    def body(carry: _Carry, start: jax.Array | int, width: int) -> _Carry:
        student, teacher, best = carry
        x_Mb, y_Mb = both_logits(heads, start, width)
        top_Mk, columns_Mk = lax.top_k(x_Mb, min(k, width))
        here = _Best(top_Mk, jnp.take_along_axis(y_Mb, columns_Mk, axis=1), columns_Mk + start)
        return (
            streaming.extend(student, x_Mb)[0],
            streaming.extend(teacher, y_Mb)[0],
            _better(best, here, k),
        )

    none_yet = jnp.full((rows, k), -jnp.inf, jnp.float32)
    nothing = streaming.no_columns(rows)
    best = _Best(none_yet, none_yet, jnp.zeros((rows, k), jnp.int32))
    student, teacher, best = streaming.scan_blocks(
        body, (nothing, nothing, best), heads.student_VD.shape[0], block
    )
    student_M = streaming.logsumexp(student)
    logp_MK = best.student_MK - student_M[:, None]
    logq_MK = best.teacher_MK - streaming.logsumexp(teacher)[:, None]
    return (logp_MK, logq_MK), _Saved(heads, student_M, best.ids_MK)


def _better(best: _Best, here: _Best, k: int) -> _Best:
    """The best k of both; earlier columns stand first and so win ties, as in one big top-k."""
    both = _Best(*(jnp.concatenate(pair, axis=1) for pair in zip(best, here, strict=True)))
    top_MK, places_MK = lax.top_k(both.student_MK, k)
    return _Best(
        top_MK,
        jnp.take_along_axis(both.teacher_MK, places_MK, axis=1),
        jnp.take_along_axis(both.ids_MK, places_MK, axis=1),
    )


def _backward(
    k: int, block: int, saved: _Saved, cotangents: tuple[jax.Array, jax.Array]
) -> tuple[Heads]:
    """∂/∂x_v = Σ_k g_k 1[v = id_k] − p_v Σ_k g_k; the teacher's cotangent goes nowhere."""
    del k
    heads, logsumexp_M, ids_MK = saved
    g_MK = cotangents[0] * heads.inverse_M[:, None]
    total_M = jnp.sum(g_MK, axis=1)
    row_M1 = jnp.arange(ids_MK.shape[0])[:, None]

    def dlogits_of(start: jax.Array | int, width: int) -> jax.Array:
        x_Mb = student_logits(heads, start, width)
        soft_Mb = -jnp.exp(x_Mb - logsumexp_M[:, None]) * total_M[:, None]
        columns_MK = ids_MK - start
        # A negative index would count from the end: send it past the end, where it is dropped.
        columns_MK = jnp.where(columns_MK < 0, width, columns_MK)
        return soft_Mb.at[row_M1, columns_MK].add(g_MK, mode="drop")

    return (student_gradients(dlogits_of, heads, block),)


_streamed.defvjp(_forward, _backward)
