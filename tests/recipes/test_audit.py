"""What verifiers disagree on, in whole runs of the tiny model: file, metrics, and going on."""

import dataclasses
import io

import pytest
from cases import CASES

from jaxevo.run.audit import SHOWN, audit_records
from jaxevo.run.console import Progress
from jaxevo.run.logs import read_jsonl
from jaxevo.run.loop import train
from jaxevo.types import Verdict

pytestmark = pytest.mark.slow  # they compile a model


def even(task, text):
    """Passes texts of even length."""
    right = len(text) % 2 == 0
    return Verdict("pass", 1.0) if right else Verdict("fail", 0.25, f"{len(text)} is odd.")


def starts_low(task, text):
    """Passes texts that start with a low digit, and cannot judge those that start with none."""
    if not text[:1].isdigit():
        return Verdict("error", 0.0, "no digit")
    return Verdict("pass", 1.0) if text[0] < "5" else Verdict("fail", 0.0, "high")


def judged_by(run, *verifiers):
    named = {verify.__name__: verify for verify in verifiers}
    source = dataclasses.replace(run.bench.source, verifiers=named)
    return dataclasses.replace(run, bench=dataclasses.replace(run.bench, source=source))


def go(start, folder, *verifiers, rounds):
    options = {"out": str(folder), "rounds": rounds, "eval_problems": 0, "checkpoint_every": 1}
    run = judged_by(start(CASES[0], **options), *verifiers)
    with Progress(rounds, stream=io.StringIO()) as progress:
        train(run, progress)
    return run


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit") / "whole"
    return go(start, folder, even, starts_low, rounds=3), folder


def test_a_line_for_each_answer_in_dispute(whole):
    run, folder = whole
    lines = {line["uid"]: line for line in read_jsonl(folder / "audit.jsonl")}
    rollouts = read_jsonl(folder / "rollouts.jsonl")
    text = run.bench.model.tokenizer.text
    wanted = {}
    for row in rollouts:
        answer = text(row["ids"])
        one, two = even(None, answer), starts_low(None, answer)
        if two.status == "error" or one.status != two.status:
            wanted[row["uid"]] = {
                name: {"status": v.status, "score": v.score, "feedback": v.feedback}
                for name, v in (("even", one), ("starts_low", two))
            }
            same = ("round", "task", "prompt", "expected")
            assert [lines[row["uid"]][key] for key in same] == [row[key] for key in same]
            assert lines[row["uid"]]["answer"] == answer
    assert {uid: line["verdicts"] for uid, line in lines.items()} == wanted
    assert 0 < len(wanted) < len(rollouts)
    found = {v["status"] for line in lines.values() for v in line["verdicts"].values()}
    assert found == {"pass", "fail", "error"}


def test_metrics_say_how_often(whole):
    _, folder = whole
    lines = read_jsonl(folder / "audit.jsonl")
    rows = len(read_jsonl(folder / "rollouts.jsonl")) / 3
    for metrics in read_jsonl(folder / "metrics.jsonl"):
        verdicts = [v["verdicts"] for v in lines if v["round"] == metrics["round"]]
        errors = sum(v["starts_low"]["status"] == "error" for v in verdicts)
        split = sum((v["even"]["status"] == "pass") != (v["starts_low"]["status"] == "pass")
                    for v in verdicts)  # fmt: skip
        assert metrics["error/starts_low"] == pytest.approx(errors / rows)
        assert metrics["disagreement_share"] == pytest.approx(split / rows)
        assert metrics["error/even"] == metrics["error_share"] == 0.0


def test_a_continued_run_has_the_same_lines(whole, start, tmp_path):
    _, folder = whole
    go(start, tmp_path / "stopped", even, starts_low, rounds=2)
    with (tmp_path / "stopped" / "audit.jsonl").open("a") as file:
        file.write('{"round":2,"uid":1}\n{"round":2,"u')  # of a round that no checkpoint knows
    go(start, tmp_path / "stopped", even, starts_low, rounds=3)
    wanted = (folder / "audit.jsonl").read_bytes()
    assert (tmp_path / "stopped" / "audit.jsonl").read_bytes() == wanted


def test_one_verifier_that_judges_everything_leaves_no_file(start, tmp_path):
    go(start, tmp_path / "run", even, rounds=1)
    assert not (tmp_path / "run" / "audit.jsonl").exists()
    (metrics,) = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert (metrics["disagreement_share"], metrics["error/even"]) == (0.0, 0.0)


def test_the_first_verifiers_errors_are_the_error_share(start, tmp_path):
    go(start, tmp_path / "run", starts_low, rounds=1)
    (metrics,) = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    lines = read_jsonl(tmp_path / "run" / "audit.jsonl")
    assert 0.0 < metrics["error_share"] == metrics["error/starts_low"] == len(lines) / 16


def test_a_long_answer_is_cut(start):
    run = judged_by(start(CASES[0]), starts_low)
    lab = run.bench.lab(run.state.params)
    (row, *_) = lab.sample(lab.tasks(1))
    seven = run.bench.model.tokenizer.encode("+7")[1]
    for count in (SHOWN, SHOWN + 1):
        ids = [run.bench.model.tokenizer.encode("+")[0]] + [seven] * (count - 1)
        answer = dataclasses.replace(row.segments[1], ids=ids)
        longer = dataclasses.replace(row, segments=(row.segments[0], answer))
        (record,) = audit_records(lab, lab.verify([longer]), round_index=0)
        text = "+" + "7" * (SHOWN - 1)
        assert record["answer"] == (text if count == SHOWN else text + "…")
