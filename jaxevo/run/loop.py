"""The run loop: rounds, evaluations, logs, checkpoints; resumable at every checkpoint."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxevo.run.ahead import Ahead, gather_round
from jaxevo.run.audit import audit_records
from jaxevo.run.build import Run
from jaxevo.run.checkpoint import Checkpoints
from jaxevo.run.console import Progress
from jaxevo.run.evaluate import evaluate
from jaxevo.run.logs import RunLog, rollout_record
from jaxevo.run.metrics import action_signals, round_metrics
from jaxevo.run.report import write_report
from jaxevo.step import improve
from jaxevo.types import Row, TrainState

PATIENCE = 3  # refused updates in a row that end a run
KNOWN = ("advantage",)  # of a row that an update made no forward pass for


class DivergedError(RuntimeError):
    """Several updates in a row had a non-finite loss or gradient."""


def train(run: Run, progress: Progress) -> tuple[TrainState, dict[str, Any]]:
    """Runs all rounds and writes the run folder.

    Returns:
      the last state, and a summary: `before` and `after` (held-out means by scorer, None without
      evaluation), `rewards` (mean reward by round) and `report` (path).

    Raises:
      DivergedError: after three refused updates in a row.
    """
    options, folder = run.options, Path(run.options.out)
    with Checkpoints(folder / "checkpoints", keep=options.keep) as checkpoints:
        resumed = checkpoints.latest() is not None
        state, memory, config = run.state, run.memory, describe(run)
        spent: Mapping[str, float] = {}  # seconds by phase before this process
        off_policy = Ahead(run) if options.off_policy else contextlib.nullcontext()
        kept = RunLog(folder, append=resumed, trackers=options.log)
        with off_policy as ahead, kept as log:
            if resumed:
                with progress.phase("restore"):
                    state, memory, meta = checkpoints.restore(state, memory)
                    log.cut_back(meta["offsets"])
                    config["evaluation"], spent = meta["evaluation"], meta["seconds"]
                progress.say(f"continuing {folder} after round {state.counters['round'] - 1}")
            log.write_config(config)
            while state.counters["round"] < options.rounds:
                index = state.counters["round"]
                scores = {}
                if _evaluates(options.eval_every, index) and options.eval_problems:
                    scores = _evaluate(run, state, progress)
                    config["evaluation"].setdefault("before", scores)
                phase = "first round" if index == 0 else "rounds"
                with progress.phase(phase):
                    state, memory, metrics, records = one_round(
                        run, state, memory, ahead, audit=log.write_audit
                    )
                log.write_metrics(metrics | {f"eval/{n}": s for n, s in scores.items()})
                log.write_rollouts(records)
                progress.update(metrics)
                if state.counters["skipped_in_a_row"] >= PATIENCE:
                    raise DivergedError(_diverged(state, metrics))
                last = state.counters["round"] == options.rounds
                if last and options.eval_problems:
                    config["evaluation"]["after"] = _evaluate(run, state, progress)
                if options.saves_after(state.counters["round"]):
                    with progress.phase("checkpoint"):
                        meta = {
                            "offsets": log.offsets(),
                            "evaluation": config["evaluation"],
                            "seconds": _added(spent, progress.seconds()),
                        }
                        checkpoints.save(state, memory, meta)
            config["seconds"] = _added(spent, progress.seconds())
            log.write_config(config)
    with progress.phase("report"):
        report = write_report(folder)
    return state, {**config["evaluation"], "report": str(report)}


def one_round(
    run: Run,
    state: TrainState,
    memory: Any,
    ahead: Ahead | None = None,
    *,
    audit: Callable[[list[dict[str, Any]]], None] | None = None,
) -> tuple[TrainState, Any, dict[str, Any], list[dict[str, Any]]]:
    """One round and its log lines: state, memory, metrics, rollout records.

    ahead: gathers the next round meanwhile, and has gathered this one if it was begun; None for
    on-policy rounds.
    audit: takes the records of answers that verifiers disagree on or cannot judge.
    """
    index, start = state.counters["round"], time.perf_counter()
    gathered = None if ahead is None else ahead.take()
    waited = time.perf_counter() - start
    if gathered is None:
        gathered = gather_round(run, state, memory)
        waited = sum(gathered.lab.seconds.values())
    lab, experience = gathered.lab, gathered.experience
    memory = run.recipe.grow(memory, experience)
    if ahead is not None:
        ahead.begin(state, memory, lab.position)
    state, reports = improve(run.recipe, run.learner, lab, state, experience)
    reports = jax.device_get(reports)
    seconds = time.perf_counter() - start
    sampling = lab.seconds["sample"]
    metrics = {"round": index, **round_metrics(list(lab.sampled.values()), reports, index)}
    metrics |= {
        "updates": state.counters["updates"],
        "skipped": state.counters["skipped"],
        "tokens_per_second": metrics["tokens"] / max(sampling, 1e-9),
        "seconds_round": seconds,
        "seconds_rollout": sampling + lab.seconds["verify"],
        "seconds_update": seconds - waited,
    }
    rows = {**lab.sampled, **{row.uid: row for kept in experience.values() for row in kept}}
    if audit is not None:
        audit(audit_records(lab, rows.values(), round_index=index))
    return state, memory, metrics, _records(run, index, rows.values(), reports)


def _records(
    run: Run,
    index: int,
    rows: Iterable[Row],
    reports: Mapping[str, Sequence[Mapping[str, Any]]],
) -> list[dict[str, Any]]:
    """One log record per sampled row, with the signals per action of the updates that used it.

    Of a row that several objectives learn, what two of them say is the later one's.
    """
    signals: dict[int, dict[str, dict[str, np.ndarray]]] = {}
    ordered = [r for o in run.recipe.objectives for r in reports.get(o.name, ())]
    for uid, stream, said in (found for report in ordered for found in _signals(report)):
        own = signals.setdefault(uid, {})
        own[stream] = own.get(stream, {}) | said
    return [
        rollout_record(
            row,
            round_index=index,
            tokenizer=run.bench.model.tokenizer,
            trained=row.uid in signals,
            signals=signals.get(row.uid),
        )
        for row in rows
    ]


def _signals(report: Mapping[str, Any]) -> Iterator[tuple[int, str, dict[str, np.ndarray]]]:
    """Uid, stream and signals per action of each row of an update."""
    for stream in report["signals"]:
        by_name = action_signals(report, stream)
        for n, (row, idle) in enumerate(zip(report["trained"], report["idle"], strict=True)):
            said = {name: x_NA[n] for name, x_NA in by_name.items() if name in KNOWN or not idle}
            yield row.uid, stream, said


def _evaluate(run: Run, state: TrainState, progress: Progress) -> dict[str, float]:
    options, source = run.options, run.bench.source
    count = min(options.eval_problems, source.held_out_size)
    with progress.phase("evaluation"):
        lab = run.bench.lab(state.params, evaluation=True)
        tasks = [source.held_out(i) for i in range(count)]
        return evaluate(lab, tasks, samples=options.eval_samples).means()


def _added(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    return {name: before.get(name, 0.0) + now.get(name, 0.0) for name in {**before, **now}}


def _evaluates(every: int, index: int) -> bool:
    return index == 0 or (every > 0 and index % every == 0)


def _diverged(state: TrainState, metrics: Mapping[str, Any]) -> str:
    said = ", ".join(f"{k} {v}" for k, v in metrics.items() if k.endswith(("loss", "grad_norm")))
    return (
        f"{state.counters['skipped_in_a_row']} updates in a row had a non-finite loss or gradient "
        f"(round {metrics['round']}: {said}). "
        "The weights are those of the last finite update. Lower the learning rate, or look at the "
        "round's rollouts."
    )


def describe(run: Run) -> dict[str, Any]:
    """The resolved configuration of a run, as JSON values."""
    packages = ("jax", "jaxlib", "optax", "numpy")
    return {
        "recipe": run.recipe.name,
        "recipe_repr": repr(run.recipe),
        "options": {k: v for k, v in vars(run.options).items()},
        "shapes": {name: repr(shapes) for name, shapes in run.learner.shapes.items()},
        "versions": {
            "jaxevo": importlib.metadata.version("jaxevo"),
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
        "devices": [str(d) for d in jax.devices()],
        "evaluation": {},
    }
