"""Rows become arrays: `[N, A]` answer slots for algorithms, and prompts by view."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxevo.keys import uid_words
from jaxevo.types import OWN, Answers, Batch, Objective, Row, Source, View


@dataclasses.dataclass(frozen=True)
class Table:
    """The whole global batch on the host: arrays, and the prompt ids of every view by row.

    cut: by view that has contexts, [N] bool, rows whose privileged text was shortened to fit. idle:
    rows that need no forward pass (`Objective.idle`).
    """

    batch: Batch
    prompts: Mapping[str, Sequence[np.ndarray | None]]
    rows: Sequence[Row]
    cut: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    idle: frozenset[int] = frozenset()

    def told(self, chosen: Sequence[int]) -> dict[str, Any]:
        """What a report says of the rows of an update."""
        present = self.batch.present
        return {
            "trained": [self.rows[n] for n in chosen],
            "idle": [n in self.idle for n in chosen],
            "contexts": {
                name: {"present": present[name][chosen], "cut": cut_N[chosen]}
                for name, cut_N in self.cut.items()
            },
        }


def prepare(
    rows: Sequence[Row], objective: Objective, answer_slots: int, tokenizer: object
) -> Table:
    """The rows as one objective reads them, with its advantages.

    Raises:
      ValueError: see `tabulate`.
    """
    table = tabulate(
        rows,
        answer_slots=answer_slots,
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
      ValueError: no rows, an empty prompt, an answer longer than A, differing temperatures,
        numbers by token that are not one each, or actions without a probe or in differing numbers.
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
    contexts = {view.name: _contexts(rows, view, tokenizer) for view in views if view.context}
    prompts |= {
        name: [None if c is None else np.asarray(c.ids, np.int32) for c in found]
        for name, found in contexts.items()
    }
    cut = {
        name: np.array([c is not None and c.cut for c in found]) for name, found in contexts.items()
    }
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
        by_token={
            name: _by_token(rows, name, answer_slots)
            for name in sorted({name for row in rows for name in row.by_token})
        },
        group_N=_dense([row.group for row in rows]),
        episode_N=_dense([(row.group, row.episode) for row in rows]),
        turn_N=np.array([row.turn for row in rows], np.int32),
        role_N=np.array([roles.index(row.role) for row in rows], np.int32),
        uid_N2=uid_words([row.uid for row in rows]),
        real_N=np.ones(len(rows), bool),
        temperature=np.asarray(temperatures.pop(), np.float32),
        present=present,
    )
    return Table(batch, prompts, rows, cut)


def _contexts(rows: Sequence[Row], view: View, tokenizer: object) -> list[Any]:
    """An object with `ids` and `cut`, or None, for each row."""
    groups = by_group(rows)
    assert view.context is not None
    return [view.context(row, groups[row.group], tokenizer) for row in rows]


def by_group(rows: Iterable[Row]) -> dict[int, list[Row]]:
    """The rows of each group, both in the order of first appearance."""
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return groups


def tallied(row: Row, /, **counts: float) -> Row:
    """The row with these in its `info["tally"]`, of which the run's metrics are means."""
    return dataclasses.replace(
        row, info={**row.info, "tally": {**row.info.get("tally", {}), **counts}}
    )


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


def _by_token(rows: Sequence[Row], name: str, answer_slots: int) -> np.ndarray:
    """Numbers of each answer token, NaN where a row has none, and in the padding."""
    out = np.full((len(rows), answer_slots), np.nan, np.float32)
    for n, row in enumerate(rows):
        if name in row.by_token:
            said, count = np.asarray(row.by_token[name]), len(row.answer_ids)
            if said.shape != (count,):
                raise ValueError(
                    f"row {row.uid} has {name!r} by token of shape {said.shape}, but {count} "
                    "answer tokens. Read it anew after an edit."
                )
            out[n, :count] = said
    return out


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
