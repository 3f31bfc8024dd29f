"""Self-play by search, with and without the path: `python -m experiments pi-play`.

The start is a toy that has seen walks through graphs that do not exist: it knows how to search and
to write questions, of one hop or of three nearly always. It answers those of one hop, repeats its
first search in many of those of two, in most of them where it is the student that learns, and stops
too early in those of three.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.learning import eval_lab, learn
from experiments.study import Run, claimed, lower_bound, pairs, plot_reading, styled
from experiments.warm_start import Parts, warm_start
from jaxevo.envs.graph import leads, starts
from jaxevo.losses.reduce import masked
from jaxevo.models import hub
from jaxevo.recipes.pi_play import pi_play
from jaxevo.run import build
from jaxevo.run.options import RunOptions
from jaxevo.tasks.walks import built_task
from jaxevo.types import OWN, Batch, Bound, Params, Row, Segment, TrainState, bind

ANSWER = 32
WARM = {"rows": 32, "prompt_tokens": 32, "answer_tokens": ANSWER + 1}
BASE, LEAN = {"steps": 300, "learning_rate": 2e-3}, {"steps": 30, "learning_rate": 1e-3}
EVEN = (1 / 3, 1 / 3, 1 / 3)  # of one, two and three hops, of the questions that are written
RIGHT = 0.7  # share of answers to questions of two hops that do not repeat the first search
STARTS = {  # both in the last steps of a start
    "easy": {"hops": (0.85, 0.15, 0.0), "right": RIGHT},
    "hard": {"hops": (0.0, 0.15, 0.85), "right": RIGHT},
    "unsure": {"hops": EVEN, "right": 0.2},
}
OBEDIENCE = 0.95  # share of answers that follow a path that is shown
WEIGHT, ROUNDS = 1.0, {"examiner": 6, "student": 5}
SIZES = {"question_tokens": 8, "context_tokens": 32, "attempts": 4}
EXAMINER = {"learning_rate": 3e-4, "student_rounds": 0, **SIZES}
STUDENT = {"learning_rate": 5e-4, "examiner_rounds": 0, "variants": 8, **SIZES}
ARMS = {  # start, stage, recipe
    "easy": ("easy", "examiner", bind(pi_play, **EXAMINER)),
    "hard": ("hard", "examiner", bind(pi_play, **EXAMINER)),
    "path": ("unsure", "student", bind(pi_play, distill_weight=WEIGHT, **STUDENT)),
    "no path": ("unsure", "student", bind(pi_play, distill_weight=0.0, **STUDENT)),
}
OPTIONS = {
    "task": "hops",
    "prompts": 16,
    "samples": 8,
    "max_new_tokens": ANSWER,
}
TEMPERATURE = {"examiner": 0.7, "student": 1.0}
SAMPLES, ENDS = 4, 2
KEEP = ("reward", "tally/valid", "tally/undecided", "tally/solved", "tally/hops", "tally/pool",
        "loss/distill", "zero_variance_share")  # fmt: skip
TRIED: list[dict[str, Any]] = [  # rise from easy and hard; mean accuracy with the path, without
    {
        "seed": 0,
        "start": "400 steps of 64 rows; half of the answers of two hops right",
        "stages": "8 rounds of the examiner from easy, then 8 of the student; learning rate 5e-4",
        "gap": 2.0,
        "rise": [-0.09, 0.12],
        "accuracy": [0.67, 0.46],
        "why not": "at temperature 1 one hop is not easy yet, and two are hardly ever right",
    },
    {
        "seed": 0,
        "start": "300 steps of 32 rows for both, and 40 of their own; temperature 0.7",
        "stages": "6 rounds and 6; 4 conversations a task",
        "gap": 1.89,
        "rise": [0.13, -0.02],
        "accuracy": [0.88, 0.86],
        "why not": "the examiner goes past two hops; the student learns in two rounds either way",
    },
    {
        "seeds": [0, 1, 2],
        "start": "0.7 of the answers of two hops right; 30 steps of their own",
        "stages": "6 rounds of the examiner at 3e-4, from both; 5 of the student at 2e-4, apart",
        "gap": [0.91, 0.53, 0.7],
        "rise": [[0.2, 0.34], [0.07, 0.2], [0.09, 0.2]],
        "accuracy": [[0.61, 0.70], [0.82, 0.82], [0.64, 0.61]],
        "why not": "at temperature 0.7 a pool of 5 to 7 tasks, most of them right already",
    },
    {
        "seeds": [0, 1],
        "start": "the same",
        "stages": "5 rounds of the student at 5e-4, temperature 1, 8 samples; 128 walks",
        "gap": [0.91, 0.53],
        "accuracy": [[0.49, 0.52], [0.79, 0.78]],
        "why not": "the path is little help to a student that searches right without it",
    },
    {
        "seeds": [0, 1],
        "start": "for the student, 30 steps in which 0.2 of the answers of two hops are right",
        "stages": "the same",
        "gap": [2.35, 2.96],
        "accuracy": [[0.38, 0.30], [0.28, 0.27]],
    },
    {
        "seeds": [0, 1],
        "start": "the same",
        "stages": "distillation weighs 3 instead of 1",
        "gap": [2.35, 2.96],
        "accuracy": [[0.37, 0.30], [0.28, 0.27]],
        "why not": "no better",
    },
]


# ---------------------------------------------------------------------------- the start
def example(
    generator: np.random.Generator, *, hops: tuple[float, ...], right: float
) -> tuple[str, Parts]:
    """A question that is built, answered, or answered with its path in sight."""
    numbers = [str(n) for n in generator.choice(np.arange(10, 100), size=4, replace=False)]
    kind = generator.random()
    if kind < 0.35:
        count = 1 + int(generator.choice(3, p=hops))
        return f"{numbers[0]}?", _walk(
            numbers, count, f"{_question(numbers, count)}{numbers[count]}"
        )
    count = 1 + int(generator.choice(3, p=(0.2, 0.6, 0.2)))
    question = _question(numbers, count)
    if kind < 0.65:
        return question, _answered(numbers, count, generator, right)
    path = "".join(text for _, text in _walk(numbers, count, ""))
    if generator.random() < OBEDIENCE:
        return f"[{path}]{question}", _walk(numbers, count, numbers[count])
    return f"[{path}]{question}", _answered(numbers, count, generator, right)


def _question(numbers: Sequence[str], hops: int) -> str:
    return f"{numbers[0]}{'*' * hops}="


def _walk(numbers: Sequence[str], hops: int, end: str) -> Parts:
    """Searches and what they find, and what is written behind them."""
    parts: list[Any] = []
    for here, there in itertools.pairwise(numbers[: hops + 1]):
        parts += [("forced", f"[{here}]"), ("tool", f"({there})")]
    return [*parts, ("forced", end)]


def _answered(
    numbers: Sequence[str], hops: int, generator: np.random.Generator, right: float
) -> Parts:
    if hops == 1:
        return _walk(numbers, 1, numbers[1])
    if generator.random() < right:
        return _walk(numbers, 2, numbers[2])  # of three hops, one too few
    again = [numbers[0], numbers[1]]
    return [*_walk(again, 1, ""), *_walk(again, 1, numbers[1])]


# ---------------------------------------------------------------------------- what is read
def lift(sets: Mapping[str, Params], batch: Batch, forward: Bound) -> jax.Array:
    """log q − log p of each token of a row."""
    own, told = (
        forward(sets[name], batch.layouts[at], batch.answers, batch.temperature, read=("logp",))
        for name, at in (("policy", OWN), ("teacher", "teacher"))
    )
    mask_NA = own["text"].mask_NA
    return masked(told["text"].logp_NA, mask_NA) - masked(own["text"].logp_NA, mask_NA)


def next_query_gap(run: build.Run) -> float:
    """Mean log q − log p of the second search of a right answer, held out, before anything is
    learnt."""
    lab = eval_lab(run, run.state)
    rows = [_right(n, start, lab.tokenizer) for n, start in enumerate(starts()[1])]
    lifts_NA = lab.map(bind(lift), rows, like=run.recipe.objectives[0])
    return float(np.mean(lifts_NA[:, 8:12].sum(1)))  # behind [12](47)


def _right(uid: int, start: str, tokenizer: Any) -> Row:
    numbers = [start, leads()[start], leads()[leads()[start]]]
    path = [f"[{a}]({b})" for a, b in itertools.pairwise(numbers)]
    task = built_task(_question(numbers, 2), numbers[2], path, chat=False)
    parts = [("prompt", task.messages[0].content), *_walk(numbers, 2, numbers[2])]
    segments = [
        Segment(np.array(tokenizer.encode(text), np.int32), "policy" if s == "forced" else s)
        for s, text in parts
    ]
    return Row(uid, task, uid, tuple(segments))


def accuracy(run: build.Run, state: TrainState) -> dict[str, float]:
    """Share of right answers to the held-out questions of two hops, with the tool."""
    how = dict(dict(run.recipe.collect.options)["waves"][1].options)["how"]
    lab, source = eval_lab(run, state), run.bench.source
    tasks = [source.held_out(n) for n in range(source.held_out_size)]
    talks = how.loop(lab, "policy", "policy").run(tasks, SAMPLES)
    return {"accuracy": float(np.mean([r.accuracy for r in lab.verify([t.row for t in talks])]))}


def nothing(run: build.Run, state: TrainState) -> dict[str, float]:
    """Of a run in which the student does not learn."""
    del run, state
    return {}


def run_seed(seed: int) -> list[Run]:
    first = bind(example, hops=EVEN, right=RIGHT)
    model = warm_start(hub.load("toy"), first, seed=seed, **BASE, **WARM)
    models = {
        start: warm_start(model, bind(example, **lean), seed=seed, **LEAN, **WARM)
        for start, lean in STARTS.items()
    }
    runs = []
    for arm, (start, stage, make) in ARMS.items():
        sizes = {"rounds": ROUNDS[stage], "temperature": TEMPERATURE[stage], **OPTIONS}
        options = RunOptions(model="toy", seed=seed, eval_problems=0, **sizes)
        reading = bind(accuracy) if stage == "student" else bind(nothing)
        found = learn(make(), models[start], options, every=1, reading=reading, keep=KEEP)
        if arm == "path":
            found["gap"] = next_query_gap(build.build_run(make(), options, model=models[start]))
        runs.append({"arm": arm, "seed": seed, **found})
    return runs


# ---------------------------------------------------------------------------- what is claimed
def undecided(run: Run) -> list[float]:
    """By round: share of the examiner's walks that led to a question that the student answers at
    times."""
    rounds = run["by_round"]
    both = zip(rounds["tally/valid"], rounds["tally/undecided"], strict=True)
    return [valid * share for valid, share in both]


def rise(run: Run) -> float:
    shares = undecided(run)
    return float(np.mean(shares[-ENDS:]) - np.mean(shares[:ENDS]))


def level(run: Run) -> float:
    """Mean accuracy over the readings, that of the start left out."""
    return float(np.mean([c["accuracy"] for c in run["curve"][1:]]))


def verdict(runs: Sequence[Run]) -> dict[str, bool]:
    gap, rises, lead, confidence = STUDY.target.values()
    taught, ends = pairs(runs, "path", "no path"), pairs(runs, "easy", "hard")
    sides = {"too easy": [rise(a) for a, _ in ends], "too hard": [rise(b) for _, b in ends]}
    ahead = [level(a) - level(b) for a, b in taught]
    return {
        "the path makes the right next search likelier": all(a["gap"] > gap for a, _ in taught),
        **{
            f"from {side}, more questions come to be answered at times": lower_bound(
                found, level=confidence
            )
            > rises
            for side, found in sides.items()
        },
        "learns faster with the path": lower_bound(ahead, level=confidence) > lead,
    }


def draw(axes: Any, runs: Sequence[Run]) -> None:
    left, right = axes
    colors = {"path": "C0", "no path": "0.55", "easy": "C0", "hard": "C1"}
    labels = {"easy": "from too easy", "hard": "from too hard", "path": "path", "no path": "GRPO"}
    for run, style in styled(runs, colors, labels):
        if run["arm"] in ("easy", "hard"):
            left.plot(np.arange(1, ROUNDS["examiner"] + 1), undecided(run), **style)
        else:
            plot_reading(right, run, "accuracy", **style)
    left.set(xlabel="round of the examiner", ylabel="share of its walks", ylim=(0, 1.03))
    left.set_title("Questions that are answered at times", loc="left", fontsize=11)
    right.set(xlabel="rollouts", ylabel="accuracy, held out", ylim=(0, 1.03))
    right.set_title("Student, two hops", loc="left", fontsize=11)
    for one in axes:
        one.legend(frameon=False)


STUDY = claimed(
    Path(__file__).parent,
    settings={
        "model": "toy",
        "warm": [BASE, LEAN, WARM],
        "first": {"hops": EVEN, "right": RIGHT},
        "starts": STARTS,
        "obedience": OBEDIENCE,
        "options": OPTIONS,
        "rounds": ROUNDS,
        "temperature": TEMPERATURE,
        "arms": {arm: [start, stage, repr(make)] for arm, (start, stage, make) in ARMS.items()},
        "samples": SAMPLES,
    },
    tried=TRIED,
    run=run_seed,
    verdict=verdict,
    draw=draw,
    panels=2,
)
