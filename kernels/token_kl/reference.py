"""`token_kl` in plain jnp: the truth that the other implementations are tested against."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from jaxevo.kernels import _dispatch
from jaxevo.kernels._streaming import block_logits
from jaxevo.kernels.token_kl._blocks import teacher_logits
from jaxevo.kernels.token_kl._divergence import Support, divergence, on_support
from jaxevo.kernels.token_kl._types import Heads, Measure


def token_kl(
    heads: Heads, measure: Measure, *, block_M: int | None, block_V: int | None
) -> jax.Array:
    """Materialises both logits; differentiated by JAX.

    Raises:
      ValueError: for a vocabulary that is split over devices.
    """
    del block_M, block_V
    _dispatch.refuse_split(measure.vocab_axis)
    inverse_M1 = heads.inverse_M[:, None]
    x_MV = block_logits(heads.student_hidden_MD, heads.student_VD, inverse_M1, measure.soft_cap)
    y_MV = teacher_logits(heads.teacher_hidden_ME, heads.teacher_VE, inverse_M1, measure)
    return from_logits(x_MV, y_MV, measure)


def from_logits(x_MV: jax.Array, y_MV: jax.Array, measure: Measure) -> jax.Array:
    """Of the student's and the teacher's logits over the temperature."""
    logp_MV = x_MV - jax.nn.logsumexp(x_MV, axis=1, keepdims=True)
    logq_MV = y_MV - jax.nn.logsumexp(y_MV, axis=1, keepdims=True)
    if measure.top_k is None:
        return divergence(logp_MV, logq_MV, measure)
    _, ids_MK = lax.top_k(lax.stop_gradient(x_MV), measure.top_k)
    logp_MK, logq_MK = (
        on_support(_support(log_MV, ids_MK), tail=measure.tail) for log_MV in (logp_MV, logq_MV)
    )
    return divergence(logp_MK, logq_MK, measure)


def _support(log_MV: jax.Array, ids_MK: jax.Array) -> Support:
    rows_M1 = jnp.arange(ids_MK.shape[0])[:, None]
    # Not −∞, which would make the gradient NaN where the top tokens are the whole vocabulary.
    rest_MV = log_MV.at[rows_M1, ids_MK].set(jnp.finfo(jnp.float32).min)
    return Support(log_MV[rows_M1, ids_MK], jax.nn.logsumexp(rest_MV, axis=1))
