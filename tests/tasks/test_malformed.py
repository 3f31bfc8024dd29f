"""Malformed files and options: each ends in one clear line on stderr and exit status 2."""

import gzip
import json
import re

import pytest

GOOD = {"prompt": "What is 1+1?", "answer": "2", "level": 3}
TURN = {"role": "user", "content": "hi"}


def jsonl(*lines):
    """The bytes of a file with a good line before and after each of these."""
    lines = [x if isinstance(x, str | bytes) else json.dumps(x) for x in (GOOD, *lines, GOOD)]
    return b"".join((x.encode() if isinstance(x, str) else x) + b"\n" for x in lines)


# ---------------------------------------------------------------------------- lines
LINES = {
    "blank": ("", "the line is blank; remove it"),
    "spaces": (" \t ", "the line is blank; remove it"),
    "not json": ("{'prompt': 1}", "not JSON: Expecting property name"),
    "cut off": ('{"prompt": "a", "answ', "not JSON: Unterminated string starting at column 17"),
    "two objects": ('{"prompt": "a"} {"answer": "b"}', "not JSON: Extra data at column 17"),
    "a list": ([1, 2], "needs a JSON object with columns, got a list"),
    "a text": ('"prompt"', "needs a JSON object with columns, got a text"),
    "null": ("null", "needs a JSON object with columns, got null"),
    "no columns": ({}, "the object has no columns"),
    "no prompt": ({"promt": "a", "answer": 1}, "no column 'prompt'. Choose from promt, answer. D"),
    "no answer": ({"prompt": "a", "target": "b"}, "no column 'answer'. Choose from prompt, target"),
    "twin names": ('{"prompt": "a", "answer": "1", "answer": "2"}', "'answer' stands twice in one"),
    "nan": ('{"prompt": "a", "answer": NaN}', "NaN is not a JSON number"),
    "minus infinity": ('{"prompt": "a", "answer": -Infinity}', "-Infinity is not a JSON number"),
    "beyond floats": ('{"prompt": "a", "answer": 1e999}', "needs a text or a finite number, got i"),
    "many digits": ('{"prompt": "a", "answer": ' + "9" * 5000 + "}", "not usable JSON: Exceeds"),
    "nested": ("[" * 100_000, "not usable JSON: "),
    "null prompt": ({**GOOD, "prompt": None}, "'prompt' needs a text or a list of turns, got null"),
    "number prompt": ({**GOOD, "prompt": 5}, "'prompt' needs a text or a list of turns, got a num"),
    "empty prompt": ({**GOOD, "prompt": ""}, "column 'prompt' is empty"),
    "true answer": ({**GOOD, "answer": True}, "'answer' needs a text or a finite number, got true"),
    "list answer": ({**GOOD, "answer": ["2"]}, "'answer' needs a text or a finite number, got a l"),
    "object answer": ({**GOOD, "answer": {}}, "'answer' needs a text or a finite number, got an o"),
    "empty answer": ({**GOOD, "answer": " "}, "column 'answer' is empty"),
    "no turns": ({**GOOD, "prompt": []}, "column 'prompt' is a chat without turns"),
    "a text as turn": ({**GOOD, "prompt": ["hi"]}, "turn 1 of 'prompt' needs an object with role"),
    "no role": ({**GOOD, "prompt": [{"content": "hi"}]}, "turn 1 of 'prompt' has no 'role'"),
    "no content": ({**GOOD, "prompt": [TURN, {"role": "user"}]}, "turn 2 of 'prompt' has no 'cont"),
    "odd role": ({**GOOD, "prompt": [{**TURN, "role": "human"}]}, "has the role 'human'. Choose "),
    "odd content": ({**GOOD, "prompt": [{**TURN, "content": 7}]}, "needs a text, got a number"),
    "last turn": (
        {**GOOD, "prompt": [TURN, {"role": "assistant", "content": "yes"}]},
        "the chat in 'prompt' ends with a turn of 'assistant'",
    ),
    "not utf-8": (b'{"prompt": "caf\xe9", "answer": "b"}', "byte 16 is not UTF-8; save the file"),
    "byte order mark": (b'\xef\xbb\xbf{"prompt": "a"}', "not JSON: Unexpected UTF-8 BOM"),
    "half a pair": ('{"prompt": "a\\ud800", "answer": "b"}', "half a surrogate pair at 1"),
    "half an answer": ('{"prompt": "a", "answer": "\\udfff"}', "half a surrogate pair at 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("file", ["bad.jsonl", "bad.jsonl.gz"])
def test_a_line(tmp_path, refused, name, file):
    line, fault = LINES[name]
    raw = jsonl(line)
    (tmp_path / file).write_bytes(gzip.compress(raw) if file.endswith(".gz") else raw)
    said = refused("tasks", str(tmp_path / file))
    assert said.startswith(f"jaxevo: {tmp_path / file}, line 2: ")
    assert fault in said
    assert len(said) < len(str(tmp_path)) + 340


# ---------------------------------------------------------------------------- files
FILES = {
    "empty.jsonl": (b"", "the file is empty; it needs one JSON object a line"),
    "same.jsonl": (jsonl(), "needs two different prompts, but all 2 lines have the same"),
    "cut.jsonl.gz": (gzip.compress(jsonl())[:-9], "the gzip stream is broken (Compressed file end"),
    "plain.jsonl.gz": (jsonl(), "after line 0: the gzip stream is broken (Not a gzipped file"),
    "sum.jsonl.gz": (gzip.compress(jsonl())[:-8] + b"\0" * 8, "the gzip stream is broken (CRC"),
    "one.json": (b"[]", "a .json file is not read. Write it as .jsonl, one JSON object a line"),
    "table.csv": (b"prompt,answer\n", "a .csv file is not read"),
    "notes": (b"", "no task '"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file(tmp_path, refused, name):
    raw, fault = FILES[name]
    (tmp_path / name).write_bytes(raw)
    said = refused("tasks", str(tmp_path / name))
    assert name in said
    assert fault in said


def test_a_file_that_cannot_be_read(tmp_path, refused):
    (tmp_path / "folder.jsonl").mkdir()
    assert "cannot be read: Is a directory" in refused("tasks", str(tmp_path / "folder.jsonl"))
    assert "cannot be read: No such file" in refused("tasks", str(tmp_path / "none.jsonl"))
    assert "no task '" in refused("tasks", str(tmp_path))


# ---------------------------------------------------------------------------- options of files
OPTIONS = {
    "promt=prompt": "no option 'promt'. Choose from prompt, answer, system, prompt_template, limit",
    "prompt": "options after ? are written name=value and joined by &",
    "prompt=": "option 'prompt' is empty",
    "prompt=prompt&prompt=prompt": "option 'prompt' is given twice",
    "prompt=question": "line 1: there is no column 'question'. Choose from prompt, answer, level",
    "answer=level&prompt=level": "line 1: column 'level' needs a text or a list of turns, got a nu",
    "held_out=half": "held_out='half' is not a number in [0, 1)",
    "held_out=nan": "held_out='nan' is not a number in [0, 1)",
    "held_out=1": "held_out=1.0 is not a number in [0, 1)",
    "held_out=-0.1": "held_out=-0.1 is not a number in [0, 1)",
    "limit=0": "limit='0' is not a whole number of at least 1",
    "limit=-3": "limit='-3' is not a whole number of at least 1",
    "limit=2.5": "limit='2.5' is not a whole number of at least 1",
    "limit=many": "limit='many' is not a whole number of at least 1",
    "verifier=exact": "no verifier 'exact'. Choose from ",
    "verifier=": "option 'verifier' is empty",
    "weight.nobody=1": "no verifier 'nobody'. Choose from ",
    "weight.=1": "no verifier ''. Choose from ",
    "weight.last_integer=much": "weight.last_integer='much' is not a number other than 0",
    "weight.last_integer=0": "weight.last_integer=0 changes nothing; leave it out",
    "weight.last_integer=inf": "weight.last_integer='inf' is not a number other than 0",
    "weight.exact_match=1": "exact_match gives the reward already; weight.exact_match cannot be",
    "prompt_template={prompt": "prompt template '{prompt': expected '}' before end of string",
    "prompt_template=}": "Write {{ and }} for braces",
    "prompt_template=Say+it.": "has no {column}, so that all prompts would be equal",
    "prompt_template={prompt!r}": "a field is {column} and nothing else",
    "prompt_template={level:3}": "a field is {column} and nothing else",
    "prompt_template={prompt.real}": "line 1: there is no column 'prompt.real'",
    "prompt_template={question}": "line 1: there is no column 'question'. Choose from prompt, ans",
    "prompt_template={prompt}&prompt=prompt": "prompt and prompt_template exclude each other",
    "held_out_file=none.jsonl": "none.jsonl: cannot be read: No such file",
    "held_out_file=none.txt": "none.txt: a file of problems ends in .jsonl, .jsonl.gz, .parquet",
    "held_out_file=x.jsonl&held_out=0.1": "held_out and held_out_file exclude each other",
}


@pytest.mark.parametrize("query", OPTIONS)
def test_an_option(tmp_path, refused, query):
    path = tmp_path / "data.jsonl"
    path.write_bytes(jsonl({**GOOD, "prompt": "What is 2+0?"}))
    said = refused("tasks", f"{path}?{query}")
    assert OPTIONS[query] in said
    assert "data.jsonl" in said or "none." in said


def test_held_out_problems_that_are_trained_on(tmp_path, refused):
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_bytes(jsonl())
    said = refused("tasks", f"{tmp_path}/a.jsonl?held_out_file={tmp_path}/b.jsonl")
    assert f"{tmp_path}/b.jsonl, line 1: this prompt stands in {tmp_path}/a.jsonl, line 2" in said
    chat = [{"role": "system", "content": "s"}, TURN]
    (tmp_path / "c.jsonl").write_bytes(jsonl({**GOOD, "prompt": chat}))
    said = refused("tasks", f"{tmp_path}/c.jsonl?system=Be+brief.")
    assert "c.jsonl, line 2: column 'prompt' has a system turn already, so system= cannot" in said


# ---------------------------------------------------------------------------- names
NAMES = {
    "add7": "no task 'add7'. Choose from add1, ",
    "bbh-navigat": "Did you mean 'bbh-navigate'?",
    "bbh-juggling": "no task 'bbh-juggling'. Choose from ",
    "ntrex-xx": "no task 'ntrex-xx'. Choose from ",
    "add1?shots=2": "task 'add1?shots=2': no option 'shots'. Choose from verifier, weight.NAME",
    "xquad?limit=none": "limit='none' is not a whole number of at least 1",
    "xquad?prompt=question": "no option 'prompt'. Choose from system, limit, verifier, weight.NAME",
    "bbh?limit=0": "limit='0' is not a whole number of at least 1",
    "mix:": "part 1 is empty. A mixture is written mix:3*add1,sub1",
    "mix:add1": "a mixture needs at least two parts, got 1",
    "mix:add1,": "part 2 is empty",
    "mix:add1,,sub1": "part 2 is empty",
    "mix:add1,sub7": "part 2 of 'mix:add1,sub7': no task 'sub7'. Choose from ",
    "mix:add1,add1": "two parts of the mixture are called 'add1'; name each once, with a weight",
    "mix:0*add1,sub1": "the weight '0' of part 1 is not a whole number from 1 to 9999",
    "mix:-1*add1,sub1": "the weight '-1' of part 1 is not a whole number from 1 to 9999",
    "mix:add1,1.5*sub1": "the weight '1.5' of part 2 is not a whole number from 1 to 9999",
    "mix:x*add1,sub1": "the weight 'x' of part 1 is not a whole number from 1 to 9999",
    "mix:*add1,sub1": "the weight '' of part 1 is not a whole number from 1 to 9999",
    "mix:2*,sub1": "part 1 is empty",
    "mix:9999*add1,9998*sub1": "weights of a mixture sum to 19997, above 10000",
    "mix:mix:add1,sub1": "part 1 is a mixture itself; name its parts",
    "mix:add1,sub1?limit=3": "part 2 of 'mix:add1,sub1?limit=3': task 'sub1?limit=3': no option",
    "mix:add1?verifier=exact_match,sub1?weight.strict_integer=1": "part 'sub1' weighs {'strict_int",
    "hf:nothing": "hf:nothing is neither a folder here nor an id of the hub such as hf:org",
    "hf:": "hf: is neither a folder here nor an id of the hub",
    "hf:a/b?splits=train": "no option 'splits'. Choose from ",
    "hf:a/b?held_out_split=train": "held_out_split is 'train', which is what is trained on",
    "hf:a/b?held_out=0.1&held_out_split=test": "held_out and held_out_split exclude each other",
    "tfds:sums?config=a": "no option 'config'. Choose from ",
    "rg:chain_sum?size=few": "size='few' is not a whole number of at least 1",
    "rg:chain_sum?held_out=-1": "held_out='-1' is not a whole number of at least 0",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name(refused, name):
    assert NAMES[name] in refused("tasks", name)


def test_a_folder_without_parquet_files(tmp_path, refused):
    said = refused("tasks", f"hf:{tmp_path}")
    assert f"hf:{tmp_path} has no Parquet files that are named after a split" in said


# An interpreter that finds none of these packages, as if no extra were installed.
EXTRAS = {
    "data.parquet": (r"data\.parquet needs pyarrow: pip install 'jaxevo\[data\]'", "pyarrow"),
    "rg:chain_sum": (
        r"rg:chain_sum needs reasoning_gym: pip install 'j.*\[gym\]'",
        "reasoning_gym",
    ),
    "tfds:mnist": (r"tfds:mnist needs tensorflow_datasets: .*\[tfds\]'", "tensorflow_datasets"),
    "hf:a/b": (r"hf:a/b needs huggingface_hub: pip .*\[train\]'", "huggingface_hub"),
}


@pytest.mark.parametrize("name", EXTRAS)
def test_a_missing_extra(refused, monkeypatch, name):
    fault, package = EXTRAS[name]
    monkeypatch.setitem(__import__("sys").modules, package, None)
    assert re.search(fault, refused("tasks", name))


# ---------------------------------------------------------------------------- runs
RUNS = {
    "--task add1 --curriculum 0.1": "task 'add1' has none. Give a mixture such as mix:add1,sub1,",
    "--task mix:add1,sub1 --curriculum -1": "--curriculum is -1.0, but must be at least 0",
    "--task mix:add1,sub1 --curriculum much": "--curriculum",
    "--task none.jsonl": "none.jsonl: cannot be read: No such file",
    "--task add7": "no task 'add7'",
}


@pytest.mark.parametrize("options", RUNS)
def test_a_run_ends_before_a_model_is_loaded(refused, options, tmp_path):
    model = str(tmp_path)  # no model: loading it would say so
    said = refused("train", "grpo", "--model", model, *options.split())
    assert RUNS[options] in said


def test_there_are_enough_of_them():
    assert len(LINES) + len(FILES) + len(OPTIONS) + len(NAMES) + len(EXTRAS) + len(RUNS) >= 100
