"""Later turns of conversations whose beginnings were read, against reading them again.

SmolLM2-135M, float32: 4 prompts of 256 tokens x 8 conversations, 4 turns of up to 16 sampled tokens
and 8 given ones between them. Both ways draw the same tokens, which is checked; they take turns,
and the first time of each, which compiles, is dropped.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np

from experiments.bench.record import summary
from jaxevo.provenance import load, provenance

SIZES = {"prompts": 4, "samples": 8, "prompt_tokens": 256, "turns": 4, "new_tokens": 16, "given": 8}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=2, help="timed pairs (default 2)")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    import jax

    from jaxevo.models import hub
    from jaxevo.run.build import make_sampler
    from jaxevo.sampling.sampler import Sampling, publish

    result = provenance("conversations")
    model, generator = hub.load("smollm2-135m"), np.random.default_rng(0)
    longest = SIZES["prompt_tokens"] + SIZES["turns"] * (SIZES["new_tokens"] + SIZES["given"])
    weights, sampler = publish(model.params), make_sampler(model, longest)
    asked = generator.integers(100, 40000, (SIZES["prompts"], SIZES["prompt_tokens"]))
    given = generator.integers(100, 40000, SIZES["given"]).astype(np.int32)

    def talk(kept: Any) -> tuple[list[float], list[np.ndarray]]:
        """Seconds of each turn, and the conversations."""
        rows = [ids.astype(np.int32) for ids in asked for _ in range(SIZES["samples"])]
        seconds = []
        for turn in range(SIZES["turns"]):
            start = time.perf_counter()
            out = sampler(
                weights,
                rows,
                key=jax.random.key(0),
                uids=range(turn * len(rows), (turn + 1) * len(rows)),
                samples=1,
                new_tokens=SIZES["new_tokens"],
                sampling=Sampling(),
                kept=kept,
                keep=kept is not None,
            )
            seconds.append(time.perf_counter() - start)
            drawn = [out.ids_NR[n, : out.length_N[n]] for n in range(len(rows))]
            rows = [np.concatenate((ids, new, given)) for ids, new in zip(rows, drawn, strict=True)]
        return seconds, rows

    again, kept, loads = [], [], []
    for _ in range(1 + args.repeats):
        loads.append(load())
        plain, wanted = talk(None)
        conversations = sampler.conversations()
        quick, found = talk(conversations)
        if not all(np.array_equal(a, b) for a, b in zip(wanted, found, strict=True)):
            raise ValueError("conversations that were kept went on with other tokens.")
        again.append(sum(plain[1:]))
        kept.append(sum(quick[1:]))
    ratios = [a / b for a, b in zip(again[1:], kept[1:], strict=True)]
    return result | {
        "options": {**SIZES, "repeats": args.repeats},
        "load_1min_by_pair": loads,
        "seconds_of_later_turns_read_again": summary(again[1:]),
        "seconds_of_later_turns_kept": summary(kept[1:]),
        "tokens_read": conversations.read_tokens,
        "tokens_found": conversations.shared_tokens,
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(r, 2) for r in ratios],
    }
