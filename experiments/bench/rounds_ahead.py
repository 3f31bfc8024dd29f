"""Seconds of rounds sampled ahead (`--off-policy 1`) against on-policy ones, by verifier's wait.

GRPO on SmolLM2-135M-Instruct, 8 prompts x 8 samples, float32, importance weights per token. The
verifier waits so many seconds for each answer, as one that asks a sandbox or a server does; four
answers are verified at once. Runs of both kinds take turns; the first of each, which compiles, is
dropped. Seconds are of the whole run: one sampled ahead begins and ends with half a round each.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import statistics
import time
from typing import Any

from experiments.bench.record import ROUND, summary
from jaxevo.provenance import load, provenance

LEAST = 1.3  # at the longest wait


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=2, help="timed pairs of runs (default 2)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of a run (default 5)")
    parser.add_argument(
        "--waits",
        type=float,
        nargs="+",
        default=[0.0, 0.5],
        help="seconds that the verifier waits per answer (default 0 0.5)",
    )


def measure(args: argparse.Namespace) -> dict[str, Any]:
    from jaxevo.models import hub

    result = provenance("rounds-ahead")
    model = hub.load("smollm2-135m")
    by_wait = []
    for wait in args.waits:
        seconds: dict[int, list[float]] = {0: [], 1: []}
        loads = []
        for _ in range(1 + args.repeats):
            loads.append(load())
            for off_policy, own in seconds.items():
                own.append(_seconds(model, off_policy, args.rounds, wait))
        plain, ahead = (seconds[off_policy][1:] for off_policy in (0, 1))
        ratios = [a / b for a, b in zip(plain, ahead, strict=True)]
        by_wait.append(
            {
                "wait_seconds": wait,
                "seconds_on_policy": summary(plain),
                "seconds_ahead": summary(ahead),
                "ratio": round(statistics.median(ratios), 3),
                "ratios": [round(r, 3) for r in ratios],
                "load_1min_by_pair": loads,
            }
        )
    return result | {
        "options": {**ROUND, "repeats": args.repeats, "rounds": args.rounds},
        "by_wait": by_wait,
        "target": {"ratio_at_least": LEAST, "wait_seconds": args.waits[-1]},
        "met": by_wait[-1]["ratio"] >= LEAST,
    }


def _seconds(model: Any, off_policy: int, rounds: int, wait: float) -> float:
    """Seconds of a run of so many rounds, once it is built."""
    import jax

    from jaxevo.recipes.grpo import grpo
    from jaxevo.run.ahead import Ahead
    from jaxevo.run.build import build_run
    from jaxevo.run.loop import one_round
    from jaxevo.run.options import RunOptions
    from jaxevo.types import Task, Verdict

    recipe = grpo(learning_rate=ROUND["learning_rate"], correction="token")
    (objective,) = recipe.objectives
    every_row = dataclasses.replace(objective, idle=None)  # the same work in every round
    run = build_run(
        dataclasses.replace(recipe, objectives=(every_row,)),
        RunOptions(
            rounds=rounds,
            off_policy=off_policy,
            eval_problems=0,
            prompts=ROUND["prompts"],
            samples=ROUND["samples"],
            max_new_tokens=ROUND["max_new_tokens"],
        ),
        model=model,
    )
    (name, verify), *_ = run.bench.source.verifiers.items()

    def slow(task: Task, text: str) -> Verdict:
        time.sleep(wait)
        return verify(task, text)

    source = dataclasses.replace(run.bench.source, verifiers={name: slow})
    run = dataclasses.replace(run, bench=dataclasses.replace(run.bench, source=source))
    jax.block_until_ready(run.state.params)
    gc.collect()
    start = time.perf_counter()
    state, memory = run.state, run.memory
    with Ahead(run) as ahead:
        for _ in range(rounds):
            state, memory, *_ = one_round(run, state, memory, ahead if off_policy else None)
        jax.block_until_ready(state.params)
    return time.perf_counter() - start
