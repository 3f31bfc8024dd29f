"""Commands that run a model, on the tiny random one."""

import json

import pytest

from jaxevo.models import hub
from jaxevo.run.cli import main

pytestmark = pytest.mark.usefixtures("quick_to_compile")


@pytest.fixture(autouse=True)
def _tiny_by_name(monkeypatch, tiny_model):
    monkeypatch.setitem(hub._NAMED, "tiny", lambda name, dtype, weights, put: tiny_model)


def test_check_logp_compares_every_combination(tmp_path, capsys):
    file = tmp_path / "logp.json"
    command = f"check-logp tiny --temperatures 0.5 1.0 --json-out {file} --max-new-tokens 4"
    assert main(command.split()) == 0
    said = capsys.readouterr().out
    assert "ok: " in said
    found = json.loads(file.read_text())["found"]
    assert len(found) == 2 * 4 * 2 * 2
    combinations = {(d["temperature"], d["truncation"], d["padding"], d["packing"]) for d in found}
    assert len(combinations) == len(found)
    assert all(d["largest"] <= 1e-4 / min(1, d["temperature"]) for d in found)
    assert all(d["largest"] >= d["mean"] > 0 for d in found)


def test_check_logp_fails_when_the_bound_is_broken(capsys):
    command = "check-logp tiny --temperatures 1.0 --bound 1e-12 --max-new-tokens 4"
    assert main(command.split()) == 1
    last = capsys.readouterr().out.splitlines()[-2:]
    assert last[0].startswith("worst: temperature 1.0")
    assert "token" in last[0]
    assert last[1].startswith("FAILED: ")


def test_sample_prints_each_answer(capsys, tiny_model):
    command = ["sample", "7+8=", "--model", "tiny", "--samples", "3", "--max-new-tokens", "4"]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert len(first.splitlines()) == 3
    assert set(first) <= set(tiny_model.tokenizer.alphabet) | {"\n"}
    main(command)
    assert capsys.readouterr().out == first
    main([*command, "--seed", "1"])
    assert capsys.readouterr().out != first
