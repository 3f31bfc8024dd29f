"""Checkpoints: everything that a run is, so that N rounds = k + restore + (N - k), bit by bit.

One Orbax step folder holds all parameter sets and optimizer states and the arrays of the recipe's
memory (`arrays`), and as JSON the counters, the memory's other values, the byte offsets of the log
files and the configuration (`meta`). Randomness needs no saving: every key is derived from the
run's seed and from where a row stands.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxevo.types import TrainState


class Checkpoints:
    """The checkpoints of one run folder, newest last; a context manager.

    Args:
      folder: made when missing.
      keep: how many of the newest stay.
    """

    def __init__(self, folder: str | Path, *, keep: int = 2):
        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(logging.WARNING)
        self._ocp = ocp
        self._manager = ocp.CheckpointManager(
            Path(folder).absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, create=True, enable_async_checkpointing=False
            ),
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *raised: object) -> None:
        self._manager.close()

    def latest(self) -> int | None:
        """The newest checkpoint's round, None when there is none."""
        return self._manager.latest_step()

    def save(self, state: TrainState, memory: Any, meta: Mapping[str, Any]) -> None:
        """Saves a state after its last finished round; `meta` holds JSON values."""
        arrays, values = split_memory(memory)
        args = self._ocp.args
        tree = {"params": state.params, "optimizer": state.optimizer, "memory": arrays}
        own = {"counters": dict(state.counters), "memory": values}
        self._manager.save(
            state.counters["round"],
            args=args.Composite(
                arrays=args.StandardSave(_without_empty(tree)),
                meta=args.JsonSave({**meta, **own}),
            ),
        )
        self._manager.wait_until_finished()

    def restore(
        self, like: TrainState, memory: Any, *, step: int | None = None
    ) -> tuple[TrainState, Any, Mapping[str, Any]]:
        """The newest (or named) checkpoint as a state shaped and placed like `like`.

        Raises:
          FileNotFoundError: no checkpoint. ValueError: one that belongs to another recipe or model.
        """
        step = self.latest() if step is None else step
        if step is None:
            raise FileNotFoundError("there is no checkpoint to restore in this run folder.")
        args = self._ocp.args
        arrays, _ = split_memory(memory)
        tree = {"params": like.params, "optimizer": like.optimizer, "memory": arrays}
        wanted = jax.tree.map(_abstract, _without_empty(tree))
        try:
            got = self._manager.restore(
                step,
                args=args.Composite(arrays=args.StandardRestore(wanted), meta=args.JsonRestore()),
            )
        except (ValueError, KeyError) as fault:
            reason = str(fault).strip().splitlines()[0]
            raise ValueError(
                f"checkpoint {step} does not fit this recipe and model ({reason}). "
                "Use the options that the run was started with, or a new run folder."
            ) from fault
        merged = _merge(tree, got["arrays"])
        meta = got["meta"]
        counters = {name: int(value) for name, value in meta["counters"].items()}
        state = TrainState(merged["params"], merged["optimizer"], counters)
        return state, join_memory(memory, merged["memory"], meta["memory"]), meta

    def restore_params(self, name: str, *, like: Any) -> Any:
        """One parameter set of the newest checkpoint, shaped and placed like `like`."""
        step = self.latest()
        if step is None:
            raise FileNotFoundError("there is no checkpoint in this run folder.")
        args = self._ocp.args
        wanted = {"params": {name: jax.tree.map(_abstract, like)}}
        partial = args.PyTreeRestore(
            wanted,
            restore_args=self._ocp.checkpoint_utils.construct_restore_args(wanted),
            partial_restore=True,
        )
        got = self._manager.restore(step, args=args.Composite(arrays=partial))
        return got["arrays"]["params"][name]


def split_memory(memory: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A memory dataclass as arrays and JSON values, by field name."""
    fields = {f.name: getattr(memory, f.name) for f in dataclasses.fields(memory)}
    arrays = {n: v for n, v in fields.items() if isinstance(v, np.ndarray)}
    values = {n: v for n, v in fields.items() if n not in arrays}
    for name, value in values.items():
        if isinstance(value, np.generic):
            raise TypeError(
                f"memory field {name} is the numpy scalar {value!r}; use a number or an array."
            )
    return arrays, values


def join_memory(memory: Any, arrays: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    """The memory with fields from a checkpoint; `split_memory` undone."""
    return dataclasses.replace(memory, **{n: np.asarray(a) for n, a in arrays.items()}, **values)


def _abstract(x: Any) -> Any:
    if isinstance(x, jax.Array):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
    return x


def _without_empty(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Orbax refuses items without leaves."""
    return {name: part for name, part in tree.items() if jax.tree.leaves(part)}


def _merge(like: Mapping[str, Any], got: Mapping[str, Any]) -> dict[str, Any]:
    return {name: got.get(name, part) for name, part in like.items()}
