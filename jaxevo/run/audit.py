"""Answers on which verifiers disagree, or that one could not judge: what to look at by eye."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jaxevo.collect.lab import Lab
from jaxevo.types import Row, Verdict

SHOWN = 4000  # characters of an answer in a line


def disagree(verdicts: Mapping[str, Verdict]) -> bool:
    """Whether one verifier passes an answer that another does not."""
    return len({verdict.status == "pass" for verdict in verdicts.values()}) > 1


def audit_records(lab: Lab, rows: Iterable[Row], *, round_index: int) -> list[dict[str, Any]]:
    """One record, of JSON values, per row whose verifiers disagree or one of which says `error`.

    round, uid, task (its uid), prompt, answer (what the verifiers read, cut at 4000 characters),
    expected (the right answer), and under `verdicts` status, score and feedback by verifier. What
    they say of the answer does not depend on the reward: verdicts by coin are no part of it.
    """
    records = []
    for row in rows:
        verdicts: Mapping[str, Verdict] = row.info.get("verdicts", {})
        if not disagree(verdicts) and all(v.status != "error" for v in verdicts.values()):
            continue
        answer = lab.answer_text(row)
        records.append(
            {
                "round": round_index,
                "uid": row.uid,
                "task": row.task.uid,
                "prompt": lab.tokenizer.decode(row.prompt_ids.tolist()),
                "answer": answer if len(answer) <= SHOWN else answer[:SHOWN] + "…",
                "expected": row.task.answer,
                "verdicts": {
                    name: {"status": v.status, "score": v.score, "feedback": v.feedback}
                    for name, v in verdicts.items()
                },
            }
        )
    return records
