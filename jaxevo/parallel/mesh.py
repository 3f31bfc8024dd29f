"""Devices: one mesh, and where batches and weights lie on it. Only this package names mesh axes.

    data     rows of a batch; weights are whole
    fsdp     rows too; weights are split by their width, and gathered layer by layer when used
    tensor   weights are split by heads, feed-forward width and vocabulary, and so are activations

What is written is the placement of weights, batches and activations (`by_rows`); XLA finds the
communication. A size that the devices of an axis do not divide stays whole there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxevo.parallel.hosts import several

DATA, FSDP, TENSOR = "data", "fsdp", "tensor"
ROWS = (DATA, FSDP)
RULES = {  # logical axis of a weight -> mesh axis
    "width": FSDP,
    "vocab": TENSOR,
    "heads": TENSOR,
    "kv_heads": TENSOR,
    "ffn": TENSOR,
}
Axes: TypeAlias = tuple[str | None, ...]


def make_mesh(devices: Sequence[Any] | None = None, *, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """A mesh of the devices (default: all there are); what fsdp and tensor leave is data.

    Raises:
      ValueError: where they do not divide the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    if min(fsdp, tensor) < 1 or len(devices) % (fsdp * tensor):
        raise ValueError(
            f"{len(devices)} devices cannot be cut into --fsdp {fsdp} x --tensor {tensor}: both "
            "must be at least 1, and their product must divide the number of devices."
        )
    return Mesh(np.array(devices).reshape(-1, fsdp, tensor), (DATA, FSDP, TENSOR))


def own_mesh(*, tensor: int = 1) -> Mesh:
    """The devices of this process, for what it does by itself; tensor where it divides them."""
    devices = jax.local_devices()
    return make_mesh(devices, tensor=tensor if len(devices) % tensor == 0 else 1)


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the arrays of a run lie; compared by value.

    axes: name of a weight (`layers/q`) -> logical name of each of its axes, None for one that is
    never split. Whatever has no entry, such as a counter, is whole on every device.
    """

    mesh: Mesh
    axes: tuple[tuple[str, Axes], ...] = ()

    @property
    def row_devices(self) -> int:
        """Devices that the rows of a batch are spread over."""
        return _row_devices(self.mesh)

    def shardings(self, tree: Any, *, sampling: bool = False) -> Any:
        """The sharding of each array of parameters, or of what an optimizer keeps of them.

        Arrays are known by the end of their path: `mu/layers/q` is placed as `layers/q`.

        sampling: as decoding reads weights, whose layers may have come apart: split over tensor
          alone, as gathering what fsdp splits at every token would take longer than all else.
        """
        known = dict(self.axes)

        def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
            keys = [str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey)]
            names = ("/".join(keys[start:]) for start in range(len(keys)))
            axes = next((known[name] for name in names if name in known), ())
            if sampling:
                axes = tuple(None if RULES.get(axis or "") == FSDP else axis for axis in axes)
                axes = axes[max(len(axes) - np.ndim(leaf), 0) :]
            if len(axes) != np.ndim(leaf):
                return NamedSharding(self.mesh, PartitionSpec())
            return NamedSharding(self.mesh, _spec(self.mesh, axes, np.shape(leaf)))

        return jax.tree_util.tree_map_with_path(sharding, tree)

    def bytes_each(self, tree: Any, *, sampling: bool = False) -> int:
        """Bytes of a tree on one device."""
        own = jax.tree.map(
            lambda x, at: math.prod(at.shard_shape(x.shape)) * np.dtype(x.dtype).itemsize,
            tree,
            self.shardings(tree, sampling=sampling),
        )
        return sum(jax.tree.leaves(own))

    def put(self, tree: Any) -> Any:
        """The arrays where they belong."""

        def spread(x: Any, sharding: NamedSharding) -> Any:
            traced = isinstance(x, Tracer)
            if several() and not traced and isinstance(x, jax.Array) and x.is_fully_addressable:
                x = np.asarray(x)  # each process has all of it, and gives its devices their parts
            return jax.device_put(x, sharding)

        return jax.tree.map(spread, tree, self.shardings(tree))

    def put_weight(self, name: str, weight: Any) -> jax.Array:
        """One array of the table, by its name; each device gets its own part of it."""
        spec = _spec(self.mesh, dict(self.axes)[name], np.shape(weight))
        # A copy: on a CPU a view of a numpy array could not be donated.
        return jnp.copy(jax.device_put(weight, NamedSharding(self.mesh, spec)))

    def for_sampling(self, tree: Any) -> Any:
        """Weights where decoding reads them."""
        return jax.tree.map(jax.device_put, tree, self.shardings(tree, sampling=True))

    def pin(self, tree: Any) -> Any:
        """Inside of a jitted function: the arrays, to be left where they belong."""
        return jax.lax.with_sharding_constraint(tree, self.shardings(tree))

    def batch(self, batch: Any) -> Any:
        """A stack of micro-batches `[K, N or B, ...]`, its rows spread over data and fsdp.

        Raises:
          ValueError: a row axis that the number of devices does not divide.
        """
        return jax.tree.map(lambda x: jax.device_put(x, self.rows(np.shape(x))), batch)

    def rows(self, shape: tuple[int, ...]) -> NamedSharding:
        """The sharding of one array of a stack of micro-batches.

        Raises:
          ValueError: a row axis that the number of devices does not divide.
        """
        if len(shape) < 2:
            return NamedSharding(self.mesh, PartitionSpec())
        if shape[1] % self.row_devices:
            raise ValueError(
                f"a micro-batch axis of {shape[1]} rows cannot be spread over {self.row_devices} "
                f"devices. Choose prompts and micro-batches so that {self.row_devices} divides it."
            )
        return NamedSharding(self.mesh, PartitionSpec(None, ROWS))

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """While it lasts, programs are traced for this mesh: `by_rows` and `heads` split by it."""
        return contextlib.nullcontext() if self.mesh.size == 1 else jax.set_mesh(self.mesh)


def _row_devices(mesh: Any) -> int:
    return math.prod(mesh.shape[axis] for axis in ROWS)


def _spec(mesh: Mesh, axes: Axes, shape: tuple[int, ...]) -> PartitionSpec:
    """Of each axis the mesh axis of its rule, where that divides it and is not taken yet."""
    taken: list[str | None] = []
    for axis, size in zip(axes, shape, strict=True):
        own = None if axis is None else RULES.get(axis)
        fits = own is not None and mesh.shape[own] > 1 and size % mesh.shape[own] == 0
        taken.append(own if fits and own not in taken else None)
    while taken and taken[-1] is None:  # one way to say it: programs are cached by it
        taken.pop()
    return PartitionSpec(*taken)


# ---------------------------------------------------------------------------- inside of programs
def traced_mesh() -> Any:
    """The mesh that a program is being traced for; None for one device, or inside `shard_map`."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or mesh.are_all_axes_manual:
        return None
    return mesh if set(mesh.axis_names) == {DATA, FSDP, TENSOR} else None


def row_axes(mesh: Any, rows: int) -> tuple[str, ...] | None:
    """The mesh axes that so many rows are spread over; None where they do not divide them."""
    return None if rows % _row_devices(mesh) else ROWS


def vocab_axis(mesh: Any, vocabulary: int) -> str | None:
    """The mesh axis that a vocabulary is split over; None for one that stays whole."""
    size = mesh.shape[TENSOR]
    return None if size == 1 or vocabulary % size else TENSOR


def row_devices() -> int:
    """How many devices rows are spread over in a program that is traced now."""
    mesh = traced_mesh()
    return 1 if mesh is None else _row_devices(mesh)


def by_rows(tree: Any, *, then: str | None = None) -> Any:
    """Arrays `[B, ...]` with their rows spread over data and fsdp, where these divide them.

    then: logical name of the second axis; without one, and behind it, nothing is split.
    """
    mesh = traced_mesh()
    if mesh is None:
        return tree

    def spread(x: Any) -> Any:
        axes = row_axes(mesh, x.shape[0]) if x.ndim else None
        if axes is None:
            return x
        second = () if then is None else _spec(mesh, (then,), x.shape[1:2])
        return jax.lax.with_sharding_constraint(x, PartitionSpec(axes, *second))

    return jax.tree.map(spread, tree)


def split(fn: Callable[..., Any], *, specs: Sequence[PartitionSpec], out: PartitionSpec) -> Any:
    """`fn` on each device's part of its arguments (`jax.shard_map` over the traced mesh)."""
    return jax.shard_map(fn, in_specs=tuple(specs), out_specs=out)
