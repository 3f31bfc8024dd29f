"""Verifier for programs, by tests that a sandbox runs; what a model wrote never runs here."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, Protocol

from jaxevo.types import Task, Verdict

Ending = Literal["ok", "error", "timeout", "memory", "output", "crash", "denied"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a program ended in a sandbox, and why in one line."""

    status: Ending
    reason: str = ""


class Sandbox(Protocol):
    """Runs Python that nobody trusts; called from several threads at a time.

    `run` starts a new process for every call, confined in files, network, processes, memory and
    time, and executes the pieces in it, one after the other in one namespace; the last of them is
    the check. `ok` says that the check was executed to its end and nothing was raised, found out by
    the host: a program that exits, crashes, prints a verdict or patches the interpreter must not
    come out as `ok`. Whatever the pieces do is an outcome; `run` itself raises only where it cannot
    do its work (no confinement on this machine), and then has run nothing.
    """

    def run(self, pieces: Sequence[str]) -> Outcome: ...


def unit_tests(task: Task, text: str, *, sandbox: Sandbox | None = None) -> Verdict:
    """The share of the task's tests that the program passes; all of them for a pass.

    The program is the last fenced code block of the text (three backticks or more at the start of
    a line; one that is not closed goes to the end), or the whole text where there is none. Each
    test runs with it in a process of its own. Without a sandbox nothing runs and every verdict is
    an error; `bind(unit_tests, sandbox=...)` makes the verifier with one.

    Args:
      task: `info["tests"]` lists pieces of Python that raise where the program is wrong
        (`assert f(2) == 4`); `info["setup"]`, if there, is Python that runs before the program.
      text: the answer of a model.
      sandbox: where programs run.

    Returns:
      pass (score 1, no feedback) or fail (score = share of tests passed, with the first test that
      failed and how); error without a sandbox, without usable tests, or where the sandbox failed.
    """
    if sandbox is None:
        reason = "unit_tests has no sandbox: bind(unit_tests, sandbox=...) needs one to run code."
        return Verdict("error", 0.0, reason)
    tests, setup = task.info.get("tests"), task.info.get("setup", "")
    if not (isinstance(tests, list) and tests and all(isinstance(test, str) for test in tests)):
        reason = f'info["tests"] of task {task.uid} is no list of pieces of Python.'
        return Verdict("error", 0.0, reason)
    if not isinstance(setup, str):
        return Verdict("error", 0.0, f'info["setup"] of task {task.uid} is no piece of Python.')
    program, outcomes = last_program(text), list[Outcome]()
    for test in tests:
        try:
            outcomes.append(sandbox.run((setup, program, test)))
        except Exception as fault:
            reason = " ".join(f"the sandbox failed: {type(fault).__name__}: {fault}".split())
            return Verdict("error", 0.0, reason[:300])
    return _share(tests, outcomes)


def last_program(text: str) -> str:
    """The inside of the last fenced block of a text, or the whole text.

    >>> last_program("So:\\n```python\\nx = 1\\n```\\nDone.")
    'x = 1'
    """
    found, block, fence = None, list[str](), ""
    for line in text.split("\n"):
        mark = line.strip()
        if fence:
            if mark.startswith(fence) and not mark.strip("`"):
                found, fence = "\n".join(block), ""
            else:
                block.append(line)
        elif line.startswith("```"):
            fence, block = "`" * (len(mark) - len(mark.lstrip("`"))), []
    if fence:
        found = "\n".join(block)
    return text if found is None else found


def _share(tests: list[str], outcomes: list[Outcome]) -> Verdict:
    failed = [n for n, outcome in enumerate(outcomes) if outcome.status != "ok"]
    if not failed:
        return Verdict("pass", 1.0)
    score = 1.0 - len(failed) / len(tests)
    test, outcome = " ".join(tests[failed[0]].split())[:200], outcomes[failed[0]]
    why = " ".join(f"{outcome.status} {outcome.reason}".split())[:200]
    passed = f"Your program passes {len(tests) - len(failed)} of {len(tests)} tests"
    return Verdict("fail", score, f"{passed}; this one fails ({why}): {test}")
