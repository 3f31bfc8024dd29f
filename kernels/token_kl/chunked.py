"""`token_kl` over vocabulary blocks in XLA: one pass forward, one for the gradients.

JS and clipped terms take two passes forward.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxevo.kernels import _sharded
from jaxevo.kernels import _streaming as streaming
from jaxevo.kernels.token_kl._blocks import both_logits, student_gradients
from jaxevo.kernels.token_kl._chunked_top_k import top_k_supports
from jaxevo.kernels.token_kl._divergence import divergence, on_support, terms
from jaxevo.kernels.token_kl._types import (
    Heads,
    Measure,
    Sums,
    sums_of_kl,
    whole_logsumexp,
    whole_sum,
)


def token_kl(
    heads: Heads, measure: Measure, *, block_M: int | None, block_V: int | None
) -> jax.Array:
    """Streams over blocks of `block_V` columns of both heads at once."""
    del block_M
    rows, vocabulary = heads.student_hidden_MD.shape[0], heads.student_VD.shape[0]
    block = block_V or streaming.default_block(rows, vocabulary)
    if measure.top_k is None:
        return _streamed(heads, measure, block)
    student, teacher = top_k_supports(heads, measure, block)
    logp_MK, logq_MK = (on_support(support, tail=measure.tail) for support in (student, teacher))
    return divergence(logp_MK, logq_MK, measure)


_Pair = tuple[streaming.Running, streaming.Running]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _streamed(heads: Heads, measure: Measure, block: int) -> jax.Array:
    return _forward(heads, measure, block)[0]


def _forward(heads: Heads, measure: Measure, block: int) -> tuple[jax.Array, tuple[Heads, Sums]]:
    forward = _two_passes if measure.needs_both_sums_first else _one_pass
    value_M, sums = forward(heads, measure, block)
    return value_M, (heads, sums)


def _one_pass(heads: Heads, measure: Measure, block: int) -> tuple[jax.Array, Sums]:
    """KL(p‖q) = Σ_v p_v (x_v − y_v) − logsumexp x + logsumexp y, with p the student if reverse.

    The sum is kept relative to both running maxima, so that equal logits give exactly 0 and large
    ones do not cancel.
    """
    reverse = measure.kind == "reverse"

    def body(
        carry: tuple[_Pair, jax.Array], start: jax.Array | int, width: int
    ) -> tuple[_Pair, jax.Array]:
        (p, q), weighted_M1 = carry
        x_Mb, y_Mb = both_logits(heads, measure, start, width)
        if not reverse:
            x_Mb, y_Mb = y_Mb, x_Mb
        p_after, x_Mb = streaming.extend(p, x_Mb)
        q_after, y_Mb = streaming.extend(q, y_Mb)
        moved_M1 = (p.max_M1 - p_after.max_M1) - (q.max_M1 - q_after.max_M1)
        weighted_M1 = streaming.extend_sum(weighted_M1, p, p_after, moved_M1=moved_M1)
        weighted_M1 += jnp.sum(jnp.exp(x_Mb) * (x_Mb - y_Mb), axis=1, keepdims=True)
        return (p_after, q_after), weighted_M1

    rows, vocabulary = heads.student_hidden_MD.shape[0], heads.student_VD.shape[0]
    nothing = streaming.no_columns(rows)
    start = (nothing, nothing), jnp.zeros((rows, 1), jnp.float32)
    (p, q), weighted_M1 = streaming.scan_blocks(body, start, vocabulary, block)
    kl_M1 = weighted_M1 / p.total_M1 - jnp.log(p.total_M1) + jnp.log(q.total_M1)
    student_M1, teacher_M1 = map(streaming.logsumexp, (p, q) if reverse else (q, p))
    kl_M1, sums = sums_of_kl(kl_M1, student_M1, teacher_M1, measure)
    return kl_M1[:, 0], sums


def _two_passes(heads: Heads, measure: Measure, block: int) -> tuple[jax.Array, Sums]:
    """Both logsumexps, then Σ_v of the terms."""
    rows, vocabulary = heads.student_hidden_MD.shape[0], heads.student_VD.shape[0]

    def add_up(carry: _Pair, start: jax.Array | int, width: int) -> _Pair:
        x_Mb, y_Mb = both_logits(heads, measure, start, width)
        return streaming.extend(carry[0], x_Mb)[0], streaming.extend(carry[1], y_Mb)[0]

    nothing = streaming.no_columns(rows)
    pair = streaming.scan_blocks(add_up, (nothing, nothing), vocabulary, block)
    student_M1, teacher_M1 = (whole_logsumexp(streaming.logsumexp(run), measure) for run in pair)

    def compare(
        carry: tuple[jax.Array, jax.Array], start: jax.Array | int, width: int
    ) -> tuple[jax.Array, jax.Array]:
        x_Mb, y_Mb = both_logits(heads, measure, start, width)
        found = terms(x_Mb - student_M1, y_Mb - teacher_M1, measure)
        value_M1, slope_M1 = (jnp.sum(each_Mb, axis=1, keepdims=True) for each_Mb in found)
        return carry[0] + value_M1, carry[1] + slope_M1

    zero_M1 = jnp.zeros((rows, 1), jnp.float32)
    own = streaming.scan_blocks(compare, (zero_M1, zero_M1), vocabulary, block)
    value_M1, slope_M1 = (whole_sum(each_M1, measure) for each_M1 in own)
    return value_M1[:, 0], Sums(student_M1, teacher_M1, slope_M1)


def _backward(
    measure: Measure, block: int, saved: tuple[Heads, Sums], cotangent_M: jax.Array
) -> tuple[Heads]:
    """∂/∂x_v = slope_v − p_v Σ_u slope_u, times the cotangent, over the temperature."""
    heads, sums = saved
    cotangent_M = _sharded.cotangent(cotangent_M, measure.vocab_axis, of_head=heads.student_VD)
    scale_M1 = (cotangent_M * heads.inverse_M)[:, None]

    def dlogits_of(start: jax.Array | int, width: int) -> jax.Array:
        x_Mb, y_Mb = both_logits(heads, measure, start, width)
        logp_Mb, logq_Mb = x_Mb - sums.student_M1, y_Mb - sums.teacher_M1
        _, slope_Mb = terms(logp_Mb, logq_Mb, measure)
        d_Mb = scale_M1 * (slope_Mb - jnp.exp(logp_Mb) * sums.slope_M1)
        return streaming.through_cap(d_Mb, x_Mb, heads.inverse_M[:, None], measure.soft_cap)

    return (student_gradients(dlogits_of, heads, block),)


_streamed.defvjp(_forward, _backward)
