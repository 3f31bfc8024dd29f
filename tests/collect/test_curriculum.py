"""A curriculum by success: worked numbers, exact counts, positions that go on."""

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest

from jaxevo.collect.curriculum import (
    SuccessRates,
    chosen_tasks,
    needs_parts,
    part_weights,
    remember_rates,
    spread,
)
from jaxevo.collect.lab import RolloutConfig
from jaxevo.run.build import build_bench
from jaxevo.sampling.sampler import Sampling
from jaxevo.tasks import load_task, plain
from jaxevo.types import Row

MIX = "mix:add1,sub1,mul1"


@pytest.fixture(scope="module")
def bench(tiny_model):
    rollout = RolloutConfig(20, 2, 4, Sampling())
    return build_bench(model=tiny_model, task=MIX, rollout=rollout, seed=3, prompt_tokens=12)


def parts(tasks):
    return Counter(task.info["part"] for task in tasks)


def test_weights_are_those_of_the_formula():
    # p (1 - p) + 0.05: 0.05, 0.30, 0.21, 0.05; sum 0.61
    weights = part_weights([0.0, 0.5, 0.8, 1.0], floor=0.05)
    np.testing.assert_allclose(weights, np.array([0.05, 0.30, 0.21, 0.05]) / 0.61, rtol=1e-12)


@pytest.mark.parametrize("start", [0.0, 0.3, 0.999])
def test_counts_are_right_to_within_one(start):
    weights = part_weights([0.1, 0.5, 0.97], floor=0.02)
    counts = np.bincount(spread(weights, 33, start=start), minlength=3)
    assert counts.sum() == 33
    assert (np.abs(counts - 33 * weights) < 1.0).all()


def test_what_is_solved_at_times_is_asked_most(bench):
    lab = bench.lab({})
    even = parts(chosen_tasks(lab, SuccessRates(), floor=0.01))
    assert set(even.values()) <= {6, 7}
    known = SuccessRates(rates={"add1": 1.0, "sub1": 0.5, "mul1": 0.0})
    steep = parts(chosen_tasks(lab, known, floor=0.01))
    assert steep["sub1"] >= 17  # 0.26 / 0.28 of 20 is 18.6
    flat = parts(chosen_tasks(lab, known, floor=10.0))
    assert set(flat.values()) <= {6, 7}


def test_parts_go_on_where_they_were(bench):
    lab = bench.lab({}, position=5)
    tasks = chosen_tasks(lab, SuccessRates(asked={"sub1": 7}), floor=0.01)
    source = plain(load_task(MIX, seed=3))
    for part in source.parts:
        first = 7 if part.name == "sub1" else 0
        own = [task for task in tasks if task.info["part"] == part.name]
        assert own == [part.train(first + i) for i in range(len(own))]
    assert lab.position == 25
    again = chosen_tasks(bench.lab({}, position=5), SuccessRates(asked={"sub1": 7}), floor=0.01)
    assert again == tasks


def rows(part, groups):
    task = next(p for p in load_task(MIX).parts if p.name == part).train(0)
    return [
        Row(uid=100 * g + n, task=task, group=1000 * ord(part[0]) + g, segments=(),
            rewards={"correct": reward, "style": 9.0})
        for g, rewards in enumerate(groups)
        for n, reward in enumerate(rewards)
    ]  # fmt: skip


def test_rates_are_exponential_means_over_rounds():
    first = {"policy": rows("add1", [[1, 0], [0, 0]]) + rows("sub1", [[1, 1]])}
    memory = remember_rates(SuccessRates(), first)
    assert memory == SuccessRates({"add1": 0.25, "sub1": 1.0}, {"add1": 2, "sub1": 1})
    memory = remember_rates(memory, {"policy": rows("add1", [[1, 1]])}, newest=0.4)
    assert memory.rates == {"add1": pytest.approx(0.25 + 0.4 * 0.75), "sub1": 1.0}
    assert memory.asked == {"add1": 3, "sub1": 1}
    saved = json.loads(json.dumps(dataclasses.asdict(memory)))
    assert SuccessRates(**saved) == memory


def test_a_source_without_parts_is_refused():
    needs_parts(load_task(MIX))
    with pytest.raises(ValueError, match=r"task 'add1' has none\. Give a mixture such as mix:"):
        needs_parts(load_task("add1"))
