"""Rounds that are sampled ahead: which weights sampled what, and the same run after a break."""

import dataclasses
import threading

import jax
import numpy as np
import pytest

from jaxevo.collect.readings import answer_logp
from jaxevo.recipes.grpo import grpo
from jaxevo.recipes.sdpo import sdpo
from jaxevo.run.ahead import Ahead
from jaxevo.run.build import build_run
from jaxevo.run.checkpoint import Checkpoints
from jaxevo.run.loop import one_round
from jaxevo.types import bind

ROUNDS = 5


@pytest.fixture(scope="module")
def begin(tiny_model):
    from conftest import OPTIONS

    def make(recipe=None, **changes):
        options = {"rounds": ROUNDS, "off_policy": 1, "checkpoint_every": 3, **changes}
        recipe = recipe or grpo(learning_rate=1e-2, correction="token", minibatches=2)
        return build_run(recipe, dataclasses.replace(OPTIONS, **options), model=tiny_model)

    return make


def drive(run, state, memory, *, until=ROUNDS):
    """States before each round, and the metrics and records of each."""
    states, metrics, records = [], [], []
    with Ahead(run) as ahead:
        while state.counters["round"] < until:
            states.append(jax.device_get(state.params["policy"]))
            state, memory, numbers, lines = one_round(run, state, memory, ahead)
            metrics.append(numbers)
            records.append(lines)
    return state, memory, states, metrics, records


@pytest.fixture(scope="module")
def whole(begin):
    run = begin()
    return run, *drive(run, run.state, run.memory)


def versions(records):
    return [{v for r in lines for v in r["versions"]} for lines in records]


def test_rounds_say_which_weights_sampled_them(whole):
    _, _, _, _, metrics, records = whole
    # The first round, and the one after the checkpoint at 3, have no round before them.
    assert versions(records) == [{0}, {0}, {1}, {3}, {3}]
    assert [m["weights_age"] for m in metrics] == [0, 1, 1, 0, 1]
    assert ["logp_mismatch" in m for m in metrics] == [True, False, False, True, False]
    assert all(m["logp_mismatch"] <= 1e-4 for m in metrics if "logp_mismatch" in m)


def test_the_rows_are_those_that_these_weights_sample(whole):
    run, _, _, states, _, records = whole
    for index, version in ((1, 0), (2, 1), (4, 3)):
        sets = {"policy": states[version]}
        lab = run.bench.lab(sets, round_index=index, position=index * run.options.prompts)
        rows = lab.sample(lab.tasks())
        assert [row.answer_ids.tolist() for row in rows] == [r["ids"] for r in records[index]]
        newer = run.bench.lab(
            {"policy": states[index]}, round_index=index, position=index * run.options.prompts
        )
        assert [r.answer_ids.tolist() for r in newer.sample(newer.tasks())] != [
            r["ids"] for r in records[index]
        ], "this test cannot tell the weights apart"


def test_importance_weights_are_between_the_two_policies(whole):
    _, _, _, _, _, records = whole
    for lines, aged in zip(records, (False, True, True, False, True), strict=True):
        weights = np.concatenate(
            [r["signals"]["weight"] for r in lines if "weight" in r["signals"]]
        )
        assert (np.abs(weights - 1).max() > 1e-2) == aged
        assert weights.max() <= 2


def test_a_run_that_is_broken_off_is_the_same_run(begin, whole, tmp_path):
    _, last, _, _, _, records = whole
    run = begin()
    state, memory, *_ = drive(run, run.state, run.memory, until=3)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(state, memory, {})
    fresh = begin()
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        state, memory, _ = checkpoints.restore(fresh.state, fresh.memory)
    again, _, _, _, lines = drive(fresh, state, memory)
    assert lines == records[3:]
    jax.tree.map(np.testing.assert_array_equal, last.params, again.params)
    assert last.counters == again.counters


def test_what_collect_sees_stays_while_the_update_changes_the_weights(begin):
    run = begin()
    (objective,) = run.recipe.objectives
    with Ahead(run) as ahead:
        ahead.begin(run.state, run.memory, position=0)
        jax.tree.map(lambda x: x.delete(), run.state.params["policy"])  # as a donation does
        gathered = ahead.take()
    assert ahead.take() is None
    (rows,) = gathered.experience.values()
    sampled = [float(row.answer[0].logp.sum()) for row in rows]
    read = gathered.lab.map(bind(answer_logp), rows, like=objective)
    np.testing.assert_allclose(read, sampled, atol=1e-4)  # float32 sums of four log-probs


def test_verifiers_of_the_next_round_wait_while_this_one_is_learnt(begin):
    """The first wave has been drawn when `begin` returns, and nothing has been verified."""
    run, learnt = begin(), threading.Event()
    (name, verify), *_ = run.bench.source.verifiers.items()

    def slow(task, text):
        assert learnt.wait(60)
        return verify(task, text)

    source = dataclasses.replace(run.bench.source, verifiers={name: slow})
    run = dataclasses.replace(run, bench=dataclasses.replace(run.bench, source=source))
    with Ahead(run) as ahead:
        ahead.begin(run.state, run.memory, position=0)
        learnt.set()
        gathered = ahead.take()
    assert all(row.rewards for row in gathered.lab.sampled.values())


def test_a_fault_of_a_round_ahead_is_raised_where_it_is_wanted(begin):
    run = begin()
    source = dataclasses.replace(run.bench.source, train=lambda index: 1 / 0)
    run = dataclasses.replace(run, bench=dataclasses.replace(run.bench, source=source))
    with Ahead(run) as ahead:
        ahead.begin(run.state, run.memory, position=0)
        with pytest.raises(ZeroDivisionError):
            ahead.take()


@pytest.mark.parametrize("recipe", [grpo(), sdpo()])
def test_recipes_that_do_not_correct_are_refused(begin, recipe):
    with pytest.raises(ValueError, match=r"--off-policy 1 gives .* does not correct for"):
        begin(recipe)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"off_policy": 2}, "must be 0 or 1"), ({"checkpoint_every": 1}, "has no effect")],
)
def test_options_without_effect_are_refused(begin, changes, message):
    with pytest.raises(ValueError, match=message):
        begin(**changes)
