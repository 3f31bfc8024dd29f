"""The run loop: rounds, evaluations, logs, checkpoints; resumable at every checkpoint."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxevo.parallel.hosts import exchange, is_first
from jaxevo.run.ahead import Ahead, gather_round
from jaxevo.run.audit import audit_records
from jaxevo.run.build import Run
from jaxevo.run.changes import changed_options, recipe_values
from jaxevo.run.checkpoint import Checkpoints
from jaxevo.run.console import Progress
from jaxevo.run.evaluate import evaluate
from jaxevo.run.faults import nonfinite_weights, round_faults
from jaxevo.run.fingerprint import fingerprint
from jaxevo.run.lock import only_writer
from jaxevo.run.log_copies import LogCopies
from jaxevo.run.logs import NoLog, RunLog, rollout_record, set_logs_aside
from jaxevo.run.metrics import action_signals, round_metrics
from jaxevo.run.options import checkpoint_folder
from jaxevo.run.report import read_config, write_report
from jaxevo.run.stopping import Stopping
from jaxevo.run.storage import in_bucket, place_of
from jaxevo.step import improve
from jaxevo.types import Row, TrainState

PATIENCE = 3  # refused updates in a row that end a run
KNOWN = ("advantage",)  # of a row that an update made no forward pass for


class DivergedError(RuntimeError):
    """Several updates in a row had a non-finite loss or gradient."""


def train(run: Run, progress: Progress) -> tuple[TrainState, dict[str, Any]]:
    """Runs all rounds and writes the run folder; continues where its newest checkpoint stands.

    On SIGTERM or Ctrl-C it saves after the round at hand and returns.

    Returns:
      the last state, and a summary: `before` and `after` (held-out means by scorer, None without
      evaluation), `stopped` (the signal's name where one ended the run, else absent) and `report`
      (path; absent where a signal ended the run, as there may be no time, and on other processes
      than the first, which writes).

    Raises:
      DivergedError: after three refused updates in a row.
      BusyError: another process writes the folder.
      SaveError: a checkpoint could not be written.
      ValueError: the folder has checkpoints, and none that can be used.
    """
    with _opened(run, progress) as job, Stopping() as stopping:
        asked = _anyones(stopping.asked)
        while not job.ended and asked is None:
            job.round()
            asked = _anyones(stopping.asked)
            if run.options.saves_after(job.state.counters) or asked is not None:
                job.save()
        job.finish()
    summary = dict(job.config["evaluation"])
    if not job.ended:
        summary["stopped"] = asked
    elif is_first():
        with progress.phase("report"):
            summary["report"] = str(write_report(Path(run.options.out)))
    return job.state, summary


def _anyones(asked: str | None) -> str | None:
    """What any process has been asked for, so that all stop after the same round."""
    return next((one for one in exchange(asked) if one is not None), None)


@contextlib.contextmanager
def _opened(run: Run, progress: Progress) -> Iterator[_Job]:
    """The run at its newest checkpoint, or at its beginning, in a folder that is its own."""
    options, folder = run.options, Path(run.options.out)
    with contextlib.ExitStack() as held:
        if is_first():
            held.enter_context(only_writer(folder))
        checkpoints = held.enter_context(
            Checkpoints(
                checkpoint_folder(folder, options.checkpoint_dir),
                keep=options.keep,
                keep_best=options.keep_best,
                say=progress.say,
            )
        )
        resumes = checkpoints.latest() is not None
        if not resumes and is_first():
            _set_logs_aside(folder, progress)
        copies = _log_copies(run, checkpoints, progress)
        ahead = held.enter_context(Ahead(run)) if options.off_policy else None
        kept = RunLog(folder, append=resumes, trackers=options.log) if is_first() else NoLog(folder)
        log = held.enter_context(kept)
        job = _Job(run, progress, checkpoints, log, ahead, copies)
        if resumes:
            job.resume()
        log.write_config(job.config)
        yield job


def _log_copies(run: Run, checkpoints: Checkpoints, progress: Progress) -> LogCopies | None:
    """The logs beside checkpoints in a bucket, with which lost ones have been brought back."""
    options, folder = run.options, Path(run.options.out)
    place = place_of(checkpoint_folder(folder, options.checkpoint_dir))
    if not (is_first() and in_bucket(place)):
        return None
    copies = LogCopies(place, folder)
    if checkpoints.latest() is None:
        copies.clear()
    elif brought := copies.bring_back(checkpoints.meta()["offsets"]):
        progress.say(f"logs brought back from beside {place}: {', '.join(brought)}")
    return copies


class _Job:
    """A run in its folder: what `train` does round by round."""

    def __init__(
        self,
        run: Run,
        progress: Progress,
        checkpoints: Checkpoints,
        log: RunLog | NoLog,
        ahead: Ahead | None,
        copies: LogCopies | None,
    ):
        self._run, self._progress = run, progress
        self._checkpoints, self._log, self._ahead = checkpoints, log, ahead
        self._copies = copies
        self.state, self.memory, self.config = run.state, run.memory, describe(run)
        self._spent: Mapping[str, float] = {}  # seconds by phase before this process
        self._rounds_before = 0
        self._metrics: dict[str, Any] = {}  # of the last round
        self._said_unranked = False

    @property
    def done(self) -> int:
        """Rounds, those of earlier processes too."""
        return self.state.counters["round"]

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do."""
        return self._run.options.ends_after(self.state.counters)

    def resume(self) -> None:
        """Goes back to the newest checkpoint, and the logs with it."""
        run, progress, folder = self._run, self._progress, self._log.folder
        with progress.phase("restore"):
            self.state, self.memory, meta = self._checkpoints.restore(run.state, run.memory)
            self._log.cut_back(meta["offsets"])
        self.config["evaluation"], self._spent = meta["evaluation"], meta["seconds"]
        self.config["by_problem"] = meta["by_problem"]
        self._rounds_before = self.done
        progress.resume(self.done)
        progress.say(f"continuing {folder} after round {self.done - 1}")
        before = read_config(folder)
        found = changed_options(before, self.config) if before else {}
        known = before.get("changes", [])
        if found:
            said = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in found.items())
            progress.say(f"options changed since the run was broken off: {said}")
            known = [*known, {"round": self.done, "options": found}]
        self.config["changes"] = known
        self.config["seconds"] = before.get("seconds", self._spent)

    def round(self) -> None:
        """One round, logged, with the evaluations before and after it that are due."""
        options, index, scores = self._run.options, self.done, {}
        if _evaluates(options.eval_every, index) and options.eval_problems:
            scores = self._evaluate("before")
        with self._progress.phase("first round" if index == 0 else "rounds"):
            self.state, self.memory, metrics, records = one_round(
                self._run, self.state, self.memory, self._ahead, audit=self._log.write_audit
            )
        self._metrics = metrics | {f"eval/{n}": s for n, s in scores.items()}
        self._log.write_metrics(self._metrics)
        self._log.write_rollouts(records)
        self._progress.update(self._metrics)
        faults = metrics.get("faults", ())
        for line in faults:
            self._progress.say(f"round {index}: {line}")
        if self.state.counters["skipped_in_a_row"] >= PATIENCE:
            raise DivergedError(_diverged(self.state, metrics))
        if any(name.startswith("nonfinite/weights/") for name in metrics):
            raise DivergedError(self._lost(f"round {index}: {faults[-1]}"))
        if self.ended and options.eval_problems:
            self._evaluate("after")
        if options.max_rollouts and not self.state.counters["rollouts"]:
            raise ValueError(
                f"--max-rollouts is {options.max_rollouts}, but round {index} sampled no row, so "
                "that no number of them ends this run. Leave it out, and say --rounds."
            )

    def save(self) -> None:
        """Begins a checkpoint of what has been done, if its weights are finite."""
        with self._progress.phase("checkpoint"):
            if broken := nonfinite_weights(self.state.params):
                said = ", ".join(f"{count} weights of {name!r}" for name, count in broken.items())
                raise DivergedError(self._lost(f"{said} are not finite"))
            offsets = self._log.offsets()
            if self._copies is not None:
                self._copies.send(offsets)
            meta = {
                "offsets": offsets,
                "evaluation": self.config["evaluation"],
                "by_problem": self.config["by_problem"],
                "seconds": self._seconds(),
            }
            self._checkpoints.save(self.state, self.memory, meta, score=self._score())

    def finish(self) -> None:
        """Waits for the last checkpoint, and writes down how long everything took.

        A start that finds nothing to do is no part of it.
        """
        with self._progress.phase("checkpoint"):
            self._checkpoints.wait()
        if self.done > self._rounds_before:
            self.config["seconds"] = self._seconds()
        self._log.write_config(self.config)

    def _lost(self, what: str) -> str:
        self._checkpoints.wait()
        newest = self._checkpoints.latest()
        kept = (
            "no checkpoint was" if newest is None else f"checkpoint {newest} is the last that was"
        )
        return (
            f"{what}; {kept} written, with finite weights. Lower the learning rate, or look at the "
            "rounds before; the same command continues from there."
        )

    def _score(self) -> float | None:
        """What `--keep-best` ranks by; None after a round that has no such number, which is said
        once."""
        options = self._run.options
        ranks = {n: x for n, x in self._metrics.items() if isinstance(x, (int, float))}
        if math.isfinite(value := ranks.get(options.best_by, math.nan)):
            return float(value)
        if options.keep_best and not self._said_unranked:
            self._said_unranked = True
            self._progress.say(
                f"round {self.done - 1} has no {options.best_by}, which --keep-best ranks by: its "
                f"checkpoint counts as none of the best. It has {', '.join(sorted(ranks))}"
            )
        return None

    def _seconds(self) -> dict[str, float]:
        now = self._progress.seconds()
        return {n: self._spent.get(n, 0.0) + now.get(n, 0.0) for n in {**self._spent, **now}}

    def _evaluate(self, when: str) -> dict[str, float]:
        """Held-out means by scorer, noted down: of `before` the first, of `after` the last."""
        options, source = self._run.options, self._run.bench.source
        count = min(options.eval_problems, source.held_out_size)
        tasks = [source.held_out(i) for i in range(count)]
        lab = self._run.bench.lab(self.state.params, evaluation=True)
        with self._run.sampling_scope(), self._progress.phase("evaluation"):
            found = evaluate(lab, tasks, samples=options.eval_samples)
        means, whole, by_problem = found.means(), self.config["evaluation"], found.by_problem()
        if when == "after" or when not in whole:
            whole[when], self.config["by_problem"][when] = means, by_problem
        return means


def _set_logs_aside(folder: Path, progress: Progress) -> None:
    """What a run wrote that ended before its first checkpoint: kept, but not continued."""
    if (moved := set_logs_aside(folder)) is not None:
        progress.say(
            f"{folder} holds rounds of a run without a checkpoint; they are kept in {moved}, and "
            "the run begins anew"
        )


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
        ahead.begin(state, memory, lab.position, lab.rollouts)
    with run.placement.scope():
        state, reports = improve(run.recipe, run.learner, lab, state, experience)
    reports = run.learner.fetch(reports)
    seconds = time.perf_counter() - start
    sampling = lab.seconds["sample"]
    trained = dict.fromkeys(objective.trains for objective in run.recipe.objectives)
    metrics = {"round": index, **round_metrics(list(lab.sampled.values()), reports, index)}
    metrics |= {
        "rollouts": state.counters["rollouts"],
        "updates": state.counters["updates"],
        "skipped": state.counters["skipped"],
        **{f"fingerprint/{n}": fingerprint(state.params[n]) for n in trained},
        "tokens_per_second": metrics["tokens"] / max(sampling, 1e-9),
        "seconds_round": seconds,
        "seconds_rollout": sampling + lab.seconds["verify"],
        "seconds_update": seconds - waited,
    }
    rows = {**lab.sampled, **{row.uid: row for kept in experience.values() for row in kept}}
    metrics |= round_faults(rows.values(), reports, state.params)
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


def _evaluates(every: int, index: int) -> bool:
    return index == 0 or (every > 0 and index % every == 0)


def _diverged(state: TrainState, metrics: Mapping[str, Any]) -> str:
    said = ", ".join(f"{k} {v}" for k, v in metrics.items() if k.endswith(("loss", "grad_norm")))
    causes = "".join(f"; {line}" for line in metrics.get("faults", ()))
    return (
        f"{state.counters['skipped_in_a_row']} updates in a row had a non-finite loss or gradient "
        f"(round {metrics['round']}: {said}{causes}). "
        "The weights are those of the last finite update. Lower the learning rate, or look at the "
        "round's rollouts."
    )


def describe(run: Run) -> dict[str, Any]:
    """The resolved configuration of a run, as JSON values."""
    packages = ("jax", "jaxlib", "optax", "numpy")
    return {
        "recipe": run.recipe.name,
        "recipe_repr": repr(run.recipe),
        "recipe_values": recipe_values(run.recipe),
        "options": {k: v for k, v in vars(run.options).items()},
        "shapes": {name: repr(shapes) for name, shapes in run.learner.shapes.items()},
        "versions": {
            "jaxevo": importlib.metadata.version("jaxevo"),
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
        "devices": [str(d) for d in jax.devices()],
        "evaluation": {},
        "by_problem": {},
        "changes": [],
    }
