"""`jaxevo compare RECIPE ... --budget N`."""

import json

import pytest

from jaxevo.run.budget import command, place, rollouts_left
from jaxevo.run.cli import main
from jaxevo.run.compare import Logged
from jaxevo.run.logs import read_jsonl

SHARED = {"task": "add2", "model": "toy", "prompts": 4, "stop": ("=", "?")}


def test_the_command_of_a_run_has_all_options():
    args = command("grpo:learning_rate=1e-3,kl-weight=0.1", "epochs=2", 7, 64, SHARED)
    assert args == [
        "train", "grpo", "--epochs", "2", "--learning-rate", "1e-3", "--kl-weight", "0.1",
        "--model", "toy", "--task", "add2", "--prompts", "4", "--stop", "=", "?",
        "--seed", "7", "--rounds", "64", "--max-rollouts", "64",
    ]  # fmt: skip
    assert command("grpo", "", 0, 64, {})[:2] == ["train", "grpo"]


def test_runs_of_other_options_have_other_folders():
    places = {place("f", "add2", recipe, seed) for recipe in ("grpo", "grpo:epochs=2", "sdpo")
              for seed in (0, 1)}  # fmt: skip
    assert len(places) == 6
    assert place("f", "add2", "grpo:epochs=2", 1) == "f/add2-grpo-epochs=2-1"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["grpo", "--budget", "0"], "a budget of at least 1 and seeds, each once; it has 0"),
        (["grpo", "--budget", "8", "--seeds", "1", "1"], "seeds, each once; it has 8 and [1, 1]"),
        (["--budget", "8"], "compare needs recipes, each once: "),
        (["grpo", "grpo", "--budget", "8"], "compare needs recipes, each once: "),
        (["grpo", "gpro", "--budget", "8"], "unknown recipe 'gpro'"),
        (["grpo:", "--budget", "8"], "'grpo:' is no recipe. Write NAME or NAME:option=value"),
        (["grpo:epochs", "--budget", "8"], "'grpo:epochs': 'epochs' is not option=value."),
        (["grpo:epoch=2", "--budget", "8"], "epoch"),
        (["grpo:epochs=two", "--budget", "8"], "two"),
        (["grpo", "--budget", "8", "--rounds", "2"], "rounds"),
        (["grpo", "--budget", "8", "--prompts", "x"], "prompts"),
    ],
)
def test_what_cannot_be_compared_is_one_line_before_anything_is_trained(
    args, says, tmp_path, capsys
):
    assert main(["compare", *args, "--folder", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert says in said.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("sampled", "left"),
    [([16, 32], 8), ([16, 32, 48], 0), ([16, 32, 40], 0), ([], 40), ([0] * 40, 0), ([0] * 39, 40)],
)
def test_a_run_that_was_ended_early_is_not_done(sampled, left):
    metrics = [{"round": n, "rollouts": count} for n, count in enumerate(sampled)]
    assert rollouts_left(Logged("f", {}, metrics), 40) == left


@pytest.mark.soak
def test_recipes_under_one_budget(tmp_path, capfd):
    page = tmp_path / "page.html"
    args = [
        "compare",
        "grpo",
        "sdpo:context-tokens=24,distill-top-k=22",
        "--each",
        "learning-rate=3e-4",
    ]
    args += ["--budget", "40", "--seeds", "0", "1", "--model", "toy", "--task", "add2"]
    args += ["--prompts", "4", "--samples", "4", "--max-new-tokens", "4", "--last", "2"]
    args += ["--folder", str(tmp_path / "runs"), "--out", str(page)]
    assert main(args) == 0
    first = capfd.readouterr().out
    assert first.count("jaxevo train ") == 4
    told = json.loads(page.with_suffix(".json").read_text())
    assert [c["name"] for c in told["columns"]] == ["grpo, 2 seeds", "sdpo, 2 seeds"]
    cells = {row["name"]: row["cells"] for row in told["rows"]}
    assert cells["rollouts"] == ["48", "48"]
    assert cells["rounds"] == ["3", "3"]
    assert cells["held out last_integer, lead"][0] == "-"
    for column in told["columns"]:
        for run in column["runs"]:
            rounds = read_jsonl(tmp_path / "runs" / run["folder"] / "metrics.jsonl")
            assert rounds[-1]["rollouts"] == 48
    assert main(args) == 0  # what has been done is not done again
    assert json.loads(page.with_suffix(".json").read_text())["rows"] == told["rows"]
