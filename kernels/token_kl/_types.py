"""What `token_kl` hands to its implementations, and what these keep for the gradient."""

from __future__ import annotations

from typing import NamedTuple

import jax


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
    """Which divergence, over which tokens, of which logits; hashable."""

    kind: str
    alpha: float
    top_k: int | None
    tail: bool
    pointwise_clip: float | None
    soft_cap: float | None
    shares: tuple[float, ...]

    @property
    def needs_both_sums_first(self) -> bool:
        """Whether no term can be formed before both logsumexps are known."""
        return self.kind == "js" or self.pointwise_clip is not None


class Sums(NamedTuple):
    """What the gradient needs: both logsumexps, and Σ_v of the slopes."""

    student_M1: jax.Array
    teacher_M1: jax.Array
    slope_M1: jax.Array
