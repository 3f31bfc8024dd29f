"""An answer behind an instruction to rewrite it."""

import dataclasses

import numpy as np
import pytest

from jaxevo.models import toy
from jaxevo.teachers.rewrites import ASKED, rewrite
from jaxevo.types import Message, Row, Segment, Task


class Words:
    """A chat tokenizer of one id per character."""

    chat, eos_ids = True, (0,)

    def encode(self, text):
        return [ord(c) for c in text]

    def text(self, ids):
        return "".join(chr(i) for i in ids if i)

    def render(self, messages):
        return self.encode("|".join(m.content for m in messages) + "|")


def a_row(tokenizer, question, answer):
    task = Task("t", (Message("user", question),), "")
    ids = np.array([*tokenizer.encode(answer), *tokenizer.eos_ids[:1]], np.int32)
    prompt = np.array(tokenizer.render(task.messages), np.int32)
    return Row(1, task, 0, (Segment(prompt, "prompt"), Segment(ids, "policy")))


@pytest.mark.parametrize("instruction", ["better", "worse"])
def test_question_answer_and_instruction_are_told(instruction):
    row = a_row(Words(), "How?", "So, and not otherwise.")
    found = rewrite(row, [], Words(), instruction=instruction, max_prompt_tokens=500)
    text = Words().text(found.ids)
    places = [text.index(part) for part in ("How?", "So, and not otherwise.", ASKED[instruction])]
    assert places == sorted(places)
    assert not found.cut


def test_instructions_are_mirror_images():
    better, worse = (ASKED[name].split() for name in ("better", "worse"))
    swapped = {"more": "less", "less": "more"}
    assert worse[:-1] == [swapped.get(word, word) for word in better[:-2]] + ["more"]


def test_long_answers_lose_their_middle_and_never_the_instruction():
    row = a_row(Words(), "How?", "a" * 40 + "b" * 40)
    found = rewrite(row, [], Words(), instruction="worse", max_prompt_tokens=150)
    text = Words().text(found.ids)
    assert found.cut
    assert len(found.ids) <= 150
    assert "a…b" in text
    assert ASKED["worse"] in text
    assert rewrite(row, [], Words(), instruction="worse", max_prompt_tokens=60) is None


def test_character_models_are_told_by_signs_and_an_empty_answer_has_none():
    tokenizer = toy.tokenizer()
    row = a_row(tokenizer, "12+35=", "37")
    for instruction, sign in (("better", "+"), ("worse", "-")):
        found = rewrite(row, [], tokenizer, instruction=instruction, max_prompt_tokens=20)
        assert tokenizer.text(found.ids) == f"[37]{sign}12+35="
    empty = dataclasses.replace(
        row, segments=(row.segments[0], Segment(np.zeros(0, int), "policy"))
    )
    assert rewrite(empty, [], tokenizer, instruction="better", max_prompt_tokens=20) is None
