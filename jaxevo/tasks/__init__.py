"""Where problems come from: task sources by name or by file."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from jaxevo.names import did_you_mean
from jaxevo.rewards.named import verifier
from jaxevo.tasks.arithmetic import SPECS, arithmetic, plain, plain_task
from jaxevo.tasks.draw import task_source
from jaxevo.tasks.jsonl import SUFFIXES, jsonl_source
from jaxevo.types import TaskSource

__all__ = ["arithmetic", "jsonl_source", "load_task", "plain", "plain_task", "task_source"]

_FILE_OPTIONS = ("prompt", "answer", "system", "held_out", "verifier")


def load_task(name: str, *, seed: int = 0) -> TaskSource:
    """The task source that a name on the command line stands for.

    Args:
      name: an arithmetic task (`add1`, `add2`, `add2-shots`, `add3`, `sub1`, `mul1`), or a path
        that ends in `.jsonl` or `.jsonl.gz`, with options after a `?` if need be:
        `data.jsonl?prompt=question&answer=target&held_out=0.2&verifier=last_integer`. Options are
        those of `jsonl_source`; `verifier` is `exact_match`, `last_integer` or `strict_integer`.
        As in a web address, `%20` or `+` is a space and `%26` is `&`.
      seed: >= 0; orders the training problems.

    Raises:
      ValueError: for an unknown name or option, and for a file that cannot be used.
    """
    path, _, query = name.partition("?")
    if path.endswith(SUFFIXES):
        return jsonl_source(path, seed=seed, **_file_options(name, query))
    if name not in SPECS:
        raise ValueError(
            f"no task {name!r}. {did_you_mean(name, SPECS)} Or give the path of a .jsonl or "
            ".jsonl.gz file."
        )
    return arithmetic(name, seed=seed)


def _file_options(name: str, query: str) -> dict[str, Any]:
    try:
        pairs = parse_qsl(query, strict_parsing=True, keep_blank_values=True) if query else []
    except ValueError:
        raise ValueError(
            f"task {name!r}: options after ? are written name=value and joined by &."
        ) from None
    options: dict[str, Any] = {}
    for key, value in pairs:
        if key not in _FILE_OPTIONS:
            raise ValueError(
                f"task {name!r}: no option {key!r}. {did_you_mean(key, _FILE_OPTIONS)}"
            )
        if key in options:
            raise ValueError(f"task {name!r}: option {key!r} is given twice.")
        options[key] = value
    if "held_out" in options:
        try:
            options["held_out"] = float(options["held_out"])
        except ValueError:
            raise ValueError(
                f"task {name!r}: held_out={options['held_out']!r} is not a number in [0, 1)."
            ) from None
    if "verifier" in options:
        called = options.pop("verifier")
        try:
            options["verifiers"] = {called: verifier(called)}
        except ValueError as fault:
            raise ValueError(f"task {name!r}: {fault}") from None
    return options
