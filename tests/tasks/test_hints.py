"""Hints: how they are asked for, read from whatever a model writes, and shown."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxevo.tasks.hints import LEVELS, TUTOR, hint_task, hinted, read_hints, reference, reveals
from jaxevo.types import Message, Task

CHAT = Task(
    "t/1",
    (Message("system", "Be brief."), Message("user", "What is 7+8?")),
    "15",
    {"solution": " 7+3 is 10, and 5 more. "},
)
PLAIN = Task("t/2", (Message("user", "7+8="),), "15", {"solution": "in words"})


def test_the_writer_is_shown_question_and_solution():
    told = hint_task(CHAT, reference(CHAT, chat=True), chat=True)
    question = (
        "Question:\nWhat is 7+8?\n\nSolution:\n7+3 is 10, and 5 more.\n\n"
        "Write the three hints as JSON."
    )
    assert told.messages == (Message("system", TUTOR), Message("user", question))
    assert told.answer == ""
    told = hint_task(PLAIN, reference(PLAIN, chat=False), chat=False)
    assert told.messages == (Message("user", "[15]7+8="),)


@pytest.mark.parametrize(
    ("info", "want"), [({}, "15"), ({"solution": " "}, "15"), ({"solution": 7}, "15")]
)
def test_without_a_solution_the_answer_is_the_reference(info, want):
    assert reference(Task("t", (), "15", info), chat=True) == want


def test_a_hint_goes_to_the_question():
    told = hinted(CHAT, "Make {ten}.", chat=True)
    asked = Message("user", "What is 7+8?\n\nHere is a hint:\nMake {ten}.")
    assert told.messages == (CHAT.messages[0], asked)
    assert (told.uid, told.answer) == ("t/1", "15")
    assert hinted(PLAIN, "1", chat=False).messages == (Message("user", "1?7+8="),)


@pytest.mark.parametrize(
    ("text", "hints"),
    [
        ('{"level_1": "a", "level_2": "b", "level_3": "c"}', ("a", "b", "c")),
        ('Sure:\n```json\n{"level_1": " a "}\n```\n{"level_1": "z"}', ("a", "", "")),
        ('```\n{"level_2": "b"}\n```', ("", "b", "")),
        ('```python\nx\n``` {"level_2": "b"}', ("", "b", "")),
        ('```json\n{"level_3": "not closed"}', ("", "", "not closed")),
        ("{'level_1': 'it\\'s', level_2: \"b\", /* c */ level_3: 'c',}", ("it's", "b", "c")),
        ('{"level_1": "two\nlines", "level_2": "\\(x\\)"}', ("two\nlines", "\\(x\\)", "")),
        ('{"level_1": "two\\nlines",}', ("two\nlines", "", "")),
        ('{"level_1": {"level_2": "inside"}, "level_3": ["x"]}', None),
        ('{"level_1": 5, "level_2": ""}', None),
        ('["level_1"]', None),
        ("level_1: 'no braces'", None),
        ('{"level_4": "too far"}', None),
        ("}{", None),
        ("", None),
        ("[" * 100_000 + "{" + "[" * 100_000 + "}", None),
    ],
)
def test_json_is_read_as_people_write_it(text, hints):
    assert read_hints(text, chat=True) == hints


@pytest.mark.parametrize(
    ("text", "hints"),
    [
        ("155", ("1", "15", "155")),
        ("15", ("1", "15", "15")),
        (" 7 ", ("7", "7", "7")),
        ("123456", ("12", "1234", "123456")),
        ("", None),
    ],
)
def test_what_a_model_of_characters_writes_is_the_hint(text, hints):
    assert read_hints(text, chat=False) == hints


@given(st.text() | st.text("{}\"'\\:,`level_12 "), st.booleans())
def test_any_text_is_read(text, chat):
    found = read_hints(text, chat=chat)
    assert found is None or (len(found) == LEVELS and any(found))


def test_reading_takes_linear_time():
    start = time.perf_counter()
    for unit in ("{", "```", "``` ", 'level_1:"', "level_1:'\\", "level_1 ", "\\"):
        read_hints("{" + " " * 50_000 + unit * 50_000 + "}", chat=True)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("hint", "answer", "said"),
    [
        ("It is 15.", "15", True),
        ("It is 155", "15", False),
        ("15", " 15 ", True),
        ("so x=-3", "-3", True),
        ("Add the tens.", "15", False),
        ("anything", "", False),
    ],
)
def test_whether_a_hint_says_the_answer(hint, answer, said):
    assert reveals(hint, answer) is said
