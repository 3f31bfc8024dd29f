import numpy as np
import pytest

from jaxevo.collect.stages import annealed, begins, linear_decay, stage_of, take_turns
from jaxevo.types import Message, Row, Segment, Task, TrainState, bind


def first_wave(lab, state, memory):
    return {"first": [(lab, memory)]}


def second_wave(lab, state, memory):
    return {"second": [(lab, memory)]}


def at(index):
    return {"round": index}


def test_stages_follow_each_other_and_come_again():
    schedule = (("a", 2), ("none", 0), ("b", 3))
    found = [stage_of(at(n), schedule=schedule) for n in range(10)]
    assert found == [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2)] * 2
    for stage, rounds in (("a", [0, 5]), ("b", [2, 7]), ("none", [])):
        began = [n for n in range(10) if begins(at(n), schedule=schedule, stage=stage)]
        assert began == rounds


def test_each_stage_has_its_wave():
    waves, schedule = (bind(first_wave), bind(second_wave)), (("a", 1), ("b", 2))
    found = [
        take_turns("lab", TrainState({}, {}, at(n)), "memory", schedule=schedule, waves=waves)
        for n in range(4)
    ]
    kept = [("lab", "memory")]
    assert found == [{"first": kept}, {"second": kept}, {"second": kept}, {"first": kept}]


@pytest.mark.parametrize("schedule", [(), (("a", 0),), (("a", 3), ("b", -1))])
def test_schedules_without_rounds_are_refused(schedule):
    with pytest.raises(ValueError, match="a schedule needs"):
        stage_of(at(0), schedule=schedule)


# ---------------------------------------------------------------------------- fading numbers
def test_worked_numbers_of_a_decay():
    def found(rounds, **how):
        return [linear_decay(at(n), **how) for n in rounds]

    half = {"start": 0.5, "over": 25}
    assert found([0, 1, 5, 10, 24], **half) == pytest.approx([0.5, 0.48, 0.4, 0.3, 0.02])
    assert found([25, 26, 1000], **half) == [0.0, 0.0, 0.0]
    assert found([0, 23, 24], **half, hold=-1) == pytest.approx([0.48, 0.02, 0.0])
    held = {"start": 0.5, "hold": 10, "over": 30}
    assert found([0, 9, 10], **held) == [0.5, 0.5, 0.5]
    assert found([25, 39], **held) == pytest.approx([0.25, 0.016667], abs=5e-7)
    assert found([40, 41], **held) == [0.0, 0.0]
    whole = found(range(100), **held)
    assert sum(whole) == pytest.approx(12.75)
    assert sum(x * x for x in whole) == pytest.approx(5.126389, abs=5e-7)
    assert found([0, 999], start=0.5) == [0.5, 0.5]
    with pytest.raises(ValueError, match="takes at least 1 rounds, got 0"):
        linear_decay(at(0), start=1.0, over=0)


class Book:
    """A lab that records."""

    def __init__(self):
        self.found = []

    def record(self, rows):
        self.found += rows
        return rows


def two_rows(lab, state, memory):
    task = Task("t", (Message("user", "?"),), "")
    row = Row(0, task, 0, (Segment(np.zeros(1, np.int32), "prompt"),), numbers={"kept": 1.0})
    return {"one": [row], "other": [row]}


def test_a_fading_number_is_on_every_row():
    lab, fading = Book(), bind(linear_decay, start=0.5, over=25)
    how = {"wave": bind(two_rows), "number": "mix", "schedule": fading}
    found = annealed(lab, TrainState({}, {}, at(10)), None, **how)
    rows = [row for rows in found.values() for row in rows]
    assert [row.numbers for row in rows] == [{"kept": 1.0, "mix": 0.3}] * 2
    assert [row.info["tally"] for row in rows] == [{"mix": 0.3}] * 2
    assert lab.found == rows
