import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxevo.rewards.choice import choice, chosen
from jaxevo.types import Message, Task, Verdict


def task(answer="B", choices=None):
    info = {} if choices is None else {"choices": choices}
    return Task("t/1", (Message("user", "?"),), answer, info)


@pytest.mark.parametrize(
    "text",
    [
        "B",
        " (b) ",
        "b.",
        "(B)",
        "**(B)**",
        "The answer is B",
        "The answer is B.",
        "the answer is: B",
        "Answer: B",
        "Answer:\nB",
        "**Answer:** B",
        "**Answer: B**",
        "The answer is **(B)** oak",
        "The correct answer is option B, since ...",
        'The answer is "B".',
        "The answer is $B$.",
        "<answer> B </answer>",
        "**B**",
        "so **B) oak** it is",
        r"\boxed{B}",
        r"$\boxed{\text{B}}$",
        r"\boxed{(b)}",
        r"\boxed{B. oak}",
        "It is an oak.\nB. oak",
        "Well.\n  B",
        "(A) is no tree, (B) is",
        "The answer is A. No: the answer is B.",
        "(C)? (F)? I say (B), not (F).",
    ],
)
def test_b_is_chosen(text):
    assert choice(task(), text) == Verdict("pass", 1.0)


@pytest.mark.parametrize(
    "text",
    ["", "b is a letter", "The answer is a dog.", "A cat sat.", "f(a) = 3", "answer(s)", "(F)",
     "Vitamin B. is good", "The answer is A-team", "ABBA", "A's", "\uff22", "**bold**"],
)  # fmt: skip
def test_nothing_is_chosen(text):
    assert chosen(text) == ""
    verdict = choice(task(), text)
    assert (verdict.status, verdict.score) == ("fail", 0.0)
    assert verdict.feedback == "No choice was found in your answer; the right answer is B."


@pytest.mark.parametrize(
    "text",
    ["The answer is B or C.", "The answer is (B) or (C)", "Answer: B/C", "(A), (B) and (C)",
     "**B** or **C**", "The answer is A or option B", "(B) & (A)", "The answer is B or B or D"],
)  # fmt: skip
def test_who_names_two_letters_chooses_none(text):
    assert chosen(text) == ""


@pytest.mark.parametrize(
    "text",
    ["Is it A or C? The answer is B.", "(A) or (C) would do, but the answer is B", "(B) or (F)",
     "The answer is B and A is wrong", "The answer is B or, in words, the oak", "(B) or (B)",
     "The answer is B and Clara knows it"],
)  # fmt: skip
def test_another_letter_elsewhere_is_no_hedge(text):
    assert chosen(text) == "B"


def test_fails_with_expected_and_actual():
    verdict = choice(task("B", ["fir", "oak"]), "I take (A).")
    assert (verdict.status, verdict.score) == ("fail", 0.0)
    assert verdict.feedback == "Your answer was A, but the right answer is B (oak)."


def test_the_number_of_choices_says_which_letters_there_are():
    assert chosen("(E), not (F)") == "E"
    many = list("zyxwvut")
    assert choice(task("F", many), "(E), not (F)").status == "pass"
    assert choice(task("A", ["one", "two"]), "(A) and (C)").status == "pass"


@pytest.mark.parametrize("answer", ["B", "b", "(B)", "B.", "oak"])
def test_the_answer_is_a_letter_or_a_choice(answer):
    assert choice(task(answer, ["fir", "oak"]), "B").status == "pass"
    assert choice(task(answer, ["fir", "oak"]), "A").status == "fail"


@pytest.mark.parametrize(
    ("answer", "choices", "reason"),
    [
        ("", None, "has the answer '', which is none of ABCDE"),
        ("F", None, "has the answer 'F', which is none of ABCDE"),
        ("C", ["fir", "oak"], "has the answer 'C', which is none of AB"),
        ("elm", ["fir", "oak"], "has the answer 'elm', which is none of AB"),
        ("A", "fir, oak", 'info["choices"] of task t/1 is no list of 1 to 26 choices'),
        ("A", [], 'info["choices"] of task t/1 is no list of 1 to 26 choices'),
        ("A", ["x"] * 27, 'info["choices"] of task t/1 is no list of 1 to 26 choices'),
    ],
)
def test_error_for_a_task_that_cannot_be_used(answer, choices, reason):
    verdict = choice(task(answer, choices), "A")
    assert (verdict.status, verdict.score) == ("error", 0.0)
    assert reason in verdict.feedback


PIECES = ["answer", " is ", "(", "B", "a", ")", "**", "\\boxed{", "}", "\n", ".", " ", "\ud800"]


@settings(deadline=None)
@given(
    st.text() | st.lists(st.sampled_from(PIECES)).map("".join),
    st.text(max_size=3) | st.sampled_from("ABCDEFZ"),
    st.none() | st.lists(st.text(max_size=3), max_size=30) | st.integers(),
)
def test_it_never_raises(text, answer, choices):
    verdict = choice(task(answer, choices), text)
    assert verdict.score == float(verdict.status == "pass")
    assert bool(verdict.feedback) == (verdict.status != "pass")


@pytest.mark.parametrize("piece", ["answer ", "answer is ", "(", "**", "\\boxed{", "\n", " ", "A"])
def test_a_megabyte_takes_linear_time(piece):
    start = time.perf_counter()
    assert choice(task(), piece * (10**6 // len(piece)) + " (B)").status == "pass"
    # Measured about 0.3 s; quadratic time would take hours.
    assert time.perf_counter() - start < 20
