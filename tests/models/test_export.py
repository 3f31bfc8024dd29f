"""What is exported is what was trained, and loads again."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open

from jaxevo.models import hub
from jaxevo.models.gguf import convert_gguf
from jaxevo.models.hf import load_hf
from jaxevo.recipes.grpo import grpo
from jaxevo.run.checkpoint import Checkpoints
from jaxevo.run.cli import main
from jaxevo.types import Message, TrainState


@pytest.fixture
def source(tiny_gguf, tmp_path):
    digest = hashlib.sha256(tiny_gguf.path.read_bytes()).hexdigest()
    return convert_gguf(tiny_gguf.path, tmp_path / "source", sha256=digest)


@pytest.fixture
def run(source, tmp_path):
    """A run folder with a checkpoint of other weights than the model's own."""
    params = jax.tree.map(lambda x: x + 0.25, hub.load(source).params)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"recipe": "grpo", "options": {"model": str(source)}})
    )
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(TrainState({"policy": params}, {}, {"round": 1}), grpo().memory(), {})
    return folder, params


def test_the_weights_of_a_run_load_again_with_its_tokenizer(run, source, tmp_path, capsys):
    folder, params = run
    assert main(["export", str(folder), "--to", str(tmp_path / "out" / "model")]) == 0
    assert "llama, float32" in capsys.readouterr().out
    again = load_hf(tmp_path / "out" / "model")
    jax.tree.map(np.testing.assert_array_equal, again.params, params)
    assert again.config == hub.load(source).config
    files = {file.name for file in (tmp_path / "out" / "model").iterdir()}
    assert files >= {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}


def test_the_chat_template_is_the_one_of_the_run(run, source, tmp_path):
    folder, _ = run
    messages = (Message("system", "Be brief."), Message("user", "2+2?\nNow."), Message("tool", ""))
    for template in ("model", "chatml"):
        said = {"model": str(source), "template": template}
        (folder / "config.json").write_text(json.dumps({"recipe": "grpo", "options": said}))
        assert main(["export", str(folder), "--to", str(tmp_path / template)]) == 0
        trained = hub.load(source).tokenizer.render(messages, template=template)
        written = load_hf(tmp_path / template).tokenizer.render(messages, template="model")
        assert written == trained
    for file in (tmp_path / "chatml").glob("*.safetensors"):
        assert file.stat().st_mode & 0o044  # others may read it


def test_a_run_without_a_checkpoint_says_so(run, capsys):
    folder, _ = run
    shutil.rmtree(folder / "checkpoints")
    assert main(["export", str(folder), "--to", str(folder / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "no checkpoint" in line


def test_shards_and_bfloat16(source, tmp_path):
    to = tmp_path / "out"
    command = ["export", str(source), "--to", str(to), "--dtype", "bfloat16"]
    assert main([*command, "--shard-gb", "5e-5"]) == 0
    index = json.loads((to / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    sizes = [file.stat().st_size for file in to.glob("*.safetensors")]
    assert sum(sizes) > index["metadata"]["total_size"]
    with safe_open(to / index["weight_map"]["model.norm.weight"], framework="numpy") as file:
        assert file.get_tensor("model.norm.weight").dtype.name == "bfloat16"
    want = jax.tree.map(lambda x: x.astype("bfloat16").astype("float32"), hub.load(source).params)
    jax.tree.map(np.testing.assert_array_equal, load_hf(to).params, want)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["toy", "--to", "new"], "'toy' has no Hugging Face form"),
        (["toy", "--to", "."], "exists; name a directory that does not"),
        (["nowhere", "--to", "new"], "no model 'nowhere'"),
        (["toy", "--to", "new", "--shard-gb", "0"], "more than 0"),
    ],
)
def test_faults_are_one_line(options, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", *options]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert told in line
    assert not Path("new").exists()
