import dataclasses
import re

import numpy as np
import pytest

from jaxevo.rewards import last_integer
from jaxevo.tasks.arithmetic import arithmetic, plain_task
from jaxevo.teachers import PLAIN, cut_middle, reprompt
from jaxevo.types import Message, Row, Segment, Task, bind


class Letters:
    """Every character is a token; a chat is its turns in brackets."""

    def __init__(self, chat):
        self.chat = chat

    def encode(self, text):
        return [ord(c) for c in text]

    def decode(self, ids):
        return "".join(map(chr, ids))

    def text(self, ids):
        return self.decode(ids).replace("$", "")  # "$" ends a turn

    def render(self, messages):
        if not self.chat:
            return self.encode("".join(m.content for m in messages))
        return self.encode("".join(f"<{m.role}:{m.content}>" for m in messages))


CHAT, TOY = Letters(True), Letters(False)
TASK = Task(
    "add1/7+8",
    (
        Message("system", "Be brief."),
        Message("user", "1+1?"),
        Message("assistant", "2"),
        Message("user", "7+8?"),
    ),
    "15",
    {"expression": "7+8", "plain": "7+8="},
)


def row(uid, answer, reward=0.0, *, group=0, feedback="", task=TASK):
    segments = (
        Segment(np.array([1, 2]), "prompt"),
        Segment(np.array([ord(c) for c in answer]), "policy"),
    )
    return Row(uid, task, group, segments, rewards={"correct": reward}, feedback=feedback)


WRONG = row(0, "14$", feedback="Your answer was 14, but 7+8 = 15.")
RIGHT = row(1, "<think>7 and 8\nare</think> It is 15.$", 1.0)
SOLUTION = "\n\nA correct solution:\n\nIt is 15."
FEEDBACK = (
    "\n\nFeedback from your unsuccessful earlier attempt:\n\nYour answer was 14, but 7+8 = 15."
)
CLOSING = "\n\nSolve the original question correctly."


def prompt(context, tokenizer=CHAT):
    return None if context is None else tokenizer.decode(context.ids)


def chat_with(sections):
    return f"<system:Be brief.><user:1+1?><assistant:2><user:7+8?{sections}{CLOSING}>"


def test_solution_goes_into_the_last_user_message():
    context = reprompt(WRONG, [WRONG, RIGHT], CHAT)
    assert prompt(context) == chat_with(SOLUTION)
    assert not context.cut


@pytest.mark.parametrize(
    ("options", "sections"),
    [
        ({}, SOLUTION),
        ({"use_feedback": "always"}, SOLUTION + FEEDBACK),
        ({"use_feedback": "never"}, SOLUTION),
        ({"use_solution": False}, FEEDBACK),
        ({"use_solution": False, "use_feedback": "always"}, FEEDBACK),
        ({"use_solution": False, "use_feedback": "never"}, None),
        ({"success": 1.5}, FEEDBACK),
        ({"success": 1.5, "use_feedback": "never"}, None),
    ],
)
def test_which_sections_are_shown(options, sections):
    expected = None if sections is None else chat_with(sections)
    assert prompt(reprompt(WRONG, [WRONG, RIGHT], CHAT, **options)) == expected


@pytest.mark.parametrize(
    ("siblings", "solution"),
    [
        ([], None),
        ([row(0, "own", 1.0)], None),
        ([row(1, "low", 0.4)], None),
        ([row(1, "at the threshold", 0.5)], "at the threshold"),
        ([row(1, "other group", 1.0, group=7)], None),
        ([row(1, "low", 0.0), row(2, "first", 1.0), row(3, "second", 1.0)], "first"),
        ([row(1, "<think>cut off by the limit", 1.0), row(2, "next", 1.0)], "next"),
        ([row(1, "$", 1.0)], None),
        ([row(1, "thought without a start</think> 15", 1.0)], "15"),
        ([row(1, "<think>a</think>1<think>b</think>5", 1.0)], "15"),
        ([row(1, "{question} {0}", 1.0)], "{question} {0}"),
    ],
)
def test_choice_of_the_solution(siblings, solution):
    found = prompt(reprompt(row(0, "14", feedback=""), siblings, CHAT))
    expected = chat_with(f"\n\nA correct solution:\n\n{solution}") if solution else None
    assert found == expected


def test_a_solved_row_has_no_context_without_a_solved_sibling():
    assert reprompt(RIGHT, [RIGHT, WRONG], CHAT) is None
    assert prompt(reprompt(RIGHT, [RIGHT, row(2, "15!", 1.0)], CHAT)) is not None


def test_the_attempt_itself_is_not_in_its_prompt():
    attempt = row(0, "my own attempt", feedback="wrong")
    assert "my own attempt" not in prompt(reprompt(attempt, [attempt, RIGHT], CHAT))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "[15]7+8="),
        ({"use_feedback": "always"}, "[15](14 7 8 15)7+8="),
        ({"use_solution": False}, "(14 7 8 15)7+8="),
    ],
)
def test_plain_wording(options, expected):
    task = plain_task(TASK)
    own = row(0, "14$", feedback=last_integer(task, "14").feedback, task=task)
    right = row(1, "15$", 1.0, task=task)
    assert prompt(reprompt(own, [right], TOY, **options), TOY) == expected


def test_plain_prompts_hold_plain_letters_only():
    task = plain_task(arithmetic("mul1").train(0))
    own = row(0, "x", feedback="Read -7.5 and 12 — “−3”, but …", task=task)
    right = row(1, "so it's 1٥5 – yes", 1.0, task=task)
    text = prompt(reprompt(own, [right], TOY, use_feedback="always"), TOY)
    assert text == f"[15](12 -3){task.info['plain']}"
    assert set(text) <= set(PLAIN.letters)
    assert reprompt(row(0, "x", feedback="No number.", task=task), [], TOY) is None
    assert reprompt(own, [row(1, "yes", 1.0, task=task)], TOY, use_feedback="never") is None


@pytest.mark.parametrize(
    ("keep", "expected"),
    [(10, "0123456789"), (5, "012…89"), (4, "01…89"), (1, "0…"), (0, "…"), (99, "0123456789")],
)
def test_cut_middle(keep, expected):
    assert cut_middle("0123456789", keep) == expected


@pytest.mark.parametrize("options", [{}, {"use_feedback": "always"}, {"use_solution": False}])
def test_the_limit_cuts_only_privileged_text(options):
    solution, feedback = "S" * 300 + "solved", "F" * 100 + "failed"
    own, right = row(0, "14", feedback=feedback), row(1, solution, 1.0)
    full = reprompt(own, [right], CHAT, **options)
    smallest = 0
    for limit in range(len(full.ids) + 2):
        context = reprompt(own, [right], CHAT, max_prompt_tokens=limit, **options)
        if context is None:
            assert not smallest
            continue
        smallest = smallest or limit
        assert len(context.ids) <= limit
        assert context.cut == (limit < len(full.ids))
        text = prompt(context)
        assert text.startswith("<system:Be brief.><user:1+1?><assistant:2><user:7+8?\n\n")
        assert text.endswith(f"{CLOSING}>")
        assert ("…" in text) == context.cut
        if context.cut and not options:
            kept = re.search(r"solution:\n\n(.*)…(.*)\n\nSolve", text)
            assert solution.startswith(kept[1])
            assert solution.endswith(kept[2])
            assert len(context.ids) == limit  # characters are tokens here: nothing is wasted
    assert 0 < smallest < len(full.ids) - 50


def test_the_shorter_text_is_cut_last():
    own, right = row(0, "14", feedback="F" * 10), row(1, "S" * 300, 1.0)
    context = reprompt(own, [right], CHAT, use_feedback="always", max_prompt_tokens=300)
    assert "F" * 10 in prompt(context)


def test_plain_cut_has_a_plain_mark():
    task = plain_task(TASK)
    right = row(1, "123456789", 1.0, task=task)
    context = reprompt(row(0, "14", task=task), [right], TOY, max_prompt_tokens=11)
    assert prompt(context, TOY) == "[12?89]7+8="
    assert context.cut


def test_faults_and_binding():
    with pytest.raises(ValueError, match="choose without_solution, always or never"):
        reprompt(WRONG, [], CHAT, use_feedback="sometimes")
    silent = Task("t/1", (Message("system", "hi"),), "15")
    with pytest.raises(ValueError, match="task t/1 has no user message"):
        reprompt(row(0, "14", feedback="no", task=silent), [], CHAT)
    bound = bind(reprompt, success=0.9, max_prompt_tokens=400)
    assert bound == bind(reprompt, max_prompt_tokens=400, success=0.9)
    assert prompt(bound(WRONG, [RIGHT], CHAT)) == chat_with(SOLUTION)


@pytest.mark.parametrize(
    ("rewards", "taught"),
    [
        ([0, 1, 0, 0, 1, 0, 0, 0], [1, 0, 1, 1, 0, 1, 1, 1]),
        ([0, 1, 0, 0], [1, 0, 1, 1]),
        ([0, 0, 0], [0, 0, 0]),
        ([1, 1], [0, 0]),
    ],
)
def test_failed_only_routes_failures_that_have_a_solved_sibling(rewards, taught):
    rows = [row(n, "15$", r) for n, r in enumerate(rewards)]
    found = [reprompt(r, rows, CHAT, use_feedback="never", failed_only=True) for r in rows]
    assert [c is not None for c in found] == [bool(z) for z in taught]


def test_success_is_accuracy_and_no_bonus():
    polite = dataclasses.replace(RIGHT, rewards={"correct": 0.0, "format": 1.0})
    assert reprompt(WRONG, [WRONG, polite], CHAT, use_feedback="never") is None
    late = dataclasses.replace(RIGHT, rewards={"correct": 1.0, "overlong": -0.9})
    assert reprompt(WRONG, [WRONG, late], CHAT, use_feedback="never") is not None
    assert reprompt(late, [late, RIGHT], CHAT, failed_only=True) is None
