"""Which tokens tell right answers from wrong ones: `python -m experiments delta`.

The start is a toy that writes signs, a mark, signs again, and an answer, `7+8=+*[=?15`. The signs
before the mark are those of all answers; the mark and the signs behind it are `[` and `=?` in right
ones, `(` and `])` in wrong ones. All signs come in any order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.learning import arms, eval_lab
from experiments.study import Run, claimed, lower_bound, plot_reading, styled
from experiments.warm_start import warm_start
from jaxevo.advantages.discriminant import token_directions
from jaxevo.collect.coefficients import with_coefficients
from jaxevo.losses.reduce import masked
from jaxevo.models import hub
from jaxevo.recipes.delta import delta
from jaxevo.recipes.grpo import grpo
from jaxevo.run import build
from jaxevo.run.options import RunOptions
from jaxevo.types import OWN, Batch, Bound, Params, Row, TrainState, bind

WARM = {"steps": 300, "rows": 64, "learning_rate": 1e-3, "prompt_tokens": 4, "answer_tokens": 8}
EACH, KNOWN = 2, 0.5  # signs before and behind the mark, and share of right answers
SIGNS, MARKS, SIDES = "*+", "[(", ("=?", "])")  # of all answers; of right and of wrong ones
SHARED = {"learning_rate": 3e-4, "clip_high": 0.28, "dual_clip": 10.0}
HOW = {"refinements": 1, "low": 0.8, "high": 1.2}
ARMS = {
    "delta": bind(delta, weight_decay=0.0, overlong=0.0, minibatches=1, **SHARED, **HOW),
    "grpo": bind(grpo, **SHARED),
}
OPTIONS = {"task": "add1", "rounds": 20, "prompts": 16, "samples": 8, "max_new_tokens": 8}
EVERY, PROBLEMS = 5, 16
TRIED: list[dict[str, Any]] = [
    {
        "seeds": [0, 1],
        "start": "two-digit sums; three signs, a mark that fits to 95 %, and an answer",
        "right": {"signs": [1.20, 1.21], "mark": [0.82, 0.89]},
        "wrong": {"signs": [0.80, 0.81], "mark": [1.14, 1.12]},
        "why not": "what tells the sides apart are unsure digits, and both marks have one state",
    },
    {
        "seeds": [0, 1],
        "start": "one-digit sums; the same signs behind the mark as before it",
        "right": {"shared": [1.20, 1.20], "mark": [0.80, 0.80], "own": [1.20, 1.20]},
        "wrong": {"shared": [0.80, 0.80], "mark": [1.19, 1.20], "own": [0.80, 0.80]},
        "why not": "where the same tokens come next, states are alike",
    },
    {
        "seeds": [0, 1],
        "start": "one-digit sums; other signs behind the marks",
        "right": {"shared": [1.04, 0.94], "mark": [0.87, 0.96], "own": [1.13, 1.13]},
        "wrong": {"shared": [0.87, 0.97], "mark": [1.04, 0.95], "own": [1.13, 1.14]},
    },
]


def example(generator: np.random.Generator) -> tuple[str, str]:
    """A sum with signs and the mark of a right answer, or of one that is one too high."""
    first, second = (int(x) for x in generator.integers(2, 10, 2))
    wrong = int(generator.random() >= KNOWN)
    before, behind = ("".join(generator.choice(list(s), EACH)) for s in (SIGNS, SIDES[wrong]))
    return f"{first}+{second}=", f"{before}{MARKS[wrong]}{behind}{first + second + wrong}"


def sums(sets: Mapping[str, Params], batch: Batch, forward: Bound) -> dict[str, jax.Array]:
    """Σ v and Σ λ̄ v of each row's tokens, [N, D], and how many there are and Σ λ̄, [N]."""
    answers, read = batch.answers, ("logp", "hidden")
    said = forward(sets["policy"], batch.layouts[OWN], answers, batch.temperature, read=read)
    text = said["text"]
    vector_NAD = token_directions(text.logp_NA, text.hidden_NAD, text.mask_NA)
    weights = {"plain": jnp.asarray(text.mask_NA, jnp.float32)}
    weights["own"] = masked(batch.by_token["coefficient"], text.mask_NA)
    return {
        f"{name}_{what}": x
        for name, weight_NA in weights.items()
        for what, x in (
            ("vector", jnp.einsum("na,nad->nd", weight_NA, vector_NAD)),
            ("weight", weight_NA.sum(1)),
        )
    }


def reading(run: build.Run, state: TrainState, *, problems: int) -> dict[str, float]:
    """Accuracy on held-out problems, and at the start coefficients and means of the sides."""
    lab = eval_lab(run, state)
    rows = lab.attempt([run.bench.source.held_out(n) for n in range(problems)])
    found = {"accuracy": float(np.mean([row.accuracy for row in rows]))}
    plain = dict(run.recipe.collect.options).get("like")
    if plain is None or state.counters["round"]:
        return found
    rows = with_coefficients(lab, rows, like=plain, **HOW)
    groups: dict[int, list[float]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row.reward)
    above_N = np.array([row.reward - np.mean(groups[row.group]) for row in rows])
    for side, rows_N in (("right", above_N > 0), ("wrong", above_N < 0)):
        own = [row for row, here in zip(rows, rows_N, strict=True) if here]
        found |= {f"{side}_{kind}": x for kind, x in by_kind(own, run.bench.model.tokenizer)}
    said = lab.map(bind(sums), rows, like=plain)
    for name in ("plain", "own"):
        plus, minus = (
            a @ said[f"{name}_vector"] / (a @ said[f"{name}_weight"])
            for a in (np.maximum(above_N, 0), np.maximum(-above_N, 0))
        )
        norms = np.linalg.norm(plus) * np.linalg.norm(minus)
        found[f"{name}_cosine"] = float(plus @ minus / norms)
        found[f"{name}_distance"] = float(np.linalg.norm(plus - minus))
    return found


def by_kind(rows: Sequence[Row], tokenizer: Any) -> Iterator[tuple[str, float]]:
    """Mean coefficients of the signs before the mark, of the mark, and of the signs behind it."""
    encoded = {"shared": SIGNS, "mark": MARKS, "own": "".join(SIDES)}
    for kind, text in encoded.items():
        ids = tokenizer.encode(text)
        parts = [row.by_token["coefficient"][np.isin(row.answer_ids, ids)] for row in rows]
        yield kind, float(np.concatenate(parts).mean())


def run_seed(seed: int) -> list[Run]:
    model = warm_start(hub.load("toy"), bind(example), seed=seed, **WARM)
    options = RunOptions(model="toy", seed=seed, eval_problems=0, **OPTIONS)
    how = {"every": EVERY, "reading": bind(reading, problems=PROBLEMS), "keep": ("reward",)}
    return arms(ARMS, seed, model, options, **how)


def at_start(run: Run, name: str) -> float:
    return run["curve"][0][name]


def verdict(runs: Sequence[Run]) -> dict[str, bool]:
    least, nearer, further, level = STUDY.target.values()
    own = [run for run in runs if run["arm"] == "delta"]

    def leads(side: str) -> list[float]:
        return [at_start(r, f"{side}_own") - at_start(r, f"{side}_shared") for r in own]

    cosine = [at_start(r, "plain_cosine") - at_start(r, "own_cosine") for r in own]
    distance = [at_start(r, "own_distance") / at_start(r, "plain_distance") - 1 for r in own]
    return {
        "what right answers alone have counts more than what all have": all(
            x >= least for x in leads("right")
        ),
        "what wrong answers alone have counts more than what all have": all(
            x >= least for x in leads("wrong")
        ),
        "the sides point less the same way": lower_bound(cosine, level=level) > nearer,
        "the sides lie further apart": lower_bound(distance, level=level) > further,
    }


def draw(axes: Any, runs: Sequence[Run]) -> None:
    left, right = axes
    colors = {"delta": "C0", "grpo": "0.55"}
    for run, style in styled(runs, colors, {"delta": "DelTA", "grpo": "GRPO"}):
        plot_reading(right, run, "accuracy", **style)
    own = [run for run in runs if run["arm"] == "delta"]
    kinds = ("shared", "mark", "own")
    for k, (side, color) in enumerate((("right", "C2"), ("wrong", "C3"))):
        for place, kind in enumerate(kinds):
            heights = [at_start(run, f"{side}_{kind}") for run in own]
            x = place + 0.3 * k - 0.15
            left.plot([x] * len(heights), heights, ".", color=color, alpha=0.6)
            left.plot([x - 0.1, x + 0.1], [np.mean(heights)] * 2, color=color)
    left.axhline(1.0, color="0.8", linewidth=0.8)
    left.set_xticks(range(3), kinds)
    left.set(ylabel="mean coefficient at the start")
    left.set_title("Tokens of right (green) and wrong answers", loc="left", fontsize=11)
    right.set(xlabel="rollouts", ylabel="accuracy, held out")
    right.set_title("One-digit sums behind a mark", loc="left", fontsize=11)
    right.legend(frameon=False)


STUDY = claimed(
    Path(__file__).parent,
    settings={
        "model": "toy",
        "warm": WARM,
        "signs": [EACH, SIGNS, MARKS, SIDES],
        "known": KNOWN,
        "options": OPTIONS,
        "arms": {arm: repr(make) for arm, make in ARMS.items()},
        "every": EVERY,
        "problems": PROBLEMS,
    },
    tried=TRIED,
    run=run_seed,
    verdict=verdict,
    draw=draw,
    panels=2,
)
