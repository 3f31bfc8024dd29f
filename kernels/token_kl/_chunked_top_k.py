"""Streaming top-k of the student: log-probs of these tokens and of all the others together."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxevo.kernels import _streaming as streaming
from jaxevo.kernels.token_kl._blocks import both_logits, student_gradients, student_logits
from jaxevo.kernels.token_kl._divergence import Support
from jaxevo.kernels.token_kl._types import Heads, Measure


class _Best(NamedTuple):
    """The student's best logits, best first, the teacher's there, and their columns."""

    student_MK: jax.Array
    teacher_MK: jax.Array
    ids_MK: jax.Array


class _Saved(NamedTuple):
    heads: Heads
    ids_MK: jax.Array
    logp_MK: jax.Array
    logsumexp_M: jax.Array
    logsumexp_rest_M: jax.Array


_Carry = tuple[_Best, streaming.Running, streaming.Running]


def top_k_supports(heads: Heads, measure: Measure, block: int) -> tuple[Support, Support]:
    """Student and teacher on the student's top k tokens; ties go to the lower id."""
    assert measure.top_k is not None
    return _streamed(heads, measure, measure.top_k, block)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _streamed(heads: Heads, measure: Measure, k: int, block: int) -> tuple[Support, Support]:
    return _forward(heads, measure, k, block)[0]


def _forward(
    heads: Heads, measure: Measure, k: int, block: int
) -> tuple[tuple[Support, Support], _Saved]:
    rows = heads.student_hidden_MD.shape[0]

    def body(carry: _Carry, start: jax.Array | int, width: int) -> _Carry:
        best, student_rest, teacher_rest = carry
        x_Mb, y_Mb = both_logits(heads, measure, start, width)
        top_Mk, columns_Mk = lax.top_k(x_Mb, min(k, width))
        here = _Best(top_Mk, jnp.take_along_axis(y_Mb, columns_Mk, axis=1), columns_Mk + start)
        best, dropped = _merge(best, here, k)
        rest_x_Mb, rest_y_Mb = (_without(z_Mb, columns_Mk) for z_Mb in (x_Mb, y_Mb))
        rest_x_Mb = jnp.concatenate([rest_x_Mb, dropped.student_MK], axis=1)
        rest_y_Mb = jnp.concatenate([rest_y_Mb, dropped.teacher_MK], axis=1)
        student_rest, _ = streaming.extend(student_rest, rest_x_Mb)
        teacher_rest, _ = streaming.extend(teacher_rest, rest_y_Mb)
        return best, student_rest, teacher_rest

    none_yet = jnp.full((rows, k), -jnp.inf, jnp.float32)
    best = _Best(none_yet, none_yet, jnp.zeros((rows, k), jnp.int32))
    nothing = streaming.no_columns(rows)
    best, student_rest, teacher_rest = streaming.scan_blocks(
        body, (best, nothing, nothing), heads.student_VD.shape[0], block
    )
    student, logsumexp_M = _support(best.student_MK, student_rest)
    teacher, _ = _support(best.teacher_MK, teacher_rest)
    rest_M = streaming.logsumexp(student_rest)[:, 0]
    return (student, teacher), _Saved(heads, best.ids_MK, student.logp_MK, logsumexp_M, rest_M)


def _merge(best: _Best, here: _Best, k: int) -> tuple[_Best, _Best]:
    """The best k of both, and the others; earlier columns stand first and so win ties."""
    both = _Best(*(jnp.concatenate(pair, axis=1) for pair in zip(best, here, strict=True)))
    _, order = lax.top_k(both.student_MK, both.student_MK.shape[1])
    ranked = [jnp.take_along_axis(part, order, axis=1) for part in both]
    return _Best(*(part[:, :k] for part in ranked)), _Best(*(part[:, k:] for part in ranked))


def _without(x_Mb: jax.Array, columns_Mk: jax.Array) -> jax.Array:
    rows_M1 = jnp.arange(x_Mb.shape[0])[:, None]
    return x_Mb.at[rows_M1, columns_Mk].set(-jnp.inf)


def _support(top_MK: jax.Array, rest: streaming.Running) -> tuple[Support, jax.Array]:
    """Logits normalised over both parts, and the logsumexp of both."""
    rest_M = streaming.logsumexp(rest)[:, 0]
    logsumexp_M = jnp.logaddexp(jax.nn.logsumexp(top_MK, axis=1), rest_M)
    return Support(top_MK - logsumexp_M[:, None], rest_M - logsumexp_M), logsumexp_M


def _backward(
    measure: Measure, k: int, block: int, saved: _Saved, cotangents: tuple[Support, Support]
) -> tuple[Heads]:
    """∂/∂x_v = g_k − p_v Σg for a top token, g_rest p_v / p_rest − p_v Σg for any other.

    The teacher's cotangent goes nowhere.
    """
    del k
    heads = saved.heads
    of_student, _ = cotangents
    g_MK = of_student.logp_MK * heads.inverse_M[:, None]
    g_rest_M1 = (of_student.log_rest_M * heads.inverse_M)[:, None]
    g_all_M1 = jnp.sum(g_MK, axis=1, keepdims=True) + g_rest_M1
    top_MK = g_MK - jnp.exp(saved.logp_MK) * g_all_M1
    rows_M1 = jnp.arange(g_MK.shape[0])[:, None]

    def dlogits_of(start: jax.Array | int, width: int) -> jax.Array:
        x_Mb = student_logits(heads, measure, start, width)
        p_Mb = jnp.exp(x_Mb - saved.logsumexp_M[:, None])
        of_rest_Mb = jnp.exp(x_Mb - saved.logsumexp_rest_M[:, None])
        # Columns of top tokens may have overflowed here; they are overwritten.
        other_Mb = g_rest_M1 * of_rest_Mb - p_Mb * g_all_M1
        columns_MK = saved.ids_MK - start
        # A negative index would count from the end: send it past the end, where it is dropped.
        columns_MK = jnp.where(columns_MK < 0, width, columns_MK)
        d_Mb = other_Mb.at[rows_M1, columns_MK].set(top_MK, mode="drop")
        return streaming.through_cap(d_Mb, x_Mb, heads.inverse_M[:, None], measure.soft_cap)

    return (student_gradients(dlogits_of, heads, block),)


_streamed.defvjp(_forward, _backward)
