"""Command lines from typed functions and dataclasses, with one clear line for a wrong value."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import re
import sys
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

T = TypeVar("T")


class UsageError(Exception):
    """A command line that cannot be understood; the message is one line."""


def parse(cls: type[T], args: Sequence[str], *, prog: str, description: str) -> T:
    """Parses arguments into a dataclass.

    Raises:
      UsageError: one line that names the argument, what was got and what is needed.
      SystemExit: with 0, after printing help.
    """
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(cls, args=list(args), prog=prog, description=description)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UsageError(one_line(said.getvalue())) from None
    except ValueError as fault:
        raise UsageError(str(fault)) from None


def one_line(box: str) -> str:
    """The message of a boxed error: its text up to the first rule, without the frame."""
    lines = []
    for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines():
        if line.startswith(("╭", "╰")):
            continue
        text = line.strip("│ \t")
        if text.startswith("───"):
            break
        lines.append(text)
    return re.sub(r"\s+", " ", " ".join(lines)).strip().removesuffix(" .")


def options_class(*parts: type | Callable[..., Any]) -> type:
    """A dataclass whose fields are the fields of dataclasses and the options of functions.

    What has no default, or may be given by position, is given without its name.
    Help texts come from a field's `help` metadata and from the `Args:` of a function's docstring.
    """
    fields: list[tuple[str, Any, Any]] = []
    for part in parts:
        fields += _class_fields(part) if isinstance(part, type) else _options(part)
    return dataclasses.make_dataclass("Options", fields, kw_only=True)


def pick(values: Any, part: type | Callable[..., Any]) -> dict[str, Any]:
    """The values that belong to one part of an `options_class`."""
    names = (
        [f.name for f in dataclasses.fields(part)]
        if isinstance(part, type)
        else [
            p.name for p in inspect.signature(part).parameters.values() if p.kind != p.VAR_KEYWORD
        ]
    )
    return {name: getattr(values, name) for name in names}


def docstring_args(fn: Callable[..., Any]) -> dict[str, str]:
    """The text of every argument in a docstring's `Args:` section."""
    texts: dict[str, str] = {}
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)+)", inspect.getdoc(fn) or "", re.MULTILINE)
    for line in (section.group(1) if section else "").splitlines():
        start = re.match(r"  (\w+): (.*)", line)
        if start:
            name = start.group(1)
            texts[name] = start.group(2)
        elif texts and line.strip():
            texts[name] += " " + line.strip()
    return texts


def _class_fields(cls: type) -> list[tuple[str, Any, Any]]:
    types = typing.get_type_hints(cls)
    return [
        _field(f.name, types[f.name], f.default, f.metadata.get("help", ""))
        for f in dataclasses.fields(cls)
    ]


def _options(fn: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    types, texts = typing.get_type_hints(fn), docstring_args(fn)
    fields = []
    for name, p in inspect.signature(fn).parameters.items():
        if p.kind is p.VAR_KEYWORD:  # options of another part
            continue
        kind = types[name]
        if p.kind is not p.KEYWORD_ONLY:
            kind = _positional(kind)
        fields.append(_field(name, kind, p.default, texts.get(name, "")))
    return fields


def _positional(kind: Any) -> Any:
    import tyro

    return Annotated[kind, tyro.conf.Positional]


def _field(name: str, kind: Any, default: Any, text: str) -> tuple[str, Any, Any]:
    import tyro

    marked = Annotated[kind, tyro.conf.arg(help=text)]
    if default in (inspect.Parameter.empty, dataclasses.MISSING):
        return name, _positional(marked), dataclasses.field()
    return name, marked, dataclasses.field(default=default)


def fail(message: str) -> int:
    """Prints one error line; returns exit status 2."""
    print(f"jaxevo: {message}", file=sys.stderr)
    return 2
