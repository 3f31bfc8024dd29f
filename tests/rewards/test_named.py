"""The grammar of verifiers' names, and the user's own functions behind it."""

import importlib.util
import inspect
import sys

import numpy as np
import pytest

from jaxevo.rewards.named import NEEDS, VERIFIERS, WITH_ARGUMENTS, entries, verifier
from jaxevo.tasks import load_task
from jaxevo.types import Task, Verdict

TASK = Task("t/1", (), "Paris", {"choices": ["x"]})

SOURCE = '''
from jaxevo.tasks import load_task
from jaxevo.types import Verdict

class Nested:
    @staticmethod
    def score(task, text):
        return True

def score(task, text):
    """By the length."""
    if text == task.answer:
        return True
    return len(text) / 10

def verdict(task, text):
    return Verdict("fail", 0.25, f"{text}?")

def raises(task, text):
    raise KeyError("two\\nlines")

def leaves(task, text, given=[]):
    given.append(1)
    return {"none": None, "text": "1", "late": Verdict("late", 0.5), "high": Verdict("pass", 1.5),
            "word": Verdict("pass", "1"), "nan": float("nan"), "many": [1.0]}[text]

def echo(task, text):
    return task.info["value"]

def one(task):
    return 1.0

NUMBER = 3
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(inspect.getattr_static(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def own(here):
    (here / "my_rewards.py").write_text(SOURCE)
    return here


def test_names_alone():
    for name, verify in VERIFIERS.items():
        package = NEEDS.get(name, (None,))[0]
        if package is None or importlib.util.find_spec(package):
            assert verifier(name) is verify


def test_names_with_arguments():
    assert verifier("words:1-2")(TASK, "two words").status == "pass"
    assert verifier("words:1-2")(TASK, "three words here").status == "fail"
    assert verifier("characters:1-2")(TASK, "two").status == "fail"
    assert verifier("tags:a,b")(TASK, "<a></a><b></b>").status == "pass"
    assert verifier("regex:a:.*")(TASK, "a:b").status == "pass"


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("exact", r"^no verifier 'exact'\. Choose from .*words:10-50\. Did you mean 'exact_match'"),
        ("", "^no verifier ''"),
        ("a b:c", "^no verifier 'a b:c'"),
        ("words", r"^verifier words needs arguments, such as words:10-50\.$"),
        ("words:5-1", r"^verifier 'words:5-1': it takes the least and the most, such as words:1"),
        ("regex:(", r"^verifier 'regex:\(': its pattern '\(' cannot be used: missing \)"),
        ("choice:3", r"^verifier choice takes no arguments, got '3'\.$"),
        ("math:isclose", r"^verifier math takes no arguments, got 'isclose'\.$"),
    ],
)
def test_names_that_stand_for_nothing(name, fault):
    with pytest.raises(ValueError, match=fault):
        verifier(name)


def test_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(NEEDS, "choice", ("no_such_package", "some"))
    fault = r"^verifier choice needs no_such_package: pip install 'jaxevo\[some\]'\.$"
    with pytest.raises(ValueError, match=fault):
        verifier("choice")


@pytest.mark.parametrize("module", ["my_rewards", "my_rewards.py", "./my_rewards.py"])
def test_functions_of_the_users_own(own, module):
    score = verifier(f"{module}:score")
    assert score(TASK, "Paris") == Verdict("pass", 1.0)
    assert score(TASK, "Rom") == Verdict("fail", 0.3)
    assert score(TASK, "ten digits") == Verdict("pass", 1.0)
    assert verifier(f"{module}:verdict")(TASK, "Rom") == Verdict("fail", 0.25, "Rom?")
    assert verifier(f"{module}:Nested.score")(TASK, "Rom") == Verdict("pass", 1.0)


def test_a_file_may_import_what_lies_beside_it(here):
    (here / "rewards").mkdir()
    (here / "rewards" / "beside.py").write_text("LIMIT = 3\n")
    source = "from beside import LIMIT\ndef score(task, text):\n    return len(text) <= LIMIT\n"
    (here / "rewards" / "score.py").write_text(source)
    assert verifier("rewards/score.py:score")(TASK, "abc").status == "pass"
    assert verifier("rewards/score.py:score")(TASK, "abcd").status == "fail"


def test_a_file_is_imported_once(own):
    first, second = verifier("my_rewards.py:score"), verifier("my_rewards.py:score")
    assert first == second


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (True, Verdict("pass", 1.0)),
        (False, Verdict("fail", 0.0)),
        (np.bool_(True), Verdict("pass", 1.0)),
        (1, Verdict("pass", 1.0)),
        (0, Verdict("fail", 0.0)),
        (0.5, Verdict("fail", 0.5)),
        (np.float32(0.5), Verdict("fail", 0.5)),
        (1.0000000000000002, Verdict("pass", 1.0)),  # 0.8 * 3 / 3 + 0.2, say
        (0.7 + 0.2 + 0.1, Verdict("pass", 1.0)),  # 0.9999999999999999
        (-1e-17, Verdict("fail", 0.0)),
        (Verdict("error", 0.0, "no"), Verdict("error", 0.0, "no")),
        (Verdict("pass", 0.5), Verdict("pass", 0.5)),
    ],
)
def test_what_a_function_may_return(own, value, verdict):
    got = verifier("my_rewards:echo")(Task("t/1", (), "", {"value": value}), "")
    assert got == verdict
    assert type(got.score) is float


@pytest.mark.parametrize(
    ("function", "text", "reason"),
    [
        ("raises", "", "KeyError: 'two\\nlines'"),
        ("score", "eleven long", "ValueError: it returned the score 1.1, which is not in [0, 1]."),
        ("leaves", "none", "TypeError: it returned a NoneType; return a Verdict, a number in"),
        ("leaves", "text", "TypeError: it returned a str; return a Verdict, a number in [0, 1]"),
        ("leaves", "many", "TypeError: it returned a list; return a Verdict, a number in [0, 1]"),
        (
            "leaves",
            "late",
            "ValueError: it returned Verdict(status='late', score=0.5, feedback=",
        ),
        ("leaves", "high", "ValueError: it returned the score 1.5, which is not in [0, 1]."),
        ("leaves", "word", "TypeError: it returned the score '1', which is no number."),
        ("leaves", "nan", "ValueError: it returned the score nan, which is not in [0, 1]."),
    ],
)
def test_what_a_function_must_not_do_is_an_error(own, function, text, reason):
    verdict = verifier(f"my_rewards:{function}")(TASK, text)
    assert (verdict.status, verdict.score) == ("error", 0.0)
    assert verdict.feedback.startswith(f"my_rewards:{function} on task t/1: {reason}")
    assert "\n" not in verdict.feedback


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        (
            "no_such:f",
            "'no_such' cannot be imported: ModuleNotFoundError: No module named",
        ),
        ("no/such.py:f", "'no/such.py' cannot be imported: FileNotFoundError:"),
        ("broken.py:f", "'broken.py' cannot be imported: ZeroDivisionError: division by zero"),
        ("exits:f", "'exits' cannot be imported: SystemExit: 3"),
        ("syntax.py:f", "'syntax.py' cannot be imported: SyntaxError:"),
        ("my_rewards:nothing", "'my_rewards' has no function 'nothing'."),
        ("my_rewards:NUMBER", "'NUMBER' of 'my_rewards' is no function, but of type int."),
        ("my_rewards:one", "it is called as score(task, text), but too many positional arguments."),
    ],
)
def test_what_cannot_be_imported_is_one_line(own, name, fault):
    (own / "broken.py").write_text("1 / 0\n")
    (own / "exits.py").write_text("raise SystemExit(3)\n")
    (own / "syntax.py").write_text("def f(:\n")
    with pytest.raises(ValueError) as found:  # noqa: PT011
        verifier(name)
    assert str(found.value).startswith(f"verifier {name!r}: {fault}")
    assert "\n" not in str(found.value)


def test_a_task_file_asks_for_them(own):
    (own / "data.jsonl").write_text('{"prompt": "?", "answer": "Paris"}\n')
    source = load_task("data.jsonl?held_out=0&verifier=my_rewards:score")
    (verify,) = source.verifiers.values()
    assert verify(source.train(0), "Paris").status == "pass"
    with pytest.raises(ValueError, match=r"^task 'data.*': verifier 'my_rewards:no': 'my_rewards'"):
        load_task("data.jsonl?held_out=0&verifier=my_rewards:no")


def test_names_of_ours_go_before_modules(here):
    (here / "words.py").write_text("def score(task, text):\n    return True\n")
    with pytest.raises(ValueError, match="it takes the least and the most"):
        verifier("words:score")
    assert verifier("./words.py:score")(TASK, "").status == "pass"


def test_the_list_has_all_of_them():
    listed = {entry.form: entry for entry in entries()}
    assert len(listed) == len(VERIFIERS) + len(WITH_ARGUMENTS) + 2
    assert all(entry.summary.endswith(".") for entry in entries())
    assert listed["unit_tests"].takes == "`tests`, `setup`"
    assert listed["math"].extra == "math"
    for name, (_, example) in WITH_ARGUMENTS.items():
        assert listed[f"{name}:{example}"]
        verifier(f"{name}:{example}")
