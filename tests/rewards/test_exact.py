import pytest

from jaxevo.rewards import exact_match
from jaxevo.types import Message, Task

PARIS = Task("t/1", (Message("user", "?"),), "Paris  Straße")


@pytest.mark.parametrize("text", ["Paris Straße", " paris\n\tSTRASSE ", "PARIS strasse"])
def test_case_and_white_space_do_not_count(text):
    verdict = exact_match(PARIS, text)
    assert (verdict.status, verdict.score, verdict.feedback) == ("pass", 1.0, "")


@pytest.mark.parametrize("text", ["Paris", "ParisStraße", "Paris Straße."])
def test_everything_else_counts(text):
    verdict = exact_match(PARIS, text)
    assert (verdict.status, verdict.score) == ("fail", 0.0)
    assert verdict.feedback == f'Your answer was "{text}", but the right answer is "Paris Straße".'


def test_empty_and_long_answers():
    empty = exact_match(PARIS, " \n")
    assert empty.feedback == 'Your answer was empty; the right answer is "Paris Straße".'
    long = exact_match(PARIS, "x" * 10**6)
    assert f'"{"x" * 250}…"' in long.feedback
    error = exact_match(Task("t/2", (), " "), "")
    assert (error.status, error.score) == ("error", 0.0)
