"""Progress lines with and without a terminal."""

import contextlib
import io
import math
import os
import re

import pytest

from jaxevo.run.console import Progress

METRICS = {"reward": 0.5, "loss": -0.0123, "length": 10.25, "tokens_per_second": 1234.5}


def test_without_a_terminal_a_round_is_one_plain_line():
    out = io.StringIO()
    with Progress(2, stream=out) as progress:
        progress.update({"round": 0, **METRICS})
        progress.update({"round": 1, "reward": math.nan})
    assert "\x1b" not in out.getvalue()
    assert out.getvalue().splitlines() == [
        "round 0  reward 0.500  loss -0.0123  length 10.2  tokens/s 1,234  eta -",
        "round 1  reward nan  loss -  length -  tokens/s -  eta 0:00:00",
    ]


def test_phases_add_up_and_are_reported_at_the_end(monkeypatch):
    now = iter([0.0, 2.0, 10.0, 13.0, 20.0, 24.5])
    monkeypatch.setattr("jaxevo.run.console.time.perf_counter", lambda: next(now))
    out = io.StringIO()
    with Progress(1, stream=out) as progress:
        for name in ("load", "compile"):
            with progress.phase(name):
                pass
        with pytest.raises(RuntimeError), progress.phase("load"):
            raise RuntimeError  # a phase that fails has taken its time too
    assert progress.seconds() == {"load": 6.5, "compile": 3.0}
    assert out.getvalue() == "seconds: load 6.5, compile 3.0\n"


def test_eta_is_the_mean_of_recent_rounds_times_those_left(monkeypatch):
    now = iter([100.0, 160.0, 230.0])
    monkeypatch.setattr("jaxevo.run.console.time.perf_counter", lambda: next(now))
    out = io.StringIO()
    with Progress(103, stream=out) as progress:
        progress.resume(50)
        for index in (50, 51, 52):
            progress.update({"round": index})
    # 50 rounds left, (60 + 70) / 2 = 65 seconds each: 3250 s
    assert [line.split()[-1] for line in out.getvalue().splitlines()] == ["-", "0:51:00", "0:54:10"]


def everything(reader):
    """What a closed pseudo-terminal was sent; the kernel hands it over piece by piece."""
    pieces = []
    with contextlib.suppress(OSError):  # EIO, behind the last one
        while piece := os.read(reader, 1 << 16):
            pieces.append(piece)
    os.close(reader)
    return b"".join(pieces)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_on_a_terminal_the_same_numbers_stand_above_a_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    reader, writer = os.openpty()
    with os.fdopen(writer, "w") as out, Progress(2, stream=out) as progress:
        with progress.phase("rollout"):
            progress.update({"round": 0, **METRICS})
        progress.update({"round": 1, **METRICS})
    seen = everything(reader).decode()
    assert "\x1b[" in seen
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)
    assert re.search(
        r"round 1 +reward +0\.500 +loss +-0\.0123 +length +10\.2 +tokens/s +1,234", plain
    )
    assert "2/2 rounds" in plain
    assert "seconds: rollout" in plain


def test_rounds_are_expected_by_the_rows_that_are_left():
    with Progress(1000, rollouts=100, stream=io.StringIO()) as progress:
        for done, (sampled, total) in enumerate([(20, 5), (30, 7), (90, 4), (105, 4)]):
            progress.update({"round": done, "rollouts": sampled})
            assert progress.total == total
    with Progress(3, rollouts=100, stream=io.StringIO()) as progress:
        progress.update({"round": 0, "rollouts": 20})
        assert progress.total == 3
