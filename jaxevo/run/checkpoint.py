"""Checkpoints: everything that a run is, so that N rounds = k + restore + (N - k), bit by bit.

One Orbax step folder holds all parameter sets and optimizer states and the arrays of the recipe's
memory (`arrays`), and as JSON the counters, the memory's other values, the byte offsets of the log
files and the configuration (`meta`). Randomness needs no saving: every key is derived from the
run's seed and from where a row stands.

A checkpoint counts once it has its manifest (`manifest.py`), which a thread writes behind Orbax's
own; older ones go only then, so that a crash at any moment leaves a whole one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FuturesTimeout
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxevo.parallel.hosts import exchange, is_first, several
from jaxevo.run.manifest import (
    DamagedError,
    NewerFormatError,
    UnsealedError,
    check_whole,
    read_manifest,
    seal,
)
from jaxevo.run.storage import Place, listed, move, place_of
from jaxevo.types import TrainState

LONGEST_SAVE = 3600  # seconds


class SaveError(OSError):
    """A checkpoint could not be written; those before it are untouched."""


class Checkpoints:
    """The checkpoints of one run folder; a context manager that waits for the last save.

    Args:
      folder: of this machine or `gs://BUCKET/PATH`; made when missing by one that writes.
      keep: how many of the newest stay.
      keep_best: how many of those with the highest score stay besides.
      writes: False for a reader, which changes nothing in the folder and may come while another
        process writes.
      say: takes a line about each checkpoint that is passed over because it is not whole. A writer
        sets such a folder aside under another name, where a whole one is left or none ever was.

    Raises:
      ValueError: there are checkpoints, but the newest was written by a later version, or none is
        whole.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        keep: int = 2,
        keep_best: int = 0,
        writes: bool = True,
        say: Callable[[str], None] = lambda line: None,
    ):
        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(logging.ERROR)
        self._ocp, self._folder = ocp, place_of(folder)
        self._keep, self._keep_best, self._writes = keep, keep_best, writes
        self._newest = self._agreed(say)
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                create=writes,
                read_only=not writes,
                cleanup_tmp_directories=writes,
                async_options=ocp.AsyncOptions(timeout_secs=LONGEST_SAVE),
            ),
        )
        self._sealer = ThreadPoolExecutor(1, thread_name_prefix="seal")
        self._sealing: Future[int] | None = None
        self._hangs = False

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        if kind is not None and several():  # others may never come to where they would be met
            self._sealer.shutdown(wait=False)
            return
        try:
            # What ends the block already is said rather than that its last save failed too.
            with contextlib.suppress(*() if kind is None else (SaveError,)):
                self.wait()
        finally:
            self._sealer.shutdown(wait=not self._hangs)
            if not self._hangs:
                with contextlib.suppress(Exception):  # `wait` has told of a save that failed
                    self._manager.close()

    def latest(self) -> int | None:
        """The newest whole checkpoint's round, None when there is none."""
        return self._newest

    def save(
        self,
        state: TrainState,
        memory: Any,
        meta: Mapping[str, Any],
        *,
        score: float | None = None,
    ) -> None:
        """Begins to save a state after its last finished round, once the save before has ended.

        The state may be used and given away as soon as this returns.

        Args:
          meta: JSON values.
          score: ranks it among those of `keep_best`, larger is better.

        Raises:
          SaveError: this save, or the one before, failed.
        """
        self.wait()
        arrays, values = split_memory(memory)
        args, step = self._ocp.args, state.counters["round"]
        tree = {"params": state.params, "optimizer": state.optimizer, "memory": arrays}
        own = {"counters": dict(state.counters), "memory": values}
        said = json.loads(json.dumps({**meta, **own}))  # a copy: it is written later
        with self._told(step):
            begun = self._manager.save(
                step,
                args=args.Composite(
                    arrays=args.StandardSave(_own_copies(_without_empty(tree))),
                    meta=args.JsonSave(said),
                ),
                force=True,
            )
        if not begun:
            raise SaveError(f"checkpoint {step} was not written: the folder has it already.")
        self._sealing = self._sealer.submit(self._seal, step, score)

    def wait(self) -> None:
        """Returns once the last save is on disk and has its manifest.

        Raises:
          SaveError: it failed.
        """
        begun, self._sealing = self._sealing, None
        if begun is None:
            return
        try:
            self._newest = begun.result(timeout=LONGEST_SAVE)
        except FuturesTimeout:
            self._hangs = True
            raise SaveError(
                f"a checkpoint has not been written to {self._folder} after {LONGEST_SAVE} s; "
                "see whether the disk still answers, and give the same command again."
            ) from None

    def restore(
        self, like: TrainState, memory: Any, *, step: int | None = None
    ) -> tuple[TrainState, Any, Mapping[str, Any]]:
        """The newest (or named) checkpoint as a state shaped and placed like `like`.

        Raises:
          FileNotFoundError: no checkpoint. ValueError: one that belongs to another recipe or model,
            or a named one that is not whole.
        """
        step = self._wanted(step)
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

    def meta(self) -> Mapping[str, Any]:
        """The JSON values of the newest checkpoint, read without the other processes.

        Raises:
          FileNotFoundError: no checkpoint.
        """
        path = self._folder / str(self._wanted(None)) / "meta" / "metadata"
        return json.loads(path.read_text())

    def restore_params(self, name: str, *, like: Any) -> Any:
        """One parameter set of the newest checkpoint, shaped and placed like `like`.

        Raises:
          FileNotFoundError: no checkpoint.
        """
        args = self._ocp.args
        wanted = {"params": {name: jax.tree.map(_abstract, like)}}
        partial = args.PyTreeRestore(
            wanted,
            restore_args=self._ocp.checkpoint_utils.construct_restore_args(wanted),
            partial_restore=True,
        )
        got = self._manager.restore(self._wanted(None), args=args.Composite(arrays=partial))
        return got["arrays"]["params"][name]

    # ------------------------------------------------------------------------ which are whole
    def _agreed(self, say: Callable[[str], None]) -> int | None:
        """What the first process finds, on all."""
        if not several():
            return self._find_whole(say)
        newest, fault = None, None
        if is_first():
            try:
                newest = self._find_whole(say)
            except ValueError as found:  # the others wait for a word
                fault = str(found)
        newest, fault = exchange([newest, fault])[0]
        if fault is not None:
            raise ValueError(fault)
        return newest

    def _find_whole(self, say: Callable[[str], None]) -> int | None:
        """The newest whole checkpoint; those after it are passed over, and set aside to write."""
        faults: dict[int, ValueError] = {}
        newest = None
        for step in reversed(_steps(self._folder)):
            try:
                check_whole(self._folder / str(step))
                newest = step
                break
            except (UnsealedError, DamagedError) as fault:
                faults[step] = fault
        damaged = [str(s) for s, f in faults.items() if isinstance(f, DamagedError)]
        if newest is None and damaged:
            said = "; ".join(f"{s}: {f}" for s, f in faults.items())
            raise ValueError(
                f"no checkpoint in {self._folder} is whole ({said}). Nothing was changed. Bring "
                "one back from a copy, or begin anew with another --out."
            )
        for step, fault in faults.items():
            aside = f"; it is kept as {self._set_aside(step)}" if self._writes else ""
            before = "none before it" if newest is None else f"checkpoint {newest} is used"
            say(f"checkpoint {step} is not whole ({fault}){aside}; {before}")
        return newest

    def _set_aside(self, step: int) -> str:
        place = next(
            p
            for n in range(1, 1_000_000)
            if not (p := self._folder / f"not-whole-{step}-{n}").exists()
        )
        move(self._folder / str(step), place)
        return place.name

    def _wanted(self, step: int | None) -> int:
        if step is None:
            step = self._newest
            if step is None:
                raise FileNotFoundError(f"there is no checkpoint in {self._folder}.")
        else:
            try:
                check_whole(self._folder / str(step))
            except (UnsealedError, DamagedError) as fault:
                raise ValueError(f"checkpoint {step} is not whole: {fault}.") from None
        return step

    # ------------------------------------------------------------------------ behind a save
    def _seal(self, step: int, score: float | None) -> int:
        """Waits for Orbax, writes the manifest and lets old checkpoints go. Returns the step."""
        with self._told(step):
            self._manager.wait_until_finished()
            if not is_first():
                return step
            seal(self._folder / str(step), score=score)
            for old in self._superseded():
                (self._folder / str(old)).rmtree(missing_ok=True)
        return step

    def _superseded(self) -> list[int]:
        scores = {}
        for step in _steps(self._folder):
            with contextlib.suppress(UnsealedError, DamagedError, NewerFormatError):
                scores[step] = read_manifest(self._folder / str(step)).score
        ranked = sorted((s for s in scores if scores[s] is not None), key=lambda s: (scores[s], s))
        kept = {*list(scores)[-self._keep :], *ranked[len(ranked) - self._keep_best :]}
        return [step for step in scores if step not in kept]

    @contextlib.contextmanager
    def _told(self, step: int) -> Iterator[None]:
        """Failures of a save as one kind of error that says what is left."""
        try:
            yield
        except Exception as fault:
            kept = "none was written before"
            if self._newest is not None:
                kept = f"checkpoint {self._newest} is whole"
            raise SaveError(
                f"checkpoint {step} could not be written to {self._folder} ({first_line(fault)}); "
                f"{kept}. Mend that, and the same command continues from there."
            ) from fault


def _steps(folder: Place) -> list[int]:
    """Rounds that there are folders for, in order."""
    return sorted(int(path.name) for path in listed(folder) if path.name.isdecimal())


def first_line(fault: BaseException) -> str:
    """The first line of what went wrong, in the words of the system where it has some."""
    while not isinstance(fault, OSError) and fault.__cause__ is not None:
        fault = fault.__cause__
    if isinstance(fault, OSError) and fault.strerror:
        return fault.strerror
    return (str(fault).strip() or type(fault).__name__).splitlines()[0][:200]


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


def _own_copies(tree: Any) -> Any:
    """What a save may read while the next update already takes the weights' buffers.

    From an accelerator Orbax copies before it returns; on a CPU it reads the buffers themselves.
    """

    def copy(x: Any) -> Any:
        if isinstance(x, jax.Array):
            return jnp.copy(x) if next(iter(x.devices())).platform == "cpu" else x
        return np.array(x)

    return jax.tree.map(copy, tree)


def _abstract(x: Any) -> Any:
    if isinstance(x, jax.Array):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
    return x


def _without_empty(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Orbax refuses items without leaves."""
    return {name: part for name, part in tree.items() if jax.tree.leaves(part)}


def _merge(like: Mapping[str, Any], got: Mapping[str, Any]) -> dict[str, Any]:
    return {name: got.get(name, part) for name, part in like.items()}
