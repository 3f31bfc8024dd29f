"""Randomness of a row: a key from the run's key and the row's uid, whoever draws with it."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from jaxevo.types import Array


def uid_words(uids: Sequence[int]) -> np.ndarray:
    """The high and the low word of row uids (non-negative int64), [N, 2] uint32."""
    wide = np.asarray(uids, np.uint64)
    return np.stack([wide >> np.uint64(32), wide & np.uint64(0xFFFFFFFF)], -1).astype(np.uint32)


@jax.jit
def row_keys(run_key: Array, uid_N2: Array) -> Array:
    """A key per row, [N]; the key of its token at position i is `fold_in(key, i)`."""
    keys_N = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(run_key, uid_N2[:, 0])
    return jax.vmap(jax.random.fold_in)(keys_N, uid_N2[:, 1])
