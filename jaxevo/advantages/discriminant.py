"""How well each token tells the rows of positive advantage from those of negative ones (DelTA).

A token's direction v is its share (1 − p) h of the gradient at the unembedding, h the state that is
read there and p the token's probability. Policy gradients pull towards the centroid of one side's
directions and away from the other's, and what both sides have in common is in both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxevo.losses.reduce import masked
from jaxevo.types import Array

LEAST = 1e-8  # of a centroid's weights, and of the variance of margins
Boundary = tuple[Array, Array | np.float32, Array]
Pass = Callable[[Boundary | None], Mapping[str, np.ndarray]]


def token_directions(logp_NA: Array, hidden_NAD: Array, mask_NA: Array) -> jax.Array:
    """v = (1 − p) h of each token, [N, A, D] float32, 0 under mask 0."""
    left_NA = -jnp.expm1(masked(logp_NA, mask_NA))
    return left_NA[..., None] * masked(hidden_NAD, jnp.asarray(mask_NA)[..., None])


def side_sums(
    vector_NAD: Array, mask_NA: Array, advantage_N: Array, boundary: Boundary | None
) -> dict[str, jax.Array]:
    """One pass over the tokens of some rows: margins to a boundary, and sums weighed by them.

    M = ±(w·v − b), + on the side of positive advantage: by how much nearer, in squared distance, a
    token's direction is to its own side's centroid. s = σ(M / γ).

    Args:
      vector_NAD: v, 0 under mask 0.
      mask_NA: the tokens.
      advantage_N: A of the rows, whose signs are their sides.
      boundary: w [D] = 2 (μ⁺ − μ⁻), b = ‖μ⁺‖² − ‖μ⁻‖² and γ [2] of the positive and the negative
        side; None for s = 1.

    Returns:
      margin [N, A]: M, 0 under mask 0; share [N]: Σ s; vector [N, D]: Σ s v.
    """
    mask_NA, sign_N = jnp.asarray(mask_NA, bool), jnp.sign(jnp.asarray(advantage_N))
    margin_NA, share_NA = jnp.zeros(mask_NA.shape), jnp.asarray(mask_NA, jnp.float32)
    if boundary is not None:
        toward_D, offset, scale_2 = boundary
        scale_N = jnp.where(sign_N > 0, scale_2[0], scale_2[1])
        margin_NA = masked(sign_N[:, None] * (vector_NAD @ toward_D - offset), mask_NA)
        share_NA = masked(jax.nn.sigmoid(margin_NA / scale_N[:, None]), mask_NA)
    vector_ND = jnp.einsum("na,nad->nd", share_NA, vector_NAD)
    return {"margin": margin_NA, "share": share_NA.sum(1), "vector": vector_ND}


def discriminant_coefficients(
    read: Pass,
    advantage_N: Array,
    mask_NA: Array,
    *,
    refinements: int = 1,
    low: float = 0.8,
    high: float = 1.2,
) -> np.ndarray:
    """λ̄, what the advantage of each token is multiplied by: 1 on average over all tokens.

    μ± = Σ a± v / Σ a±, a⁺ = max(A, 0), a⁻ = max(−A, 0); γ± is the standard deviation of the margins
    on a side. A refinement weighs each token of the sums by s = σ(M / γ), and measures γ on the
    margins of before, so that γ is always one step behind μ. In the end λ = low + (high − low) s,
    low where A = 0, and λ̄ = λ · (number of tokens) / Σ λ.

    Args:
      read: `side_sums` of all rows, given a boundary; it is called refinements + 3 times.
      advantage_N: A of each row.
      mask_NA: the tokens.
      refinements: K >= 0.
      low, high: range of λ before it is normalised; equal ones make all λ̄ exactly 1.

    Returns:
      [N, A] float64, 1 under mask 0, and everywhere where one side has no rows.

    Raises:
      ValueError: see `refuse_range`.

    References:
      arXiv 2605.21467 (DelTA) and its official code.
    """
    refuse_range(refinements, low, high)
    advantage_N, mask_NA = np.asarray(advantage_N, np.float64), np.asarray(mask_NA, bool)
    plus_N, minus_N = (advantage_N > 0) & mask_NA.any(1), (advantage_N < 0) & mask_NA.any(1)
    coefficient_NA = np.ones(mask_NA.shape)
    if low == high or not plus_N.any() or not minus_N.any():
        return coefficient_NA
    sides = [(side_N, mask_NA & side_N[:, None]) for side_N in (plus_N, minus_N)]
    weights = [np.where(side_N, abs(advantage_N), 0.0) for side_N, _ in sides]

    def boundary(found: Mapping[str, np.ndarray], scale_2: np.ndarray) -> Boundary:
        vector_ND, share_N = (np.asarray(found[name], np.float64) for name in ("vector", "share"))
        plus_D, minus_D = (
            weight_N @ vector_ND / max(weight_N @ share_N, LEAST) for weight_N in weights
        )
        toward_D, offset = 2.0 * (plus_D - minus_D), plus_D @ plus_D - minus_D @ minus_D
        return toward_D.astype(np.float32), np.float32(offset), scale_2.astype(np.float32)

    def scales(found: Mapping[str, np.ndarray]) -> np.ndarray:
        margin_NA = np.asarray(found["margin"], np.float64)
        return np.array([max(margin_NA[own].var(), LEAST) ** 0.5 for _, own in sides])

    edge = boundary(read(None), np.ones(2))
    scale_2 = scales(read(edge))
    for _ in range(refinements):
        found = read((*edge[:2], scale_2.astype(np.float32)))
        scale_2 = scales(found)
        edge = boundary(found, scale_2)
    margin_NA = np.asarray(read(edge)["margin"], np.float64)
    coefficient_NA[mask_NA] = low
    for scale, (_, own) in zip(scale_2, sides, strict=True):
        share = 0.5 + 0.5 * np.tanh(0.5 * margin_NA[own] / scale)  # the logistic function
        coefficient_NA[own] = low + (high - low) * share
    total = coefficient_NA[mask_NA].sum()
    coefficient_NA[mask_NA] *= mask_NA.sum() / total
    return coefficient_NA


def refuse_range(refinements: int, low: float, high: float) -> None:
    """Raises ValueError for fewer than 0 refinements, or a range that does not lie above 0."""
    if refinements < 0 or not 0 < low <= high:
        raise ValueError(
            f"refinements={refinements} must be at least 0, and 0 < low <= high, got {low} and "
            f"{high}."
        )
