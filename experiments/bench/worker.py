"""GRPO rounds of jaxevo, measured in a fresh process: `python -m experiments.bench.worker`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxevo.run.pages import use_huge_pages

READY = "@ready"


def run(options: dict[str, Any], rounds: int, *, paced: bool, prompts_only: bool) -> dict[str, Any]:
    """Builds a run on SmolLM2 and does its rounds; seconds count from the process's start.

    options: of the run, with `learning_rate` of the recipe and `question_tokens` of every prompt:
    one-digit sums behind as many worked ones; 0 for bare ones, which have 23. paced: before every
    round, waits for its turn (`record.Paced`). prompts_only: does no round.

    Returns:
      seconds (import, load, then total at the end of the first round), rounds (metrics of each,
      `seconds` being wall-clock between weights that are ready), floor (what the products of a
      round of longest answers take at this machine's rate), prompts in the order asked.
    """
    marks = {"import": _process_age()}
    import jax

    from jaxevo.models import hub
    from jaxevo.recipes.grpo import grpo
    from jaxevo.run.build import build_run
    from jaxevo.run.costs import matmul_rate
    from jaxevo.run.loop import one_round
    from jaxevo.run.options import RunOptions
    from jaxevo.run.plan import round_work

    marks["import"] = _process_age()
    own = ("learning_rate", "question_tokens")
    sizes = {name: value for name, value in options.items() if name not in own}
    model = hub.load("smollm2-135m")
    with tempfile.TemporaryDirectory(prefix="jaxevo-bench-") as folder:
        task = "add1"
        if tokens := options["question_tokens"]:
            path, count = Path(folder) / "sums.jsonl", rounds * options["prompts"]
            path.write_text(long_problems(model.tokenizer, count, tokens))
            task = f"{path}?verifier=last_integer"  # as of bare sums, and of the other side
        recipe = grpo(learning_rate=options["learning_rate"])
        (objective,) = recipe.objectives
        every_row = dataclasses.replace(objective, idle=None)  # as the other side has it
        run = build_run(
            dataclasses.replace(recipe, objectives=(every_row,)),
            RunOptions(model=model.name, task=task, rounds=rounds, eval_problems=0, **sizes),
            model=model,
        )
    del model  # as a command does: the run has its own copy of the weights
    jax.block_until_ready(run.state.params)
    marks["load"] = _process_age() - marks["import"]
    state, memory, measured = run.state, run.memory, []
    for index in range(0 if prompts_only else rounds):
        if paced:
            wait_for_turn()
        start, busy = time.perf_counter(), time.process_time()
        state, memory, metrics, _ = one_round(run, state, memory)
        jax.block_until_ready(state.params)
        if index == 0:
            marks["total"] = _process_age()
        kept = ("seconds_rollout", "seconds_update", "length", "reward", "padding_share")
        seconds = {
            "seconds": time.perf_counter() - start,
            "seconds_cpu": time.process_time() - busy,
        }
        measured.append({**seconds, **{name: metrics[name] for name in kept}})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    flops, rate = sum(work.flops for work in round_work(run)), matmul_rate()
    tokenizer = run.bench.model.tokenizer
    tasks = [run.bench.source.train(i) for i in range(rounds * options["prompts"])]
    rendered = [tokenizer.render(task.messages, template="chatml") for task in tasks]
    return {
        "seconds": marks,
        "rounds": measured,
        "model_dir": str(hub.smollm2_dir()),
        "prompts": [
            {"ids": ids, "text": tokenizer.decode(ids), "answer": task.answer}
            for ids, task in zip(rendered, tasks, strict=True)
        ],
        "peak_rss_bytes": peak,
        "floor": {
            "tflop": round(flops / 1e12, 3),
            "gflops_per_second": round(rate / 1e9, 1),
            "seconds": round(flops / rate, 2),
        },
    }


def long_problems(tokenizer: Any, count: int, tokens: int) -> str:
    """JSON lines of one-digit sums behind as many worked ones as make prompts of so many tokens.

    Raises:
      ValueError: for fewer tokens than a question with one worked sum has.
    """
    from jaxevo.types import Message

    generator, lines = np.random.default_rng(0), []
    while len(lines) < count:
        a, b = generator.integers(2, 10, 2).tolist()
        question, worked = f"What is {a}+{b}? Reply with just the number.", ""
        for x, y in generator.integers(10, 1000, (tokens, 2)).tolist():
            more = worked + f"{x}+{y}={x + y}. "
            if len(tokenizer.render((Message("user", more + question),))) > tokens:
                break
            worked = more
        if not worked:
            raise ValueError(f"{tokens} tokens are too few for a worked sum and a question.")
        while len(tokenizer.render((Message("user", worked + question),))) < tokens:
            worked += "+ "  # a token
        if len(tokenizer.render((Message("user", worked + question),))) == tokens:
            lines.append(json.dumps({"prompt": worked + question, "answer": str(a + b)}))
    return "\n".join(lines)


def wait_for_turn() -> None:
    """Says that the last round is over, and waits for a line."""
    print(READY, flush=True)
    sys.stdin.readline()


def _process_age() -> float:
    """Seconds since the kernel started this process."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / 100  # USER_HZ


def command_line(run: Callable[..., dict[str, Any]], what: str) -> int:
    """`run(options, rounds, paced=..., prompts_only=...)` as a process that writes a file."""
    use_huge_pages()  # as a command does
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--options", type=json.loads, required=True, help="sizes, as JSON")
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--paced", action="store_true", help="wait for a line before each round")
    parser.add_argument("--prompts-only", action="store_true", help="do no round")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    done = run(args.options, args.rounds, paced=args.paced, prompts_only=args.prompts_only)
    args.out.write_text(json.dumps(done))
    return 0


if __name__ == "__main__":
    sys.exit(command_line(run, __doc__))
