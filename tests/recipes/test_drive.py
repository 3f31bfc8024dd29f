"""What every recipe must keep, on a tiny model, three rounds each."""

import dataclasses

import jax
import numpy as np
import pytest
from cases import CASES

from jaxevo import step
from jaxevo.collect.pack import prepare, stack
from jaxevo.run.checkpoint import Checkpoints
from jaxevo.types import OWN

PARAMETERS = [  # `make check` drives the first case only
    pytest.param(case, id=case.name, marks=[pytest.mark.slow] if n else [])
    for n, case in enumerate(CASES)
]


def leaves(state):
    return jax.tree.leaves(jax.device_get((state.params, state.optimizer)))


def assert_close(left, right, *, rtol=0.0, atol):
    for a, b in zip(leaves(left), leaves(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


@pytest.mark.parametrize("case", PARAMETERS)
def test_traces_stay_within_the_declared_shapes(case, start, drive):
    run = start(case.make(), seed=11)
    before = step.update._cache_size()
    state, _, metrics, _ = drive(run, 3)
    (shapes,) = run.learner.shapes.values()
    assert step.update._cache_size() - before <= shapes.programs
    assert state.counters["updates"] == 3 * run.recipe.objectives[0].updates
    assert state.counters["skipped"] == 0
    assert all(m["grad_norm"] > 0 for m in metrics)
    rebuilt = dataclasses.replace(run, recipe=case.make())
    drive(rebuilt, 1, state)
    assert step.update._cache_size() - before <= shapes.programs, "an equal recipe recompiled"


@pytest.mark.parametrize("case", PARAMETERS)
def test_saved_and_restored_is_the_same_run_bit_by_bit(case, start, drive, tmp_path):
    whole, _, metrics, records = drive(start(case.make()), 3)
    run = start(case.make())
    state, memory, _, _ = drive(run, 1)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(state, memory, {})
    fresh = start(case.make())
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        state, memory, _ = checkpoints.restore(fresh.state, fresh.memory)
    resumed, _, metrics_again, records_again = drive(fresh, 2, state, memory)
    for a, b in zip(leaves(whole), leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    assert whole.counters == resumed.counters
    assert records[1:] == records_again
    timed = {"tokens_per_second", "seconds_round", "seconds_rollout", "seconds_update"}
    for one, other in zip(metrics[1:], metrics_again, strict=True):
        assert {k: v for k, v in one.items() if k not in timed} == {
            k: v for k, v in other.items() if k not in timed
        }


@pytest.mark.parametrize("case", PARAMETERS)
def test_two_devices_are_one(case, start, drive):
    one, _, metrics, records = drive(start(case.make()), 1)
    two, _, metrics_two, records_two = drive(start(case.make(), devices=2), 1)
    assert [r["ids"] for r in records[0]] == [r["ids"] for r in records_two[0]]
    assert metrics[0]["loss"] == pytest.approx(metrics_two[0]["loss"], abs=1e-6)
    # Adam divides a gradient by its own size: rounding of 1e-7 in the sum over devices can show
    # as a visible share of one step (1e-3) where a gradient is next to nothing.
    assert_close(one, two, atol=2e-4)
    gap = metrics[0]["grad_norm"] - metrics_two[0]["grad_norm"]
    assert abs(gap) < 1e-5 * metrics[0]["grad_norm"]


@pytest.mark.parametrize("case", PARAMETERS)
def test_padding_and_micro_batches_change_nothing(case, start, drive):
    plain, _, metrics, records = drive(start(case.make()), 1)
    other = start(case.make(), prompt_tokens=13, micro_batches=2)
    cut, _, metrics_cut, records_cut = drive(other, 1)
    assert [r["ids"] for r in records[0]] == [r["ids"] for r in records_cut[0]]
    assert metrics[0]["loss"] == pytest.approx(metrics_cut[0]["loss"], abs=1e-6)
    assert metrics[0]["grad_norm"] == pytest.approx(metrics_cut[0]["grad_norm"], rel=1e-5)
    assert_close(plain, cut, atol=2e-4)


@pytest.mark.parametrize("case", PARAMETERS)
def test_the_trainer_sees_the_samplers_log_probs(case, start, drive):
    _, _, metrics, _ = drive(start(case.make()), 2)
    assert all(m["logp_mismatch"] <= 1e-4 for m in metrics)


@pytest.mark.parametrize("case", PARAMETERS)
def test_a_bad_gradient_changes_nothing_and_is_counted(case, start):
    run = start(case.make())
    lab = run.bench.lab(run.state.params)
    rows = run.recipe.collect(lab, run.state, run.memory)["policy"]
    broken = [dataclasses.replace(row, rewards={"coin": float("nan")}) for row in rows]
    objective = run.recipe.objectives[0]
    before = jax.device_get((run.state.params, run.state.optimizer))
    rng = np.random.default_rng(0)
    state, reports = step.learn(
        objective, run.learner, run.bench.model.tokenizer, run.state, broken, rng
    )
    if objective.advantage.fn.__name__ == "zero_advantage":
        return
    assert not any(bool(r["finite"]) for r in reports)
    after = jax.device_get((state.params, state.optimizer))
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_an_all_zero_advantage_batch_is_a_legal_step_without_a_gradient(start):
    run = start(CASES[0].make())
    rows = run.recipe.collect(run.bench.lab(run.state.params), run.state, run.memory)["policy"]
    equal = [dataclasses.replace(row, rewards={"coin": 0.7}) for row in rows]
    objective, rng = run.recipe.objectives[0], np.random.default_rng(0)
    _, (report,) = step.learn(
        objective, run.learner, run.bench.model.tokenizer, run.state, equal, rng
    )
    assert bool(report["finite"])
    assert float(report["grad_norm"]) == 0.0
    assert float(report["loss"]) == 0.0


def shortened(row, length):
    prompt, answer = row.segments
    cut = dataclasses.replace(answer, ids=answer.ids[:length], logp=answer.logp[:length])
    return dataclasses.replace(row, segments=(prompt, cut))


def test_garbage_under_mask_0_changes_neither_loss_nor_gradient(start):
    run = start(CASES[0].make())
    rows = run.recipe.collect(run.bench.lab(run.state.params), run.state, run.memory)["policy"]
    rows = [shortened(row, 1 + n % 4) for n, row in enumerate(rows)]
    objective, learner = run.recipe.objectives[0], run.learner
    shapes = learner.shapes["policy"]
    table = prepare(rows, objective, shapes, run.bench.model.tokenizer)
    batch = stack(table, range(shapes.rows), shapes)
    text = batch.answers["text"]
    masked = ~text.mask_NA
    assert masked.any()
    dirty = dataclasses.replace(
        text,
        ids_NA=np.where(masked, 9, text.ids_NA),
        behaviour_NA=np.where(masked, np.nan, text.behaviour_NA),
        log_kept_NA=np.where(masked, np.inf, text.log_kept_NA),
    )
    packed = batch.layouts[OWN]
    empty = packed.node_BS == 0
    dirty_packed = dataclasses.replace(
        packed,
        ids_BS=np.where(empty, 9, packed.ids_BS),
        positions_BS=np.where(empty, 77, packed.positions_BS),
    )
    changed = dataclasses.replace(
        batch, answers={"text": dirty}, layouts={**batch.layouts, OWN: dirty_packed}
    )

    def one_update(batch):
        state = jax.tree.map(lambda x: x.copy(), (run.state.params, run.state.optimizer))
        params, optimizer = state
        others = {n: p for n, p in params.items() if n != "policy"}
        return step.update(
            params["policy"],
            optimizer["policy"],
            others,
            learner.place(batch),
            objective=objective,
            forward=learner.forward,
        )

    clean, _, report = one_update(batch)
    other, _, report_other = one_update(changed)
    assert float(report["loss"]) == float(report_other["loss"])
    jax.tree.map(np.testing.assert_array_equal, clean, other)
