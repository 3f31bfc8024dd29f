"""Tokens per second of rollouts inside a training run, against the sampler standing alone.

GRPO rounds on SmolLM2-135M-Instruct, 8 prompts x 8 samples, float32. Inside, the round's own clock
counts: a copy of the weights, sampling and rewards, right after an update. Alone, the sampler draws
the very same tokens once more, from a copy that is there. Both take turns, round by round; the
first round is dropped.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np

from experiments.bench.record import ROUND, summary
from jaxevo.provenance import load, provenance

LEAST = 0.85


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds (default 5)")
    parser.add_argument("--new-tokens", type=int, default=12, help="longest answer (default 12)")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    import jax

    from jaxevo.recipes.grpo import grpo
    from jaxevo.run.build import build_run
    from jaxevo.run.options import RunOptions
    from jaxevo.sampling.sampler import publish
    from jaxevo.step import run_round

    result = provenance("in-loop")
    P, G = ROUND["prompts"], ROUND["samples"]
    sizes = {"prompts": P, "samples": G, "max_new_tokens": args.new_tokens}
    options = RunOptions(rounds=1 + args.repeats, eval_problems=0, **sizes)
    run = build_run(grpo(learning_rate=ROUND["learning_rate"]), options)
    state, memory = run.state, run.memory
    inside, alone, loads = [], [], []
    for _ in range(1 + args.repeats):
        loads.append(load())
        weights = publish(state.params["policy"])
        jax.block_until_ready(weights)
        lab = run.bench.lab(
            state.params,
            learner=run.learner,
            round_index=state.counters["round"],
            position=state.counters["position"],
        )
        state, memory, experience, _ = run_round(run.recipe, run.learner, lab, state, memory)
        jax.block_until_ready(state.params)
        (rows,) = experience.values()
        start = time.perf_counter()
        out = run.bench.sampler(
            weights,
            [row.prompt_ids for row in rows[::G]],
            key=jax.random.key(options.seed),
            uids=[row.uid for row in rows],
            samples=G,
            new_tokens=args.new_tokens,
            sampling=options.sampling(),
        )
        seconds = time.perf_counter() - start
        drawn = [out.ids_NR[n, : out.length_N[n]] for n in range(len(rows))]
        if not all(np.array_equal(a, row.answer_ids) for a, row in zip(drawn, rows, strict=True)):
            raise ValueError("the sampler alone drew other tokens than the run did.")
        tokens = int(out.length_N.sum())
        inside.append(tokens / sum(lab.seconds.values()))
        alone.append(tokens / seconds)
    ratios = [a / b for a, b in zip(inside[1:], alone[1:], strict=True)]
    ratio = statistics.median(ratios)
    return result | {
        "options": {**sizes, "repeats": args.repeats},
        "load_1min_by_round": loads,
        "tokens_per_second_inside": summary(inside[1:]),
        "tokens_per_second_alone": summary(alone[1:]),
        "ratio": round(ratio, 3),
        "ratios": [round(r, 3) for r in ratios],
        "target": {"ratio_at_least": LEAST},
        "met": ratio >= LEAST,
    }
