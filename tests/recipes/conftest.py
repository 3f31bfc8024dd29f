"""Runs of the tiny random model under the options of the shared drive."""

import dataclasses

import pytest

from jaxevo.run.build import build_run
from jaxevo.run.loop import one_round
from jaxevo.run.options import RunOptions

# Coin rewards: a random model is never right, and every recipe needs some success to learn from.
OPTIONS = RunOptions(
    model="tiny", task="add1", rounds=3, prompts=4, samples=4, max_new_tokens=4, control="random"
)


@pytest.fixture(scope="session")
def start(tiny_model):
    """start(case, **changes of the options) -> Run."""

    def make(case, **changes):
        options = dataclasses.replace(OPTIONS, **{**case.run, **changes})
        return build_run(case.make(), options, model=tiny_model)

    return make


@pytest.fixture(scope="session")
def drive():
    """drive(run, rounds) -> state, memory and the metrics and records of each round."""

    def go(run, rounds, state=None, memory=None):
        state = run.state if state is None else state
        memory = run.memory if memory is None else memory
        metrics, records = [], []
        for _ in range(rounds):
            state, memory, numbers, lines = one_round(run, state, memory)
            metrics.append(numbers)
            records.append(lines)
        return state, memory, metrics, records

    return go
