import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxevo.rewards.form import boxed, characters, last_boxed, regex, tags, words
from jaxevo.types import Task, Verdict

TASK = Task("t/1", (), "")
PASS = Verdict("pass", 1.0)


def fails(verdict):
    assert (verdict.status, verdict.score) == ("fail", 0.0)
    return verdict.feedback


@pytest.mark.parametrize(
    "text", [r"\boxed{5}", r"so \boxed{\frac{1}{2}}.", r"\boxed{\{1\}}", r"\boxed{\\}"]
)
def test_one_box(text):
    assert boxed(TASK, text) == PASS


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"\boxed{1} \boxed{ \frac{1}{2} }.", r"\frac{1}{2}"),
        (r"\boxed{\}}", r"\}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{1} \boxed{2", ""),
        ("5", ""),
    ],
)
def test_what_the_last_box_holds(text, inside):
    assert last_boxed(text) == inside


@pytest.mark.parametrize(
    ("text", "feedback"),
    [
        ("5", r"Your answer holds 0 \boxed{...}, but must hold exactly one."),
        (r"\boxed{5} \boxed{5}", r"Your answer holds 2 \boxed{...}, but must hold exactly one."),
        (r"\boxed{\boxed{5}}", r"Your answer holds 2 \boxed{...}, but must hold exactly one."),
        (r"\boxed{ }", r"Your \boxed{} is empty."),
        (r"\boxed{\frac{1}{2}", r"Your \boxed{ is not closed."),
        (r"\boxed{5\}", r"Your \boxed{ is not closed."),
        ("\\boxed{5\\", r"Your \boxed{ is not closed."),
    ],
)
def test_no_or_several_boxes(text, feedback):
    assert fails(boxed(TASK, text)) == feedback


@pytest.mark.parametrize(
    "text",
    ["<think>a</think><answer>b</answer>", "\n<think>\n<b> 1 < 2\n</think>\n\n<answer></answer> "],
)
def test_tags_in_order(text):
    assert tags("think,answer")(TASK, text) == PASS


@pytest.mark.parametrize(
    ("text", "feedback"),
    [
        ("", "Your answer holds <think> 0 times, but must hold it once."),
        ("<think>a", "Your answer holds </think> 0 times, but must hold it once."),
        ("<think>a</think><answer>b</answer><answer>c</answer>",
         "Your answer holds <answer> 2 times, but must hold it once."),
        ("<answer>b</answer><think>a</think>",
         "The tags of your answer must stand in this order: "
         "<think>...</think> <answer>...</answer>."),
        ("<think>a<answer>b</think></answer>",
         "The tags of your answer must stand in this order: "
         "<think>...</think> <answer>...</answer>."),
        ("</think>a<think><answer>b</answer>",
         "The tags of your answer must stand in this order: "
         "<think>...</think> <answer>...</answer>."),
        ("hm <think>a</think><answer>b</answer>", "Your answer has text outside of its tags: hm"),
        ("<think>a</think> so <answer>b</answer>", "Your answer has text outside of its tags: so"),
        ("<think>a</think><answer>b</answer>.", "Your answer has text outside of its tags: ."),
    ],
)  # fmt: skip
def test_tags_out_of_order(text, feedback):
    assert fails(tags("think,answer")(TASK, text)) == feedback


def test_words_and_characters():
    assert words("2-3")(TASK, " two\nwords ") == PASS
    assert words("2-3")(TASK, "three of them") == PASS
    assert fails(words("2-3")(TASK, "one")) == "Your answer has 1 words, but must have 2 to 3."
    assert fails(words("0-0")(TASK, "one")) == "Your answer has 1 words, but must have 0 to 0."
    assert characters("2-3")(TASK, "  äb\n") == PASS
    assert characters("2-3")(TASK, "abc") == PASS
    feedback = "Your answer has 4 characters, but must have 2 to 3."
    assert fails(characters("2-3")(TASK, "a bc")) == feedback


def test_a_pattern_matches_the_whole_text():
    assert regex("[0-9]+")(TASK, "123") == PASS
    assert fails(regex("[0-9]+")(TASK, "123\n")) == (
        "Your answer must match [0-9]+ from beginning to end."
    )
    assert regex(r"(?s).*####\s*-?\d+")(TASK, "so\n#### -5") == PASS
    assert fails(regex("a:b")(TASK, "a")) == "Your answer must match a:b from beginning to end."


def test_a_catastrophic_pattern_is_an_error_in_time():
    start = time.monotonic()
    verdict = regex("(a+)+b")(TASK, "a" * 60)
    assert (verdict.status, verdict.score) == ("error", 0.0)
    assert verdict.feedback == (
        "matching (a+)+b with the answer to task t/1: it took longer than 1 s and was stopped."
    )
    assert time.monotonic() - start < 10
    assert regex("(a+)+b")(TASK, "ab") == PASS


@pytest.mark.parametrize(
    ("make", "arguments", "reason"),
    [
        (tags, "", "it takes names of tags joined by commas, such as tags:think,answer."),
        (tags, "think, answer", "it takes names of tags joined by commas"),
        (tags, "think,think", "it names a tag twice"),
        (regex, "", "it takes a pattern, such as regex:[0-9]+."),
        (regex, "(", "its pattern '(' cannot be used: missing ), unterminated subpattern"),
        (regex, "[[a]", "its pattern '[[a]' cannot be used: Possible nested set at position 1."),
        (words, "", "it takes the least and the most, such as words:10-50."),
        (words, "50-10", "it takes the least and the most, such as words:10-50."),
        (words, "10", "it takes the least and the most, such as words:10-50."),
        (characters, "-5-10", "it takes the least and the most, such as characters:10-50."),
    ],
)
def test_arguments_that_cannot_be_used(make, arguments, reason):
    with pytest.raises(ValueError) as found:  # noqa: PT011
        make(arguments)
    assert str(found.value).startswith(reason)


PIECES = ["<a>", "</a>", "<b>", "</b>", "\\boxed{", "{", "}", "\\", "x", " ", "\n"]


@settings(deadline=None)
@given(st.text() | st.lists(st.sampled_from(PIECES)).map("".join))
def test_they_never_raise(text):
    for verify in (boxed, tags("a,b"), words("1-3"), characters("1-3")):
        verdict = verify(TASK, text)
        assert verdict.score == float(verdict.status == "pass")
        assert bool(verdict.feedback) == (verdict.status == "fail")
