"""Embedding and heads on a mesh: each device has some rows, and a part of the vocabulary.

On one device, and inside of `jax.shard_map`, the heads are the kernels themselves.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as Spec

from jaxevo import kernels
from jaxevo.parallel.mesh import row_axes, split, traced_mesh, vocab_axis
from jaxevo.types import Array


def fused_logprob(
    hidden_MD: jax.Array,
    unembed_DV: jax.Array,
    targets_M: jax.Array,
    *,
    temperature: Array = 1.0,  # type: ignore[assignment]
    **how: Any,
) -> kernels.LogProbs:
    """`jaxevo.kernels.fused_logprob`, whose options these are, but `vocab_axis`."""
    mesh = traced_mesh()
    if mesh is None:
        return kernels.fused_logprob(
            hidden_MD, unembed_DV, targets_M, temperature=temperature, **how
        )
    rows = row_axes(mesh, hidden_MD.shape[0])
    vocab = None if how.get("legal") else vocab_axis(mesh, unembed_DV.shape[1])
    temperature = jnp.asarray(temperature)

    def own(hidden: jax.Array, head: jax.Array, targets: jax.Array, warm: jax.Array) -> Any:
        return kernels.fused_logprob(
            hidden, head, targets, temperature=warm, vocab_axis=vocab, **how
        )

    specs = (Spec(rows), Spec(None, vocab), Spec(rows), Spec(rows) if temperature.ndim else Spec())
    return split(own, specs=specs, out=Spec(rows))(hidden_MD, unembed_DV, targets_M, temperature)


def token_kl(
    student_hidden_MD: jax.Array,
    teacher_hidden_ME: jax.Array,
    student_unembed_DV: jax.Array,
    teacher_unembed_EV: jax.Array,
    *,
    blend: kernels.Blend | None = None,
    temperature: Array = 1.0,  # type: ignore[assignment]
    **how: Any,
) -> jax.Array:
    """`jaxevo.kernels.token_kl`, whose options these are, but `vocab_axis`.

    With `top_k` the vocabulary stays whole on each device.
    """
    arrays = (student_hidden_MD, teacher_hidden_ME, student_unembed_DV, teacher_unembed_EV)
    mesh = traced_mesh()
    if mesh is None:
        return kernels.token_kl(*arrays, blend=blend, temperature=temperature, **how)
    rows = row_axes(mesh, student_hidden_MD.shape[0])
    whole = how.get("top_k") is not None
    vocab = None if whole else vocab_axis(mesh, student_unembed_DV.shape[1])
    temperature = jnp.asarray(temperature)
    second = () if blend is None else (blend.hidden_MF, blend.unembed_FV)

    def own(warm: jax.Array, *parts: jax.Array) -> jax.Array:
        p, q, p_head, q_head, *more = parts
        mixed = blend and kernels.Blend(more[0], more[1], blend.share)
        return kernels.token_kl(
            p, q, p_head, q_head, blend=mixed, temperature=warm, vocab_axis=vocab, **how
        )

    head, warm = Spec(None, vocab), Spec(rows) if temperature.ndim else Spec()
    specs = (warm, Spec(rows), Spec(rows), head, head, *(Spec(rows), head)[: len(second)])
    return split(own, specs=specs, out=Spec(rows))(temperature, *arrays, *second)


def embedded(table_VD: jax.Array, ids: Array) -> jax.Array:
    """The rows of an embedding for token ids `[B, ...]`; ids outside the vocabulary are clipped.

    Each device looks up the ids of its part, and the parts are summed.
    """
    mesh, vocabulary = traced_mesh(), table_VD.shape[0]
    vocab = None if mesh is None else vocab_axis(mesh, vocabulary)
    if vocab is None:
        return jnp.take(table_VD, ids, axis=0, mode="clip")
    rows = row_axes(mesh, np.shape(ids)[0])

    def own(table: jax.Array, ids: jax.Array) -> jax.Array:
        local = jnp.clip(ids, 0, vocabulary - 1) - jax.lax.axis_index(vocab) * table.shape[0]
        here = (local >= 0) & (local < table.shape[0])
        found = jnp.take(table, jnp.where(here, local, 0), axis=0)
        return jax.lax.psum(jnp.where(here[..., None], found, 0), vocab)

    return split(own, specs=(Spec(vocab), Spec(rows)), out=Spec(rows))(table_VD, ids)
