"""Steps, what a critique changed of them, and critics that are programs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxevo.collect.critique import (
    changed_parts,
    closest_solution,
    first_solution,
    part_marks,
    read_steps,
)
from jaxevo.models.tokenizer import CharTokenizer
from jaxevo.models.toy import ALPHABET
from jaxevo.tasks import load_task, plain
from jaxevo.tasks.told import solutions_of
from jaxevo.types import Row, Segment

ATTEMPT = (
    b"Let me see.\n<step 1>7+8=15</step 1>\n<step 2>15 +  9=25</step 2>\n"
    b"<answer>25</answer>\n That is it."
)
TOY = CharTokenizer(ALPHABET)


class Pairs:
    """Two bytes a token; 0 ends a turn and has none."""

    chat = True

    def token_bytes(self, token):
        return b"" if token == 0 else int(token).to_bytes(2, "big").rstrip(b"\0")

    def encode(self, data):
        return [int.from_bytes(data[n : n + 2].ljust(2, b"\0"), "big") for n in
                range(0, len(data), 2)]  # fmt: skip


class Bench:
    def __init__(self, tokenizer):
        self.tokenizer = tokenizer


def kinds(parts):
    return [part.kind for part in parts]


def test_the_parts_of_an_answer_are_the_answer():
    parts = read_steps(ATTEMPT, chat=True)
    assert kinds(parts) == ["preamble", "step", "step", "answer", "tail"]
    assert b"".join(part.raw for part in parts) == ATTEMPT
    assert [part.text for part in parts[1:4]] == [
        "<step 1>7+8=15</step 1>",
        "<step 2>15 + 9=25</step 2>",
        "<answer>25</answer>",
    ]


@given(st.lists(st.sampled_from(
    [b"<step 1>", b"</step 1>", b"<step 2>", b"</step 2>", b"<answer>", b"</answer>", b" ", b"=",
     b"\xff", b"7"]
), max_size=16))  # fmt: skip
def test_whatever_can_be_read_is_cut_and_nothing_is_lost(pieces):
    answer = b"".join(pieces)
    for chat in (True, False):
        parts = read_steps(answer, chat=chat)
        if parts is not None:
            assert b"".join(part.raw for part in parts) == answer
            assert all(part.raw for part in parts)
            assert kinds(parts).count("answer") == 1
            assert "step" in kinds(parts)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"7+8=15",
        b"<step 1>7+8=15</step 1>",
        b"<answer>15</answer>",
        b"<step 2>7+8=15</step 2><answer>15</answer>",
        b"<step 1>a</step 1><step 3>b</step 3><answer>15</answer>",
        b"<step 1>a</step 1><answer>15</answer><answer>16</answer>",
        b"<answer>15</answer><step 1>a</step 1>",
        b"<step 1>a</step 2><answer>15</answer>",
    ],
)
def test_what_has_no_such_steps_is_not_read(answer):
    assert read_steps(answer, chat=True) is None


@pytest.mark.parametrize("answer", [b"", b"15", b"15+9=", b"="])
def test_characters_without_a_step_or_an_answer_are_not_read(answer):
    assert read_steps(answer, chat=False) is None


def test_steps_are_compared_one_by_one_up_to_white_space():
    own = read_steps(ATTEMPT, chat=True)
    same = ATTEMPT.replace(b"15 +  9=25", b"15\n+ 9=25")
    other = same.replace(b">25</answer>", b">24</answer>")
    shorter = b"<step 1>7+8=15</step 1><answer>25</answer>"
    assert changed_parts(own, read_steps(same, chat=True)) == [None, False, False, False, None]
    assert changed_parts(own, read_steps(other, chat=True)) == [None, False, False, True, None]
    assert changed_parts(own, read_steps(shorter, chat=True)) == [None, False, True, False, None]
    assert changed_parts(own, ()) == [None, True, True, True, None]


def test_a_token_is_marked_as_the_part_of_its_first_byte():
    tokenizer = Pairs()
    ids = [*tokenizer.encode(ATTEMPT), 0]
    parts = read_steps(ATTEMPT, chat=True)
    marks = part_marks(ids, tokenizer, parts, [None, False, True, False, None])
    owner = np.repeat(np.arange(len(parts)), [len(part.raw) for part in parts])[::2]
    want = np.array([np.nan, 0, 1, 0, np.nan])[owner]
    np.testing.assert_array_equal(marks, [*want, np.nan])
    assert {0.0, 1.0} <= set(marks[np.isfinite(marks)].tolist())


def attempt(text, position=0):
    task = plain(load_task("steps4")).train(position)
    segments = (
        Segment(np.array(TOY.encode(task.messages[-1].content), np.int32), "prompt"),
        Segment(np.array(TOY.encode(text), np.int32), "policy"),
    )
    return Row(position, task, position, segments)


def test_the_closest_solution_has_most_of_the_attempts_steps():
    left, right = solutions_of(attempt("").task)
    assert left != right
    wrong = left.replace(left.rpartition("=")[2], "99")
    astray = right.replace("=", "0=", 1)[:-1] + "?"  # no step is right, but it reads like that one
    rows = [attempt(text) for text in (left, right, wrong, right[:-1] + "?", astray)]
    bench = Bench(TOY)
    assert closest_solution(bench, rows) == [left, right, left, right, right]
    assert first_solution(bench, rows) == [left] * 5
    parts = read_steps(wrong.encode(), chat=False)
    changed = changed_parts(parts, read_steps(left.encode(), chat=False))
    assert changed == [False, False, True]
