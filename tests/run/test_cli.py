"""The command line: one clear line for whatever cannot be used, help for everything else."""

import dataclasses
import inspect
import json
import re
import subprocess
import sys

import pytest

from jaxevo.recipes import recipe_factory, recipe_names
from jaxevo.run.arguments import docstring_args, one_line
from jaxevo.run.cli import COMMANDS, main
from jaxevo.run.options import RunOptions


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("fly", "unknown command 'fly'; choose one of train, eval"),
        ("train grpp", "unknown recipe 'grpp'; choose one of "),
        ("train grpo --rounds 0", "--rounds is 0, but must be at least 1"),
        ("train grpo --rounds x", "--rounds"),
        ("train grpo --temperature 0", "--temperature is 0.0, but training needs a value above 0"),
        ("train grpo --top-p 1.5", "top_p is 1.5, but must be in (0, 1]"),
        ("train grpo --scale variance", "--scale"),
        ("train grpo --learning-rat 3", "Unrecognized options: --learning-rat"),
        ("train grpo --control coin", "--control"),
        ("train grpo --model nothing", "no model 'nothing': choose 'smollm2-135m'"),
        ("train grpo --reduction constant_norm --dry-run", "constant_norm needs length="),
        ("train sdpo --kind sideways", "--kind"),
        ("eval --k 9 --samples 8", "--k 9 needs at least as many samples, but --samples is 8"),
        ("eval --samples 4 --k 0", "--k is 0, but must be at least 1"),
        ("eval --problems 0", "--problems is 0 and --samples 8, but an evaluation needs 1 of each"),
        ("eval --temperature 0 --samples 2", "gives equal answers; take --samples 1"),
        ("eval --task add1,,sub1", "--task 'add1,,sub1' needs different names"),
        ("eval tests/nowhere", "tests/nowhere does not exist; give a run folder or a model"),
        ("eval nowhere", "no model 'nowhere'"),
        ("eval --against tests", "tests is no evaluation's folder: it has no items.jsonl"),
        ("sample", "the user's turn"),
        ("report nowhere", "nowhere"),
        ("demo --control maybe", "--control"),
    ],
)
def test_a_wrong_value_gets_one_line_and_status_2(line, says, capsys):
    assert main(line.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("jaxevo: ")
    assert says in captured.err
    assert "Traceback" not in captured.err


def test_dry_run_prints_the_resolved_configuration(capsys):
    assert main(["train", "grpo", "--task", "mul1", "--learning-rate", "3e-4", "--dry-run"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["options"]["task"] == "mul1"
    assert shown["options"]["out"] == "runs/grpo-mul1-0"
    assert "learning_rate=0.0003" in shown["recipe"]
    assert {f.name for f in dataclasses.fields(RunOptions)} == set(shown["options"])


@pytest.mark.parametrize("name", recipe_names())
def test_every_option_of_a_recipe_is_documented_and_shown(name, capsys):
    factory = recipe_factory(name)
    with pytest.raises(SystemExit) as stop:
        main(["train", name, "--help"])
    assert stop.value.code == 0
    shown = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    texts = docstring_args(factory)
    fields = {f.name: f.metadata["help"] for f in dataclasses.fields(RunOptions)}
    options = list(inspect.signature(factory).parameters)
    assert set(options) == set(texts)
    for option, text in {**texts, **fields}.items():
        assert f"--{option.replace('_', '-')}" in shown
        assert text[:12] in shown


def test_verifiers_are_listed(capsys):
    from jaxevo.rewards.named import entries

    assert main(["verifiers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [entry.form for entry in entries()]
    assert all(line.endswith(entry.summary) for line, entry in zip(lines, entries(), strict=True))


def test_usage_lists_all_commands_and_recipes_lists_all_recipes(capsys):
    assert main([]) == 0
    usage = capsys.readouterr().out
    assert all(name in usage for name in COMMANDS)
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert all(re.search(rf"^{name} ", listed, re.MULTILINE) for name in recipe_names())


def test_a_box_becomes_a_line():
    box = "╭─ Value error ──╮\n│ Error parsing --lr: bad │\n│ ─────── │\n│ More │\n╰───╯\n"
    assert one_line(box) == "Error parsing --lr: bad"


def test_a_reader_that_has_enough_is_no_error():
    command = f"{sys.executable} -m jaxevo.run.cli tasks | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.startswith("add1")
    assert done.stderr == ""
