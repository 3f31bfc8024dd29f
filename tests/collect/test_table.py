"""Rows as arrays of answer slots: what is learnt, what is known, and which rows are refused."""

import dataclasses

import numpy as np
import pytest

from jaxevo.collect.table import tabulate
from jaxevo.types import Message, Row, Segment, Task

TASK = Task("t/0", (Message("user", "x"),), "0")


def make_row(uid, prompt, answer, *, tool=(), **more):
    segments = [Segment(np.array(prompt, np.int32), "prompt")]
    logp = np.linspace(-1, -2, len(answer)).astype(np.float32)
    segments.append(Segment(np.array(answer, np.int32), "policy", logp=logp))
    if tool:
        segments.append(Segment(np.array(tool, np.int32), "tool"))
    return Row(uid, TASK, 0, tuple(segments), **more)


def test_masks_come_from_sources_and_behaviour_subtracts_the_kept_mass():
    row = make_row(0, [1, 2], [5, 2, 7], tool=[2, 2])
    cut = row.segments[1]
    cut = Segment(cut.ids, "policy", logp=cut.logp, log_kept=np.float32([-0.1, 0, -0.2]))
    cut_row = Row(1, TASK, 0, (row.segments[0], cut))
    unknown = Row(2, TASK, 0, (row.segments[0], Segment(cut.ids, "policy")))
    answers = tabulate([row, cut_row, unknown], answer_slots=6).batch.answers["text"]
    np.testing.assert_array_equal(answers.mask_NA[0], [1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(answers.ids_NA[0], [5, 2, 7, 2, 2, 0])
    np.testing.assert_allclose(answers.behaviour_NA[1, :3], [-0.9, -1.5, -1.8], rtol=1e-6)
    np.testing.assert_array_equal(answers.known_N, [True, True, False])


def test_bad_rows_are_named():
    with pytest.raises(ValueError, match=r"row 7 \(t/0\) has 3 answer tokens, but the declared"):
        tabulate([make_row(7, [1], [1, 2, 3])], answer_slots=2)
    with pytest.raises(ValueError, match="empty prompt"):
        tabulate([make_row(7, [], [1])], answer_slots=2)
    mixed = [make_row(0, [1], [1]), make_row(1, [1], [1], temperature=0.5)]
    with pytest.raises(ValueError, match=r"temperatures \[0.5, 1.0\]"):
        tabulate(mixed, answer_slots=2)
    with pytest.raises(ValueError, match="no rows"):
        tabulate([], answer_slots=2)


def test_what_is_learnt_from_is_said_by_source():
    told = Segment(np.array([5, 6]), "forced")
    own = Segment(np.array([7]), "policy", logp=np.array([-0.5], np.float32))
    row = Row(0, TASK, 0, (Segment(np.array([1]), "prompt"), own, told))
    by_source = {
        learns: tabulate([row], answer_slots=4, learns=learns).batch.answers["text"]
        for learns in (("policy",), ("forced",), ("policy", "forced"))
    }
    masks = {learns: answers.mask_NA[0].tolist() for learns, answers in by_source.items()}
    assert masks == {
        ("policy",): [True, False, False, False],
        ("forced",): [False, True, True, False],
        ("policy", "forced"): [True, True, True, False],
    }
    assert [bool(a.known_N[0]) for a in by_source.values()] == [True, False, False]


def test_numbers_of_rows_are_columns():
    rows = [dataclasses.replace(make_row(i, [1], [1]), numbers={"b": 0.5 * i}) for i in range(2)]
    table = tabulate([*rows, make_row(2, [1], [1])], answer_slots=1)
    np.testing.assert_array_equal(table.batch.numbers["b"], np.float32([0, 0.5, np.nan]))
