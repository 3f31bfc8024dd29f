"""`jaxevo tasks` lists what there is and shows how it is asked."""

import re

import pytest

from jaxevo.run.cli import main
from jaxevo.run.options import run_folder
from jaxevo.tasks.names import task_names


def test_all_names_are_listed_with_counts_verifiers_and_licence(capsys):
    assert main(["tasks"]) == 0
    listed = capsys.readouterr().out
    assert all(re.search(rf"^{name} ", listed, re.MULTILINE) for name in task_names())
    lines = listed.splitlines()
    (place,) = (n for n, line in enumerate(lines) if line.startswith("mbpp "))
    assert "170 + 257  short Python functions" in lines[place]
    assert lines[place + 1].strip() == "unit_tests; CC BY 4.0"


def test_problems_are_shown_as_they_are_asked(capsys):
    assert main(["tasks", "add1?weight.strict_integer=0.5"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("add1: 47 + 17 problems, rewarded by last_integer, 0.5 strict_integer;")
    assert shown.count("\n---") == 3
    assert "user: What is 2+3? Reply with just the number.\nanswer: 5\n" in shown
    assert main(["tasks", "mix:2*sort3,bbh-navigate"]) == 0
    shown = capsys.readouterr().out
    assert "mix:2*sort3,bbh-navigate: 689 + 269 problems, rewarded by mixed" in shown
    assert "assistant: 1, 4, 8\nuser: " in shown


def test_an_unknown_task_gets_one_line(capsys):
    assert main(["tasks", "add7"]) == 2
    assert "no task 'add7'" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["tasks add1 sub1", "tasks --nothing"])
def test_what_cannot_be_understood_gets_one_line(line, capsys):
    assert main(line.split()) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_run_folder_is_one_folder_whatever_the_task_is_called():
    assert run_folder("grpo", "add1", 3) == "runs/grpo-add1-3"
    names = ["mix:3*add1,sub1", "mix:3*add1,sub2", "hf:org/name?split=train", "/a/b.jsonl?x=" * 30]
    folders = [run_folder("grpo", name, 0) for name in names]
    assert len(set(folders)) == len(names)
    assert all(re.fullmatch(r"runs/grpo-[\w.-]{1,80}-0", folder) for folder in folders)
