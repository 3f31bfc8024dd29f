"""Rounds of GRPO or SDPO on SmolLM2, measured in a fresh process; see `distillation.py`."""

from __future__ import annotations

import dataclasses
import resource
import sys
import time
from typing import Any

from experiments.bench.worker import command_line, wait_for_turn

RATE = 1e-12  # both recipes go on from the same weights, and sample the same answers


def run(options: dict[str, Any], rounds: int, *, paced: bool, prompts_only: bool) -> dict[str, Any]:
    """Builds a run whose answers never end by themselves, and does its rounds.

    options: `recipe`, grpo or sdpo; `prompts`, `samples`, `max_new_tokens`; `context_tokens`, the
    longest teacher prompt. An answer without end is wrong, so that the verifier says why and every
    row has a teacher. paced, prompts_only: as in `worker.run`.

    Returns:
      rounds (`seconds` between weights that are ready, and metrics), tflop of a round's products as
      counted, prompt_tokens and peak_rss_bytes.
    """
    import jax

    from jaxevo.recipes.grpo import grpo
    from jaxevo.recipes.sdpo import sdpo
    from jaxevo.run.build import build_run
    from jaxevo.run.loop import one_round
    from jaxevo.run.options import RunOptions
    from jaxevo.run.plan import round_work

    sizes = {name: options[name] for name in ("prompts", "samples", "max_new_tokens")}
    recipe = {
        "grpo": lambda: grpo(learning_rate=RATE),
        "sdpo": lambda: sdpo(
            learning_rate=RATE,
            kind="reverse",
            distill_top_k=None,
            solution=False,
            feedback="always",
            context_tokens=options["context_tokens"],
        ),
    }[options["recipe"]]()
    (objective,) = recipe.objectives
    every_row = dataclasses.replace(objective, idle=None)
    built = build_run(
        dataclasses.replace(recipe, objectives=(every_row,)),
        RunOptions(model="smollm2-135m", task="add1", rounds=rounds, eval_problems=0, **sizes),
    )
    endless = dataclasses.replace(built.bench.sampler, eos_ids=())
    built = dataclasses.replace(built, bench=dataclasses.replace(built.bench, sampler=endless))
    state, memory, measured = built.state, built.memory, []
    jax.block_until_ready(state.params)
    kept = ("seconds_rollout", "seconds_update", "length", "padding_share", "context/teacher")
    for _ in range(0 if prompts_only else rounds):
        if paced:
            wait_for_turn()
        start = time.perf_counter()
        state, memory, metrics, _ = one_round(built, state, memory)
        jax.block_until_ready(state.params)
        found = {name: metrics[name] for name in kept if name in metrics}
        measured.append({"seconds": time.perf_counter() - start, **found})
    return {
        "rounds": measured,
        "tflop": sum(work.flops for work in round_work(built)) / 1e12,
        "prompt_tokens": built.bench.sampler.prompt_slots,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


if __name__ == "__main__":
    sys.exit(command_line(run, __doc__ or ""))
