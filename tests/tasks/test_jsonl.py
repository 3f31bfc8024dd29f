import gzip
import json

import pytest

from jaxevo.rewards import last_integer
from jaxevo.tasks import Columns, file_source
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
    train, held = everything(file_source(write(tmp_path, many(300), name)))
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
    source = file_source(
        write(tmp_path, lines),
        Columns("question", "target", "Be brief."),
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
    source = file_source(write(tmp_path, many(3)))
    task = source.train(0)
    assert list(source.verifiers) == ["exact_match"]
    assert source.verifiers["exact_match"](task, f"  {task.answer}\n").score == 1.0


def test_split_depends_on_prompts_alone(tmp_path):
    lines = many(100)
    twins = [{**line, "level": 99} for line in lines]  # the same prompts once more
    first = everything(file_source(write(tmp_path, lines), seed=1))
    second = everything(file_source(write(tmp_path, twins + lines[::-1]), seed=2))
    for one, two in zip(first, second, strict=True):
        assert {t.answer for t in one} == {t.answer for t in two}
        assert len(two) == 2 * len(one)


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_both_sides_get_something(tmp_path, share):
    train, held = everything(file_source(write(tmp_path, many(4)), held_out=share))
    assert len(train) >= 1
    assert len(held) >= 1
    assert len(train) + len(held) == 4


def test_seed_orders_the_training_problems(tmp_path):
    path = write(tmp_path, many(30))
    one, two = (everything(file_source(path, seed=s))[0] for s in (0, 1))
    assert one != two
    assert sorted(t.uid for t in one) == sorted(t.uid for t in two)


def test_line_ends_and_odd_separators_do_not_split_lines(tmp_path):
    odd = json.dumps({"prompt": "a\u2028b\x85c", "answer": "x"}, ensure_ascii=False)
    path = write(tmp_path, [odd + "\r", GOOD])
    path.write_bytes(path.read_bytes()[:-1])  # no newline at the end of the file
    tasks = everything(file_source(path, held_out=0.0))[0]
    assert {t.messages[0].content for t in tasks} == {"a\u2028b\x85c", "What is 1+1?"}


def test_bad_files(tmp_path):
    with pytest.raises(ValueError, match=r"none.jsonl: cannot be read: No such file"):
        file_source(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match=r"a file of problems ends in \.jsonl"):
        file_source(tmp_path)
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        file_source(tmp_path / "folder.jsonl")
    with pytest.raises(ValueError, match="the file is empty"):
        file_source(write(tmp_path, []))
    with pytest.raises(ValueError, match="all 2 lines have the same"):
        file_source(write(tmp_path, [GOOD, GOOD]))
    with pytest.raises(ValueError, match=r"held_out=1.0 is not a share"):
        file_source(write(tmp_path, many(4)), held_out=1.0)


def test_broken_gzip(tmp_path):
    path = write(tmp_path, many(2000), "data.jsonl.gz")
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], b"plain text", whole[:-8] + b"\0" * 8):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"after line \d+: the gzip stream is broken"):
            file_source(path)
