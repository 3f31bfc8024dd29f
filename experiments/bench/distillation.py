"""A round of self-distillation against a GRPO round of the same rows, and what its FLOPs allow.

SDPO with one teacher (a moving average), exact reverse KL over the whole vocabulary, on
SmolLM2-135M-Instruct in float32: answers of exactly so many tokens, a teacher prompt of at most 64
tokens more. Each in a process of its own; they take turns, round by round; the first is dropped.
FLOPs are counted from sizes (`jaxevo.run.plan.round_work`).
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from experiments.bench.record import GB, ours, say, summary
from jaxevo.provenance import load, provenance

TARGET = {"seconds_over_flops_at_most": 1.15, "memory_ratio_at_most": 1.25}
QUESTION, LONGER = 23, 64  # tokens of a prompt, and by how many a teacher's may be longer


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds of each (default 3)")
    parser.add_argument("--prompts", type=int, default=4, help="problems of a round (default 4)")
    parser.add_argument("--samples", type=int, default=8, help="answers to each (default 8)")
    parser.add_argument("--new-tokens", type=int, default=128, help="of an answer (default 128)")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    result = provenance("distillation")
    sizes = {
        "prompts": args.prompts,
        "samples": args.samples,
        "max_new_tokens": args.new_tokens,
        "context_tokens": QUESTION + LONGER,
    }
    sides = {
        name: ours(
            1 + args.repeats, options={"recipe": name, **sizes}, module="distill_worker", paced=True
        )
        for name in ("grpo", "sdpo")
    }
    loads = []
    for _ in range(1 + args.repeats):
        loads.append(load())
        for side in sides.values():
            side.round()
    found = {name: side.result() for name, side in sides.items()}
    for name, side in found.items():
        say(name, side)
    seconds = {name: [r["seconds"] for r in side["rounds"][1:]] for name, side in found.items()}
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    ratio = statistics.median(ratios)
    allowed = found["sdpo"]["tflop"] / found["grpo"]["tflop"]
    memory = found["sdpo"]["peak_rss_bytes"] / found["grpo"]["peak_rss_bytes"]
    reached = {
        "seconds_over_flops_at_most": ratio / allowed,
        "memory_ratio_at_most": memory,
    }
    return result | {
        "options": {**sizes, "repeats": args.repeats},
        "load_1min_by_round": loads,
        **{
            name: {
                **{
                    part: summary([r[part] for r in side["rounds"][1:]])
                    for part in ("seconds", "seconds_rollout", "seconds_update")
                },
                "mean_answer_tokens": statistics.mean(r["length"] for r in side["rounds"]),
                "context_share": statistics.mean(
                    r.get("context/teacher", 0.0) for r in side["rounds"]
                ),
                "tflop": round(side["tflop"], 3),
                "peak_rss_gb": round(side["peak_rss_bytes"] / GB, 2),
            }
            for name, side in found.items()
        },
        "seconds_ratio": round(ratio, 3),
        "seconds_ratios": [round(r, 3) for r in ratios],
        "flops_ratio": round(allowed, 3),
        "reached": {name: round(value, 3) for name, value in reached.items()},
        "target": TARGET,
        "met": {name: value <= TARGET[name] for name, value in reached.items()},
    }
