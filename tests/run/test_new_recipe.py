"""A recipe is one file: the skeleton is listed, explained and trained without touching another."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from jaxevo.run.cli import main
from jaxevo.run.new_recipe import TEMPLATE

ROOT = pathlib.Path(__file__).parents[2]
TRAIN = """
import dataclasses, jax
from jaxevo.models import decoder, hub, toy
from jaxevo.run.cli import main
config = dataclasses.replace(toy.CONFIG, width=32, layers=1, heads=2, kv_heads=1, head_dim=16)
model = hub.LoadedModel("tiny", config, decoder.init_params(jax.random.key(7), config),
                        toy.tokenizer())
hub._NAMED["tiny"] = lambda name, dtype, weights, put: model
assert main(["new-recipe", "my-idea"]) == 0
assert main(["recipes"]) == 0
assert main("train my-idea --model tiny --rounds 2 --prompts 2 --samples 4 --max-new-tokens 4 "
            "--control random --eval-problems 0 --out RUN".split()) == 0
"""


def contents(folder):
    files = (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.mark.slow
def test_the_skeleton_trains_as_it_stands_and_is_one_file(tmp_path):
    package = tmp_path / "package"
    shutil.copytree(ROOT / "jaxevo", package / "jaxevo")
    before = contents(package)
    done = subprocess.run(
        [sys.executable, "-c", TRAIN.replace("RUN", str(tmp_path / "run"))],
        env={**os.environ, "PYTHONPATH": str(package), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        cwd=tmp_path,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "my-idea      One line that says what it does" in done.stdout
    after = contents(package)
    assert {n for n in after if after[n] != before.get(n)} == {"jaxevo/recipes/my_idea.py"}
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_the_skeleton_is_short_and_takes_its_name(tmp_path, capsys):
    assert len(TEMPLATE.splitlines()) <= 40
    assert main(["new-recipe", "my-idea", "--folder", str(tmp_path)]) == 0
    text = (tmp_path / "my_idea.py").read_text()
    assert "def my_idea(" in text
    assert 'Recipe("my-idea"' in text
    assert "jaxevo train my-idea" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["My_Idea"], "'My_Idea' cannot name a recipe"),
        (["import"], "'import' cannot name a recipe"),
        (["grpo"], "is there already; choose another name"),
        (["idea", "--folder", "nowhere"], "there is no folder nowhere"),
    ],
)
def test_a_name_that_cannot_be_used_gets_one_line(arguments, says, capsys):
    assert main(["new-recipe", *arguments]) == 2
    assert says in capsys.readouterr().err
