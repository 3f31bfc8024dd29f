"""What `token_kl` hands to its implementations, and what these keep for the gradient."""

from __future__ import annotations

from typing import NamedTuple

import jax


class Heads(NamedTuple):
    """Both models' hidden states and unembeddings as rows, and 1 / temperature."""

    student_hidden_MD: jax.Array
    student_VD: jax.Array
    teacher_hidden_ME: jax.Array
    teacher_VE: jax.Array
    inverse_M: jax.Array


class Measure(NamedTuple):
    """Which divergence, and over which tokens; hashable."""

    kind: str
    alpha: float
    top_k: int | None
    tail: bool


class Sums(NamedTuple):
    """What the gradient needs: both logsumexps, and Σ_v of the slopes."""

    student_M1: jax.Array
    teacher_M1: jax.Array
    slope_M1: jax.Array
