"""Weights & Biases and MLflow, each with its own package and without a network."""

import importlib.util
import json
import struct

import pytest

from jaxevo.recipes.grpo import grpo
from jaxevo.run.build import build_run
from jaxevo.run.logs import RunLog
from jaxevo.run.options import RunOptions
from jaxevo.run.trackers import IDS, allowed, flat

CONFIG = {"recipe": "one", "options": {"seed": 3}, "evaluation": {}}
DONE = CONFIG | {"evaluation": {"after": {"exact": 0.75}}, "seconds": {"rounds": 2.5}}


def write_rounds(folder, name, indices, *, append=False, last=CONFIG):
    with RunLog(folder, append=append, trackers=(name,)) as log:
        log.write_config(CONFIG)
        for index in indices:
            log.write_metrics({"round": index, "reward/a b+": index / 4, "loss": float("nan")})
        log.write_config(last)


def write_nothing(folder):
    with RunLog(folder, trackers=("mlflow",)) as log:
        log.write_config(CONFIG)
        log.write_metrics({})


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_refused_before_any_work(name, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == name else there(n))
    with pytest.raises(ValueError, match=rf"--log {name} needs .* pip install 'jaxevo\[{name}\]'"):
        build_run(grpo(), RunOptions(model="toy", log=(name,)))


def test_names_and_configurations_are_made_fit():
    assert allowed("reward/a b+é") == "reward/a b__"
    assert list(flat({"a": {"b": 1, "c": {"d": [2]}}, "e": None})) == [
        ("a/b", 1), ("a/c/d", [2]), ("e", None),
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # of the packages themselves
def test_mlflow_gets_every_round_once_and_the_run_goes_on(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/store.db")
    write_rounds(tmp_path / "run", "mlflow", [0, 1])
    run_id = json.loads((tmp_path / "run" / IDS).read_text())["mlflow"]
    write_rounds(tmp_path / "run", "mlflow", [2], append=True, last=DONE)
    client = MlflowClient()
    (experiment,) = [e for e in client.search_experiments() if e.name == "jaxevo"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == run_id
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params["options/seed"] == "3"
    history = client.get_metric_history(run_id, "reward/a b_")
    assert [(m.step, m.value) for m in history] == [(0, 0.0), (1, 0.25), (2, 0.5)]
    assert run.data.metrics["evaluation/after/exact"] == 0.75
    assert "loss" not in run.data.metrics
    with pytest.raises(ValueError, match="metrics need a 'round'"):
        write_nothing(tmp_path / "bad")
    bad = json.loads((tmp_path / "bad" / IDS).read_text())["mlflow"]
    assert client.get_run(bad).info.status == "FAILED"


def leveldb_records(data, *, block=32768):
    """Of a LevelDB log behind a header of 7 bytes: records of checksum, length, kind, content."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if block - at % block < 7:  # the end of a block that holds no record
            at += block - at % block
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield whole
            whole = b""


@pytest.mark.filterwarnings("ignore")
def test_wandb_gets_every_round_offline_and_the_run_goes_on(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    write_rounds(tmp_path / "run", "wandb", [0, 1])
    run_id = json.loads((tmp_path / "run" / IDS).read_text())["wandb"]
    write_rounds(tmp_path / "run", "wandb", [2], append=True, last=DONE)
    wandb.teardown()
    rounds, configs, summary = [], [], {}
    for path in sorted((tmp_path / "run" / "wandb").glob(f"offline-run-*-{run_id}/run-*.wandb")):
        for data in leveldb_records(path.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            items = {"/".join([i.key, *i.nested_key]).strip("/"): json.loads(i.value_json)
                     for i in record.history.item}  # fmt: skip
            if items:
                rounds.append((items["round"], items["reward/a b+"]))
            configs += [i.key for i in record.run.config.update]
            summary |= {i.key: json.loads(i.value_json) for i in record.summary.update if i.key}
    assert rounds == [(0, 0.0), (1, 0.25), (2, 0.5)]
    assert "options" in configs
    assert summary["evaluation/after/exact"] == 0.75
