"""Problems told together with a text, and how much of it fits."""

import pytest

from jaxevo.tasks.told import most_that_fits, with_text
from jaxevo.types import Message, Task

TASK = Task(
    "t/1", (Message("user", "1+1?"), Message("assistant", "2"), Message("user", "7+8?")), ""
)


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
