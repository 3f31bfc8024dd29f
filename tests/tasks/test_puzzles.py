"""Letters, maxima, order: right answers, fixed problems, a split that knows no order."""

import re
from collections import Counter

import pytest

from jaxevo.tasks.puzzles import PUZZLES, last_numbers, puzzle
from jaxevo.types import Message, Task

NAMES = sorted(PUZZLES)


def both_sides(source):
    train = [source.train(i) for i in range(len(source.train.items))]
    return train, [source.held_out(i) for i in range(source.held_out_size)]


def asked(task):
    return task.messages[-1].content


def solved(name, question):
    """The answer, read off the question."""
    if name == "letter-count":
        letter, word = re.fullmatch(r'.* letter (.) occur in "(\w+)"\?', question).groups()
        return str(sum(other == letter for other in word))
    numbers = [int(n) for n in re.findall(r"\d+", question)]
    assert len(set(numbers)) == 3
    return str(max(numbers)) if name == "max3" else " ".join(map(str, sorted(numbers)))


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_right_and_pass(name):
    source = puzzle(name)
    train, held_out = both_sides(source)
    verify = next(iter(source.verifiers.values()))
    for task in train + held_out:
        assert task.answer == solved(name, asked(task))
        assert verify(task, f"It is {task.answer}.").status == "pass"
        assert verify(task, "It is 100.").status == "fail"
    assert len({task.uid for task in train + held_out}) == len(train) + len(held_out)


@pytest.mark.parametrize(("name", "turns"), [("letter-count", 3), ("max3", 2), ("sort3", 2)])
def test_worked_turns_are_right_and_never_asked(name, turns):
    train, held_out = both_sides(puzzle(name))
    messages = train[0].messages
    assert [m.role for m in messages] == ["user", "assistant"] * turns + ["user"]
    for question, answer in zip(messages[:-1:2], messages[1::2], strict=True):
        assert answer.content.replace(", ", " ") == solved(name, question.content)
    shown = {m.content for m in messages[:-1]}
    assert not shown & {asked(task) for task in train + held_out}


@pytest.mark.parametrize("name", NAMES)
def test_the_split_is_fixed_and_does_not_know_the_order_of_numbers(name):
    train, held_out = both_sides(puzzle(name, seed=3))
    other_train, other_held_out = both_sides(puzzle(name, seed=4))
    assert held_out == other_held_out
    assert train != other_train or [puzzle(name, seed=3).train(0)] != [other_train[0]]
    assert {t.uid for t in train} == {t.uid for t in other_train}
    same = lambda task: tuple(sorted(re.findall(r"\d+|\w+", task.uid)))  # noqa: E731
    assert not {same(t) for t in train} & {same(t) for t in held_out}
    assert 0.15 < len(held_out) / (len(train) + len(held_out)) < 0.35 or len(held_out) == 256


def test_no_constant_answer_counts_letters_well():
    train, held_out = both_sides(puzzle("letter-count"))
    counts = Counter(task.answer for task in train + held_out)
    assert max(counts.values()) / sum(counts.values()) < 0.36


def test_numbers_are_read_from_the_end():
    task = Task("t", (Message("user", ""),), "2 5 7")
    worked = {"2 5 7": 1, "7, 2 and 5 are 2, 5, 7.": 1, "257": 0, "5 2 7": 0, "2 5": 0, "": 0}
    assert {text: last_numbers(task, text).score for text in worked} == worked
    assert last_numbers(task, "9 1").feedback == (
        "Your answer was 9, 1, but the right answer is 2, 5, 7."
    )


def test_unknown_names_are_named():
    with pytest.raises(ValueError, match=r"no puzzle 'max2'.*Did you mean 'max3'"):
        puzzle("max2")
