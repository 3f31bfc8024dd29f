"""`jaxevo compare`: columns, cells, and the page."""

import json
import re

import numpy as np
import pytest

from jaxevo.run.cli import main
from jaxevo.run.compare import best_cell, final_cell, group_runs, lead_cell, load_run, table_rows
from jaxevo.run.logs import compact_json


def make_run(
    folder,
    rewards,
    *,
    seed=0,
    lr="1e-6",
    task="add1",
    recipe="one",
    config=True,
    after=0.5,
    problems=(),
):
    folder.mkdir()
    if config:
        told = {
            "recipe": recipe,
            "recipe_repr": f"Recipe(lr={lr})",
            "options": {"task": task, "seed": seed, "out": str(folder)},
            "evaluation": {"before": {"exact": 0.25}, "after": {"exact": after}},
            "by_problem": {"after": {"exact": list(problems)}} if problems else {},
            "seconds": {"load": 1.0, "rounds": 9.0},
        }
        (folder / "config.json").write_text(json.dumps(told))
    lines = [
        compact_json(
            {"round": n, "reward": r, "tokens": 100, "loss": 0.001, "seconds_round": 2.0}
            | {"rollouts": 16 * (n + 1)}
        )
        for n, r in enumerate(rewards)
    ]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return str(folder)


@pytest.fixture
def runs(tmp_path):
    return [
        make_run(tmp_path / "a0", [0.0, 0.5, 1.0, 0.0], seed=0, after=0.5),
        make_run(tmp_path / "a1", [0.0, 0.5, 0.5, 0.5], seed=1, after=1.0),
        make_run(tmp_path / "b", [0.0, 0.0, 0.25, 0.75], task="sub1"),
        make_run(tmp_path / "c", [0.0, 1.0], lr="2e-6"),
    ]


def test_runs_that_differ_in_their_seed_are_one_column(runs, tmp_path):
    columns = group_runs([load_run(run) for run in runs])
    assert [len(side) for side in columns.values()] == [2, 1, 1]
    assert list(columns) == [
        "one, task add1, lr 1e-6, 2 seeds",
        "one, task sub1, lr 1e-6",
        "one, task add1, lr 2e-6",
    ]
    bare = [make_run(tmp_path / name, [0.0], config=False) for name in ("d", "e")]
    assert list(group_runs([load_run(run) for run in bare])) == ["d", "e"]


def test_cells_of_known_runs(runs):
    seeds, (single,) = [load_run(run) for run in runs[:2]], [[load_run(runs[2])]]
    # means of the last two rounds 0.5 and 0.5; of the last three 0.5 and 0.5; of one 0 and 0.5:
    # mean 0.25, s = 0.353553, t(1) = 12.7062, half width 3.1766
    assert final_cell(seeds, "reward", 2) == "0.500 [0.500, 0.500]"
    assert final_cell(seeds, "reward", 1) == "0.250 [-2.927, 3.427]"
    assert final_cell(single, "reward", 2) == "0.500 [0.250, 0.750]"  # bootstrap of 0.25 and 0.75
    assert final_cell(single, "nothing", 2) == "-"
    assert final_cell(single, "loss", 2) == "0.001000 [0.001000, 0.001000]"
    assert best_cell(seeds, "reward", 2) == f"{np.mean([0.75, 0.5]):.3f}"
    assert best_cell(single, "reward", 100) == "0.250"
    rows = {r["name"]: r["cells"] for r in table_rows([seeds, single], metrics=("loss",), last=2)}
    assert rows["tokens"] == ["400", "400"]
    assert rows["seconds"] == ["10.0", "10.0"]
    assert rows["held out exact, before"] == ["0.250 [0.250, 0.250]", "0.250"]
    assert rows["held out exact, after"][0].startswith("0.750 [")
    assert "loss, best 2 rounds" not in rows


def test_leads_are_paired_by_seed_and_problem(tmp_path):
    scores = {"a": ([1.0, 0.0], [0.0, 0.0]), "b": ([1.0, 0.5], [0.5, 0.0]), "c": ([1.0], [1.0])}
    one, other, short = (
        [
            load_run(make_run(tmp_path / f"{name}{seed}", [0.0], seed=seed, problems=found))
            for seed, found in enumerate(by_seed)
        ]
        for name, by_seed in scores.items()
    )
    mean, low, high = map(float, re.findall(r"[-0-9.]+", lead_cell(other, one, "exact")))
    assert (mean, low, high) == (0.25, 0.0, 0.5)  # seeds 0.25 each; problems 0 and 0.5 in the first
    assert lead_cell(other[:1], one, "exact") == "0.250 [0.000, 0.500]"
    assert lead_cell(one, one, "exact") == "-"
    assert lead_cell(short, one, "exact") == "-"
    assert lead_cell(other, one, "other") == "-"
    rows = {r["name"]: r["cells"] for r in table_rows([one, other], metrics=("reward",), last=1)}
    assert rows["held out exact, lead"] == ["-", lead_cell(other, one, "exact")]
    assert rows["rollouts"] == ["16", "16"]


def test_options_of_a_recipe_are_named_where_its_own_columns_differ(tmp_path):
    runs = [
        load_run(make_run(tmp_path / "a", [0.0], lr="1e-6")),
        load_run(make_run(tmp_path / "b", [0.0], lr="2e-6")),
        load_run(make_run(tmp_path / "c", [0.0], lr="3e-6", recipe="two")),
    ]
    assert list(group_runs(runs)) == ["one, lr 1e-6", "one, lr 2e-6", "two"]


def test_seconds_of_a_run_that_has_not_ended_are_those_of_its_rounds(tmp_path):
    assert load_run(make_run(tmp_path / "d", [0.0] * 3, config=False)).seconds() == 6.0


def test_compare_prints_a_table_and_writes_a_page(runs, tmp_path, capsys):
    page = tmp_path / "compare.html"
    assert main(["compare", *runs, "--last", "2", "--out", str(page)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "one, task add1, lr 1e-6, 2 seeds" in said[0]
    assert re.match(r"reward, final +0.500 \[0.500, 0.500\] +0.500 \[0.250, 0.750\]", said[2])
    told = json.loads(page.with_suffix(".json").read_text())
    assert [c["name"] for c in told["columns"]][1] == "one, task sub1, lr 1e-6"
    assert [r["folder"] for r in told["columns"][0]["runs"]] == ["a0", "a1"]
    assert told["rows"][1]["cells"][0] == "0.500 [0.500, 0.500]"
    text = page.read_text()
    data = json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', text, re.DOTALL)[1])
    assert [r["name"] for r in data["runs"]] == ["a0", "a1", "b", "c"]
    assert [r["hue"] for r in data["runs"]] == [0, 0, 1, 2]
    assert data["runs"][2]["metrics"][3]["reward"] == 0.75
    assert data["table"]["rows"][1]["cells"][0] == "0.500 [0.500, 0.500]"
    assert main(["compare", *runs, "--last", "1", "--metrics", "loss", "tokens"]) == 0
    said = capsys.readouterr().out
    assert "reward" not in said
    assert "tokens, final" in said


def test_what_is_no_run_is_one_line(runs, tmp_path, capsys):
    for args, says in (
        ([runs[0], str(tmp_path)], "is no run folder: it has no metrics.jsonl"),
        ([], "compare needs run folders, each once"),
        ([runs[0], runs[0]], "compare needs run folders, each once"),
        ([runs[0], "--last", "0"], "--last is 0, but must be at least 1"),
        ([runs[0], "--metrics", "rewrd"], "no run has a metric 'rewrd'; they have loss, reward"),
    ):
        assert main(["compare", *args]) == 2
        said = capsys.readouterr()
        assert (said.out, said.err.count("\n")) == ("", 1)
        assert says in said.err
