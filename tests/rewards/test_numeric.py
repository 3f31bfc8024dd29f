import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxevo.rewards.numeric import numeric
from jaxevo.types import Message, Task, Verdict


def task(answer="0.75", **info):
    return Task("t/1", (Message("user", "?"),), answer, info)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("0.75", "0.75"),
        ("0.75", "It is .75."),
        ("0.75", "3/4"),
        ("0.75", "3 / 4 of it"),
        ("0.75", r"\frac{3}{4}"),
        ("0.75", r"\dfrac{ 6 }{ 8 }"),
        ("0.75", "75%"),
        ("0.75", r"$75\%$"),
        ("0.75", "7.5e-1"),
        ("0.75", "750E-3"),
        ("0.75", "7.5 × 10^-1"),
        ("0.75", r"7.5 \times 10^{-1}"),
        ("75%", "3/4"),
        ("3/4", "0.75"),
        ("-1,234.5", "it falls by −1234.50"),
        ("-3/4", r"-\frac{3}{4}"),
        ("-3/4", r"\frac{-3}{4}"),
        ("1000000", "10^6"),
        ("1e6", "1,000,000"),
        ("1e-400", "0.1e-399"),
        ("1e-5", "10^{-5}"),
        ("2024", "on 3/4/2024"),
        ("5", "3-5"),
        ("0", "-0.0"),
        ("3.141593", "3.1415927"),
        ("9" * 900, "9" * 900),
    ],
)
def test_passes(answer, text):
    assert numeric(task(answer), text) == Verdict("pass", 1.0)


@pytest.mark.parametrize(
    ("answer", "text", "feedback"),
    [
        ("0.75", "75", "Your answer was 75, but the right answer is 0.75."),
        ("0.75", "3/4, or 4/3", "Your answer was 4/3, but the right answer is 0.75."),
        ("0.75", "-0.75", "Your answer was -0.75, but the right answer is 0.75."),
        ("0.75", "0.75%", "Your answer was 0.75%, but the right answer is 0.75."),
        ("0.75", "three quarters", "No number was found in your answer; the right answer is 0.75."),
        ("0", "1e-400", "Your answer was 1e-400, but the right answer is 0."),
        ("1e-400", "0", "Your answer was 0, but the right answer is 1e-400."),
        ("1e1000", "1e1001", "Your answer was 1e1001, but the right answer is 1e1000."),
        ("5", "1e999999999", "Your answer was 1e999999999, but the right answer is 5."),
        ("3", "3/0", "Your answer was 0, but the right answer is 3."),
    ],
)
def test_fails_with_expected_and_actual(answer, text, feedback):
    assert numeric(task(answer), text) == Verdict("fail", 0.0, feedback)


def test_the_edge_of_the_tolerance_is_exact():
    assert numeric(task("1"), "1.000001").status == "pass"
    assert numeric(task("1"), "1.0000010000000000000001").status == "fail"
    assert numeric(task("-200", tolerance=0.1), "-220").status == "pass"
    assert numeric(task("-200", tolerance=0.1), "-220.1").status == "fail"
    assert numeric(task("1", tolerance=0), "1.000000000000000000001").status == "fail"
    assert numeric(task("1e1000", tolerance=0), "1e1000").status == "pass"


@pytest.mark.parametrize("answer", ["", "five", "5 apples", "1/0", "1e1001", "7+8", "\u0661"])
def test_error_for_a_task_without_a_number(answer):
    verdict = numeric(task(answer), "5")
    assert (verdict.status, verdict.score) == ("error", 0.0)
    assert verdict.feedback == f"task t/1 has the answer {answer!r}, which is no number."


@pytest.mark.parametrize("tolerance", [-1e-6, float("nan"), float("inf"), "0.1", True, None])
def test_error_for_a_tolerance_that_is_none(tolerance):
    verdict = numeric(task("5", tolerance=tolerance), "5")
    assert (verdict.status, verdict.score) == ("error", 0.0)
    assert verdict.feedback == f'info["tolerance"] of task t/1 is {tolerance!r}, but must be >= 0.'


@settings(deadline=None)
@given(st.fractions(), st.fractions(), st.floats(0.0, 2.0))
def test_it_is_the_inequality(right, read, tolerance):
    verdict = numeric(task(str(right), tolerance=tolerance), f"it is {read}.")
    inside = abs(read - right) <= Fraction(repr(tolerance)) * abs(right)
    assert verdict.status == ("pass" if inside else "fail")


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_are_read_as_python_writes_them(value):
    assert numeric(task(repr(value), tolerance=0), repr(value)).status == "pass"


PIECES = ["1", "0", "9" * 400, ",", ".", "/", "e", "-", "%", "10^", "{", "}", "\\frac{", "x", " "]


@settings(deadline=None)
@given(
    st.text() | st.lists(st.sampled_from(PIECES)).map("".join),
    st.text(max_size=5) | st.lists(st.sampled_from(PIECES)).map("".join),
)
def test_it_never_raises(text, answer):
    verdict = numeric(task(answer), text)
    assert verdict.score == float(verdict.status == "pass")
    assert bool(verdict.feedback) == (verdict.status != "pass")


@pytest.mark.parametrize(
    "piece", ["9", "0", "1,111", "1/", "1/9", "/0", "1e", "\\frac{", "\\frac{1}", "10^", ".", "1."]
)
def test_a_megabyte_takes_linear_time(piece):
    text = piece * (10**6 // len(piece))
    start = time.perf_counter()
    numeric(task(), f"1/{text}")
    assert numeric(task(), f"{text} .75").status == "pass"
    # Measured about 1 s; quadratic time would take hours.
    assert time.perf_counter() - start < 30
