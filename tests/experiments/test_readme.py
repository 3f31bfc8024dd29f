"""What the README tells people to type is there, and its code runs."""

import math
import pathlib
import re

import pytest

from jaxevo.recipes import recipe_names
from jaxevo.run.cli import COMMANDS

README = (pathlib.Path(__file__).parent.parent.parent / "README.md").read_text("utf-8")


def block(holding):
    """The code block with this text."""
    (found,) = (b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if holding in b)
    return found


def test_commands_and_recipes_that_it_names_exist():
    typed = re.findall(r"^jaxevo ([\w-]+)(?: ([\w-]+))?", README, re.MULTILINE)
    assert len({command for command, _ in typed}) > 8
    for command, first in typed:
        assert command in COMMANDS
        assert command not in ("train", "plan") or first in recipe_names()


def test_the_pure_functions_run():
    said = {}
    exec(block("clipped_surrogate"), said)
    assert math.isfinite(said["loss"])


@pytest.mark.slow
def test_the_loop_runs(tiny_model, capsys):
    """With a tiny model and one round, for the toy's sake."""
    code = block("one_round")
    small = code.replace("rounds=20)", "rounds=1, prompts=2, samples=2), model=tiny")
    assert small != code
    exec(small, {"tiny": tiny_model})
    assert re.match(r"0 \d\.\d+ ", capsys.readouterr().out)
