"""What every recipe must keep, on a tiny model, three rounds each."""

import dataclasses

import jax
import numpy as np
import pytest
from cases import CASES

from jaxevo import step
from jaxevo.collect.pack import stack
from jaxevo.collect.table import prepare
from jaxevo.recipes import recipe_names
from jaxevo.run.checkpoint import Checkpoints
from jaxevo.run.metrics import without_times
from jaxevo.types import OWN

# Of these recipes another case is driven in each test run, and grpo-lora.
SOAKED = ("sdpo-lora", "ppo-lora", "grpo-curriculum", "dpo-kto", "sage-light")
PARAMETERS = [  # `make check` drives the first case only
    pytest.param(
        case,
        id=case.name,
        marks=[pytest.mark.slow] * (n > 0) + [pytest.mark.soak] * (case.name in SOAKED),
    )
    for n, case in enumerate(CASES)
]
WHOLE = [p for p in PARAMETERS if not p.values[0].brief]
BOTH = ("grpo", "grpo-full", "sdpo")  # with a teacher and without, and with all that GRPO has
TWICE = [  # what takes another compile of everything
    p
    if p.values[0].name in BOTH
    else pytest.param(*p.values, id=p.id, marks=[*p.marks, pytest.mark.soak])
    for p in WHOLE
]


def leaves(state):
    return jax.tree.leaves(jax.device_get((state.params, state.optimizer)))


def assert_close(left, right, *, rtol=0.0, atol):
    for a, b in zip(leaves(left), leaves(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def measured(metrics, *names):
    """The numbers of one round that end with one of the names, by full name."""
    return {k: v for k, v in metrics.items() if k.rsplit("/", 1)[-1] in names}


@pytest.mark.parametrize("case", PARAMETERS)
def test_traces_stay_within_the_declared_shapes(case, start, drive):
    run = start(case, seed=11)
    programs = sum(shapes.programs for shapes in run.learner.shapes.values())
    before = step.update._cache_size()
    state, _, metrics, _ = drive(run, 3)
    assert step.update._cache_size() - before <= programs
    assert state.counters["updates"] == case.updates
    assert state.counters["skipped"] == 0
    assert all(norm > 0 for m in metrics for norm in measured(m, "grad_norm").values())
    rebuilt = dataclasses.replace(run, recipe=case.make())
    drive(rebuilt, 1, state)
    assert step.update._cache_size() - before <= programs, "an equal recipe recompiled"


@pytest.mark.parametrize("case", PARAMETERS)
def test_saved_and_restored_is_the_same_run_bit_by_bit(case, start, drive, three_rounds, tmp_path):
    _, whole, metrics, records = three_rounds(case)
    run = start(case)
    state, memory, _, _ = drive(run, 1)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(state, memory, {})
    fresh = start(case)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        state, memory, _ = checkpoints.restore(fresh.state, fresh.memory)
    resumed, _, metrics_again, records_again = drive(fresh, 2, state, memory)
    for a, b in zip(leaves(whole), leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    assert whole.counters == resumed.counters
    assert records[1:] == records_again
    assert [without_times(m) for m in metrics[1:]] == [without_times(m) for m in metrics_again]


def assert_same_round(one, other):
    """Equal rows, losses and gradients; each of them is (state, metrics, records) of a round."""
    assert [r["ids"] for r in one[2]] == [r["ids"] for r in other[2]]
    losses, norms = measured(one[1], "loss"), measured(one[1], "grad_norm")
    assert losses == pytest.approx(measured(other[1], "loss"), abs=1e-6)
    assert norms == pytest.approx(measured(other[1], "grad_norm"), rel=1e-5)
    # Adam divides a gradient by its own size: rounding of 1e-7 in sums of another order can show
    # as a visible share of one step (1e-3) where a gradient is next to nothing.
    assert_close(one[0], other[0], atol=2e-4)


def first_round(drive, run):
    state, _, metrics, records = drive(run, 1)
    return state, metrics[0], records[0]


def plain_round(three_rounds, case):
    state, _, metrics, records = three_rounds(case)
    return state, metrics[0], records[0]


@pytest.mark.parametrize("case", TWICE)
def test_two_devices_are_one(case, start, drive, three_rounds):
    two = first_round(drive, start(case, devices=2))
    assert_same_round(plain_round(three_rounds, case), two)


@pytest.mark.parametrize("case", TWICE)
def test_padding_and_micro_batches_change_nothing(case, start, drive, three_rounds):
    slots = start(case).bench.sampler.prompt_slots
    longer = first_round(drive, start(case, prompt_tokens=slots + 2, micro_batches=2))
    assert_same_round(plain_round(three_rounds, case), longer)


@pytest.mark.parametrize("case", PARAMETERS)
def test_the_trainer_sees_the_samplers_log_probs(case, three_rounds):
    _, _, metrics, _ = three_rounds(case)
    assert all(m["logp_mismatch"] <= 1e-4 for m in metrics)


def broken(params):
    """The weights with one that is not a number, where every loss reads it; same placement."""
    norm = params["final_norm"]
    values = np.array(norm)
    values[0] = np.nan
    return {**params, "final_norm": jax.device_put(values, norm.sharding)}


@pytest.mark.parametrize("case", WHOLE)
def test_a_bad_gradient_changes_nothing_and_is_counted(case, start):
    run = start(case)
    lab = run.bench.lab(run.state.params, learner=run.learner)
    experience = run.recipe.collect(lab, run.state, run.memory)
    state = run.state.replace(params={n: broken(p) for n, p in run.state.params.items()})
    before = jax.device_get((state.params, state.optimizer))
    for objective in (o for o in run.recipe.objectives if experience.get(o.name)):
        state, reports = step.learn(
            objective, run.learner, run.bench.model.tokenizer, state, experience[objective.name],
            np.random.default_rng(0),
        )  # fmt: skip
        assert not any(bool(r["finite"]) for r in reports)
        after = jax.device_get((state.params, state.optimizer))
        jax.tree.map(np.testing.assert_array_equal, before, after)


def test_every_recipe_has_a_row():
    assert {case.make().name for case in CASES} == set(recipe_names())


def test_an_all_zero_advantage_batch_is_a_legal_step_without_a_gradient(start):
    run = start(CASES[0])
    rows = run.recipe.collect(run.bench.lab(run.state.params), run.state, run.memory)["policy"]
    equal = [dataclasses.replace(row, rewards={"coin": 0.7}) for row in rows]
    objective, rng = run.recipe.objectives[0], np.random.default_rng(0)
    _, (report,) = step.learn(
        objective, run.learner, run.bench.model.tokenizer, run.state, equal, rng
    )
    assert bool(report["finite"])
    assert float(report["grad_norm"]) == 0.0
    assert float(report["loss"]) == 0.0


def test_rows_without_advantage_need_no_forward_pass(start):
    run = start(CASES[0])
    rows = run.recipe.collect(run.bench.lab(run.state.params), run.state, run.memory)["policy"]
    groups = sorted({row.group for row in rows})
    rows = [  # the rewards of every other group are all equal
        dataclasses.replace(row, rewards={"coin": float(n % 3 == 0 or row.group in groups[::2])})
        for n, row in enumerate(rows)
    ]
    objective, found = run.recipe.objectives[0], []
    assert objective.idle is not None
    for changed in (objective, dataclasses.replace(objective, idle=None)):
        state = run.state.replace(
            params=jax.tree.map(lambda x: x.copy(), run.state.params),
            optimizer=jax.tree.map(lambda x: x.copy(), run.state.optimizer),
        )
        found.append(
            step.learn(
                changed, run.learner, run.bench.model.tokenizer, state, rows,
                np.random.default_rng(0),
            )
        )  # fmt: skip
    (own, (report,)), (whole, (report_whole,)) = found
    assert report["idle"] == [row.group in groups[::2] for row in rows]
    assert not any(report_whole["idle"])
    assert report["slots"][0] < 0.7 * report_whole["slots"][0]
    assert float(report["loss"]) == pytest.approx(float(report_whole["loss"]), rel=1e-5, abs=1e-7)
    assert float(report["grad_norm"]) == pytest.approx(float(report_whole["grad_norm"]), rel=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6),
        own.params["policy"],
        whole.params["policy"],
    )


def shortened(row, length):
    prompt, answer = row.segments
    cut = dataclasses.replace(answer, ids=answer.ids[:length], logp=answer.logp[:length])
    return dataclasses.replace(row, segments=(prompt, cut))


def test_garbage_under_mask_0_changes_neither_loss_nor_gradient(start):
    run = start(CASES[0])
    rows = run.recipe.collect(run.bench.lab(run.state.params), run.state, run.memory)["policy"]
    rows = [shortened(row, 1 + n % 4) for n, row in enumerate(rows)]
    objective, learner = run.recipe.objectives[0], run.learner
    shapes = learner.shapes["policy"]
    table = prepare(rows, objective, shapes.answer, run.bench.model.tokenizer)
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
    empty = packed.until_BS == 0
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
