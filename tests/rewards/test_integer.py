import time

import pytest

from jaxevo.rewards import last_integer, numbers, strict_integer
from jaxevo.types import Message, Task


def task(answer="15", expression="7+8"):
    info = {} if expression is None else {"expression": expression}
    return Task("t/1", (Message("user", "?"),), answer, info)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The answer is 15.", ["15"]),
        ("7 + 8 = 15\n", ["7", "8", "15"]),
        ("3-5", ["3", "5"]),
        ("(2)-5 and [2]-5", ["2", "5", "2", "5"]),
        ("x-5", ["5"]),
        ("3 - 5 = -2", ["3", "5", "-2"]),
        ("3 -5", ["3", "-5"]),
        ("3--5", ["3", "-5"]),
        ("=-5 (-6) \u22127", ["-5", "-6", "-7"]),
        ("1,234,567", ["1234567"]),
        ("-1,234", ["-1234"]),
        ("1,23 and 1234,567", ["1", "23", "1234", "567"]),
        ("1,2345", ["1", "2345"]),
        ("007 000 -0", ["7", "0", "0"]),
        ("7.5 15.0 -0.50 1,000.00", ["7.5", "15", "-0.5", "1000"]),
        ("15..", ["15"]),
        ("\uff11\uff15 \u0661\u0665 \u00b2", []),
        ("1\u0665", ["1"]),
        ("", []),
    ],
)
def test_numbers(text, found):
    assert list(numbers(text)) == found


@pytest.mark.parametrize("text", ["15", "The sum is 15.", "7+8=15", "14? No: 015", "15.0", "+15"])
def test_last_integer_passes(text):
    verdict = last_integer(task(), text)
    assert (verdict.status, verdict.score, verdict.feedback) == ("pass", 1.0, "")


@pytest.mark.parametrize(
    ("text", "feedback"),
    [
        ("14", "Your answer was 14, but 7+8 = 15."),
        ("15 is 7+8", "Your answer was 8, but 7+8 = 15."),
        ("-15", "Your answer was -15, but 7+8 = 15."),
        ("15.5", "Your answer was 15.5, but 7+8 = 15."),
        ("fifteen", "No number was found in your answer; 7+8 = 15."),
        ("", "No number was found in your answer; 7+8 = 15."),
    ],
)
def test_last_integer_fails_with_expected_and_actual(text, feedback):
    verdict = last_integer(task(), text)
    assert (verdict.status, verdict.score, verdict.feedback) == ("fail", 0.0, feedback)


def test_without_an_expression():
    feedback = last_integer(task(expression=None), "14").feedback
    assert feedback == "Your answer was 14, but the right answer is 15."


@pytest.mark.parametrize("answer", ["1,234", " 1234\n", "1234.0"])
def test_the_answer_is_read_like_the_text(answer):
    assert last_integer(task(answer), "1234").status == "pass"
    assert strict_integer(task(answer), "1234").status == "pass"


@pytest.mark.parametrize("verify", [last_integer, strict_integer])
@pytest.mark.parametrize("answer", ["", "fifteen", "7.5", "15 apples", "7+8", "\u0661"])
def test_error_for_a_task_without_an_integer(verify, answer):
    verdict = verify(task(answer), "15")
    assert (verdict.status, verdict.score) == ("error", 0.0)
    assert "task t/1 has the answer" in verdict.feedback


@pytest.mark.parametrize(
    ("text", "feedback"),
    [
        ("15", ""),
        (" 15\n", ""),
        ("7+8=15", "Your answer holds more than the bare number; 7+8 = 15."),
        ("15.", "Your answer holds more than the bare number; 7+8 = 15."),
        ("015", "Your answer holds more than the bare number; 7+8 = 15."),
        ("14", "Your answer was 14, but 7+8 = 15."),
        ("no", "No number was found in your answer; 7+8 = 15."),
    ],
)
def test_strict_integer(text, feedback):
    verdict = strict_integer(task(), text)
    assert verdict.status == ("fail" if feedback else "pass")
    assert verdict.feedback == feedback


def test_negative_answers():
    assert last_integer(task("-2", "3-5"), "3-5=-2").status == "pass"
    assert last_integer(task("-2", "3-5"), "3-2").status == "fail"
    assert strict_integer(task("-2", "3-5"), "-2").status == "pass"


def test_digit_strings_beyond_what_int_reads():
    huge = "1" + "0" * 9_999
    assert last_integer(task(huge, None), f"is 0{huge}").status == "pass"
    verdict = last_integer(task(), huge)
    assert verdict.status == "fail"
    assert "10000000000000000000… (10000 characters), but 7+8 = 15" in verdict.feedback


@pytest.mark.parametrize("piece", ["9", "1,", "1,111", "-", "1 ", "a", ",111", "1."])
def test_a_megabyte_takes_linear_time(piece):
    text = piece * (10**6 // len(piece))
    start = time.perf_counter()
    for verify in (last_integer, strict_integer):
        assert verify(task(), text + " 15").status == ("pass" if verify is last_integer else "fail")
    # Measured about 0.5 s on a busy machine; quadratic time would take hours.
    assert time.perf_counter() - start < 20
