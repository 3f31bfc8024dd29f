"""Kuhn poker by self-play: `python -m experiments.contract_trial.spiral`.

The exploitability is exact: the probabilities of both actions in all 12 information sets are read
from the model, and the best response is computed over the whole tree. The start is a toy that has
seen random legal moves only (so that its answers are moves), exploitability 0.458 if exactly so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.contract_trial.study import Study, main
from experiments.contract_trial.warm_start import forced_rows, warm_start
from jaxevo.advantages import zero_advantage
from jaxevo.collect.readings import answer_logp
from jaxevo.envs.exploit import expected_value, exploitability, information_sets
from jaxevo.envs.games import KuhnPoker, random_action
from jaxevo.models import hub
from jaxevo.recipes.spiral import spiral
from jaxevo.run.build import Run, build_run
from jaxevo.run.loop import one_round
from jaxevo.run.options import RunOptions
from jaxevo.types import Objective, TrainState, bind

GAME = KuhnPoker()
RECIPE = {"learning_rate": 1e-4, "norm_length": 2.0, "epochs": 2, "decay": 0.95}
RUN = {"prompts": 16, "samples": 8, "max_new_tokens": 2, "rounds": 300}
EVERY = 10  # rounds between two readings
LAST = 10  # readings that are averaged for the verdict
ARMS = {"self-play": {"opponent": "self"}, "fixed opponent": {"opponent": "start"}}
TARGET = {"self_play_at_most_of_start": 0.6, "fixed_opponent_at_least_of_start": 0.9}
TRIED: list[dict[str, Any]] = []


def random_move(generator: np.random.Generator) -> tuple[str, str]:
    """One uniformly random move of uniformly random play."""
    chances, states = zip(*GAME.deals(), strict=True)
    state, moves = states[generator.choice(len(states), p=chances)], []
    while GAME.outcome(state) is None:
        moves.append((GAME.observe(state, compact=True), random_action(GAME, state, generator)))
        state = GAME.step(state, moves[-1][1])
    return moves[int(generator.integers(len(moves)))]


def strategy(run: Run, state: TrainState) -> tuple[dict[str, dict[str, float]], float]:
    """The policy's probabilities over legal actions, and the smallest mass on legal ones."""
    (objective,) = run.recipe.objectives
    lab = run.bench.lab(state.params, learner=run.learner)
    asked = [(seen, a) for seen, legal in information_sets(GAME) for a in legal]
    rows = forced_rows(lab.tokenizer, asked)
    mass = np.exp(lab.map(bind(answer_logp), rows, like=reading(objective)))
    found: dict[str, dict[str, float]] = {}
    for (seen, action), p in zip(asked, mass, strict=True):
        found.setdefault(seen, {})[action] = float(p)
    legal = {seen: sum(chances.values()) for seen, chances in found.items()}
    played = {s: {a: p / legal[s] for a, p in chances.items()} for s, chances in found.items()}
    return played, min(legal.values())


def reading(objective: Objective) -> Objective:
    """The objective's shapes for rows whose answers are given."""
    return dataclasses.replace(
        objective, learns=("forced",), advantage=bind(zero_advantage), check=None
    )


def run_seed(seed: int) -> list[dict[str, Any]]:
    """Both arms from the same start."""
    tokens = {"prompt_tokens": 6, "answer_tokens": 2}
    model = warm_start(hub.load("toy"), bind(random_move), seed=seed, **tokens)
    return [run_arm(arm, seed, model) for arm in ARMS]


def run_arm(arm: str, seed: int, model: hub.LoadedModel) -> dict[str, Any]:
    """One arm with one seed: the curve of exploitability."""
    options = RunOptions(model="toy", seed=seed, eval_problems=0, **RUN)
    run = build_run(spiral(**RECIPE, **ARMS[arm]), options, model=model)
    state, memory, curve = run.state, run.memory, []
    for index in range(options.rounds + 1):
        if index % EVERY == 0:
            played, legal = strategy(run, state)
            curve.append(
                {
                    "round": index,
                    "exploitability": exploitability(GAME, played),
                    "value": expected_value(GAME, played, played),
                    "least_legal_mass": legal,
                }
            )
        if index < options.rounds:
            state, memory, _, _ = one_round(run, state, memory)
    return {
        "arm": arm,
        "seed": seed,
        "games": options.rounds * options.prompts * options.samples,
        "baselines": memory.mean_R.tolist(),
        "start": curve[0]["exploitability"],
        "end": float(np.mean([c["exploitability"] for c in curve[-LAST:]])),
        "curve": curve,
    }


def verdict(runs: Sequence[dict[str, Any]]) -> dict[str, bool]:
    """For every seed by itself."""
    own = [r for r in runs if r["arm"] == "self-play"]
    fixed = [r for r in runs if r["arm"] == "fixed opponent"]
    return {
        "self-play falls": all(
            r["end"] <= TARGET["self_play_at_most_of_start"] * r["start"] for r in own
        ),
        "fixed opponent does not": all(
            r["end"] >= TARGET["fixed_opponent_at_least_of_start"] * r["start"] for r in fixed
        ),
    }


def draw(axes: Any, runs: Sequence[dict[str, Any]]) -> None:
    colors = {"self-play": "C0", "fixed opponent": "0.55"}
    for r in runs:
        x = [c["round"] * RUN["prompts"] * RUN["samples"] for c in r["curve"]]
        y = [c["exploitability"] for c in r["curve"]]
        label = r["arm"] if r["seed"] == runs[0]["seed"] else None
        axes.plot(x, y, color=colors[r["arm"]], label=label, linewidth=1.2)
    axes.set(xlabel="games played", ylabel="exploitability (chips a game)", ylim=(0, None))
    axes.set_title("Kuhn poker: who plays itself is harder to exploit", loc="left", fontsize=11)
    axes.legend(frameon=False)


STUDY = Study(
    name="spiral",
    claim="A policy that plays itself under role-conditioned advantages becomes harder to exploit; "
    "the same policy, with the same games, against its own start weights does not.",
    settings={"recipe": RECIPE, "run": RUN, "every": EVERY, "last": LAST},
    target=TARGET,
    tried=TRIED,
    run=run_seed,
    verdict=verdict,
    draw=draw,
)

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
