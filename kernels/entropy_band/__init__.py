"""The tokens of largest entropy of every row, and the band in which entropies may move."""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxevo.kernels import _dispatch
from jaxevo.kernels.entropy_band import chunked, pallas_tpu, reference
from jaxevo.kernels.entropy_band._types import Band, Places, Quantile

__all__ = ["Band", "band_hinge", "entropy_band"]

_IMPLEMENTATIONS = _dispatch.implementations(
    reference.entropy_band, chunked.entropy_band, pallas_tpu.entropy_band
)


def entropy_band(
    entropy_NA: jax.Array,
    mask_NA: jax.Array,
    *,
    fraction: float = 0.2,
    at_least: int = 1,
    low: float = 0.1,
    high: float = 0.5,
    among: Literal["forks", "valid"] = "forks",
    implementation: _dispatch.Implementation | None = None,
) -> Band:
    """The forks of every row, max(at_least, ⌊fraction · L + ½⌋) of its L valid tokens, and two
    quantiles of entropies, linearly interpolated as numpy does.

    Forks are the tokens of the largest entropy; among equals the earlier position comes first. A
    row with fewer than `at_least` valid tokens has all of them; an empty row has none, and a band
    from 0 to 0. Nothing here has a gradient: a band is a constant (`band_hinge`).

    Args:
      entropy_NA: nats, any float dtype; read as float32. Slots outside the mask may hold anything.
      mask_NA: which tokens are valid.
      fraction: share of the valid tokens that are forks, in [0, 1].
      at_least: fewest forks of a row, if it has as many tokens.
      low, high: levels of both quantiles, 0 <= low <= high <= 1.
      among: of whose entropies the quantiles are, the row's forks or all of its valid tokens.
      implementation: `reference` sorts; `chunked` bisects in XLA; `pallas_tpu` bisects in one
        kernel per 8 rows; None takes `chunked`.

    Raises:
      ValueError: for shapes that differ, an unknown name, or a number out of range.

    References:
      arXiv 2511.17938 (SPINE: fork mask, band).
    """
    if entropy_NA.ndim != 2 or entropy_NA.shape != mask_NA.shape:
        raise ValueError(
            f"entropy has shape {entropy_NA.shape} and mask {mask_NA.shape}, but [N, A] is needed "
            "for both."
        )
    if not 0.0 <= fraction <= 1.0 or at_least < 0:
        raise ValueError(
            f"fraction={fraction}, at_least={at_least}, but a fraction lies in [0, 1] and a count "
            "is not negative."
        )
    if not 0.0 <= low <= high <= 1.0:
        raise ValueError(f"low={low}, high={high}, but 0 <= low <= high <= 1 is needed.")
    if among not in ("forks", "valid"):
        raise ValueError(f"among={among!r} is unknown; use 'forks' or 'valid'.")
    run = _dispatch.choose(implementation, _IMPLEMENTATIONS)
    mask_NA = jnp.asarray(mask_NA, bool)
    entropy_NA = jax.lax.stop_gradient(jnp.asarray(entropy_NA, jnp.float32))
    by_length = _places(entropy_NA.shape[1], fraction, at_least, low, high, among)
    length_N = mask_NA.sum(axis=1)
    places = jax.tree.map(lambda table: jnp.asarray(table)[length_N], by_length)
    return run(jnp.where(mask_NA, entropy_NA, 0.0), mask_NA, places)


def band_hinge(entropy_NA: jax.Array, band: Band) -> tuple[jax.Array, jax.Array]:
    """How far each entropy lies below and above the band of its row, [N, A] float32 nats, >= 0.

    ∂/∂H is −1 below, 1 above and exactly 0 from edge to edge. All tokens are compared; which of
    them count is the caller's (`band.fork_NA`).
    """
    low_N, high_N = jax.lax.stop_gradient((band.low_N, band.high_N))
    entropy_NA = jnp.asarray(entropy_NA, jnp.float32)
    return jax.nn.relu(low_N[:, None] - entropy_NA), jax.nn.relu(entropy_NA - high_N[:, None])


@functools.lru_cache
def _places(
    slots: int, fraction: float, at_least: int, low: float, high: float, among: str
) -> Places:
    """For every number of valid tokens from 0 to A: all that depends on it, in float64."""
    valid = np.arange(slots + 1)
    forks = np.minimum(np.maximum(_floor(fraction * valid + 0.5), at_least), valid)
    counted = forks if among == "forks" else valid

    def quantile(level: float) -> Quantile:
        ahead = level * np.maximum(counted - 1, 0)
        whole = _floor(ahead)
        share = np.where(ahead - whole < 1e-9, 0.0, ahead - whole)
        near = np.where(counted > 0, counted - whole, 0)
        far = np.where(share > 0, near - 1, near)
        return Quantile(_table(near), _table(far), _table(share, np.float32))

    return Places(_table(forks), quantile(low), quantile(high))


def _table(by_length: np.ndarray, dtype: Any = np.int32) -> Any:
    """On the host: what is made under `jit` must not be kept."""
    return by_length.astype(dtype)


def _floor(x: np.ndarray) -> np.ndarray:
    """Down to an integer; what lies less than 1e-9 below one is that one: 0.7 · 10 is 7."""
    return np.floor(x + 1e-9).astype(np.int64)
