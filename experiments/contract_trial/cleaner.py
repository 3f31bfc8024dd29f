"""Tool calls that are purified: `python -m experiments.contract_trial.cleaner`.

The toy answers `7*8+9=` with a calculator: `[7*8](56)[56+9](65)65`. Its start has seen such
conversations (of which the replies are not learnt) in which most calls are malformed, and are then
corrected, or fail again, or are given up for a guess; after so short a training it fails at 45 to
70 % of first attempts, depending on the seed. How often a call works at its first attempt is always
measured without rollback, on problems of its own.

What came of it: failed calls vanish from what rewarded answers teach on every seed, but first
attempts got better faster on two of three seeds only, and by less than seeds differ. On the mean
over eight more seeds they do (`cleaner_repeated.py`).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from experiments.study import Study, main, pairs
from experiments.warm_start import warm_start
from jaxevo.collect.edits import call_text, split_turn
from jaxevo.collect.tool_loop import Rollback, ToolLoop
from jaxevo.envs.calculator import Calculator
from jaxevo.models import hub
from jaxevo.recipes.cleaner import cleaner
from jaxevo.rewards import last_integer
from jaxevo.run.build import Run, build_run
from jaxevo.run.options import RunOptions
from jaxevo.step import run_round
from jaxevo.tasks import task_source
from jaxevo.types import Message, Row, Segment, Source, Task, TaskSource, TrainState, bind

TOOL = Calculator()
ANSWER = 48  # longest conversation after the prompt
START = {"failing": 0.7, "failing_again": 0.15, "giving_up": 0.15}  # shares in what the start sees
WARM = {"steps": 150, "rows": 48, "learning_rate": 2e-3}
RECIPE = {
    "learning_rate": 5e-5,
    "warmup_updates": 0,
    "minibatches": 1,
    "overlong": 0.0,
    "turns": 12,
}
RUN = {"prompts": 8, "samples": 8, "max_new_tokens": ANSWER}
BUDGET = 40_000  # sampled tokens of an arm, those of overwritten turns included
EVERY = 6  # rounds between two readings
PROBLEMS = {"held_out": 64, "read": 64, "samples": 4}
ARMS = {"rollback": {"rollback": 1.0}, "no rollback": {"rollback": 0.0}}
TARGET = {
    "growth_at_least_of_no_rollback": 1.1,
    "failed_share_at_most": 0.005,
    "failed_share_of_no_rollback_at_least": 0.05,
}
TRIED = [  # growth is the mean over the budget of first_ok above its start, with and without
    {
        "seed": 10,
        "problem": "a*b+c*d=",
        "answer": 72,
        "warm_steps": 250,
        "start": [0.45, 0.2, 0.2],
        "prompts": 16,
        "learning_rate": 1e-4,
        "budget": 40_000,
        "growth": [0.143, 0.131],
        "failed_share": [0.0009, 0.204],
        "why not": "slow, and both arms learn in a few rounds: Adam's steps are all of a size",
    },
    {
        "seed": 10,
        "warm_steps": 200,
        "start": [0.5, 0.15, 0.3],
        "prompts": 16,
        "learning_rate": 1.5e-4,
        "budget": 36_000,
        "growth": [0.215, 0.202],
        "failed_share": [0.0005, 0.163],
        "why not": "as before: smaller rounds and steps let the difference in signal show",
    },
    {
        "seed": 10,
        "start": [0.6, 0.15, 0.15],
        "budget": 44_000,
        "growth": [0.133, 0.108],
        "failed_share": [0.0015, 0.239],
        "why not": "half of the first attempts still worked; more failures in what the start sees",
    },
    {
        "seed": 11,
        "start": [0.7, 0.15, 0.15],
        "growth": [0.132, 0.062],
        "failed_share": [0.0003, 0.247],
    },
    {
        "seed": 12,
        "start": [0.7, 0.15, 0.15],
        "growth": [0.179, 0.147],
        "failed_share": [0.0009, 0.275],
    },
]


# ---------------------------------------------------------------------------- problems
def problems(seed: int) -> TaskSource:
    """All a*b+c of 2 to 9, some of them held out."""
    tasks = [_task(*operands) for operands in itertools.product(range(2, 10), repeat=3)]
    order = np.random.default_rng(0).permutation(len(tasks))
    cut = PROBLEMS["held_out"]
    sides = [tasks[n] for n in order[cut:]], [tasks[n] for n in order[:cut]]
    return task_source("two-calls", sides, verifiers={"last_integer": last_integer}, seed=seed)


def _task(a: int, b: int, c: int) -> Task:
    text = f"{a}*{b}+{c}="
    return Task(f"two-calls/{text}", (Message("user", text),), str(a * b + c))


def conversation(generator: np.random.Generator) -> tuple[str, list[tuple[Source, str]]]:
    """A problem and a conversation about it with calls that fail in known shares."""
    while True:
        prompt, parts = _conversation(generator)
        if sum(len(text) for _, text in parts) < ANSWER:
            return prompt, parts


def _conversation(generator: np.random.Generator) -> tuple[str, list[tuple[Source, str]]]:
    a, b, c = generator.integers(2, 10, 3).tolist()
    prompt, parts = f"{a}*{b}+{c}=", list[tuple[Source, str]]()
    for call in (f"{a}*{b}", f"{a * b}+{c}"):
        failures, share = 0, START["failing"]
        while failures < 3 and generator.random() < share:
            bad = _broken(call, generator)
            reply = TOOL.reply(bad, compact=True, again=failures > 0)
            parts += [("forced", f"[{bad}]"), ("tool", reply.text)]
            if generator.random() < START["giving_up"]:
                return prompt, [*parts, ("forced", str(generator.integers(6, 91)))]
            failures, share = failures + 1, START["failing_again"]
        parts += [("forced", f"[{call}]"), ("tool", TOOL.reply(call, compact=True).text)]
    return prompt, [*parts, ("forced", str(a * b + c))]


def _broken(call: str, generator: np.random.Generator) -> str:
    """A call that fails, like the one meant."""
    sign = "*" if "*" in call else "+"
    first, second = call.split(sign)
    slips = (f"({call}", f"{call})", f"{call}{sign}", f"{first}{sign}*{second}")
    return slips[generator.integers(len(slips))]


# ---------------------------------------------------------------------------- readings
def first_attempts(run: Run, state: TrainState) -> dict[str, float]:
    """Share of first attempts that work, and of right answers, without rollback."""
    lab = run.bench.lab(state.params, evaluation=True)
    loop = ToolLoop(lab, TOOL, Rollback(chance=0.0), ANSWER, RECIPE["turns"])
    tasks = [run.bench.source.held_out(n) for n in range(PROBLEMS["read"])]
    talks = loop.run(tasks, PROBLEMS["samples"])
    tried = sum(talk.tally.first_attempts for talk in talks)
    right = [row.reward for row in lab.verify([talk.row for talk in talks])]
    return {
        "first_ok": sum(talk.tally.first_attempts_ok for talk in talks) / max(tried, 1),
        "right": float(np.mean(right)),
    }


def failed_tokens(row: Row, tokenizer: Any) -> tuple[int, int]:
    """Tokens of the policy that lie in failed calls, and all of them."""
    failed = 0
    for turn in _turns(row):
        call = call_text(turn, tokenizer, TOOL.marks(compact=True))
        if call is not None and TOOL.reply(call, compact=True).error:
            halves = split_turn(turn, tokenizer, TOOL.marks(compact=True)[0])
            failed += sum(len(s.ids) for s in (turn if halves is None else halves[1]))
    return failed, row.sampled_tokens


def _turns(row: Row) -> Iterator[tuple[Segment, ...]]:
    turn: list[Segment] = []
    for segment in row.answer:
        if segment.source == "policy":
            turn.append(segment)
        else:
            yield tuple(turn)
            turn = []
    yield tuple(turn)


# ---------------------------------------------------------------------------- runs
def run_seed(seed: int) -> list[dict[str, Any]]:
    """Both arms from the same start."""
    sizes = {"prompt_tokens": 6, "answer_tokens": ANSWER}
    model = warm_start(hub.load("toy"), bind(conversation), seed=seed, **sizes, **WARM)
    return [run_arm(arm, seed, model) for arm in ARMS]


def run_arm(arm: str, seed: int, model: hub.LoadedModel) -> dict[str, Any]:
    """One arm with one seed, until its budget of sampled tokens is spent."""
    options = RunOptions(model="toy", seed=seed, eval_problems=0, prompt_tokens=6, **RUN)
    run = build_run(cleaner(**RECIPE, **ARMS[arm]), options, model=model)
    run = dataclasses.replace(run, bench=dataclasses.replace(run.bench, source=problems(seed)))
    state, spent, curve = run.state, 0, [{"tokens": 0, **first_attempts(run, run.state)}]
    failed, learnt = 0, 0
    while spent < BUDGET:
        state, rows = one_round(run, state)
        spent += sum(row.info["tally"]["spent_tokens"] for row in rows)
        for row in rows:
            if row.rewards["correct"] > 0:
                more = failed_tokens(row, run.bench.model.tokenizer)
                failed, learnt = failed + more[0], learnt + more[1]
        if state.counters["round"] % EVERY == 0 or spent >= BUDGET:
            curve.append({"tokens": spent, **first_attempts(run, state), **tallied(rows)})
    return {
        "arm": arm,
        "seed": seed,
        "rounds": state.counters["round"],
        "tokens": spent,
        "start": curve[0]["first_ok"],
        "end": curve[-1]["first_ok"],
        "growth": growth(curve),
        "failed_share": failed / max(learnt, 1),
        "curve": curve,
    }


def one_round(run: Run, state: TrainState) -> tuple[TrainState, Sequence[Row]]:
    """A round and the rows it learnt from."""
    where = {"round_index": state.counters["round"], "position": state.counters["position"]}
    lab = run.bench.lab(state.params, learner=run.learner, **where)
    state, _, experience, _ = run_round(run.recipe, run.learner, lab, state, run.memory)
    return state, experience["policy"]


def tallied(rows: Sequence[Row]) -> dict[str, float]:
    """Means over a round's conversations: reward, and every count of their tallies."""
    counts = rows[0].info["tally"]
    means = {name: float(np.mean([r.info["tally"][name] for r in rows])) for name in counts}
    return {"reward": float(np.mean([row.reward for row in rows])), **means}


def growth(curve: Sequence[dict[str, float]]) -> float:
    """Mean over the budget of how far the share of first attempts that work is above its start."""
    x = np.array([c["tokens"] for c in curve], float)
    y = np.array([c["first_ok"] for c in curve]) - curve[0]["first_ok"]
    grid = np.linspace(0, BUDGET, 301)
    return float(np.mean(np.interp(grid, x, y)))


def verdict(runs: Sequence[dict[str, Any]]) -> dict[str, bool]:
    """For every seed by itself."""
    both = pairs(runs, "rollback", "no rollback")
    faster, few, many = TARGET.values()
    return {
        "first attempts get better faster": all(
            own["growth"] >= faster * other["growth"] for own, other in both
        ),
        "next to nothing is learnt from failed calls": all(
            own["failed_share"] <= few for own, _ in both
        ),
        "without rollback much is": all(other["failed_share"] >= many for _, other in both),
    }


def draw(axes: Any, runs: Sequence[dict[str, Any]]) -> None:
    colors = {"rollback": "C0", "no rollback": "0.55"}
    left, right = axes
    for r in runs:
        label = r["arm"] if r["seed"] == runs[0]["seed"] else None
        style = {"color": colors[r["arm"]], "label": label, "linewidth": 1.2}
        tokens = [c["tokens"] / 1000 for c in r["curve"]]
        left.plot(tokens, [c["first_ok"] for c in r["curve"]], **style)
        right.plot([r["arm"]], [r["failed_share"]], "o", color=style["color"])
    left.set(xlabel="thousand sampled tokens", ylabel="first attempts that work")
    left.set_title("Calls at their first attempt", loc="left", fontsize=11)
    left.legend(frameon=False)
    right.set(ylabel="share of learnt tokens", ylim=(-0.01, None), xlim=(-0.5, 1.5))
    right.set_title("Failed calls in rewarded answers", loc="left", fontsize=11)


STUDY = Study(
    name="cleaner",
    claim="With rollback the share of tool calls that work at their first attempt grows faster "
    "than without, at equal sampled tokens, and next to none of the policy's tokens in rewarded "
    "conversations lie in failed calls, where many do without.",
    settings={
        "recipe": RECIPE,
        "run": RUN,
        "start": START,
        "warm": WARM,
        "answer": ANSWER,
        "budget": BUDGET,
        "every": EVERY,
        "problems": PROBLEMS,
    },
    target=TARGET,
    tried=TRIED,
    run=run_seed,
    verdict=verdict,
    draw=draw,
    panels=2,
)

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
