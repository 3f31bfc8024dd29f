import importlib
import importlib.util
from concurrent.futures import ThreadPoolExecutor

import pytest

from jaxevo.rewards import mathematics
from jaxevo.types import Message, Task

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None, reason="needs the extra `math`"
)


def task(answer):
    return Task("t/1", (Message("user", "?"),), answer)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("1/2", r"So it is \boxed{\frac12}."),
        (r"\frac{1}{2}", "so 0.5"),
        ("1/2", "50%"),
        ("18", "It is $18$ dollars"),
        ("18 dollars", r"\boxed{18}"),
        ("1,234", "1234"),
        ("x^2+1", "$1+x^2$"),
        ("5", "$x=5$"),
        ("(1,2)", r"\boxed{(1,2)}"),
        (r"\{1,2\}", r"$\{2,1\}$"),
        (r"$\sqrt{8}$", r"$2\sqrt{2}$"),
        ("5", "4 then 5"),
        ("10", r"First 1., then \boxed{10}, as $7$ is too small."),
        ("10", "The final answer is $10$. I hope it is correct. $7$"),
    ],
)
def test_passes(answer, text):
    verdict = mathematics(task(answer), text)
    assert (verdict.status, verdict.score, verdict.feedback) == ("pass", 1.0, "")


@pytest.mark.parametrize(
    ("answer", "text", "feedback"),
    [
        ("5", "It is 6.", "Your answer was read as 6, but the right answer is 5."),
        ("5", "", "No mathematical expression was found; the right answer is 5."),
        ("5", "five", "No mathematical expression was found; the right answer is 5."),
        ("5", r"\boxed{4} \boxed{5}", "Your answer was read as {4, 5}, but the right answer is 5."),
        ("5", "\x00 \ud800", "No mathematical expression was found; the right answer is 5."),
    ],
)
def test_fails(answer, text, feedback):
    verdict = mathematics(task(answer), text)
    assert (verdict.status, verdict.score, verdict.feedback) == ("fail", 0.0, feedback)


@pytest.mark.parametrize("answer", ["", "Paris", "hello world", "(("])
def test_error_for_an_answer_without_mathematics(answer):
    verdict = mathematics(task(answer), "5")
    assert (verdict.status, verdict.score) == ("error", 0.0)
    assert verdict.feedback == f"task t/1 has the answer {answer!r}, which is no mathematics."


def test_from_threads_it_is_the_same():
    cases = [("5", "5"), ("5", "6"), ("1/3", "$\\frac{2}{6}$"), ("x", "y")] * 4
    alone = [mathematics(task(answer), text) for answer, text in cases]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda c: mathematics(task(c[0]), c[1]), cases)) == alone
    assert [v.score for v in alone[:4]] == [1.0, 0.0, 1.0, 0.0]


def test_a_power_that_never_ends_is_an_error(monkeypatch):
    module = importlib.import_module("jaxevo.rewards.mathematics")
    monkeypatch.setattr(module, "SECONDS", 0.5)
    verdict = mathematics(task("5"), "$9^{9^{9^9}}$")
    assert (verdict.status, verdict.score) == ("error", 0.0)
    reason = "comparing with the answer of task t/1: it took longer than 0.5 s and was stopped."
    assert verdict.feedback == reason
    monkeypatch.undo()
    assert mathematics(task("5"), "5").status == "pass"
