"""`jaxevo eval`: tables, files and the comparison of two evaluations."""

import json
import pathlib

import numpy as np
import pytest

from jaxevo.models import hub
from jaxevo.run.cli import main
from jaxevo.run.eval_command import split_tasks
from jaxevo.run.eval_files import compare_items
from jaxevo.run.evaluate import Evaluation, statistics, votes
from jaxevo.run.logs import read_jsonl

pytestmark = pytest.mark.usefixtures("quick_to_compile")
ROOT = pathlib.Path(__file__).parent.parent.parent
SHORT = ["--max-new-tokens", "4"]


@pytest.fixture(autouse=True)
def _tiny_by_name(monkeypatch, tiny_model):
    monkeypatch.setitem(hub._NAMED, "tiny", lambda name, dtype, weights, put: tiny_model)


def test_eval_of_two_tasks_prints_and_writes_what_it_found(tmp_path, capsys):
    out = tmp_path / "found"
    command = f"eval tiny --task add1,sub1 --problems 8 --samples 4 --k 1 4 --out {out}"
    assert main([*command.split(), *SHORT]) == 0
    said = capsys.readouterr().out
    result = json.loads((out / "eval.json").read_text())
    items = read_jsonl(out / "items.jsonl")
    assert result["options"]["subject"] == "tiny"
    assert result["versions"].keys() >= {"jax", "numpy"}
    assert list(result["table"]) == ["add1", "sub1"]
    for task, table in result["table"].items():
        mine = [item for item in items if item["task"] == task]
        assert (table["problems"], table["samples"], len(mine)) == (8, 4, 32)
        assert table["scorers"].keys() == {"last_integer", "strict_integer"}
        row = table["scorers"]["last_integer"]
        assert row.keys() == {"accuracy", "pass@1", "pass@4", "maj@4"}
        scores = [item["scores"]["last_integer"] for item in mine]
        assert row["accuracy"][0] == pytest.approx(np.mean(scores), abs=1e-5)
        assert all(low <= mean <= high for mean, low, high in row.values())
        assert table["mean_length"] == pytest.approx(np.mean([i["tokens"] for i in mine]), abs=0.01)
        cut = [item["finish"] == "length" for item in mine]
        assert table["unfinished_share"] == pytest.approx(np.mean(cut))
        assert f"{task}: 8 problems x 4 answers" in said
    assert [item["sample"] for item in items[:5]] == [0, 1, 2, 3, 0]
    assert len({item["uid"] for item in items}) == 16
    assert items[0]["prompt"].rstrip("=").count("+") == 1


def test_a_mixture_is_told_by_part_too(tmp_path, capsys):
    command = f"eval tiny --task mix:add1%2Cmax3 --problems 7 --samples 2 --out {tmp_path}"
    assert main([*command.split(), *SHORT]) == 0
    table = json.loads((tmp_path / "eval.json").read_text())["table"]["mix:add1,max3"]
    assert table["problems"] == 7
    assert {part: own["problems"] for part, own in table["parts"].items()} == {"add1": 4, "max3": 3}
    items = read_jsonl(tmp_path / "items.jsonl")
    for part, own in table["parts"].items():
        mine = [item for item in items if item["uid"].startswith(f"{part}/")]
        assert own["mean_length"] == pytest.approx(np.mean([i["tokens"] for i in mine]), abs=0.01)
        for name, row in own["scorers"].items():
            scores = [item["scores"][name] for item in mine]
            assert row["accuracy"][0] == pytest.approx(np.mean(scores), abs=1e-5)
    assert "\n  max3: 3 problems x 2 answers" in capsys.readouterr().out


def test_greedy_answers_are_one_a_problem_and_sampled_ones_hang_on_the_seed(tmp_path, capsys):
    texts = {}
    for name, options in {
        "greedy": ["--temperature", "0"],
        "sampled": ["--samples", "1"],
        "other": ["--samples", "1", "--seed", "1"],
    }.items():
        out = tmp_path / name
        assert main(["eval", "tiny", "--problems", "8", *SHORT, *options, "--out", str(out)]) == 0
        items = read_jsonl(out / "items.jsonl")
        assert len(items) == 8
        texts[name] = [item["answer"] for item in items]
    assert texts["greedy"] != texts["sampled"] != texts["other"]
    assert "maj@" not in capsys.readouterr().out


def test_against_compares_problem_by_problem(tmp_path, capsys):
    few, many = tmp_path / "few", tmp_path / "many"
    assert main(["eval", "tiny", "--problems", "4", "--out", str(few), *SHORT]) == 0
    command = ["eval", "tiny", "--problems", "6", "--out", str(many), "--against", str(few)]
    assert main([*command, *SHORT]) == 0
    said = capsys.readouterr().out
    assert "the problems differ: 2 are only here, 0 only there; they are left out" in said
    found = json.loads((many / "eval.json").read_text())["against"]
    assert (found["common"], found["only_ours"], found["only_theirs"]) == (4, 2, 0)
    assert found["tasks"]["add1"]["last_integer"]["problems"] == 4


def item(uid, score, sample=0, expected="1", prompt="p"):
    scores = {"exact": score}
    return {"task": "t", "uid": uid, "sample": sample, "expected": expected, "prompt": prompt,
            "scores": scores}  # fmt: skip


def test_a_paired_comparison_of_known_scores():
    ours = [item("a", 1.0), item("a", 0.0, 1), item("b", 1.0), item("c", 0.0), item("d", 1.0)]
    theirs = [item("b", 0.0), item("a", 0.0), item("c", 1.0, prompt="q"), item("e", 1.0)]
    found = compare_items(ours, theirs)
    assert [found[k] for k in ("common", "only_ours", "only_theirs", "other_prompts")] == [
        3, 1, 1, 1,
    ]  # fmt: skip
    row = found["tasks"]["t"]["exact"]
    # differences 0.5, 1, -1: mean 1/6; the sums of all signs are at least 0.5 in size
    assert row["means"] == [0.5, 0.33333]
    assert row["difference"][0] == pytest.approx(1 / 6, abs=1e-5)
    assert row["difference"][1] < 0 < row["difference"][2]
    assert row["p"] == 1.0
    assert (row["only_ours_right"], row["only_theirs_right"]) == (["b"], ["c"])
    swapped = compare_items(theirs, ours)["tasks"]["t"]["exact"]
    assert swapped["difference"][0] == -row["difference"][0]
    assert swapped["only_ours_right"] == row["only_theirs_right"]


def test_comparisons_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="no problem in common"):
        compare_items([item("a", 1.0)], [item("b", 1.0)])
    with pytest.raises(ValueError, match="problem a of task t has the answers 1 and 2"):
        compare_items([item("a", 1.0)], [item("a", 1.0, expected="2")])


def test_statistics_of_a_known_table():
    scores = np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    texts = [["so 5", "5", "6", "7"], ["1", "2", "", "9"]]
    table = statistics(Evaluation({"exact": scores}, texts, []), k=(1, 2))["exact"]
    assert table["accuracy"][0] == table["pass@1"][0] == (2 / 4 + 1 / 4) / 2
    assert table["pass@2"][0] == pytest.approx((1 - 1 / 6 + 1 - 3 / 6) / 2)
    # 5, 5, 6, 7: a pair of fives in 1 of 6, a tie with a five in 4; 1, 2, -, 9: a tie with 9 in 2
    # of 6, and 9 alone beside the answer without a vote in 1
    assert table["maj@2"][0] == pytest.approx(((1 + 4 / 2) / 6 + (2 / 2 + 1) / 6) / 2)
    assert table["maj@2"][1] <= table["maj@2"][0] <= table["maj@2"][2]


def test_votes_are_last_numbers_unless_the_scorer_reads_more():
    texts = [["so 5", " 5", "yes ", ""]]
    assert votes(texts, np.array([[True, True, False, False]])) == [["5", "5", "yes", None]]
    assert votes(texts, np.array([[False, True, False, False]])) == [["so 5", "5", "yes", None]]


def test_tasks_are_split_at_commas():
    assert split_tasks("add1, sub1") == ["add1", "sub1"]
    with pytest.raises(ValueError, match="different names"):
        split_tasks("add1,add1")


@pytest.mark.slow
@pytest.mark.smollm2
@pytest.mark.parametrize(
    ("record", "task"),
    [
        ("smollm2", "add1"),
        *(
            pytest.param("smollm2_sets", task, marks=pytest.mark.soak)
            for task in (
                "bbh-navigate",
                "letter-count",
                "countdown",
                "svamp",
                "aqua_rat",
                "ifeval",
                "xquad",
            )
        ),
    ],
)
def test_smollm2_answers_as_it_did(record, task, tmp_path):
    kept = json.loads((ROOT / "experiments" / "eval" / f"{record}.json").read_text())
    options = kept["options"]
    command = ["eval", options["subject"], "--task", task, "--temperature", "0"]
    sizes = ["--problems", "32", "--max-new-tokens", str(options["max_new_tokens"])]
    assert main([*command, *sizes, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "eval.json").read_text())["table"][task]
    # Greedy answers are the same but where two tokens are as likely to the last bit.
    assert found == kept["table"][task]
