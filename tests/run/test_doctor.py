"""The doctor: what it finds here, what it says of what is wrong, and processes that meet."""

import json
import os
import socket
import subprocess
import sys

import pytest

from jaxevo.parallel.hosts import join_hosts, watched
from jaxevo.run import doctor


def named(findings, name):
    return [f for f in findings if f.name == name]


def test_this_machine_is_ready(tmp_path, capsys):
    out = tmp_path / "findings.json"
    assert doctor.doctor(folder=str(tmp_path / "runs"), port=0, json_out=str(out)) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == "ready to run"
    findings = json.loads(out.read_text())
    assert [f["name"] for f in findings] == [
        "versions", "environment", "limits", "disk", "port", "hosts", "devices", "arithmetic",
    ]  # fmt: skip
    assert all(f["name"] in said and f["said"] in said for f in findings)
    assert not (tmp_path / "runs").exists()
    assert "2 x cpu" in said
    assert "GFLOP/s" in said


def test_secrets_are_not_told(monkeypatch):
    monkeypatch.setenv("TPU_API_TOKEN", "hush")
    monkeypatch.setenv("XLA_TEST", "loud")
    said = doctor.environment().said
    assert "TPU_API_TOKEN=***" in said
    assert "XLA_TEST=loud" in said
    assert "hush" not in said


@pytest.mark.parametrize(
    ("jax", "jaxlib", "status", "says"),
    [
        ("0.4.30", "0.4.30", "fail", "older than 0.10.2"),
        ("0.13.0", "0.13.0", "warn", "newer than those tested"),
        ("0.10.3", "0.10.2", "warn", "jax and jaxlib differ"),
        ("0.11.1", "0.11.1", "ok", "jax 0.11.1"),
    ],
)
def test_versions(jax, jaxlib, status, says, monkeypatch):
    real, fake = doctor.importlib.metadata.version, {"jax": jax, "jaxlib": jaxlib}
    monkeypatch.setattr(
        doctor.importlib.metadata, "version", lambda name: fake.get(name) or real(name)
    )
    found = doctor.versions()
    assert found.status == status
    assert says in found.said


def test_a_port_that_is_taken():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        found = doctor.free_port(taken.getsockname()[1])
    assert found.status == "warn"
    assert "another run may hold it" in found.said


def test_a_check_that_raises_is_a_finding(tmp_path, monkeypatch):
    def broken(folder):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(doctor, "disk", broken)
    (found,) = named(doctor.examine(tmp_path, 0), "disk")
    assert found.status == "fail"
    assert "Input/output error" in found.said
    assert doctor.doctor(folder=str(tmp_path), port=0) == 1


# ---------------------------------------------------------------------------- processes
def free_port():
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def test_two_processes_meet_and_tell_their_names(tmp_path):
    address = f"localhost:{free_port()}"
    children = []
    for n in range(2):
        own = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2",
               "JAX_PROCESS_ID": str(n), "JAX_PLATFORMS": "cpu"}  # fmt: skip
        command = [sys.executable, "-m", "jaxevo.run.cli", "doctor", "--port", "0"]
        children.append(
            subprocess.Popen(
                [*command, "--folder", str(tmp_path)], env=os.environ | own, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
        )  # fmt: skip
    for child in children:
        said, fault = child.communicate(timeout=120)
        assert child.returncode == 0, said + fault
        (line,) = [x for x in said.splitlines() if " hosts " in x]
        host = socket.gethostname()
        assert "2 processes met in" in line
        assert f"0@{host}, 1@{host}" in line


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "JAX_NUM_PROCESSES is None and JAX_PROCESS_ID None"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}, "an id below it"),
        ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES is 'two', but must be a number"),
    ],
)
def test_variables_that_do_not_go_together(variables, message, monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        join_hosts()


def test_the_watchdog_dumps_stacks():
    code = (
        "import time\nfrom jaxevo.parallel.hosts import watched\n"
        "def waits_for_a_friend():\n    time.sleep(1.5)\n"
        "with watched('waiting', seconds=0.5):\n    waits_for_a_friend()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert "jaxevo: still waiting after 0 s on " in done.stderr
    assert "in waits_for_a_friend" in done.stderr
    with watched("nothing", seconds=60):
        pass
