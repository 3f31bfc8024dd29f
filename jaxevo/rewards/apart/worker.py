"""A worker process of `jaxevo.rewards.pool`: calls named functions, on its main thread.

`python -P worker.py BYTES` reads requests from its standard input and answers on its standard
output, each a length of four bytes and so many bytes of JSON. Before the first request both move to
descriptors of their own, so that what a library prints or reads goes nowhere. BYTES is the most
address space that it may take.

    {"id": 1, "load": "path/to/file.py:function"}                -> {"id": 1, "value": null}
    {"id": 2, "call": "...", "arguments": [...], "seconds": 5.0} -> {"id": 2, "value": ...}
    either, if an exception was raised                           -> {"id": 2, "error": "one line"}
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

HEADER = 4  # bytes of a message's length, big-endian


def load(name: str) -> Callable[..., Any]:
    """The function that `package.module:function` or `path/to/file.py:function` names.

    Raises:
      ValueError: one line with module, function and reason.
    """
    module_name, _, function_name = name.rpartition(":")
    try:
        module = _by_path(module_name) if module_name.endswith(".py") else _by_name(module_name)
    except (Exception, SystemExit) as fault:
        raise ValueError(f"{module_name!r} cannot be imported: {one_line(fault)}") from None
    try:
        function = functools.reduce(getattr, function_name.split("."), module)
    except AttributeError:
        raise ValueError(f"{module_name!r} has no function {function_name!r}.") from None
    if not callable(function):
        kind = type(function).__name__
        reason = f"is no function, but of type {kind}."
        raise ValueError(f"{function_name!r} of {module_name!r} {reason}")
    return function


def one_line(fault: BaseException) -> str:
    """`ValueError: what it says`, cut at 300 characters."""
    return " ".join(f"{type(fault).__name__}: {fault}".split())[:300]


def _by_name(name: str) -> Any:
    return importlib.import_module(name)


def _by_path(name: str) -> Any:
    path = str(Path(name).resolve())
    if path not in sys.modules:
        spec = importlib.util.spec_from_file_location(path, path)
        if spec is None or spec.loader is None:
            raise ImportError("not a file of Python source")
        module = sys.modules[path] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[path]
            raise
    return sys.modules[path]


def main(most_bytes: int) -> None:
    """Answers requests until there are no more, or until memory has run out once."""
    requests, answers = _channels()
    _limit("RLIMIT_CORE", 0)
    _limit("RLIMIT_AS", most_bytes)
    functions: dict[str, Callable[..., Any]] = {}
    short = False
    while not short and (message := _read(requests)) is not None:
        request = json.loads(message)
        try:
            answer = {"id": request["id"], "value": _answer(request, functions)}
            encoded = json.dumps(answer).encode()
        except (Exception, SystemExit) as fault:
            # Unless it starts over, what fills the memory would be there at the next call.
            short = isinstance(fault, MemoryError)
            answer = {"id": request["id"], "error": one_line(fault), "last": short}
            encoded = json.dumps(answer).encode()
        answers.write(len(encoded).to_bytes(HEADER, "big") + encoded)
        answers.flush()


def _answer(request: dict[str, Any], functions: dict[str, Callable[..., Any]]) -> Any:
    if "load" in request:
        functions[request["load"]] = load(request["load"])
        return None
    # SIGPROF ends a process that nobody waits for any more: one whose parent was killed.
    signal.setitimer(signal.ITIMER_PROF, request["seconds"] + 1.0)
    try:
        return functions[request["call"]](*request["arguments"])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)


def _channels() -> tuple[BinaryIO, BinaryIO]:
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    return requests, answers


def _limit(name: str, value: int) -> None:
    import resource  # only where processes have such limits, and never in the caller's

    with contextlib.suppress(ValueError, OSError):  # macOS has no limit on address space
        resource.setrlimit(getattr(resource, name), (value, value))


def _read(requests: BinaryIO) -> bytes | None:
    header = requests.read(HEADER)
    return requests.read(int.from_bytes(header, "big")) if len(header) == HEADER else None


if __name__ == "__main__":
    main(int(sys.argv[1]))
