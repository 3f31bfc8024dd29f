import dataclasses

import numpy as np
import pytest

from jaxevo.models.toy import tokenizer
from jaxevo.teachers.answers import answer_given, wrong_answer
from jaxevo.types import Message, Row, Segment, Task

TASK = Task("add1/7+8", (Message("user", "7+8="),), "15")
TOY = tokenizer()


class Chat:
    """A letter a token; "$" ends a turn."""

    chat = True

    def encode(self, text):
        return [ord(c) for c in text]

    def turn(self, text):
        return self.encode(f"{text}$")

    def text(self, ids):
        return "".join(map(chr, ids)).replace("$", "")


CHAT = Chat()


def row(uid, answer, reward=0.0, *, group=0, encode=CHAT.encode, **more):
    segments = (
        Segment(np.array(encode("7+8=")), "prompt"),
        Segment(np.array(encode(answer)), "policy"),
    )
    return Row(uid, TASK, group, segments, rewards={"correct": reward, **more})


RIGHT, WRONG, BOXED = row(0, "15$", 1.0), row(1, "It is 14.$"), row(2, r"So \boxed{ 1{4} }$", 0.1)
GROUP = [RIGHT, WRONG, BOXED]


def shown(own, group, which, *, read=CHAT, **options):
    found = answer_given(own, group, read, which=which, max_prompt_tokens=20, **options)
    return None if found is None else read.text(found.ids)


def test_the_answer_stands_behind_the_prompt():
    for own in GROUP:
        assert shown(own, GROUP, "right") == "7+8= 15"
        assert shown(own, GROUP, "wrong") == "7+8= 14"


def test_character_models_are_shown_it_in_their_own_form():
    group = [row(n, a, r, encode=TOY.encode) for n, (a, r) in enumerate((("15", 1.0), ("9", 0.0)))]
    assert shown(group[0], group, "right", read=TOY) == "[15]7+8="
    assert shown(group[0], group, "wrong", read=TOY) == "[9]7+8="


@pytest.mark.parametrize(
    ("answers", "parsed", "lowest"),
    [
        ([(r"so \boxed{7}$", 0.1), ("16$", 0.0)], "7", "None"),
        ([(r"so \boxed{7}$", 0.1), (r"or \boxed{16}$", 0.0)], "7", "16"),
        ([(r"\boxed{1} or \boxed{16}$", 0.0), (r"\boxed{7}$", 0.0)], "16", "16"),
        ([("15, no$", 0.0), ("is it 3?$", 0.0)], "3", "None"),
        ([(r"\boxed{15}$", 0.0), ("$", 0.0)], r"\boxed{15}", "15"),
        ([("$", 0.0), (" " + 30 * "no " + "$", 0.0)], (30 * "no ")[:50], "None"),
        ([("$", 0.0), ("$", 0.0)], "", "None"),
        ([("14$", 0.5), ("13$", 1.0)], "", ""),
    ],
)
def test_which_wrong_answer(answers, parsed, lowest):
    group = [RIGHT, *(row(n, a, r) for n, (a, r) in enumerate(answers, 1)), row(9, "2$", group=1)]
    for own in group[:2]:
        assert wrong_answer(own, group, CHAT) == parsed
        assert wrong_answer(own, group, CHAT, choose="lowest") == lowest


def test_rejected_is_a_matter_of_accuracy_and_low_one_of_the_whole_reward():
    group = [RIGHT, row(1, r"\boxed{7}$", 0.0, form=1.0), row(2, r"\boxed{16}$", 0.4)]
    assert wrong_answer(RIGHT, group, CHAT) == "7"
    assert wrong_answer(RIGHT, group, CHAT, choose="lowest") == "16"
    assert wrong_answer(RIGHT, group, CHAT, success=0.3) == "7"
    assert wrong_answer(RIGHT, group, CHAT, success=0.0) == ""
    with pytest.raises(ValueError, match='is "parsed" or "lowest"'):
        wrong_answer(RIGHT, group, CHAT, choose="first")


def test_rows_that_need_no_teacher_have_none():
    dead = [row(n, f"1{n}$") for n in range(3)]
    assert shown(dead[0], dead, "right") is None
    off = [dataclasses.replace(one, numbers={"mix": 0.0}) for one in GROUP]
    on = [dataclasses.replace(one, numbers={"mix": 0.02}) for one in GROUP]
    assert shown(off[0], off, "wrong") is None
    assert shown(on[0], on, "wrong") == "7+8= 14"


def test_a_right_answer_alone_is_shown_on_request():
    passed = [row(0, "15$", 1.0), row(1, "15.$", 0.6)]
    assert shown(passed[0], passed, "wrong") is None
    assert shown(passed[0], passed, "right") is None
    assert shown(passed[0], passed, "right", alone=True) == "7+8= 15"


def test_too_long_is_no_context():
    for most, found in ((6, None), (7, "7+8= 15")):
        context = answer_given(RIGHT, GROUP, CHAT, which="right", max_prompt_tokens=most)
        assert (context and CHAT.text(context.ids)) == found
