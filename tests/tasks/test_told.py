"""Problems told together with a text, and how much of it fits."""

import pytest

from jaxevo.tasks.arithmetic import plain_task
from jaxevo.tasks.told import most_that_fits, solutions_of, with_text
from jaxevo.types import Message, Task

TASK = Task(
    "t/1", (Message("user", "1+1?"), Message("assistant", "2"), Message("user", "7+8?")), ""
)


@pytest.mark.parametrize(
    ("info", "found"),
    [
        ({}, ["15"]),
        ({"solution": " 7+3+5. "}, ["7+3+5."]),
        ({"solutions": ["a", "b"], "solution": "c"}, ["a", "b", "c"]),
        ({"solutions": [" ", 7], "solution": None}, ["15"]),
    ],
)
def test_solutions_are_those_that_are_texts_or_the_answer(info, found):
    assert solutions_of(Task("t/3", (), "15", info)) == found


def test_models_of_characters_have_solutions_in_characters_only():
    words = {"plain": "7+8=", "solutions": ["in words"], "solution": "in words"}
    for more, found in (({}, ["15"]), ({"plain_solutions": ["10+5="]}, ["10+5="])):
        assert solutions_of(plain_task(Task("t/3", (), "15", words | more))) == found


def test_a_text_goes_into_the_last_user_message():
    told = with_text(TASK, "{a}|{question}|{b}", a="{question}", b="{0} }{")
    assert told.messages[:2] == TASK.messages[:2]
    assert told.messages[2] == Message("user", "{question}|7+8?|{0} }{")
    assert (told.uid, told.answer, told.info) == (TASK.uid, TASK.answer, TASK.info)
    silent = Task("t/2", (Message("system", "hi"),), "15")
    with pytest.raises(ValueError, match="task t/2 has no user message"):
        with_text(silent, "{question}")


@pytest.mark.parametrize("most", [0, 1, 2, 7, 64])
def test_most_that_fits_is_what_trying_all_would_find(most):
    for limit in range(-1, most + 2):
        asked = []

        def fits(n, limit=limit, asked=asked):
            asked.append(n)
            return n <= limit

        found = most_that_fits(fits, most)
        assert found == max((n for n in range(most + 1) if n <= limit), default=None)
        assert len(asked) <= 2 + most.bit_length()
