import gzip
import json
import re

import pytest

from jaxevo.rewards import last_integer
from jaxevo.tasks import jsonl_source
from jaxevo.types import Message

GOOD = {"prompt": "What is 1+1?", "answer": "2"}


def write(tmp_path, lines, name="data.jsonl"):
    path = tmp_path / name
    lines = [x if isinstance(x, (str, bytes)) else json.dumps(x) for x in lines]
    raw = b"".join((x.encode() if isinstance(x, str) else x) + b"\n" for x in lines)
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


def everything(source):
    train = [source.train(i) for i in range(len(source.train.items))]
    return train, [source.held_out(i) for i in range(source.held_out_size)]


def many(count):
    return [{"prompt": f"question {i}", "answer": str(i), "level": i % 3} for i in range(count)]


@pytest.mark.parametrize("name", ["data.jsonl", "data.jsonl.gz"])
def test_every_line_becomes_one_task(tmp_path, name):
    train, held = everything(jsonl_source(write(tmp_path, many(300), name)))
    tasks = sorted(train + held, key=lambda t: int(t.answer))
    assert [t.uid for t in tasks] == [f"data/{i}" for i in range(1, 301)]
    assert [t.messages[0].content for t in tasks] == [f"question {i}" for i in range(300)]
    assert [t.info for t in tasks] == [{"level": i % 3} for i in range(300)]
    assert 15 <= len(held) <= 45  # 30 expected, standard deviation 5.2


def test_columns_system_turn_chat_and_numbers(tmp_path):
    chat = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "2*3?"},
    ]
    lines = [
        {"question": chat, "target": 6, "id": "a"},
        {"question": "1/2?", "target": 0.5},
        {"question": "51?", "target": 51.0},
    ]
    source = jsonl_source(
        write(tmp_path, lines),
        prompt="question",
        answer="target",
        system="Be brief.",
        held_out=0.0,
        verifiers={"last_integer": last_integer},
    )
    tasks = sorted(everything(source)[0], key=lambda t: t.uid)
    assert [t.answer for t in tasks] == ["6", "0.5", "51"]
    turns = [("user", "hi"), ("assistant", "hello"), ("user", "2*3?")]
    expected = [("system", "Be brief."), *turns]
    assert tasks[0].messages == tuple(Message(*turn) for turn in expected)
    assert tasks[0].info == {"id": "a"}
    assert tasks[1].messages == (Message("system", "Be brief."), Message("user", "1/2?"))
    assert source.held_out_size == 0
    assert source.verifiers["last_integer"](tasks[0], "so 6").status == "pass"


def test_default_verifier_is_exact_match(tmp_path):
    source = jsonl_source(write(tmp_path, many(3)))
    task = source.train(0)
    assert list(source.verifiers) == ["exact_match"]
    assert source.verifiers["exact_match"](task, f"  {task.answer}\n").score == 1.0


def test_split_depends_on_prompts_alone(tmp_path):
    lines = many(100)
    twins = [{**line, "level": 99} for line in lines]  # the same prompts once more
    first = everything(jsonl_source(write(tmp_path, lines), seed=1))
    second = everything(jsonl_source(write(tmp_path, twins + lines[::-1]), seed=2))
    for one, two in zip(first, second, strict=True):
        assert {t.answer for t in one} == {t.answer for t in two}
        assert len(two) == 2 * len(one)


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_both_sides_get_something(tmp_path, share):
    train, held = everything(jsonl_source(write(tmp_path, many(4)), held_out=share))
    assert len(train) >= 1
    assert len(held) >= 1
    assert len(train) + len(held) == 4


def test_seed_orders_the_training_problems(tmp_path):
    path = write(tmp_path, many(30))
    one, two = (everything(jsonl_source(path, seed=s))[0] for s in (0, 1))
    assert one != two
    assert sorted(t.uid for t in one) == sorted(t.uid for t in two)


def test_line_ends_and_odd_separators_do_not_split_lines(tmp_path):
    odd = json.dumps({"prompt": "a\u2028b\x85c", "answer": "x"}, ensure_ascii=False)
    path = write(tmp_path, [odd + "\r", GOOD])
    path.write_bytes(path.read_bytes()[:-1])  # no newline at the end of the file
    tasks = everything(jsonl_source(path, held_out=0.0))[0]
    assert {t.messages[0].content for t in tasks} == {"a\u2028b\x85c", "What is 1+1?"}


TURN = {"role": "user", "content": "hi"}
BAD_LINES = {
    "blank": ("", "the line is blank"),
    "spaces": ("   ", "the line is blank"),
    "not json": ("{'prompt': 1}", "not JSON: Expecting property name"),
    "cut json": ('{"prompt": "a", "answ', "not JSON: Unterminated string"),
    "two objects": ('{"prompt": "a"} {"answer": "b"}', "not JSON: Extra data at column 17"),
    "list": ([1, 2], "needs a JSON object with columns, got a list"),
    "number": ("3", "needs a JSON object with columns, got a number"),
    "empty object": ({}, "the object has no columns"),
    "no prompt": (
        {"promt": "a", "answer": "b"},
        "no column 'prompt'. Choose from promt, answer. Did you mean 'promt'?",
    ),
    "no answer": ({"prompt": "a", "target": "b"}, "there is no column 'answer'"),
    "null prompt": ({**GOOD, "prompt": None}, "needs a text or a list of turns, got null"),
    "number prompt": ({**GOOD, "prompt": 5}, "needs a text or a list of turns, got a number"),
    "empty prompt": ({**GOOD, "prompt": " \n"}, "column 'prompt' is empty"),
    "no turns": ({**GOOD, "prompt": []}, "is a chat without turns"),
    "text turn": ({**GOOD, "prompt": ["hi"]}, "turn 1 of 'prompt' needs an object with role"),
    "no role": ({**GOOD, "prompt": [{"content": "hi"}]}, "turn 1 of 'prompt' has no 'role'"),
    "no content": ({**GOOD, "prompt": [TURN, {"role": "user"}]}, "turn 2 of 'prompt' has no 'con"),
    "odd role": ({**GOOD, "prompt": [{**TURN, "role": "human"}]}, "has the role 'human'. Choose"),
    "list role": ({**GOOD, "prompt": [{**TURN, "role": []}]}, "has the role []"),
    "odd content": ({**GOOD, "prompt": [{**TURN, "content": None}]}, "needs a text, got null"),
    "empty content": ({**GOOD, "prompt": [{**TURN, "content": ""}]}, "turn 1 of 'prompt' is empty"),
    "last turn": (
        {**GOOD, "prompt": [TURN, {"role": "assistant", "content": "yes"}]},
        "ends with a turn of 'assistant'",
    ),
    "null answer": ({**GOOD, "answer": None}, "needs a text or a finite number, got null"),
    "true answer": ({**GOOD, "answer": True}, "needs a text or a finite number, got true"),
    "list answer": ({**GOOD, "answer": ["2"]}, "needs a text or a finite number, got a list"),
    "empty answer": ({**GOOD, "answer": ""}, "column 'answer' is empty"),
    "nan": ('{"prompt": "a", "answer": NaN}', "NaN is not a JSON number"),
    "infinite": ('{"prompt": "a", "answer": 1e999}', "needs a text or a finite number"),
    "twin names": ('{"prompt": "a", "answer": "1", "answer": "2"}', "'answer' stands twice"),
    "huge number": ('{"prompt": "a", "answer": ' + "9" * 5000 + "}", "not usable JSON: Exceeds"),
    "deep": ("[" * 100_000, "not usable JSON: "),
    "not utf-8": (b'{"prompt": "caf\xe9", "answer": "b"}', "byte 16 is not UTF-8"),
    "byte order mark": (b'\xef\xbb\xbf{"prompt": "a"}', "not JSON: Unexpected UTF-8 BOM"),
    "half a pair": ('{"prompt": "a\\ud800", "answer": "b"}', "half a surrogate pair at 1"),
}


@pytest.mark.parametrize("name", BAD_LINES)
@pytest.mark.parametrize("file", ["bad.jsonl", "bad.jsonl.gz"])
def test_a_bad_line_is_named(tmp_path, name, file):
    line, fault = BAD_LINES[name]
    path = write(tmp_path, [GOOD, line, GOOD], file)
    with pytest.raises(ValueError, match=re.escape(fault)) as error:
        jsonl_source(path)
    message = str(error.value)
    assert message.startswith(f"{path}, line 2: ")
    assert "\n" not in message
    assert len(message) < len(str(path)) + 330


def test_system_turn_twice(tmp_path):
    chat = [{"role": "system", "content": "s"}, TURN]
    path = write(tmp_path, [{**GOOD, "prompt": chat}])
    with pytest.raises(ValueError, match="line 1: column 'prompt' has a system turn already"):
        jsonl_source(path, system="another")


def test_bad_files(tmp_path):
    with pytest.raises(ValueError, match=r"none.jsonl: cannot be read: No such file"):
        jsonl_source(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        jsonl_source(tmp_path)
    with pytest.raises(ValueError, match="the file is empty"):
        jsonl_source(write(tmp_path, []))
    with pytest.raises(ValueError, match="all 2 lines have the same"):
        jsonl_source(write(tmp_path, [GOOD, GOOD]))
    with pytest.raises(ValueError, match=r"held_out=1.0 is not a share"):
        jsonl_source(write(tmp_path, many(4)), held_out=1.0)


def test_broken_gzip(tmp_path):
    path = write(tmp_path, many(2000), "data.jsonl.gz")
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], b"plain text", whole[:-8] + b"\0" * 8):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"after line \d+: the gzip stream is broken"):
            jsonl_source(path)
