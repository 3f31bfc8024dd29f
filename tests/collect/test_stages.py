import pytest

from jaxevo.collect.stages import begins, stage_of, take_turns
from jaxevo.types import TrainState, bind


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
