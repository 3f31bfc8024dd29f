"""With a small sandbox of our own, which is a process and no more: it runs these programs alone."""

import dataclasses
import functools
import subprocess
import sys

import pytest

from jaxevo.rewards.unit_tests import Outcome, last_program, unit_tests
from jaxevo.types import Task, Verdict, bind


@dataclasses.dataclass(frozen=True)
class Process:
    seconds: float = 10.0

    def run(self, pieces):
        code = "\n".join(["space = {}", *(f"exec({piece!r}, space)" for piece in pieces)])
        command = [sys.executable, "-I", "-S", "-c", code]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=self.seconds)
        except subprocess.TimeoutExpired:
            return Outcome("timeout", f"after {self.seconds} s")
        if done.returncode:
            return Outcome("error", done.stderr.strip().splitlines()[-1])
        return Outcome("ok")


class Broken:
    def run(self, pieces):
        raise OSError("no namespaces\non this machine")


def task(*tests, **info):
    return Task("t/1", (), "", {"tests": list(tests), **info})


verify = bind(unit_tests, sandbox=Process())
RIGHT = "Here:\n```python\ndef square(x):\n    return x * x\n```\nIt multiplies."
TESTS = ("assert square(2) == 4", "assert square(3) == 9", "assert square(0) == 0")


def test_all_tests_pass():
    assert verify(task(*TESTS), RIGHT) == Verdict("pass", 1.0)


def test_the_share_of_tests_is_the_score():
    verdict = verify(task(*TESTS), RIGHT.replace("x * x", "x + x"))
    assert (verdict.status, verdict.score) == ("fail", 1 - 1 / 3)
    assert verdict.feedback == (
        "Your program passes 2 of 3 tests; this one fails (error AssertionError): "
        "assert square(3) == 9"
    )


def test_a_program_that_does_not_run_passes_nothing():
    verdict = verify(task(*TESTS[:2]), "square = ")
    assert (verdict.status, verdict.score) == ("fail", 0.0)
    assert "passes 0 of 2 tests; this one fails (error SyntaxError" in verdict.feedback


def test_a_program_that_hangs():
    verdict = bind(unit_tests, sandbox=Process(0.5))(task("pass"), "while True: pass")
    assert (verdict.status, verdict.score) == ("fail", 0.0)
    assert "this one fails (timeout after 0.5 s): pass" in verdict.feedback


def test_the_setup_runs_before_the_program():
    future = "from __future__ import annotations"
    program = f"```\n{future}\ndef area(r):\n    return math.pi * r\n```"
    assert verify(task("assert area(1) > 3", setup="import math"), program).status == "pass"
    assert verify(task("assert area(1) > 3"), program).status == "fail"


def test_tests_do_not_see_each_other():
    verdict = verify(task("x = 5", "assert x == 1"), "x = 1")
    assert verdict.status == "pass"


def test_without_a_sandbox_nothing_runs(tmp_path):
    mark = tmp_path / "mark"
    verdict = unit_tests(task(f"open({str(mark)!r}, 'w')"), f"open({str(mark)!r}, 'w')")
    assert (verdict.status, verdict.score) == ("error", 0.0)
    assert verdict.feedback.startswith("unit_tests has no sandbox")
    assert not mark.exists()


def test_a_sandbox_that_cannot_work_is_an_error():
    verdict = functools.partial(unit_tests, sandbox=Broken())(task(*TESTS), RIGHT)
    assert (verdict.status, verdict.score) == ("error", 0.0)
    assert verdict.feedback == "the sandbox failed: OSError: no namespaces on this machine"


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ({}, 'info["tests"] of task t/1 is no list'),
        ({"tests": []}, 'info["tests"] of task t/1 is no list'),
        ({"tests": "assert True"}, 'info["tests"] of task t/1 is no list'),
        ({"tests": ["pass", 3]}, 'info["tests"] of task t/1 is no list'),
        ({"tests": ["pass"], "setup": 3}, 'info["setup"] of task t/1 is no piece of Python'),
    ],
)
def test_error_for_a_task_without_tests(info, reason):
    verdict = verify(Task("t/1", (), "", info), RIGHT)
    assert (verdict.status, verdict.score) == ("error", 0.0)
    assert reason in verdict.feedback


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("x = 1", "x = 1"),
        ("", ""),
        ("```\nx = 1\n```", "x = 1"),
        ("a\n```python\nx = 1\n```\nb\n```py\nx = 2\ny = 3\n```\nc", "x = 2\ny = 3"),
        ("```\nx = 1\n```\nand\n```\nx = 2", "x = 2"),
        ("````\n```\nx = 1\n```\n````", "```\nx = 1\n```"),
        ("```python\ns = '''\n```x\n'''\n```", "s = '''\n```x\n'''"),
        ("```\n```", ""),
        ("say `x` or ```x``` inside", "say `x` or ```x``` inside"),
    ],
)
def test_the_last_block_is_the_program(text, program):
    assert last_program(text) == program
