"""Parameter sets over a base: what they hold is small, and the base beside it does not learn.

A set is then a tree of what it has of its own (adapters, heads); its place in the base is where the
same names lead. Nobody copies or donates the base.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from jaxevo.types import Params


def joined(base: Params, own: Params) -> Params:
    """The base with what a set has of its own beside its weights; nothing is copied."""
    both = {**base, **own}
    for name in base.keys() & own.keys():
        if isinstance(base[name], Mapping):
            both[name] = joined(base[name], own[name])
        elif isinstance(base[name], tuple):  # layers taken apart
            both[name] = tuple(joined(b, o) for b, o in zip(base[name], own[name], strict=True))
    return both


def without(base: Params, whole: Params) -> Params:
    """What `whole` has and its base has not: `joined` undone."""
    rest: dict[str, Any] = {}
    for name, part in whole.items():
        if name not in base:
            rest[name] = part
        elif isinstance(part, Mapping) and (inner := without(base[name], part)):
            rest[name] = inner
    return rest


def over(base: Params | None, forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward(params, ...)` of a set's own parameters over the base; itself without one."""
    return forward if base is None else functools.partial(_of_joined, base, forward)


def _of_joined(
    base: Params, forward: Callable[..., Any], own: Params, *args: Any, **how: Any
) -> Any:
    return forward(joined(base, own), *args, **how)
