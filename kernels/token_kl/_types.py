"""What `token_kl` hands to its implementations, and what these keep for the gradient."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxevo.kernels import _sharded


class Blend(NamedTuple):
    """A second model in the teacher: its logits count `share` in (0, 1), the first's the rest.

    hidden_MF, unembed_FV: as of the first teacher, of any width. Logits are mixed, and thus
    probabilities geometrically.
    """

    hidden_MF: jax.Array
    unembed_FV: jax.Array
    share: float


class Heads(NamedTuple):
    """All models' hidden states and unembeddings as rows, and 1 / temperature.

    The teacher is one model, or several whose logits are added up in the shares of `Measure`.
    """

    student_hidden_MD: jax.Array
    student_VD: jax.Array
    teacher_hidden_ME: tuple[jax.Array, ...]
    teacher_VE: tuple[jax.Array, ...]
    inverse_M: jax.Array


class Measure(NamedTuple):
    """Which divergence, over which tokens, of which logits, split over which axis; hashable."""

    kind: str
    alpha: float
    top_k: int | None
    tail: bool
    pointwise_clip: float | None
    soft_cap: float | None
    shares: tuple[float, ...]
    vocab_axis: str | None = None

    @property
    def needs_both_sums_first(self) -> bool:
        """Whether no term can be formed before both logsumexps are known."""
        return self.kind == "js" or self.pointwise_clip is not None


class Sums(NamedTuple):
    """What the gradient needs: both logsumexps, and Σ_v of the slopes."""

    student_M1: jax.Array
    teacher_M1: jax.Array
    slope_M1: jax.Array


def sums_of_kl(
    kl_M1: jax.Array, student_M1: jax.Array, teacher_M1: jax.Array, measure: Measure
) -> tuple[jax.Array, Sums]:
    """A KL divergence with its sums, from that of this device's part and its logsumexps.

    With the masses v_i and w_i of the parts under both sides: KL = Σ_i v_i (KL_i + log v_i/w_i).
    """
    axis, reverse = measure.vocab_axis, measure.kind == "reverse"
    if axis is not None:
        student_M1, of_student_M1 = _sharded.logsumexp(student_M1, axis)
        teacher_M1, of_teacher_M1 = _sharded.logsumexp(teacher_M1, axis)
        first_M1, second_M1 = (
            (of_student_M1, of_teacher_M1) if reverse else (of_teacher_M1, of_student_M1)
        )
        kl_M1 = lax.psum(jnp.exp(first_M1) * (kl_M1 + first_M1 - second_M1), axis)
    slope_M1 = kl_M1 if reverse else jnp.zeros_like(kl_M1)
    return kl_M1, Sums(student_M1, teacher_M1, slope_M1)


def whole_logsumexp(own: jax.Array, measure: Measure) -> jax.Array:
    """logsumexp over the whole vocabulary from that of this device's part."""
    axis = measure.vocab_axis
    return own if axis is None else _sharded.logsumexp(own, axis)[0]


def whole_sum(own: jax.Array, measure: Measure) -> jax.Array:
    """A sum over the whole vocabulary from that of this device's part."""
    axis = measure.vocab_axis
    return own if axis is None else lax.psum(own, axis)
