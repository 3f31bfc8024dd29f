"""What differs between a run as it was begun and as it is continued."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from jaxevo.types import Bound, Recipe

FREE = ("out", "log")  # where a run is kept, and who else is told, is no part of it


def recipe_values(recipe: Recipe) -> dict[str, str]:
    """Every value that a recipe is made of, by its dotted path: `objectives.policy.minibatch`."""
    return dict(_leaves(recipe, ""))


def changed_options(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Options and recipe values that two configurations (`loop.describe`) differ in: [old, new].

    The first may have been read from a file.
    """
    found = {}
    for part in ("options", "recipe_values"):
        old, new = before.get(part, {}), now[part]
        for name in sorted({*old, *new} - set(FREE)):
            values = [_as_json(side.get(name)) for side in (old, new)]
            if values[0] != values[1]:
                found[name] = values
    return found


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Bound):
        yield path, value.fn.__name__
        parts = value.options
    elif dataclasses.is_dataclass(value):
        parts = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
    elif isinstance(value, tuple):
        parts = [(str(getattr(v, "name", n)), v) for n, v in enumerate(value)]
    else:
        yield path, getattr(value, "__name__", None) or repr(value)
        return
    for name, part in parts:
        yield from _leaves(part, f"{path}.{name}" if path else name)


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
