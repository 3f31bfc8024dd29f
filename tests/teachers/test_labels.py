import dataclasses

import numpy as np

from jaxevo.models.toy import tokenizer
from jaxevo.teachers.labels import label_given
from jaxevo.types import Message, Row, Segment, Task


class Chat:
    """A letter a token."""

    chat = True

    def render(self, messages):
        return [ord(c) for c in "".join(f"<{m.content}>" for m in messages)]


TASK = Task("t", (Message("system", "Be brief."), Message("user", "7+8=")), "15")
ROW = Row(
    0, TASK, 0, (Segment(np.ones(1, int), "prompt"), Segment(np.ones(2, int), "policy")),
    rewards={"correct": 0.0},
)  # fmt: skip
LABELLED = dataclasses.replace(ROW, info={"label": "a slip"})


def shown(row, **options):
    found = label_given(row, [], Chat(), **{"max_prompt_tokens": 90, **options})
    return found and "".join(map(chr, found.ids))


def test_the_label_alone_is_shown():
    mistake = "<Be brief.><7+8=\n\nHint: a common mistake here is a slip.>"
    assert shown(LABELLED) == mistake
    right = dataclasses.replace(LABELLED, rewards={"correct": 1.0})
    assert shown(right) == "<Be brief.><7+8=\n\nHint: what matters most here is a slip.>"
    assert shown(right, success=1.5) == mistake


def test_without_a_label_or_room_there_is_none():
    assert shown(ROW) is None
    longest = len(shown(LABELLED))
    assert shown(LABELLED, max_prompt_tokens=longest) is not None
    assert shown(LABELLED, max_prompt_tokens=longest - 1) is None


def test_character_models_are_shown_it_before_the_question():
    toy = tokenizer()
    plain = dataclasses.replace(ROW, task=Task("t", (Message("user", "7+8="),), "15"))
    for label, want in (("+", "(+)7+8="), ("too small", None)):
        found = label_given(
            dataclasses.replace(plain, info={"label": label}), [], toy, max_prompt_tokens=20
        )
        assert (found and toy.text(found.ids)) == want
