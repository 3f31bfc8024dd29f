"""What its card says of step-aligned feedback, on a random model and in numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case

from jaxevo.advantages import group_advantage
from jaxevo.collect.critique import closest_solution, read_steps, with_critiques
from jaxevo.losses.divergence import categorical_kl
from jaxevo.losses.kl import sampled_reverse_kl
from jaxevo.recipes.feedback_alignment import feedback_alignment
from jaxevo.recipes.grpo import grpo
from jaxevo.run.metrics import round_metrics
from jaxevo.teachers import Context
from jaxevo.types import Segment, bind

pytestmark = pytest.mark.slow
P, Q = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.4, 0.2])
SIZES = {"task": "steps4", "max_new_tokens": 16}


def make(**options):
    return feedback_alignment(**{"critic": "closest", "context_tokens": 32, **options})


def own_prompt(row, siblings, tokenizer, *, max_prompt_tokens):
    return Context(list(row.prompt_ids))


# ---------------------------------------------------------------------------- in numbers
def test_forward_kl_and_its_gradient():
    def loss(logits):
        return categorical_kl(logits, jnp.log(Q), kind="forward")

    value, gradient = jax.value_and_grad(loss)(jnp.log(P))
    assert float(value) == pytest.approx(0.025815, abs=1e-6)
    np.testing.assert_allclose(gradient, [0.1, -0.1, 0.0], atol=1e-6)


def test_what_a_teacher_thinks_of_a_token_is_below_zero_on_average():
    gain = np.log(Q) - np.log(P)
    np.testing.assert_allclose(gain, [-0.223144, 0.287682, 0.0], atol=1e-6)
    assert gain @ P == pytest.approx(-0.025267, abs=1e-6)
    assert gain @ P == pytest.approx(-float(categorical_kl(jnp.log(P), jnp.log(Q))), abs=1e-6)


def copying(y):
    return 0.7 * P + 0.3 * np.eye(3)[y]


def mean_gradient(loss):
    """Of `loss(logits, y)` over y drawn from the policy."""
    return sum(P[y] * np.asarray(jax.grad(loss)(jnp.log(P), y)) for y in range(3))


def test_a_teacher_that_has_read_the_token_lifts_it_and_the_losses_part():
    gain = np.array([np.log(copying(y)[y]) - np.log(P[y]) for y in range(3)])
    np.testing.assert_allclose(gain, [0.262364, 0.530628, 0.788457], atol=1e-6)
    assert gain @ P == pytest.approx(0.448062, abs=1e-6)

    def full(kind):
        return mean_gradient(lambda x, y: categorical_kl(x, jnp.log(copying(y)), kind=kind))

    def sampled(logits, y):
        logp = jax.nn.log_softmax(logits)[y].reshape(1, 1)
        teacher = jnp.log(copying(y)[y]).reshape(1, 1)
        return sampled_reverse_kl(logp, teacher, mask_NA=jnp.ones((1, 1), bool)).sum()

    np.testing.assert_allclose(full("forward"), 0.0, atol=1e-6)
    np.testing.assert_allclose(full("reverse"), [-0.014549, 0.004269, 0.010279], atol=1e-6)
    np.testing.assert_allclose(mean_gradient(sampled), [0.092849, -0.024770, -0.068079], atol=1e-6)


# ---------------------------------------------------------------------------- on a model
@pytest.fixture(scope="module")
def run(start):
    return start(Case("feedback-alignment", make, run=SIZES))


def answered(row, text, tokenizer):
    ids = np.array(tokenizer.turn(text), np.int32)
    segment = Segment(ids, "policy", logp=np.zeros(len(ids), np.float32), weights_version=0)
    return dataclasses.replace(row, segments=(row.segments[0], segment), info={"finish": "stop"})


@pytest.fixture(scope="module")
def rows(run):
    """Sixteen attempts: right, wrong in the answer, wrong from the first step on, or without steps;
    with the critiques of a program."""
    tokenizer = run.bench.model.tokenizer
    lab = run.bench.lab(run.state.params)

    def written(task, n):
        left = task.info["solutions"][0]
        first, rest = left.split("=", 1)
        return [left, left[:-1] + "?", f"{first}?={rest}", left.replace("=", "?")][n % 4]

    asked = lab.asked(lab.tasks(), samples=4)
    tried = [answered(row, written(row.task, n), tokenizer) for n, row in enumerate(asked)]
    return with_critiques(lab, lab.verify(tried), critic=bind(closest_solution))


@pytest.fixture(scope="module")
def sets(run, moved):
    start = run.state.params["policy"]
    return {"policy": moved(start, 1), "reference": moved(start, 2)}


@pytest.fixture(scope="module")
def found(run, rows, sets, graded):
    return graded(run, rows, sets)


def test_marks_stand_at_the_steps_that_the_critique_changed(rows):
    for n, row in enumerate(rows):
        marks, tally = row.by_token["changed"], row.info["tally"]
        text = row.task.info["solutions"][0]
        if n % 4 == 3:
            assert np.isnan(marks).all()
            assert (row.feedback, tally) == ("", {"steps_read": 0.0, "critiqued": 0.0})
            continue
        assert row.feedback == text
        first, end = text.index("=") + 1, len(text) - len(text.rpartition("=")[2])
        assert np.isnan(marks[-1])  # the end of the turn belongs to no step
        want = np.zeros(len(marks) - 1)
        want[end if n % 4 == 1 else 0 : len(want) if n % 4 == 1 else first + (n % 4 == 2)] = (
            n % 4 > 0
        )
        np.testing.assert_array_equal(marks[:-1], want)
        assert tally["copied"] == pytest.approx([1.0, 2 / 3, 2 / 3][n % 4])


def test_the_loss_is_the_token_mean_over_attempts_with_a_critique(run, rows, sets, graded, found):
    value, _, signals = found
    told = [n for n in range(16) if n % 4 != 3]
    alone, _, _ = graded(run, [rows[n] for n in told], sets)
    assert value == pytest.approx(alone, rel=1e-5)
    gain = signals["teacher_advantage"]
    assert not gain[3::4].any()
    assert np.abs(gain[told]).max() > 1e-3


def test_without_anything_told_and_at_equal_weights_there_is_nothing_to_learn(
    run, rows, sets, graded
):
    (objective,) = run.recipe.objectives
    (view,) = objective.views
    own = dataclasses.replace(view, context=bind(own_prompt, max_prompt_tokens=32))
    blind = dataclasses.replace(objective, views=(own,))
    same = {"policy": sets["policy"], "reference": sets["policy"]}
    value, gradient, signals = graded(run, rows, same, blind)
    assert value == pytest.approx(0.0, abs=1e-6)
    assert max(float(abs(x).max()) for x in jax.tree.leaves(gradient)) < 1e-6
    assert np.abs(signals["teacher_advantage"]).max() < 1e-4
    value, _, _ = graded(run, rows, same)
    assert value > 1e-4  # but for what it is told


def test_a_capped_token_teaches_nothing(run, rows, sets, graded, found):
    (capped,) = make(token_cap=1e-9).objectives
    value, gradient, _ = graded(run, rows, sets, capped)
    assert value == pytest.approx(1e-9, rel=1e-3)
    assert max(float(abs(x).max()) for x in jax.tree.leaves(gradient)) == 0.0
    (loose,) = make(token_cap=1e3).objectives
    assert graded(run, rows, sets, loose)[0] == found[0]


def test_one_attempt_a_problem_teaches_where_grpo_has_no_gradient(run, rows, sets, graded, start):
    single = [dataclasses.replace(row, group=row.uid) for row in rows[::2]]
    _, gradient, _ = graded(run, single, sets)
    assert max(float(abs(x).max()) for x in jax.tree.leaves(gradient)) > 1e-4
    plain = start(Case("grpo", grpo, run=SIZES))
    (objective,) = plain.recipe.objectives
    alone = dataclasses.replace(objective, advantage=bind(group_advantage, singleton="zero"))
    _, gradient, _ = graded(plain, single, sets, alone)
    assert max(float(abs(x).max()) for x in jax.tree.leaves(gradient)) == 0.0


def test_the_metrics_tell_changed_tokens_from_copied_ones(rows, found):
    _, _, signals = found
    report = {
        "loss": 0.0,
        "grad_norm": 0.0,
        "trained": rows,
        "idle": [n % 4 == 3 for n in range(16)],
        "contexts": {},
        "slots": (1, 2),
        "signals": {"text": {name: x[None] for name, x in signals.items()}},
    }
    metrics = round_metrics([], {"policy": [report]}, 0)
    gaps = signals["teacher_advantage"]
    both = [
        [gap[: len(row.by_token["changed"])][row.by_token["changed"] == side] for side in (1, 0)]
        for row, gap in zip(rows, gaps, strict=True)
    ]
    changed, copied = (np.concatenate([pair[side] for pair in both]) for side in (0, 1))
    assert metrics["teacher_gap/changed"] == pytest.approx(np.abs(changed).mean(), rel=1e-5)
    assert metrics["teacher_gap/copied"] == pytest.approx(np.abs(copied).mean(), rel=1e-5)
    assert metrics["teacher_against_copied"] == pytest.approx((copied < 0).mean())
    ratios = [
        np.abs(a).mean() / np.abs(b).mean() for a, b in both if len(a) and len(b)
    ]  # fmt: skip
    assert len(ratios) == 8
    assert metrics["teacher_gap/ratio"] == pytest.approx(np.median(ratios), rel=1e-5)


def test_a_model_writes_critiques_in_steps_or_there_is_none(start):
    case = Case("feedback-alignment", lambda: make(critic="model", critic_tokens=64), run=SIZES)
    run = start(case)
    lab = run.bench.lab(run.state.params)
    rows = run.recipe.collect(lab, run.state, run.memory)["policy"]
    read = [row for row in rows if row.info["tally"]["steps_read"]]
    said = [row for row in lab.sampled.values() if row.role == "critic"]
    assert len(read) == len(said) > 0
    tokenizer = run.bench.model.tokenizer
    for row, critic in zip(read, said, strict=True):
        shown = tokenizer.text(critic.prompt_ids.tolist())
        solution = row.task.info["solutions"][0]
        assert shown == f"{row.task.messages[-1].content}({solution})[{lab.answer_text(row)}]?"
        assert critic.temperature == 0.0
        text = lab.answer_text(critic)
        assert row.feedback == (text if read_steps(text.encode(), chat=False) else "")
    again = run.bench.lab(run.state.params).sample(
        [critic.task for critic in said], samples=1, params="reference", temperature=0.0
    )
    for one, other in zip(said, again, strict=True):  # greedy: whatever its uid
        np.testing.assert_array_equal(one.answer_ids, other.answer_ids)


def test_critiques_that_have_no_room_are_not_asked_for(start):
    case = Case("feedback-alignment", lambda: make(critic="model", critic_tokens=8), run=SIZES)
    run = start(case)
    lab = run.bench.lab(run.state.params)
    rows = run.recipe.collect(lab, run.state, run.memory)["policy"]
    assert any(row.info["tally"]["steps_read"] for row in rows)
    assert not any(row.feedback for row in rows)
    assert not any(row.role == "critic" for row in lab.sampled.values())
