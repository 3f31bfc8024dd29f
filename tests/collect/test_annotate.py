import dataclasses

import numpy as np
import pytest

from jaxevo.collect.annotate import (
    Annotation,
    annotation_task,
    by_digits,
    by_model,
    read_annotation,
    segment_ranges,
    span_mask,
)
from jaxevo.models.toy import tokenizer
from jaxevo.types import Message, Row, Segment, Task

TOY = tokenizer()
TASK = Task("t/1", (Message("user", "What is 38+28?"),), "66")


class Pieces:
    """Tokens are pieces of text; "$" ends a turn."""

    chat = True

    def __init__(self, *pieces):
        self.pieces = pieces

    def token_bytes(self, token):
        return self.pieces[token].replace("$", "").encode()

    def text(self, ids):
        return "".join(self.pieces[token] for token in ids).replace("$", "")


def parts(*pieces, most=64):
    ranges = segment_ranges(range(len(pieces)), Pieces(*pieces), most=most)
    return [list(pieces[start:stop]) for start, stop in ranges]


def row(ids, reward=0.0, task=TASK):
    prompt, answer = Segment(np.ones(1, int), "prompt"), Segment(np.array(list(ids)), "policy")
    return Row(0, task, 0, (prompt, answer), rewards={"correct": reward})


# ---------------------------------------------------------------------------- segments
def test_lines_are_segments_and_a_token_belongs_where_it_begins():
    assert parts("a", " b\n", "c", "\nd", "e", "$") == [["a", " b\n"], ["c", "\nd"], ["e"]]
    assert parts("a\n", "\n", " ", "\n", "b", "$") == [["a\n", "\n", " ", "\n"], ["b"]]


def test_one_line_is_cut_into_sentences():
    assert parts("3.5", " is", ". ", "So", "! Yes", "\n") == [
        ["3.5", " is", ". "],
        ["So", "! Yes", "\n"],
    ]
    assert parts("é", "?", " ", "b") == [["é", "?", " "], ["b"]]  # offsets are of bytes
    assert parts("$") == []
    assert parts() == []


def test_neighbours_are_joined_until_there_are_few_enough():
    lines = [f"{n}\n" for n in range(7)]
    assert [len(part) for part in parts(*lines)] == [1] * 7
    assert [len(part) for part in parts(*lines, most=3)] == [3, 3, 1]
    assert len(parts(*(f"{n}\n" for n in range(1000)))) <= 64


def test_a_character_models_segments_are_its_tokens():
    ids = TOY.turn("+*66")
    assert segment_ranges(ids, TOY) == [(0, 1), (1, 2), (2, 3), (3, 4)]


@pytest.mark.parametrize(
    ("tokens", "chosen", "want"),
    [
        (20, [2, 0], [8, 9, 10, 11, 0]),  # four and one of four: five of twenty
        (20, [1, 0], [4, 5, 6, 7, 0]),
        (7, [0], [0]),
        (3, [0], []),
        (20, [], []),
    ],
)
def test_coverage(tokens, chosen, want):
    ranges = [(0, 4), (4, 8), (8, 12)]
    mask = span_mask(chosen, ranges, tokens, coverage=0.25)
    assert sorted(np.flatnonzero(mask)) == sorted(want)
    assert len(mask) == tokens


def test_what_does_not_fit_ends_the_span():
    mask = span_mask([1, 0], [(0, 1), (1, 9)], 16, coverage=0.25)
    assert np.flatnonzero(mask).tolist() == [1, 2, 3, 4]
    assert span_mask([0], [(0, 8)], 8, coverage=1.0).all()


# ---------------------------------------------------------------------------- annotators
@pytest.mark.parametrize(
    ("reply", "want"),
    [
        ('{"segments": [2], "type": "a slip"}', Annotation((1,), "a slip")),
        ('Sure! {"type": " a \\n slip ", "segments": [3, 1, 3]} ok', Annotation((2, 0), "a slip")),
        ('{"segments": [4], "type": "a slip"}', None),
        ('{"segments": [0], "type": "a slip"}', None),
        ('{"segments": [1, 9], "type": "a slip"}', None),
        ('{"segments": [true], "type": "a slip"}', None),
        ('{"segments": [], "type": "a slip"}', None),
        ('{"segments": [1], "type": " "}', None),
        ('{"segments": [1], "type": 3}', None),
        ('{"segments": [1]}', None),
        ('{"segments": [1], "type": "it is 66"}', None),
        ('{"segments": [1], "type": "a', None),
        ("[1]", None),
        ("{" * 100_000, None),
        ("", None),
    ],
)
def test_replies(reply, want):
    assert read_annotation(reply, 3, forbidden="66") == want


def test_labels_are_short():
    found = read_annotation(f'{{"segments": [1], "type": "{"x" * 500}"}}', 1)
    assert len(found.label) == 80


@pytest.mark.parametrize(("route", "says"), [("right", "decide"), ("wrong", "goes wrong")])
def test_an_annotator_sees_the_problem_its_answer_and_numbered_segments(route, says):
    read = Pieces("38+28", " is </attempt>\n", "56", "$")
    task = annotation_task(row(range(4)), read, [(0, 2), (2, 3)], route)
    (message,) = task.messages
    assert says in message.content
    assert "<attempt>\n[1] 38+28 is ‹/attempt>\n[2] 56\n</attempt>" in message.content
    assert "<problem>\nWhat is 38+28?\n</problem>\n<reference>\n66\n</reference>" in message.content


@pytest.mark.parametrize(
    ("said", "want"),
    [
        ("+*66", Annotation((2, 3), "=")),
        ("+*68", Annotation((3,), "-")),
        ("+*56", Annotation((2,), "+")),
        ("1+*5", Annotation((3,), "+")),
        ("662", Annotation((2,), "-")),
        ("6", None),
        ("+*", None),
        ("", None),
    ],
)
def test_digits_that_are_not_the_answers(said, want):
    ids = TOY.turn(said)
    assert by_digits(row(ids), TOY, segment_ranges(ids, TOY)) == want


def test_digits_are_found_behind_tokens_that_are_nothing():
    ids = [TOY.pad_id, *TOY.encode("+ 68")]
    ranges = segment_ranges(ids, TOY)
    found = by_digits(row(ids), TOY, ranges)
    assert found == Annotation((2,), "-")
    assert TOY.text(ids[slice(*ranges[2])]) == "8"
    many = TOY.encode(100 * "+" + "68")
    joined = segment_ranges(many, TOY)
    assert by_digits(row(many), TOY, joined) == Annotation((50,), "-")
    assert TOY.text(many[slice(*joined[50])]) == "68"


def test_only_whole_numbers_have_digits():
    task = dataclasses.replace(TASK, answer="-3")
    assert by_digits(row(TOY.turn("66"), task=task), TOY, [(0, 1), (1, 2)]) is None


class Scripted:
    """A lab whose model says what it is told to."""

    def __init__(self, tokenizer, replies):
        self.tokenizer, self.replies, self.asked = tokenizer, replies, []

    def sample(self, tasks, **how):
        self.asked.append(([task.uid for task in tasks], how))
        return self.replies[: len(tasks)]

    def answer_text(self, row):
        return row


def test_a_model_is_asked_where_its_prompt_has_room():
    read = Pieces("38+28", " is\n", "56", "$")
    read.render = lambda messages: list(messages[0].content)
    short = row(range(4))
    long = row(range(4), task=dataclasses.replace(TASK, uid="t/2", answer="6" * 2000))
    lab = Scripted(read, ['{"segments": [2], "type": "a slip"}', "no idea"])
    ranges = [segment_ranges(one.answer_ids, read) for one in (long, short, short)]
    how = {"route": "wrong", "params": "policy", "new_tokens": 9}
    found = by_model(lab, [long, short, short], ranges, prompt_tokens=2000, **how)
    assert found == [None, Annotation((1,), "a slip"), None]
    wanted = {"samples": 1, "params": "policy", "role": "annotator", "new_tokens": 9}
    assert lab.asked == [(["annotate/t/1"] * 2, wanted)]
    none = by_model(Scripted(read, []), [long], ranges[:1], prompt_tokens=2000, **how)
    assert none == [None]
