"""Updates of declared static shapes: the chosen rows of a table, with packed `[B, S]` token trees.

Rows of one group often begin with the same tokens, so each group is laid out as a prefix tree:
a shared prefix is computed once, and every answer is a leaf that sees its own path only. The last
token of an answer predicts nothing, so it takes no slot.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np

from jaxevo.collect.table import Table
from jaxevo.types import Array, Batch, Objective, Packed


@dataclasses.dataclass(frozen=True)
class Bucket:
    """A declared packed shape: B rows of S slots, each row with up to `nodes` - 1 tree nodes."""

    rows: int
    slots: int
    nodes: int


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The declared static shapes of one objective's updates.

    rows: N of one micro-batch. answer: A. micro: micro-batches per update. buckets: view name ->
    Buckets from small to large, of which the first that fits is used; `own` is the rows as sampled.
    group: rows of one prefix tree.
    """

    rows: int
    answer: int
    micro: int
    buckets: tuple[tuple[str, tuple[Bucket, ...]], ...]
    group: int = 1

    @property
    def programs(self) -> int:
        """How many shapes an update can have, so how often it may be traced."""
        return math.prod(len(ladder) for _, ladder in self.buckets)

    def of_one_group(self) -> Shapes:
        """The shapes of a single group, in a packed row of its own."""
        single = tuple(
            (view, tuple(dataclasses.replace(bucket, rows=1) for bucket in ladder))
            for view, ladder in self.buckets
        )
        return dataclasses.replace(self, rows=self.group, micro=1, buckets=single)


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
      ValueError: more rows than declared. FitError: no declared bucket of a view is large enough.
    """
    if len(chosen) > shapes.micro * shapes.rows:
        raise ValueError(
            f"an update has {len(chosen)} rows, but its declared shape holds {shapes.micro} x "
            f"{shapes.rows}. Declare more rows or more micro-batches."
        )
    cuts = [chosen[k * shapes.rows : (k + 1) * shapes.rows] for k in range(shapes.micro)]
    layouts = {
        name: _first_fit(table, cuts, name, shapes, ladder) for name, ladder in shapes.buckets
    }
    micros = [
        dataclasses.replace(
            take_rows(table.batch, cut, shapes.rows),
            layouts={name: packed[k] for name, packed in layouts.items()},
        )
        for k, cut in enumerate(cuts)
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
    table: Table,
    cuts: Sequence[Sequence[int]],
    view: str,
    shapes: Shapes,
    ladder: Sequence[Bucket],
) -> list[Packed]:
    """Packs all micro-batches into the first bucket of the ladder that holds every one of them."""
    for bucket in ladder[:-1]:
        with contextlib.suppress(FitError):
            return [lay_out(table, cut, view, shapes, bucket) for cut in cuts]
    return [lay_out(table, cut, view, shapes, ladder[-1]) for cut in cuts]


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


# ---------------------------------------------------------------------------- packing
@dataclasses.dataclass(frozen=True)
class _Node:
    """A stretch of tokens in a prefix tree; `row` is set on leaves, which hold one answer."""

    ids: np.ndarray
    children: tuple[_Node, ...] = ()
    row: int | None = None

    @property
    def size(self) -> int:
        return len(self.ids) + sum(child.size for child in self.children)

    @property
    def count(self) -> int:
        return 1 + sum(child.count for child in self.children)


def lay_out(
    table: Table, chosen: Sequence[int], view: str, shapes: Shapes, bucket: Bucket
) -> Packed:
    """Packs the chosen rows under one view: one prefix tree per group, first fit, largest first.

    Raises:
      FitError: when a row or the whole does not fit the declared bucket.
    """
    prompts = table.prompts[view]
    answers = table.batch.answers["text"]
    group_N = np.asarray(table.batch.group_N)
    members: dict[int, list[int]] = {}
    for local, row in enumerate(chosen):
        if prompts[row] is not None:
            members.setdefault(int(group_N[row]), []).append(local)
    paths = {}
    for local, row in enumerate(chosen):
        if prompts[row] is not None:
            length = len(table.rows[row].answer_ids)
            paths[local] = (prompts[row], np.asarray(answers.ids_NA)[row, : max(length - 1, 0)])
    trees = [t for rows in members.values() for t in _trees(rows, paths, bucket, view)]
    writer = _Writer(bucket, shapes)
    for tree in sorted(trees, key=lambda t: -t.size):
        writer.place(tree, view)
    return writer.packed()


def _trees(rows: list[int], paths: Mapping[int, tuple], bucket: Bucket, view: str) -> list[_Node]:
    """The prefix tree of these rows, or several when one would not fit into a packed row."""
    tree = _prefix_tree(sorted(rows, key=lambda r: tuple(paths[r][0])), paths, 0)
    if tree.size <= bucket.slots and tree.count < bucket.nodes:
        return [tree]
    if len(rows) == 1:
        raise FitError(
            f"a row of view {view!r} needs {tree.size} slots, but the declared shape has "
            f"{bucket.slots} per packed row. Raise the prompt or context limit."
        )
    half = len(rows) // 2
    return _trees(rows[:half], paths, bucket, view) + _trees(rows[half:], paths, bucket, view)


def _prefix_tree(rows: list[int], paths: Mapping[int, tuple], depth: int) -> _Node:
    """Rows sorted by prompt, all equal on their first `depth` tokens -> the tree from there on."""
    first, last = paths[rows[0]][0], paths[rows[-1]][0]
    shared = depth
    while shared < min(len(first), len(last)) and first[shared] == last[shared]:
        shared += 1
    children, start = [], 0
    while start < len(rows):
        prompt, answer = paths[rows[start]]
        if len(prompt) == shared:
            children.append(_Node(answer, row=rows[start]))
            start += 1
            continue
        stop = start
        while stop < len(rows) and paths[rows[stop]][0][shared] == prompt[shared]:
            stop += 1
        children.append(_prefix_tree(rows[start:stop], paths, shared))
        start = stop
    return _Node(np.asarray(first[depth:shared], np.int32), tuple(children))


class _Writer:
    """Fills the arrays of one `Packed`."""

    def __init__(self, bucket: Bucket, shapes: Shapes):
        B, S, L = bucket.rows, bucket.slots, bucket.nodes
        self.bucket = bucket
        self.ids_BS = np.zeros((B, S), np.int32)
        self.positions_BS = np.zeros((B, S), np.int32)
        self.node_BS = np.zeros((B, S), np.int32)
        self.ancestor_BLL = np.zeros((B, L, L), bool)
        self.index_NA = np.zeros((shapes.rows, shapes.answer), np.int32)
        self.used = np.zeros(B, np.int64)
        self.nodes = np.ones(B, np.int64)

    def place(self, tree: _Node, view: str) -> None:
        fits = (self.used + tree.size <= self.bucket.slots) & (
            self.nodes + tree.count <= self.bucket.nodes
        )
        if not fits.any():
            raise FitError(
                f"the rows of view {view!r} do not fit into {self.bucket.rows} packed rows of "
                f"{self.bucket.slots} slots ({int(self.used.sum())} used, {tree.size} needed "
                "next). Use more micro-batches or a larger declared shape."
            )
        self._write(tree, int(np.argmax(fits)), (), 0, -1)

    def _write(
        self, node: _Node, b: int, path: tuple[int, ...], position: int, before: int
    ) -> None:
        """Writes a node and its subtree; `before` is the flat slot of the token before it."""
        name, start = int(self.nodes[b]), int(self.used[b])
        stop = start + len(node.ids)
        self.nodes[b] += 1
        self.used[b] = stop
        self.ids_BS[b, start:stop] = node.ids
        self.positions_BS[b, start:stop] = np.arange(position, position + len(node.ids))
        self.node_BS[b, start:stop] = name
        self.ancestor_BLL[b, name, [*path, name]] = True
        flat = b * self.bucket.slots + np.arange(start, stop)
        if node.row is not None:
            self.index_NA[node.row, 0] = before
            self.index_NA[node.row, 1 : 1 + len(flat)] = flat
        last = int(flat[-1]) if len(flat) else before
        for child in node.children:
            self._write(child, b, (*path, name), position + len(node.ids), last)

    def packed(self) -> Packed:
        return Packed(
            self.ids_BS, self.positions_BS, self.node_BS, self.ancestor_BLL, self.index_NA
        )
