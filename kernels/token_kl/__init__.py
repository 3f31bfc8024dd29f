"""Divergence between a student's and a teacher's next-token distributions, slot by slot."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jax import lax

from jaxevo.kernels import _dispatch, _sharded
from jaxevo.kernels.token_kl import by_rows, chunked, pallas_tpu, reference
from jaxevo.kernels.token_kl._types import Blend, Heads, Measure

__all__ = ["Blend", "token_kl", "token_kl_sum"]

_IMPLEMENTATIONS = _dispatch.implementations(
    reference.token_kl, chunked.token_kl, pallas_tpu.token_kl
)
Kind: TypeAlias = Literal["reverse", "forward", "js"]


def token_kl(
    student_hidden_MD: jax.Array,
    teacher_hidden_ME: jax.Array,
    student_unembed_DV: jax.Array,
    teacher_unembed_EV: jax.Array,
    *,
    kind: Kind = "reverse",
    alpha: float = 0.5,
    top_k: int | None = None,
    tail: bool = True,
    pointwise_clip: float | None = None,
    soft_cap: float | None = None,
    blend: Blend | None = None,
    temperature: jax.typing.ArrayLike = 1.0,
    vocab_axis: str | None = None,
    implementation: _dispatch.Implementation | None = None,
    block_M: int | None = None,
    block_V: int | None = None,
) -> jax.Array:
    """D(student p, teacher q) in nats per slot, [M] float32, p and q at logits / temperature.

      reverse: KL(p‖q) = Σ_v p_v log(p_v / q_v)     ∂/∂x_v = p_v (log(p_v / q_v) − KL)
      forward: KL(q‖p)                              ∂/∂x_v = p_v − q_v
      js:      (1−α) KL(p‖m) + α KL(q‖m)            ∂/∂x_v = (1−α) p_v (log(p_v / m_v) − KL(p‖m))
               with m = (1−α) p + α q

    Never below 0 but for rounding. Gradients flow to the student's hidden states and unembedding
    only, in their dtype; logits and sums are float32 and stay finite where probabilities underflow.

    `top_k` takes the sums over the student's top_k tokens instead (the choice is a constant), where
    both sides get one more bucket for the rest (`tail`) or are renormalised. With the tail,
    gradients reach all logits through it; top_k=1 without it is identically 0.

    `pointwise_clip` cuts each term of the sum over the vocabulary at that many nats; a cut term has
    no gradient. The sum may then be below 0, and its gradient may point away from the teacher.

    Products of 2 M D V FLOPs with gradients, for `chunked` (it holds [M, block_V] blocks and
    computes them again) and `pallas_tpu`: reverse and forward 6, js or a clip 8, top_k 5; a blend
    adds 2 or 3. Heads are best stored as rows [V, D], see `fused_logprob`.

    Args:
      student_hidden_MD, teacher_hidden_ME: final hidden states at the same M slots.
      student_unembed_DV, teacher_unembed_EV: heads over the same V tokens.
      kind: which divergence.
      alpha: α of js, in (0, 1); js tends to 0 at both ends, where the plain KLs do not.
      top_k: None for the whole vocabulary, or how many tokens, in [1, V].
      tail: whether the tokens outside of top_k count as one bucket.
      pointwise_clip: largest term in nats, > 0; None leaves all as they are.
      soft_cap: c > 0 of models whose logits are c · tanh(logits / c), before the temperature; for
        all models here.
      blend: a second model in the teacher.
      temperature: > 0, a number or one per row [M], for both; may be traced, gets no gradient.
      vocab_axis: inside of `jax.shard_map`, the mesh axis over which all heads' columns are split
        evenly; the unembeddings are this device's parts. Not with top_k.
      implementation: `reference` (plain jnp, materialises the logits), `chunked`, `pallas_tpu` (no
        top_k; its `_interpret` form runs anywhere, slowly), or None, which takes `pallas_tpu`
        on a TPU, alone or inside of `jax.shard_map`, and `chunked` elsewhere and for top_k.
      block_M, block_V: rows per block of `pallas_tpu`, columns per block of both; None picks by
        shapes and chip.

    Raises:
      ValueError: for shapes that do not fit, an unknown kind or implementation, a number out of
        range, or a block below 1.

    References:
      arXiv 2601.20802 (SDPO: top-k with tail, blended teacher), 2306.13649 (GKD: generalised JS).
    """
    _dispatch.check_blocks(block_M, block_V)
    heads = _heads(
        student_hidden_MD, teacher_hidden_ME, student_unembed_DV, teacher_unembed_EV,
        blend=blend, temperature=temperature,
    )  # fmt: skip
    measure = _measure(heads, kind, alpha, top_k, tail, pointwise_clip, soft_cap, blend)
    if vocab_axis is not None and top_k is not None:
        raise ValueError(f"top_k={top_k} and vocab_axis={vocab_axis!r} do not go together.")
    measure = measure._replace(vocab_axis=vocab_axis)
    has_kernels = pallas_tpu.fits(heads, measure)
    run = _dispatch.choose(implementation, _IMPLEMENTATIONS, has_kernels=has_kernels)
    return run(heads, measure, block_M=block_M, block_V=block_V)


def token_kl_sum(
    student_hidden_MD: jax.Array,
    teacher_hidden_ME: jax.Array,
    student_unembed_DV: jax.Array,
    teacher_unembed_EV: jax.Array,
    weights_M: jax.Array,
    *,
    kind: Kind = "reverse",
    alpha: float = 0.5,
    top_k: int | None = None,
    tail: bool = True,
    pointwise_clip: float | None = None,
    soft_cap: float | None = None,
    blend: Blend | None = None,
    temperature: jax.typing.ArrayLike = 1.0,
    block_M: int | None = None,
) -> jax.Array:
    """Σ_m weight_m · `token_kl`_m, a scalar, for weights that are known in advance.

    Gradients are formed in the forward pass, so that a gradient costs 4 products of 2 M D V FLOPs
    (5 with a blend) whatever the kind. A block of rows has the logits of all models in memory,
    [block_M, V] float32 each; for the cost on a TPU see `fused_logprob_sum`.

    Args:
      student_hidden_MD ... temperature: as of `token_kl`.
      weights_M: constants, no gradient reaches them.
      block_M: rows per block; None takes as many as have 128 MiB of logits.

    Raises:
      ValueError: for shapes that do not fit, or a number out of range.
    """
    _dispatch.check_blocks(block_M, None)
    heads = _heads(
        student_hidden_MD, teacher_hidden_ME, student_unembed_DV, teacher_unembed_EV,
        blend=blend, temperature=temperature,
    )  # fmt: skip
    measure = _measure(heads, kind, alpha, top_k, tail, pointwise_clip, soft_cap, blend)
    if weights_M.shape != heads.inverse_M.shape:
        raise ValueError(
            f"weights have shape {weights_M.shape}, but {heads.inverse_M.shape} is needed."
        )
    weights_M = lax.stop_gradient(jnp.asarray(weights_M, jnp.float32))
    return by_rows.weighted_sum(heads, weights_M, measure, block_M=block_M)


# ---------------------------------------------------------------------------- checks
def _heads(
    student_hidden_MD: jax.Array,
    teacher_hidden_ME: jax.Array,
    student_unembed_DV: jax.Array,
    teacher_unembed_EV: jax.Array,
    *,
    blend: Blend | None,
    temperature: jax.typing.ArrayLike,
) -> Heads:
    _dispatch.check_head("student_", student_hidden_MD, student_unembed_DV)
    rows, vocabulary = student_hidden_MD.shape[0], student_unembed_DV.shape[1]
    teachers = {"teacher": (teacher_hidden_ME, teacher_unembed_EV)}
    if blend is not None:
        teachers["blend"] = (blend.hidden_MF, blend.unembed_FV)
    for name, (hidden, unembed) in teachers.items():
        _check_teacher(name, hidden, unembed, rows, vocabulary)
    heads = Heads(
        student_hidden_MD,
        student_unembed_DV.T,
        tuple(lax.stop_gradient(hidden) for hidden, _ in teachers.values()),
        tuple(lax.stop_gradient(unembed.T) for _, unembed in teachers.values()),
        _dispatch.inverse_temperature(temperature, rows),
    )
    return _sharded.varying(heads, over=_sharded.varying_axes(heads))


def _check_teacher(
    name: str, hidden: jax.Array, unembed: jax.Array, rows: int, vocabulary: int
) -> None:
    _dispatch.check_head(f"{name}_", hidden, unembed)
    if (hidden.shape[0], unembed.shape[1]) != (rows, vocabulary):
        raise ValueError(
            f"the student has {rows} slots over {vocabulary} tokens, the {name} "
            f"{hidden.shape[0]} over {unembed.shape[1]}; they must agree."
        )


def _measure(
    heads: Heads,
    kind: str,
    alpha: float,
    top_k: int | None,
    tail: bool,
    pointwise_clip: float | None,
    soft_cap: float | None,
    blend: Blend | None,
) -> Measure:
    vocabulary = heads.student_VD.shape[0]
    if kind not in get_args(Kind):
        raise ValueError(f"kind={kind!r} is unknown; use one of {get_args(Kind)}.")
    if kind == "js" and not 0.0 < alpha < 1.0:
        raise ValueError(
            f"alpha={alpha}, but js needs 0 < alpha < 1. Use kind='forward' or kind='reverse'."
        )
    if top_k is not None and not 1 <= top_k <= vocabulary:
        raise ValueError(f"top_k={top_k}, but it must lie in [1, {vocabulary}], or be None.")
    if pointwise_clip is not None and pointwise_clip <= 0.0:
        raise ValueError(f"pointwise_clip={pointwise_clip}, but it must be above 0, or be None.")
    _dispatch.check_soft_cap(soft_cap)
    shares = (1.0,)
    if blend is not None:
        if not 0.0 < blend.share < 1.0:
            raise ValueError(f"blend.share={blend.share}, but it must lie in (0, 1).")
        shares = (1.0 - blend.share, blend.share)
    return Measure(kind, float(alpha), top_k, tail, pointwise_clip, soft_cap, shares)
