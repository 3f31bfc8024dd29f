"""What a round is measured by. Every metric of a run is computed here, none inside a loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxevo.run.audit import disagree
from jaxevo.types import Row, Segment, Verdict

TIMES = ("tokens_per_second", "seconds_round", "seconds_rollout", "seconds_update")


def without_times(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What is the same whenever and wherever a round is run again."""
    return {name: value for name, value in metrics.items() if name not in TIMES}


def round_metrics(
    rows: Sequence[Row], reports: Mapping[str, Sequence[Mapping[str, Any]]], round_index: int
) -> dict[str, float]:
    """One round's numbers.

    Args:
      rows: every row sampled in the round, judged, trained or not.
      reports: per objective, one report per update as `step.learn` gives them.
      round_index: of the round that learnt from them.

    Returns:
      of rows with rewards, where there are any: reward, reward/<part>, zero_variance_share (groups
      whose rewards are all equal). Of those with verdicts: score/<verifier>, error/<verifier>
      (share of rows that it could not judge), error_share (of the first verifier),
      disagreement_share (rows that one verifier passes and another does not). Of those with
      `info["tally"]`: tally/<name>, mean counts. Of all: length (mean sampled tokens), tokens (each
      sampled token once, also where forks share it), finished_share (rows that ended by
      themselves), entropy (nats per sampled token, as the sampler saw it, where any was).
      logp_mismatch: largest |trainer - sampler| log-prob before the first update, at equal weights.
      Of the updates: loss, loss/<term>, grad_norm (means), weights_age (rounds between the weights
      that sampled a token and this round's, mean over what was learnt), idle_share (rows that need
      no forward pass), padding_share (slots of the packed rows that held no token), context/<view>
      (share of rows that the view has a context for) and context_cut/<view> (of those, the share
      whose privileged text was shortened to fit). Where a teacher's log-probs were read and rows
      are marked (`by_token["changed"]`): teacher_gap/changed and teacher_gap/copied, mean
      |log q - log p| of tokens that are and are not, teacher_gap/ratio, of the two means of a row,
      the median over rows with both, and teacher_against_copied, the share of tokens that are not
      changed of which the teacher thinks less than the policy. Those of an objective that is not
      called "policy" begin with its name and a slash.
    """
    judged = [row for row in rows if row.rewards]
    sampled = _sampled(rows)
    entropies = [s.entropy for s in sampled if s.entropy is not None]
    metrics = {
        "length": _mean([row.sampled_tokens for row in rows]),
        "tokens": float(sum(len(s.ids) for s in sampled)),
        "finished_share": _mean([row.info.get("finish") != "length" for row in rows]),
    }
    if judged:
        metrics["reward"] = _mean([row.reward for row in judged])
        metrics["zero_variance_share"] = _zero_variance_share(judged)
    if entropies:
        metrics["entropy"] = _mean(np.concatenate(entropies))
    for part in sorted({name for row in judged for name in row.rewards}):
        metrics[f"reward/{part}"] = _mean([r.rewards[part] for r in judged if part in r.rewards])
    if verdicts := [row.info["verdicts"] for row in judged if "verdicts" in row.info]:
        metrics |= _of_verifiers(verdicts)
    tallies = [row.info["tally"] for row in rows if "tally" in row.info]
    for name in sorted({n for tally in tallies for n in tally}):
        metrics[f"tally/{name}"] = _mean([tally[name] for tally in tallies if name in tally])
    for objective, report in reports.items():
        prefix = "" if objective == "policy" else f"{objective}/"
        for key in report[0]:
            if key in ("loss", "grad_norm") or key.startswith("loss/"):
                metrics[prefix + key] = _mean([float(r[key]) for r in report])
        learnt = _sampled({row.uid: row for r in report for row in r["trained"]}.values())
        ages = [np.full(len(s.ids), round_index - s.weights_version) for s in learnt]
        metrics[f"{prefix}weights_age"] = _mean(np.concatenate(ages or [np.zeros(0)]))
        metrics[f"{prefix}idle_share"] = _mean(np.concatenate([r["idle"] for r in report]))
        told = _of_contexts(report) | _of_marks(report)
        metrics |= {prefix + name: value for name, value in told.items()}
        filled, declared = np.sum([r["slots"] for r in report], axis=0)
        metrics[f"{prefix}padding_share"] = float(1.0 - filled / declared)
    fresh = [r for r in rows if all(s.weights_version in (round_index, -1) for s in r.segments)]
    if fresh or not rows:
        metrics["logp_mismatch"] = _mismatch(fresh, reports)
    return metrics


def _of_contexts(report: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    metrics = {}
    for name in report[0]["contexts"]:
        found = [r["contexts"][name] for r in report]
        present, cut = (np.concatenate([f[what] for f in found]) for what in ("present", "cut"))
        metrics |= {f"context/{name}": _mean(present), f"context_cut/{name}": _mean(cut[present])}
    return metrics


def _of_marks(report: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How far a teacher is from the policy where a critique changed steps, and where it did not."""
    marks, gaps, ratios = [np.zeros(0)], [np.zeros(0)], []
    for update in report:
        signals = update["signals"].get("text", {})
        if "teacher_advantage" not in signals:
            return {}
        gap_NA = action_signals(update, "text")["teacher_advantage"]
        for row, idle, gap_A in zip(update["trained"], update["idle"], gap_NA, strict=True):
            if "changed" in row.by_token and not idle:
                mark_A = row.by_token["changed"]
                gap_A = gap_A[: len(mark_A)]
                marks.append(mark_A)
                gaps.append(gap_A)
                sides = [np.abs(gap_A[mark_A == side]) for side in (1, 0)]
                if all(len(side) for side in sides):
                    ratios.append(sides[0].mean() / max(sides[1].mean(), 1e-9))
    mark, gap = np.concatenate(marks), np.concatenate(gaps)
    if not np.isfinite(mark).any():
        return {}
    return {
        "teacher_gap/changed": _mean(np.abs(gap[mark == 1])),
        "teacher_gap/copied": _mean(np.abs(gap[mark == 0])),
        "teacher_gap/ratio": float(np.median(ratios)) if ratios else 0.0,
        "teacher_against_copied": _mean(gap[mark == 0] < 0),
    }


def _of_verifiers(verdicts: Sequence[Mapping[str, Verdict]]) -> dict[str, float]:
    first = [next(iter(by_name.values())) for by_name in verdicts]
    metrics = {
        "error_share": _mean([verdict.status == "error" for verdict in first]),
        "disagreement_share": _mean([disagree(by_name) for by_name in verdicts]),
    }
    for name in sorted({name for by_name in verdicts for name in by_name}):
        own = [by_name[name] for by_name in verdicts if name in by_name]
        metrics[f"score/{name}"] = _mean([verdict.score for verdict in own])
        metrics[f"error/{name}"] = _mean([verdict.status == "error" for verdict in own])
    return metrics


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def _sampled(rows: Iterable[Row]) -> list[Segment]:
    """What the policy sampled, once each: a fork has the segments of the row it goes on from."""
    found = (s for row in rows for s in row.answer if s.source == "policy")
    return list({id(s): s for s in found}.values())


def _zero_variance_share(rows: Sequence[Row]) -> float:
    groups: dict[int, set[float]] = {}
    for row in rows:
        groups.setdefault(row.group, set()).add(row.reward)
    return _mean([len(rewards) == 1 for rewards in groups.values()])


def _mismatch(rows: Sequence[Row], reports: Mapping[str, Sequence[Mapping[str, Any]]]) -> float:
    """Largest difference between the trainer's and the sampler's log-probs at equal weights."""
    worst, fresh = 0.0, {row.uid for row in rows}
    for first in (report[0] for report in reports.values()):
        for stream in (name for name, found in first["signals"].items() if "logp" in found):
            logp_NA = action_signals(first, stream)["logp"]
            for row, idle, logp_A in zip(first["trained"], first["idle"], logp_NA, strict=True):
                # Others were sampled by the weights of an earlier round.
                if row.uid in fresh and not idle:
                    said = _sampled_logp(row, stream)
                    gap = np.abs(logp_A[: len(said)] - said)
                    worst = max(worst, float(np.max(gap, initial=0.0, where=np.isfinite(said))))
    return worst


def _sampled_logp(row: Row, stream: str) -> np.ndarray:
    """What the sampler said of each action of a row, NaN where it said nothing."""
    if stream != "text":
        own = row.actions.get(stream)
        if own is None or own.logp is None:
            return np.zeros(0)
        return np.where(own.mask, own.logp, np.nan)
    parts = [
        s.logp if s.source == "policy" and s.logp is not None else np.full(len(s.ids), np.nan)
        for s in row.answer
    ]
    return np.concatenate([np.zeros(0), *parts])


def action_signals(report: Mapping[str, Any], stream: str) -> dict[str, np.ndarray]:
    """An update's arrays per action of one stream as `[rows of the update, A]`, in their order."""
    flat = {n: np.asarray(x_KNA) for n, x_KNA in report["signals"][stream].items()}
    count = len(report["trained"])
    return {n: x_KNA.reshape(-1, x_KNA.shape[-1])[:count] for n, x_KNA in flat.items()}
