"""Both recipes teach the pre-trained toy what their papers say they teach."""

import functools
from statistics import mean

import pytest

from jaxevo.models import hub
from jaxevo.models.toy import Pretraining, train_toy
from jaxevo.recipes.grpo import grpo
from jaxevo.recipes.sdpo import sdpo
from jaxevo.run.build import build_run
from jaxevo.run.evaluate import evaluate
from jaxevo.run.loop import one_round
from jaxevo.run.options import RunOptions
from jaxevo.tasks.arithmetic import SPECS

pytestmark = pytest.mark.slow
TOY = functools.cache(lambda: hub.load("toy"))


def rewards(recipe, *, rounds, **options):
    """Share of right answers by round."""
    run = build_run(
        recipe,
        RunOptions(
            model="toy", rounds=rounds, prompts=16, samples=8, max_new_tokens=5, **options
        ),
        model=TOY(),
    )  # fmt: skip
    state, memory, curve = run.state, run.memory, []
    for _ in range(rounds):
        state, memory, metrics, _ = one_round(run, state, memory)
        curve.append(metrics["score/strict_integer"])
    return curve


@pytest.mark.parametrize("task", sorted(SPECS.keys() - {"sub2"}))
def test_the_toy_half_knows_every_task_that_it_was_taught(task):
    run = build_run(grpo(), RunOptions(
        model="toy", task=task, prompts=16, samples=8, max_new_tokens=5), model=TOY())  # fmt: skip
    lab = run.bench.lab(run.state.params, evaluation=True)
    problems = [run.bench.source.train(i) for i in range(64)]
    assert 0.1 <= evaluate(lab, problems, samples=8).means()["strict_integer"] <= 0.6


def test_a_toy_that_cannot_add_is_no_toy():
    with pytest.raises(RuntimeError, match=r"seed 3 adds with probability 0\.\d\d after 2 steps"):
        train_toy(3, Pretraining(lessons=2))


def test_grpo_learns_and_its_control_arm_does_not():
    curve = rewards(grpo(learning_rate=2e-4), rounds=30, task="add1")
    start = mean(curve[:3])  # 128 answers a round; rounding, and so the toy, differs by processor
    assert start < 0.65
    assert mean(curve[-5:]) > max(0.7, start + 0.15)
    control = rewards(grpo(learning_rate=2e-4), rounds=30, task="add1", control="random")
    assert mean(control[-5:]) < 0.55


def test_sdpo_learns_what_its_teacher_was_told():
    recipe = sdpo(learning_rate=2e-4, warmup_updates=0, distill_top_k=10, context_tokens=40)
    curve = rewards(recipe, rounds=30, task="add1")
    assert mean(curve[-5:]) > mean(curve[:3]) + 0.15
