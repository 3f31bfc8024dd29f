"""Waves of jaxevo's sampler in a fresh process: `python -m experiments.bench.sampler_worker`."""

from __future__ import annotations

import dataclasses
import resource
import sys
import time
from typing import Any

import numpy as np

from experiments.bench.worker import command_line, wait_for_turn


def prompts_of(tokenizer: Any, count: int, tokens: int) -> list[list[int]]:
    """Worked sums, as text, cut to so many tokens each."""
    generator = np.random.default_rng(0)
    prompts = []
    for _ in range(count):
        pairs = generator.integers(10, 1000, (tokens, 2)).tolist()
        text = " ".join(f"What is {a} plus {b}? The sum is {a + b}." for a, b in pairs)
        prompts.append(tokenizer.encode(text)[:tokens])
    return prompts


def lengths_of(rows: int, shortest: int, longest: int) -> list[int]:
    """Tokens of each row's answer, spread evenly and mixed."""
    even = np.linspace(shortest, longest, rows).round().astype(int)
    return np.random.default_rng(1).permutation(even).tolist()


def run(case: dict[str, Any], rounds: int, *, paced: bool, prompts_only: bool) -> dict[str, Any]:
    """Waves of forced answer lengths; nothing ends an answer but its length.

    case: groups, samples, prompt_tokens, shortest, longest.

    Returns:
      rounds (seconds of each wave), lengths, prompts (ids), model_dir, peak_rss_bytes.
    """
    import jax

    from jaxevo.models import hub
    from jaxevo.run.build import make_sampler
    from jaxevo.sampling.sampler import Sampling, publish

    model = hub.load("smollm2-135m")
    prompts = prompts_of(model.tokenizer, case["groups"], case["prompt_tokens"])
    rows = case["groups"] * case["samples"]
    lengths = lengths_of(rows, case["shortest"], case["longest"])
    sampler = dataclasses.replace(make_sampler(model, case["prompt_tokens"]), eos_ids=())
    params, measured = publish(model.params), []
    for index in range(0 if prompts_only else rounds):
        if paced:
            wait_for_turn()
        start = time.perf_counter()
        out = sampler(
            params,
            [np.array(ids, np.int32) for ids in prompts],
            key=jax.random.key(index),
            uids=range(rows),
            samples=case["samples"],
            new_tokens=case["longest"],
            limit_N=np.array(lengths, np.int32),
            sampling=Sampling(),
        )
        measured.append({"seconds": time.perf_counter() - start})
        if out.length_N.tolist() != lengths:
            raise ValueError("an answer has not the length that was asked for.")
    return {
        "rounds": measured,
        "lengths": lengths,
        "prompts": prompts,
        "model_dir": str(hub.smollm2_dir()),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


if __name__ == "__main__":
    sys.exit(command_line(run, __doc__))
