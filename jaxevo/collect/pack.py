"""Updates of declared static shapes: the chosen rows of a table, with packed `[B, S]` token trees.

What rows have in common from their first token on is computed once: the prompt of a group, earlier
turns of a conversation, first tokens that answers share. Rows of several groups stand in one packed
row where there is room. The last token of an answer predicts nothing, so it takes no slot.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import jax
import numpy as np

from jaxevo.collect.table import Table
from jaxevo.types import Array, Batch, Objective, Packed


@dataclasses.dataclass(frozen=True)
class Bucket:
    """A declared packed shape: B rows of S slots, each with up to R reads."""

    rows: int
    slots: int
    reads: int

    @property
    def size(self) -> np.ndarray:
        """Slots and reads of a packed row."""
        return np.array((self.slots, self.reads))


Rung: TypeAlias = tuple[tuple[str, Bucket], ...]  # a bucket for each view


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The declared static shapes of one objective's updates.

    rows: N of one micro-batch. answer: A. micro: micro-batches per update. ladder: from small to
    large, a Bucket for each view (`own` is the rows as sampled); an update has the first that
    holds it. group: rows of one prefix tree.
    """

    rows: int
    answer: int
    micro: int
    ladder: tuple[Rung, ...]
    group: int = 1

    @property
    def programs(self) -> int:
        """How many shapes an update can have, so how often it may be traced."""
        return len(self.ladder)

    def of_one_group(self) -> Shapes:
        """The shapes of a single group, in packed rows of its own."""

        def smaller(bucket: Bucket) -> Bucket:
            return dataclasses.replace(bucket, rows=max(bucket.rows * self.group // self.rows, 1))

        ladder = tuple(
            tuple((view, smaller(bucket)) for view, bucket in rung) for rung in self.ladder
        )
        return dataclasses.replace(self, rows=self.group, micro=1, ladder=ladder)


class FitError(ValueError):
    """Rows need more slots than a declared bucket has."""


# ---------------------------------------------------------------------------- updates
def minibatches(
    table: Table, objective: Objective, generator: np.random.Generator
) -> list[list[int]]:
    """Row indices per update: whole rows, groups or episodes, in a new order for each epoch.

    Where their number does not divide, the first minibatches have one more; each is its own update
    with its own denominators.
    """
    batch, cut = table.batch, objective.minibatch
    count = len(batch.real_N)
    label_N = {"rows": np.arange(count), "groups": batch.group_N, "episodes": batch.episode_N}[
        cut.by
    ]
    units = np.unique(np.asarray(label_N))
    if objective.updates > 1:
        units = generator.permutation(units)
    return [
        [n for unit in share for n in np.flatnonzero(label_N == unit).tolist()]
        for share in np.array_split(units, min(cut.count, len(units)))
    ]


def stack(table: Table, chosen: Sequence[int], shapes: Shapes) -> Batch:
    """The chosen rows as a stack of `shapes.micro` micro-batches `[K, ...]`, padded where short.

    Raises:
      ValueError: more rows than declared. FitError: the largest declared shape is too small.
    """
    if len(chosen) > shapes.micro * shapes.rows:
        raise ValueError(
            f"an update has {len(chosen)} rows, but its declared shape holds {shapes.micro} x "
            f"{shapes.rows}. Declare more rows or more micro-batches."
        )
    cuts = [chosen[k * shapes.rows : (k + 1) * shapes.rows] for k in range(shapes.micro)]
    layouts = _first_fit(table, cuts, shapes)
    micros = [
        dataclasses.replace(take_rows(table.batch, cut, shapes.rows), layouts=layout)
        for cut, layout in zip(cuts, layouts, strict=True)
    ]
    return jax.tree.map(lambda *xs: np.stack(xs), *micros)


def fitting(
    table: Table, chosen: Sequence[int], shapes: Shapes
) -> Iterator[tuple[Sequence[int], Batch]]:
    """`stack` of the chosen rows, or of halves of them where they need more slots than declared.

    For readings, where it does not matter which rows are together. Yields rows and their stack.
    """
    try:
        batch = stack(table, chosen, shapes)
    except FitError:
        if len(chosen) == 1:
            raise
        half = len(chosen) // 2
        yield from fitting(table, chosen[:half], shapes)
        yield from fitting(table, chosen[half:], shapes)
    else:
        yield chosen, batch


def _first_fit(
    table: Table, cuts: Sequence[Sequence[int]], shapes: Shapes
) -> list[dict[str, Packed]]:
    """Every micro-batch in the first shapes of the ladder that hold them all."""
    views = [view for view, _ in shapes.ladder[-1]]
    trees = [{view: _trees(table, cut, view) for view in views} for cut in cuts]

    def laid_out(rung: Rung) -> list[dict[str, Packed]]:
        binned = [{v: _bins(of[v], bucket, v) for v, bucket in rung} for of in trees]
        return [{v: _side_by_side(of[v], shapes, bucket) for v, bucket in rung} for of in binned]

    for rung in shapes.ladder[:-1]:
        with contextlib.suppress(FitError):
            return laid_out(rung)
    return laid_out(shapes.ladder[-1])


def take_rows(whole: Batch, chosen: Sequence[int], count: int) -> Batch:
    """The chosen rows of a batch, filled up to `count` with padding rows (`real_N` False)."""

    def take(x: Array) -> np.ndarray:
        x = np.asarray(x)
        if x.ndim == 0:
            return x
        out = np.zeros((count, *x.shape[1:]), x.dtype)
        out[: len(chosen)] = x[list(chosen)]
        return out

    return jax.tree.map(take, whole)


def used(batch: Batch) -> tuple[int, int]:
    """Slots of a batch that hold a token, and all slots, of the views together."""
    until = [np.asarray(packed.until_BS) for packed in batch.layouts.values()]
    return sum(int((x > 0).sum()) for x in until), sum(x.size for x in until)


# ---------------------------------------------------------------------------- packing
@dataclasses.dataclass(frozen=True)
class _Path:
    """A row's tokens up to the last that predicts, and its answer, which begins at `start`."""

    row: int
    ids: np.ndarray
    answer: np.ndarray

    @property
    def start(self) -> int:
        return len(self.ids) - max(len(self.answer) - 1, 0)

    @property
    def order(self) -> bytes:
        """Sorts paths as their tokens would: what begins alike stands side by side."""
        return self.ids.astype(">u4").tobytes()


@dataclasses.dataclass(frozen=True)
class _Tree:
    """Paths laid side by side, in order, each less what the one before it has already.

    ids, positions, until: of every slot. read, target: slots that are read, and the tokens that
    they predict, each pair once; index: of each path, the reads of its answer.
    """

    paths: tuple[_Path, ...]
    ids: np.ndarray
    positions: np.ndarray
    until: np.ndarray
    read: np.ndarray
    target: np.ndarray
    index: tuple[np.ndarray, ...]

    @property
    def size(self) -> np.ndarray:
        """Slots and reads."""
        return np.array((len(self.ids), len(self.read)))


def lay_out(
    table: Table, chosen: Sequence[int], view: str, shapes: Shapes, bucket: Bucket
) -> Packed:
    """Packs the chosen rows under one view: group by group, first fit, largest first.

    Raises:
      FitError: when a row or the whole does not fit the declared bucket.
    """
    return _side_by_side(_bins(_trees(table, chosen, view), bucket, view), shapes, bucket)


def _trees(table: Table, chosen: Sequence[int], view: str) -> list[_Tree]:
    """The tree of each group."""
    prompts, group_N = table.prompts[view], np.asarray(table.batch.group_N)
    members: dict[int, list[_Path]] = {}
    for local, row in enumerate(chosen):
        prompt = None if row in table.idle else prompts[row]
        if prompt is not None:
            answer = np.asarray(table.rows[row].answer_ids, np.int32)
            path = _Path(local, np.concatenate([prompt, answer[:-1]]).astype(np.int32), answer)
            members.setdefault(int(group_N[row]), []).append(path)
    return [_tree(paths) for paths in members.values()]


def _tree(paths: Sequence[_Path]) -> _Tree:
    ordered = tuple(sorted(paths, key=lambda path: path.order))
    ids, positions, slots_of = [], [], []
    until = np.zeros(sum(len(path.ids) for path in ordered), np.int32)
    slots, before, last = 0, np.zeros(0, np.int32), np.zeros(0, np.int32)
    for path in ordered:
        common = _common(last, path.ids)
        until[before[common:]] = slots  # nothing more comes below these
        ids.append(path.ids[common:])
        positions.append(np.arange(common, len(path.ids)))
        new = np.arange(slots, slots + len(path.ids) - common)
        before, last = np.concatenate([before[:common], new]), path.ids
        slots += len(new)
        slots_of.append(before[path.start - 1 :][: len(path.answer)])
    until[before] = slots
    none = np.zeros(0, np.int64)
    targets = np.concatenate([none, *(path.answer for path in ordered)])
    pairs, index = np.unique(np.concatenate([none, *slots_of]) << 32 | targets, return_inverse=True)
    return _Tree(
        paths=ordered,
        ids=np.concatenate([none, *ids]),
        positions=np.concatenate([none, *positions]),
        until=until[:slots],
        read=pairs >> 32,
        target=pairs & 0xFFFFFFFF,
        index=tuple(np.split(index, np.cumsum([len(path.answer) for path in ordered]))[:-1]),
    )


def _common(a: np.ndarray, b: np.ndarray) -> int:
    """How many tokens are the same from the start on."""
    least = min(len(a), len(b))
    differs = np.flatnonzero(a[:least] != b[:least])
    return int(differs[0]) if len(differs) else least


def _bins(trees: Sequence[_Tree], bucket: Bucket, view: str) -> list[_Tree]:
    """The trees in as many packed rows, each row one tree of all that stands in it."""
    sizes = [tree.size for tree in trees]
    whole = sum(sizes, start=np.zeros(2, int))
    if (whole > bucket.rows * bucket.size).any():
        raise FitError(_too_much(view, bucket, f"the rows need {whole.tolist()}"))
    parts = [part for tree in trees for part in _fitting(tree, bucket, view)]
    bins: list[list[_Path]] = [[] for _ in range(bucket.rows)]
    room_B = np.tile(bucket.size, (bucket.rows, 1))
    for tree in sorted(parts, key=lambda t: -len(t.ids)):
        fits = (room_B >= tree.size).all(-1)
        if not fits.any():
            left = f"{room_B.max(0).tolist()} are left, {tree.size.tolist()} needed next"
            raise FitError(_too_much(view, bucket, left))
        b = int(np.argmax(fits))
        room_B[b] -= tree.size
        bins[b] += tree.paths
    return [_tree(paths) for paths in bins]


def _fitting(tree: _Tree, bucket: Bucket, view: str) -> list[_Tree]:
    """The tree, or several of its paths where it would not fit into a packed row."""
    if (tree.size <= bucket.size).all():
        return [tree]
    if len(tree.paths) == 1:
        raise FitError(_too_much(view, bucket, f"a row needs {tree.size.tolist()}"))
    half = len(tree.paths) // 2
    parts = (_tree(tree.paths[:half]), _tree(tree.paths[half:]))
    return [small for part in parts for small in _fitting(part, bucket, view)]


def _too_much(view: str, bucket: Bucket, what: str) -> str:
    return (
        f"the rows of view {view!r} do not fit: {what} (slots, reads), but the declared shape has "
        f"{bucket.rows} packed rows of {bucket.size.tolist()}. Raise the prompt, context or answer "
        "limit, or use more micro-batches."
    )


def _side_by_side(trees: Sequence[_Tree], shapes: Shapes, bucket: Bucket) -> Packed:
    """One tree per packed row, padded."""
    B, S, R = bucket.rows, bucket.slots, bucket.reads
    ids_BS, positions_BS, until_BS = (np.zeros((B, S), np.int32) for _ in range(3))
    read_BR, target_BR = (np.zeros((B, R), np.int32) for _ in range(2))
    index_NA = np.zeros((shapes.rows, shapes.answer), np.int32)
    for b, tree in enumerate(trees):
        slots, reads = tree.size
        ids_BS[b, :slots] = tree.ids
        positions_BS[b, :slots] = tree.positions
        until_BS[b, :slots] = tree.until
        read_BR[b, :reads] = tree.read
        target_BR[b, :reads] = tree.target
        for path, index in zip(tree.paths, tree.index, strict=True):
            index_NA[path.row, : len(index)] = b * R + index
    return Packed(ids_BS, positions_BS, until_BS, read_BR, target_BR, index_NA)
