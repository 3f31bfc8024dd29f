"""Rows become arrays: `[N, A]` answer slots for algorithms, packed `[B, S]` token trees for models.

Rows of one group often begin with the same tokens, so each group is laid out as a prefix tree:
a shared prefix is computed once, and every answer is a leaf that sees its own path only. The last
token of an answer predicts nothing, so it takes no slot.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import jax
import numpy as np

from jaxevo.keys import uid_words
from jaxevo.types import OWN, Answers, Array, Batch, Objective, Packed, Row, Source, View


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


@dataclasses.dataclass(frozen=True)
class Table:
    """The whole global batch on the host: arrays, and the prompt ids of every view by row."""

    batch: Batch
    prompts: Mapping[str, Sequence[np.ndarray | None]]
    rows: Sequence[Row]


def prepare(rows: Sequence[Row], objective: Objective, shapes: Shapes, tokenizer: object) -> Table:
    """The rows as one objective reads them, with its advantages.

    Raises:
      ValueError: rows that do not fit the declared shapes.
    """
    table = tabulate(
        rows,
        answer_slots=shapes.answer,
        views=objective.views,
        learns=objective.learns,
        tokenizer=tokenizer,
    )
    advantage_N = np.asarray(objective.advantage(table.batch), np.float32)
    batch = dataclasses.replace(table.batch, advantage_N=advantage_N)
    return dataclasses.replace(table, batch=batch)


def tabulate(
    rows: Sequence[Row],
    *,
    answer_slots: int,
    views: Sequence[View] = (),
    learns: Sequence[Source] = ("policy",),
    tokenizer: object = None,
) -> Table:
    """Lines the rows up as `[N, A]` arrays and asks every view for its contexts.

    Tokens whose source is in `learns` have mask 1.

    Raises:
      ValueError: no rows, an empty prompt, an answer longer than A, differing temperatures, or
        actions without a probe or in differing numbers.
    """
    if not rows:
        raise ValueError("tabulate got no rows; an objective without rows takes no step.")
    temperatures = {row.temperature for row in rows}
    if len(temperatures) > 1:
        raise ValueError(
            f"rows of one objective were sampled at temperatures {sorted(temperatures)}; "
            "log-probs are only comparable at one. Split them into objectives."
        )
    for row in rows:
        if len(row.prompt_ids) == 0:
            raise ValueError(
                f"row {row.uid} ({row.task.uid}) has an empty prompt; it needs a token."
            )
    prompts: dict[str, Sequence[np.ndarray | None]] = {OWN: [row.prompt_ids for row in rows]}
    prompts |= {view.name: _contexts(rows, view, tokenizer) for view in views if view.context}
    present = {name: np.array([p is not None for p in ids]) for name, ids in prompts.items()}
    present |= {view.name: np.ones(len(rows), bool) for view in views if view.context is None}
    roles = sorted({row.role for row in rows})
    names = sorted({name for row in rows for name in row.rewards})
    streams = sorted({stream for row in rows for stream in row.actions})
    batch = Batch(
        answers={
            "text": _answers(rows, answer_slots, learns),
            **{stream: _actions(rows, stream) for stream in streams},
        },
        reward_N=np.array([row.reward for row in rows], np.float32),
        parts={
            name: np.array([row.rewards.get(name, 0.0) for row in rows], np.float32)
            for name in names
        },
        numbers={
            name: np.array([row.numbers.get(name, np.nan) for row in rows], np.float32)
            for name in sorted({name for row in rows for name in row.numbers})
        },
        group_N=_dense([row.group for row in rows]),
        episode_N=_dense([(row.group, row.episode) for row in rows]),
        turn_N=np.array([row.turn for row in rows], np.int32),
        role_N=np.array([roles.index(row.role) for row in rows], np.int32),
        uid_N2=uid_words([row.uid for row in rows]),
        real_N=np.ones(len(rows), bool),
        temperature=np.float32(temperatures.pop()),
        present=present,
    )
    return Table(batch, prompts, rows)


def _contexts(rows: Sequence[Row], view: View, tokenizer: object) -> list[np.ndarray | None]:
    groups = by_group(rows)
    assert view.context is not None
    found = (view.context(row, groups[row.group], tokenizer) for row in rows)
    return [None if c is None else np.asarray(c.ids, np.int32) for c in found]


def by_group(rows: Iterable[Row]) -> dict[int, list[Row]]:
    """The rows of each group, both in the order of first appearance."""
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return groups


def _dense(labels: Sequence[object]) -> np.ndarray:
    """Labels as integers 0, 1, ... in order of first appearance."""
    seen: dict[object, int] = {}
    return np.array([seen.setdefault(label, len(seen)) for label in labels], np.int32)


def _answers(rows: Sequence[Row], answer_slots: int, learns: Sequence[Source]) -> Answers:
    shape = (len(rows), answer_slots)
    ids, mask = np.zeros(shape, np.int32), np.zeros(shape, bool)
    logp, kept, known = np.zeros(shape, np.float32), np.zeros(shape, np.float32), []
    probe_N = np.zeros(len(rows), np.int32)
    for n, row in enumerate(rows):
        start = 0
        for segment in row.answer:
            stop = start + len(segment.ids)
            if stop > answer_slots:
                raise ValueError(
                    f"row {row.uid} ({row.task.uid}) has {len(row.answer_ids)} answer tokens, but "
                    f"the declared shape has {answer_slots} answer slots. Raise it."
                )
            ids[n, start:stop] = segment.ids
            if segment.source == "probe":
                probe_N[n] = start
            if segment.source in learns:
                mask[n, start:stop] = True
                if segment.log_kept is not None:
                    kept[n, start:stop] = segment.log_kept
                if segment.logp is not None:
                    logp[n, start:stop] = segment.logp
            start = stop
        known.append(all(s.logp is not None for s in row.answer if s.source in learns))
    return Answers(ids, mask, logp - kept, kept, np.array(known), probe_N)


def _actions(rows: Sequence[Row], stream: str) -> Answers:
    """One stream of actions as arrays; rows without it have an empty mask."""
    own = [row.actions.get(stream) for row in rows]
    found = [actions for actions in own if actions is not None]
    counts = {len(actions.mask) for actions in found}
    if len(counts) > 1:
        raise ValueError(
            f"rows have {sorted(counts)} actions of stream {stream!r}, but rows of one objective "
            "need equally many. Fill up with actions whose mask is False."
        )
    blind = [r.uid for r, a in zip(rows, own, strict=True) if a and not _has_probe(r)]
    if blind:
        raise ValueError(
            f"row {blind[0]} has actions of stream {stream!r}, but no probe, whose context they "
            "were chosen in. End the row with a probe segment."
        )
    empty = jax.tree.map(np.zeros_like, found[0].data)
    mask = np.zeros((len(rows), *counts), bool)
    logp, data = np.zeros(mask.shape, np.float32), []
    for n, actions in enumerate(own):
        data.append(empty if actions is None else actions.data)
        if actions is not None:
            mask[n] = actions.mask
            logp[n] = 0.0 if actions.logp is None else np.where(actions.mask, actions.logp, 0.0)
    return Answers(
        ids_NA=None,
        mask_NA=mask,
        behaviour_NA=logp,
        log_kept_NA=np.zeros_like(logp),
        known_N=np.array([a is not None and a.logp is not None for a in own]),
        data=jax.tree.map(lambda *xs: np.stack(xs), *data),
    )


def _has_probe(row: Row) -> bool:
    return any(segment.source == "probe" for segment in row.answer)


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
