"""Devices: one mesh, and where batches and weights lie on it. Only this module names mesh axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

DATA = "data"


def data_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of all given devices (default: all there are) along the data axis."""
    devices = jax.devices() if devices is None else list(devices)
    return Mesh(np.array(devices), (DATA,))


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Every array whole on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def batch_placer(mesh: Mesh) -> Callable[[Any], Any]:
    """A function that spreads a stack of micro-batches `[K, N or B, ...]` over the data axis.

    Raises (when called):
      ValueError: a row axis that the number of devices does not divide.
    """

    def place(batch: Any) -> Any:
        return jax.tree.map(lambda x: jax.device_put(x, _rows_sharding(mesh, np.shape(x))), batch)

    return place


def _rows_sharding(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    devices = mesh.shape[DATA]
    if len(shape) < 2:
        return NamedSharding(mesh, PartitionSpec())
    if shape[1] % devices:
        raise ValueError(
            f"a micro-batch axis of {shape[1]} rows cannot be spread over {devices} devices. "
            f"Choose prompts and micro-batches so that {devices} divides it."
        )
    return NamedSharding(mesh, PartitionSpec(None, DATA))
