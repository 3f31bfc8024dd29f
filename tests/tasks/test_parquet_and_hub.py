"""Parquet files, and data sets of the hub's form: the same checks as for lines of JSON."""

import datetime
import json

import pytest

from jaxevo.tasks import load_task
from jaxevo.tasks.hub import parquet_files
from jaxevo.types import Message

pyarrow = pytest.importorskip("pyarrow", reason="needs the extra `data`: pyarrow")

CHAT = [{"role": "user", "content": "1+1?"}]


def write(path, columns):
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def numbered(count, first=0):
    rows = range(first, first + count)
    return {"prompt": [f"question {i}" for i in rows], "answer": list(rows), "level": [1] * count}


def everything(source):
    train = [source.train(i) for i in range(len(source.train.items))]
    return train, [source.held_out(i) for i in range(source.held_out_size)]


def test_rows_become_the_tasks_that_lines_become(tmp_path):
    columns = numbered(3000)
    path = write(tmp_path / "data.parquet", columns)
    lines = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert everything(load_task(str(path))) == everything(load_task(str(tmp_path / "data.jsonl")))


def test_chats_lists_and_templates(tmp_path):
    path = write(
        tmp_path / "data.parquet",
        {"chat": [CHAT], "options": [["A) 1", "B) 2"]], "target": [2.0], "n": [None]},
    )
    (task,) = everything(load_task(f"{path}?prompt=chat&answer=target&held_out=0"))[0]
    assert task.messages == (Message("user", "1+1?"),)
    assert (task.answer, task.info) == ("2", {"options": ["A) 1", "B) 2"], "n": None})
    query = "prompt_template=Choose:%0A{options}&answer=target&held_out=0&system=Be+brief."
    (task,) = everything(load_task(f"{path}?{query}"))[0]
    assert task.messages[0] == Message("system", "Be brief.")
    assert task.messages[1].content == "Choose:\nA) 1\nB) 2"


@pytest.mark.parametrize(
    ("columns", "fault"),
    [
        ({"prompt": ["a", None], "answer": ["1", "2"]}, "row 2: column 'prompt' needs a text or"),
        ({"prompt": ["a", "b"], "answer": ["1", None]}, "row 2: column 'answer' needs a text or a"),
        ({"prompt": ["a", "b"], "answer": [1.0, float("nan")]}, "row 2: column 'answer' holds nan"),
        ({"prompt": ["a", " "], "answer": [1, 2]}, "row 2: column 'prompt' is empty"),
        ({"prompt": [1, 2], "answer": [1, 2]}, "row 1: column 'prompt' needs a text or a list"),
        ({"prompt": ["a", "b"], "answer": [True, False]}, "row 1: column 'answer' needs a text or"),
        ({"prompt": ["a", "b"], "answer": [b"1", b"2"]}, "row 1: column 'answer' holds a bytes"),
        ({"prompt": ["a"], "answer": [1], "at": [datetime.date(2026, 1, 1)]}, "'at' holds a date"),
        ({"prompt": ["a"], "target": [1]}, "row 1: there is no column 'answer'. Choose from"),
        ({"prompt": [], "answer": []}, "the file has no rows"),
    ],
)
def test_a_bad_row_gets_one_line_and_status_2(tmp_path, refused, columns, fault):
    path = write(tmp_path / "data.parquet", columns)
    assert fault in refused("tasks", path)


def test_bad_files_get_one_line_and_status_2(tmp_path, refused):
    (tmp_path / "text.parquet").write_text("no Parquet")
    fault = ", after row 0: not readable as Parquet"
    assert fault in refused("tasks", tmp_path / "text.parquet")
    path = write(tmp_path / "cut.parquet", numbered(3000))
    path.write_bytes(path.read_bytes()[:2000])
    assert fault in refused("tasks", path)
    assert "cannot be read: no such file" in refused("tasks", tmp_path / "none.parquet")
    (tmp_path / "folder.parquet").mkdir()
    assert "cannot be read: is a directory" in refused("tasks", tmp_path / "folder.parquet")


# ---------------------------------------------------------------------------- sets of the hub
def test_files_are_found_in_both_forms():
    converted = ["main/train/0000.parquet", "main/train/0001.parquet", "socratic/test/0000.parquet"]
    assert parquet_files(converted) == {
        ("main", "train"): converted[:2],
        ("socratic", "test"): converted[2:],
    }
    uploaded = ["data/train-00000-of-00001-ab12.parquet", "test.parquet", "README.md", "x.json"]
    assert parquet_files(uploaded) == {
        ("default", "train"): uploaded[:1],
        ("default", "test"): uploaded[1:2],
    }


@pytest.fixture
def folder(tmp_path):
    for n in range(2):
        write(tmp_path / f"sums/train/000{n}.parquet", numbered(30, 30 * n))
    write(tmp_path / "sums/test/0000.parquet", numbered(10, 60))
    write(tmp_path / "words/train-00000-of-00001.parquet", {"q": ["a", "b"], "a": ["x", "y"]})
    return tmp_path


def test_splits_are_read_whole_and_apart(folder):
    train, held_out = everything(load_task(f"hf:{folder}?config=sums&held_out_split=test"))
    assert sorted(int(t.answer) for t in train) == list(range(60))
    assert sorted(int(t.answer) for t in held_out) == list(range(60, 70))
    assert len({t.uid for t in train + held_out}) == 70
    assert train[0].uid.startswith(f"hf:{folder.name}/sums/")
    shared = load_task(f"hf:{folder}?config=sums&held_out=0.5&limit=5")
    assert len(everything(shared)[0]) == 5
    assert 15 <= shared.held_out_size <= 45  # 30 expected, standard deviation 3.9
    query = "config=words&prompt=q&answer=a&held_out=0"
    assert {t.answer for t in everything(load_task(f"hf:{folder}?{query}"))[0]} == {"x", "y"}


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("", "has several configurations; add config=. Choose from sums, words"),
        ("?config=sum", "has no config 'sum'. Choose from sums, words. Did you mean 'sums'"),
        ("?config=sums&split=tset", "has no split 'tset'. Choose from test, train."),
        ("?config=sums&held_out_split=train", "held_out_split is 'train', which is what is"),
        ("?config=sums&held_out_split=test&held_out=0.1", "exclude each other"),
        ("?config=words", "there is no column 'prompt'. Choose from q, a"),
    ],
)
def test_faults_of_sets_get_one_line_and_status_2(folder, refused, query, fault):
    assert fault in refused("tasks", f"hf:{folder}{query}")


def test_a_problem_of_both_splits_is_refused(folder, refused):
    write(folder / "sums/test/0001.parquet", numbered(1, 7))
    said = refused("tasks", f"hf:{folder}?config=sums&held_out_split=test")
    assert "sums/test/0001.parquet, row 1: this prompt stands in " in said
    assert "sums/train/0000.parquet, row 8 as well" in said


def test_a_set_that_the_hub_does_not_give(monkeypatch, refused):
    hub = pytest.importorskip("huggingface_hub.constants", reason="needs the extra `train`")
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    said = refused("tasks", "hf:nobody/nothing")
    assert "hf:nobody/nothing is no folder here, and the Hugging Face hub did not give it" in said
