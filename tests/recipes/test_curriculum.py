"""`curriculum` of a recipe: which problems are asked follows what was solved."""

import dataclasses
from collections import Counter

import pytest
from cases import Case

from jaxevo.collect.curriculum import SuccessRates
from jaxevo.recipes.grpo import grpo
from jaxevo.run.loop import one_round

MIX = "mix:add1,sub1,mul1"
RUN = {"task": MIX, "prompts": 12, "samples": 2}


def case(floor):
    return Case("grpo", lambda: grpo(learning_rate=1e-3, curriculum=floor), run=RUN)


def asked(records):
    return Counter(record["task"].split("/")[0] for record in records)


def test_the_option_changes_what_is_asked_and_follows_the_rates(start):
    found = {}
    for floor in (0.0, 0.01, 10.0):
        run = start(case(floor))
        known = SuccessRates({"add1": 1.0, "sub1": 0.5, "mul1": 0.0}, {"sub1": 40})
        memory = known if floor else run.memory
        _, memory, metrics, records = one_round(run, run.state, memory)
        found[floor] = asked(records)
        assert {f"tally/{part}" for part in found[floor]} <= set(metrics)
        if floor:
            assert memory.asked["sub1"] == 40 + found[floor]["sub1"] // 2
            assert memory.rates["sub1"] != 0.5
    assert found[0.0] == {"add1": 8, "sub1": 8, "mul1": 8}
    assert found[0.01]["sub1"] >= 20  # of 24 rows; 0.26 / 0.28 of them are 22.3
    assert found[10.0]["sub1"] <= 10


def test_it_needs_parts_and_a_floor(start):
    with pytest.raises(ValueError, match="a curriculum chooses between the parts of a mixture"):
        start(dataclasses.replace(case(0.1), run={}))
    with pytest.raises(ValueError, match=r"--curriculum is -0\.1, but must be at least 0"):
        grpo(curriculum=-0.1)
