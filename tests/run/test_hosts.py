"""Several processes of one run, on this machine: the run of one, and what happens when one dies."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxevo.run.logs import read_jsonl
from jaxevo.run.manifest import MANIFEST
from jaxevo.run.metrics import without_times

pytestmark = pytest.mark.slow
OPTIONS = "--model toy --task add1 --prompts 4 --samples 4 --max-new-tokens 6 --eval-problems 4 "
OPTIONS += "--seed 5"


def begin(count, out, *more, rounds=3, every=1, devices=1):
    """`count` processes of a run, each with so many devices; they meet at a port that is free."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    flags = {
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # of programs that run a few times
    }
    command = [sys.executable, "-m", "jaxevo.run.cli", "train", "grpo", *OPTIONS.split(), *more]
    command += ["--rounds", str(rounds), "--checkpoint-every", str(every), "--out", str(out)]
    children = []
    for n in range(count):
        own = {}
        if count > 1:
            own = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": str(count),
                   "JAX_PROCESS_ID": str(n)}  # fmt: skip
        all_devices = ["--devices", "0"] if count > 1 else []
        children.append(
            subprocess.Popen(
                [*command, *all_devices], env=os.environ | flags | own, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
        )  # fmt: skip
    return children


def wait_for(child, beginning):
    """Until the process has said a line that begins so."""
    for line in child.stdout:
        if line.startswith(beginning):
            return


def end(children, status=0):
    said = [child.communicate(timeout=300)[0] for child in children]
    assert [child.returncode for child in children] == [status] * len(children), said
    return said


def numbers(folder):
    lines = [without_times(m) for m in read_jsonl(folder / "metrics.jsonl")]
    # Fingerprints differ by rounding; how rows are packed hangs on the number of devices.
    return [
        {k: v for k, v in m.items() if not k.startswith("fingerprint") and k != "padding_share"}
        for m in lines
    ]


def assert_same_run(one, other):
    """The same tokens and rewards; losses and what comes of them to rounding."""
    drawn = [
        [
            (r["uid"], r["ids"], r["rewards"], r["feedback"])
            for r in read_jsonl(f / "rollouts.jsonl")
        ]
        for f in (one, other)
    ]
    assert drawn[0] == drawn[1]
    for a, b in zip(numbers(one), numbers(other), strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name] == pytest.approx(b[name], rel=2e-3, abs=1e-5), name
    evaluated = [json.loads((f / "config.json").read_text())["evaluation"] for f in (one, other)]
    assert evaluated[0] == evaluated[1]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "run"
    end(begin(1, folder))
    return folder


@pytest.mark.parametrize(
    ("count", "devices", "more"),
    [
        (2, 2, []),
        pytest.param(2, 1, ["--fsdp", "2"], marks=pytest.mark.soak),
        pytest.param(2, 2, ["--tensor", "2"], marks=pytest.mark.soak),
        pytest.param(4, 1, [], marks=pytest.mark.soak),
        pytest.param(4, 1, ["--fsdp", "2", "--tensor", "2"], marks=pytest.mark.soak),
    ],
)
def test_processes_are_the_run_of_one(count, devices, more, alone, tmp_path):
    said = end(begin(count, tmp_path / "run", *more, devices=devices))
    assert "report:" in said[0]
    assert all("round " not in text for text in said[1:])  # only the first one speaks and writes
    assert_same_run(alone, tmp_path / "run")
    (newest,) = {p.name for p in (tmp_path / "run" / "checkpoints").glob("3")}
    assert (tmp_path / "run" / "checkpoints" / newest / MANIFEST).exists()


@pytest.mark.soak
def test_when_one_dies_the_others_stop_with_a_message_and_the_run_goes_on(alone, tmp_path):
    folder = tmp_path / "run"
    children = begin(2, folder, rounds=200)
    wait_for(children[0], "round 2")
    children[1].send_signal(signal.SIGKILL)
    children[1].communicate()
    start = time.monotonic()
    said, _ = children[0].communicate(timeout=120)
    assert time.monotonic() - start < 60
    assert children[0].returncode != 0
    assert "another does not answer" in said or "another task died" in said
    assert len(read_jsonl(folder / "metrics.jsonl", ignore_cut_last=True)) < 200
    done = max(int(p.name) for p in (folder / "checkpoints").iterdir() if (p / MANIFEST).exists())
    for count in (2, 1):  # a checkpoint of two processes opens in one, too
        done += 1
        (said, *_) = end(begin(count, folder, rounds=done))
        assert "continuing" in said
        rounds = [m["round"] for m in read_jsonl(folder / "metrics.jsonl")]
        assert rounds == list(range(done))
    both = [read_jsonl(f / "rollouts.jsonl")[:32] for f in (alone, folder)]
    assert [r["ids"] for r in both[0]] == [r["ids"] for r in both[1]]


@pytest.mark.soak
def test_a_signal_to_one_ends_all_after_the_same_round(tmp_path):
    folder = tmp_path / "run"
    children = begin(2, folder, rounds=500)
    wait_for(children[0], "round 1")
    children[1].send_signal(signal.SIGTERM)
    said = end(children)
    assert "stopped by SIGTERM" in said[0]
    rounds = [m["round"] for m in read_jsonl(folder / "metrics.jsonl")]
    assert (folder / "checkpoints" / str(len(rounds)) / MANIFEST).exists()
    assert np.array_equal(rounds, np.arange(len(rounds)))


def test_what_processes_cannot_do_is_refused(tmp_path):
    ahead = ["--off-policy", "1", "--correction", "token"]
    said = end(begin(2, tmp_path / "run", *ahead, every=0), status=2)
    assert all("2 processes need --devices 0 and --off-policy 0" in text for text in said)
