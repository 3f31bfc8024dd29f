"""Runs of the tiny random model under the options of the shared drive."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from cases import CASES

from jaxevo.collect.pack import stack
from jaxevo.collect.table import prepare
from jaxevo.losses import ratio
from jaxevo.losses.total import loss_parts, row_sums
from jaxevo.run.build import build_run
from jaxevo.run.loop import one_round
from jaxevo.run.options import RunOptions

# Coin rewards: a random model is never right, and every recipe needs some success to learn from.
OPTIONS = RunOptions(
    model="tiny", task="add1", rounds=3, prompts=4, samples=4, max_new_tokens=4, control="random"
)


def pytest_collection_modifyitems(items):
    """All tests of a case follow each other, so that what it has compiled is still there."""
    order, places = [case.name for case in CASES], {}
    for n, item in enumerate(items):
        case = item.callspec.params.get("case") if hasattr(item, "callspec") else None
        driven = item.path.name == "test_drive.py" and case is not None
        place = (places.setdefault("drive", n), order.index(case.name)) if driven else (n, 0)
        places[item] = place
    items.sort(key=places.get)


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


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_to_compile):
    pass


@pytest.fixture(autouse=True)
def few_mappings_after_each(let_go):
    """A test here compiles many programs: see `let_go`."""
    yield
    let_go()


@pytest.fixture(scope="session")
def three_rounds(start, drive):
    """three_rounds(case) -> host copies of the states after the first and the last of three rounds,
    their metrics and records: made once for all tests of a case."""

    @functools.cache
    def make(name):
        (case,) = (c for c in CASES if c.name == name)
        run = start(case)
        state, memory, first_metrics, first_records = drive(run, 1)
        first = on_host(state)
        state, _, metrics, records = drive(run, 2, state, memory)
        return first, on_host(state), first_metrics + metrics, first_records + records

    return lambda case: make(case.name)


def on_host(state):
    """A copy that later updates, which donate their weights, leave alone."""
    return dataclasses.replace(
        state, params=jax.device_get(state.params), optimizer=jax.device_get(state.optimizer)
    )


@functools.partial(jax.jit, static_argnames=("objective", "forward"))
def _graded(params, others, batch, *, objective, forward):
    def loss(params):
        sums = row_sums(params, others, batch, objective, forward)
        micro = dataclasses.replace(batch, sums=sums)
        pairs, signals = loss_parts(params, others, micro, objective, forward)
        parts = [term.weight * ratio(*pairs[term.name]) for term in objective.terms]
        return sum(parts), signals["text"]

    return jax.value_and_grad(loss, has_aux=True)(params)


@pytest.fixture(scope="session")
def graded():
    """graded(run, rows, sets, objective=None) -> loss, the policy's gradient and the text's signals
    [N, A] of one update on these rows."""

    def go(run, rows, sets, objective=None):
        objective = objective or run.recipe.objectives[0]
        shapes = run.learner.shapes[objective.name]
        largest = dataclasses.replace(shapes, micro=1, ladder=shapes.ladder[-1:])
        table = prepare(rows, objective, shapes.answer, run.bench.model.tokenizer)
        batch = jax.tree.map(lambda x_K: x_K[0], stack(table, range(len(rows)), largest))
        others = {name: sets[name] for name in objective.sets if name != objective.trains}
        (value, signals), gradient = _graded(
            sets[objective.trains], others, batch, objective=objective, forward=run.learner.forward
        )
        said = {name: x[: len(rows)] for name, x in jax.device_get(signals).items()}
        return float(value), gradient, said

    return go


@pytest.fixture(scope="session")
def marked():
    """marked(run, rewards, feedback={}) -> the run's first rows with these rewards, by group, and
    feedback by index."""

    def go(run, rewards, feedback=()):
        rows = run.recipe.collect(run.bench.lab(run.state.params), run.state, run.memory)["policy"]
        flat = [reward for group in rewards for reward in group]
        assert len(flat) == len(rows)
        told = dict(feedback)
        return [
            dataclasses.replace(row, rewards={"correct": float(r)}, feedback=told.get(n, ""))
            for n, (row, r) in enumerate(zip(rows, flat, strict=True))
        ]

    return go


@pytest.fixture(scope="session")
def moved():
    """moved(params, seed) -> weights a little beside these."""

    def go(params, seed):
        rng = np.random.default_rng(seed)
        return jax.tree.map(
            lambda x: x + (0.1 * np.abs(x).mean() * rng.normal(size=x.shape)).astype(x.dtype),
            jax.device_get(params),
        )

    return go


@pytest.fixture(scope="session")
def same_gradient():
    """same_gradient(one, other): equal but for rounding: other programs sum in another order."""

    def check(one, other):
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6 * np.abs(b).max())

    return check
