"""Questions that are built: how they are asked for and read; those of two hops."""

import pytest

from jaxevo.envs.graph import after, starts
from jaxevo.rewards.overlap import short_answer
from jaxevo.tasks import load_task, plain
from jaxevo.tasks.walks import build_task, built_task, holds, read_record
from jaxevo.types import Task

RECORD = "<question>Who plays it?</question>\n<answer>Ada</answer>"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("12**=83", ("12**=", "83")),
        ("?12**=83 ", ("12**=", "83")),
        ("5=4 12*=49", ("12*=", "49")),  # the last one
        ("12**=83=44", ("12**=", "83")),
        ("12**=", None),
        ("=83", None),
        ("**=83", None),
        ("", None),
        ("[12**=83]", None),  # a call
        ("12**=83[4]", None),
        ("[12]12**=83", ("12**=", "83")),
    ],
)
def test_a_record_in_characters(text, found):
    assert read_record(text, chat=False) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (RECORD, ("Who plays it?", "Ada")),
        (f"So:\n{RECORD} Done.", ("Who plays it?", "Ada")),
        (RECORD.replace("Ada", " Ada \n Byron "), ("Who plays it?", "Ada Byron")),
        (f"<question>a</question>{RECORD}", ("Who plays it?", "Ada")),
        (f"<question>{RECORD}", ("Who plays it?", "Ada")),
        (f"{RECORD}<question>b</question><answer>c</answer>", ("b", "c")),
        (f"<search>{RECORD}</search>", None),
        (f"{RECORD}<search>x</search>", None),
        (RECORD.replace("</question>", "</question> or"), None),
        (RECORD.replace("Ada", " "), None),
        (RECORD.replace("Who plays it?", ""), None),
        (RECORD.replace("Ada", "<search>Ada"), None),
        (RECORD.replace("Who", "<ANSWER >Who"), None),
        ("<answer>Ada</answer><question>Who?</question>", None),
        ("<question>" * 2000, None),
        ("", None),
    ],
)
def test_a_record_in_a_chat(text, found):
    assert read_record(text, chat=True) == found


@pytest.mark.parametrize(
    ("text", "answer", "held"),
    [
        ("(49)", "49", True),
        ("(149)", "49", False),
        ("Born in  NEW\nYork.", "new york", True),
        ("Newer York", "New York", False),
        ("a.c", "abc", False),
        ("x", "", False),
    ],
)
def test_an_answer_is_held_as_words(text, answer, held):
    assert holds(text, answer) is held


def test_the_path_is_in_no_prompt():
    for chat in (True, False):
        task = built_task("12**=", "17", ["[12](49)", "[49](17)"], chat=chat)
        assert task.info["path"] == ["[12](49)", "[49](17)"]
        assert not any("49" in m.content or "17" in m.content for m in task.messages)
        assert "path" not in built_task("12**=", "17", chat=chat).info
    assert build_task("12", chat=False).messages[0].content == "12?"
    assert "Start with this entry:\n\nCello" in build_task("Cello", chat=True).messages[0].content


@pytest.mark.parametrize(
    ("text", "answer", "score"),
    [
        ("[12][49]17", "17", 1.0),
        ("[12][49]17 ", "17", 1.0),
        ("[17]", "17", 0.0),
        ("117", "17", 0.0),
        ("<search>it</search> It is <answer>The  Beatles!</answer> or so", "beatles", 1.0),
        ("<answer>a</answer> no, <answer>Ada Byron</answer>", "Ada Byron", 1.0),
        ("<answer>Byron Ada</answer>", "Ada Byron", 0.0),
        ("<answer>Ada Byron", "Ada Byron", 0.0),
        ("<search>Ada</search>Ada Byron", "Ada Byron", 1.0),
        ("<answer>Ada</answer>", "Ada Byron", 0.0),
        ("", "17", 0.0),
    ],
)
def test_the_final_answer_is_compared_word_by_word(text, answer, score):
    verdict = short_answer(Task("t", (), answer), text)
    assert (verdict.score, verdict.status) == (score, "pass" if score else "fail")


def test_an_answer_without_words_is_an_error():
    assert short_answer(Task("t", (), "the ..."), "x").status == "error"


def test_two_hops_are_asked_from_numbers_that_stay_on_their_side():
    source = load_task("hops", seed=3)
    train, held_out = starts()
    asked = [source.train(n) for n in range(len(train))]
    kept = [source.held_out(n) for n in range(source.held_out_size)]
    for tasks, side in ((asked, train), (kept, held_out)):
        assert {task.uid for task in tasks} == {f"hops/{start}" for start in side}
        for task in tasks:
            start = task.uid.removeprefix("hops/")
            assert task.answer == after(start, 2)
            assert task.info["plain"] == f"{start}**="
            assert f"2 steps after {start}?" in task.messages[0].content
            verdict = source.verifiers["short_answer"](task, f"[{start}]{task.answer}")
            assert verdict.status == "pass"
    assert plain(source).train(0).messages[0].content == asked[0].info["plain"]
    assert [t.uid for t in asked] != [load_task("hops", seed=4).train(n).uid for n in range(68)]
