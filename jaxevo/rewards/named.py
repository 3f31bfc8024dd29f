"""Verifiers by name: what a command line, a task file or a mixture asks for.

    NAME                      a verifier of `VERIFIERS`: `exact_match`
    NAME:ARGUMENTS            one of `WITH_ARGUMENTS`, made for them: `words:10-50`
    MODULE:FUNCTION           the user's own, by import path: `my_rewards.math:score`
    PATH.py:FUNCTION          the user's own, by file: `rewards/score.py:score`

The first colon ends a NAME of ours, which goes before a module of the same name; the last colon
begins a FUNCTION.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

from jaxevo.names import did_you_mean
from jaxevo.rewards.choice import choice
from jaxevo.rewards.custom import custom
from jaxevo.rewards.exact import exact_match
from jaxevo.rewards.form import boxed, characters, regex, tags, words
from jaxevo.rewards.ifeval import ifeval, ifeval_loose
from jaxevo.rewards.integer import last_integer, strict_integer
from jaxevo.rewards.mathematics import EXTRA, PACKAGE, mathematics
from jaxevo.rewards.numeric import numeric
from jaxevo.rewards.overlap import chrf, short_answer, token_f1
from jaxevo.rewards.unit_tests import unit_tests
from jaxevo.types import Task, Verdict

Verify: TypeAlias = Callable[[Task, str], Verdict]

VERIFIERS: Mapping[str, Verify] = {
    "boxed": boxed,
    "choice": choice,
    "chrf": chrf,
    "exact_match": exact_match,
    "ifeval": ifeval,
    "ifeval_loose": ifeval_loose,
    "last_integer": last_integer,
    "math": mathematics,
    "numeric": numeric,
    "short_answer": short_answer,
    "strict_integer": strict_integer,
    "token_f1": token_f1,
    "unit_tests": unit_tests,
}
WITH_ARGUMENTS: Mapping[str, tuple[Callable[[str], Verify], str]] = {  # and an example
    "characters": (characters, "10-50"),
    "regex": (regex, "[0-9]+"),
    "tags": (tags, "think,answer"),
    "words": (words, "10-50"),
}
NEEDS = {"math": (PACKAGE, EXTRA)}  # package, and the extra that has it
OWN = {
    "MODULE:FUNCTION": "The user's own `score(task, text)`, by import path: `my_rewards:score`.",
    "PATH.py:FUNCTION": "The same by file: `path/to/file.py:score`.",
}


def verifier(name: str) -> Verify:
    """The verifier that a name stands for, in the grammar above.

    The user's function is called as `score(task, text)` and returns a Verdict, a number in [0, 1]
    or a bool; see `custom.Custom`.

    Raises:
      ValueError: for an unknown name, arguments that cannot be used, a package that is not
        installed, or a module or function that cannot be imported.
    """
    first, colon, arguments = name.partition(":")
    if first in WITH_ARGUMENTS:
        make, example = WITH_ARGUMENTS[first]
        if not colon:
            raise ValueError(f"verifier {first} needs arguments, such as {first}:{example}.")
        try:
            return make(arguments)
        except ValueError as fault:
            raise ValueError(f"verifier {name!r}: {fault}") from None
    if first in VERIFIERS:
        if colon:
            raise ValueError(f"verifier {first} takes no arguments, got {arguments!r}.")
        return _installed(first)
    if _looks_imported(name):
        try:
            return custom(name)
        except ValueError as fault:
            raise ValueError(f"verifier {name!r}: {fault}") from None
    known = [*VERIFIERS, *(f"{n}:{example}" for n, (_, example) in WITH_ARGUMENTS.items())]
    raise ValueError(
        f"no verifier {name!r}. {did_you_mean(name, known)} Or give a function of your own as "
        "my_rewards:score or path/to/file.py:score."
    )


def _installed(name: str) -> Verify:
    package, extra = NEEDS.get(name, ("", ""))
    if package and importlib.util.find_spec(package) is None:
        raise ValueError(f"verifier {name} needs {package}: pip install 'jaxevo[{extra}]'.")
    return VERIFIERS[name]


def _looks_imported(name: str) -> bool:
    module, colon, function = name.rpartition(":")
    dotted = re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", module) or module.endswith(".py")
    return bool(colon and dotted and function)


class Entry(NamedTuple):
    """A verifier in a list: how it is called, what it does, what it takes, its extra."""

    form: str
    summary: str
    takes: str
    extra: str


def entries() -> list[Entry]:
    """All verifiers in the order of their names, then the forms of the user's own."""
    found = [
        Entry(name, _summary(verify), _takes(verify), NEEDS.get(name, ("", ""))[1])
        for name, verify in VERIFIERS.items()
    ] + [
        Entry(f"{name}:{example}", _summary(make), "", "")
        for name, (make, example) in WITH_ARGUMENTS.items()
    ]
    return sorted(found) + [Entry(form, summary, "", "") for form, summary in OWN.items()]


def _summary(function: Callable) -> str:
    return (inspect.getdoc(function) or "").split("\n")[0]


def _takes(verify: Verify) -> str:
    """The columns of `info` that its docstring names."""
    columns = re.findall(r'info\["(\w+)"\]', inspect.getdoc(verify) or "")
    return ", ".join(f"`{column}`" for column in dict.fromkeys(columns))
