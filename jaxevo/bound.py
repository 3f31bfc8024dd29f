"""Functions with frozen options, which compare by value: what recipes are made of."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass(frozen=True, repr=False)
class Bound:
    """A module-level function with frozen keyword options; made by `bind`, compared by value."""

    fn: Callable[..., Any]
    options: tuple[tuple[str, Any], ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fn(*args, **dict(self.options), **kwargs)

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in self.options)
        return f"{self.fn.__name__}({inside})"


def bind(fn: Callable[..., Any], **options: Any) -> Bound:
    """Freezes keyword options of a module-level function.

    Args:
      fn: a named function importable from its module (no lambda, no closure).
      **options: hashable values only: numbers, strings, tuples, frozen dataclasses, other `Bound`s.

    Returns:
      A callable that compares and hashes by function and options, and prints itself.

    Raises:
      TypeError: for lambdas, closures, arrays, unhashable values, or an option `fn` does not have.

    >>> bind(max, key=abs) == bind(max, key=abs)
    True
    """
    if isinstance(fn, Bound):
        return bind(fn.fn, **{**dict(fn.options), **options})
    qualified = getattr(fn, "__qualname__", "")
    if not qualified or "<lambda>" in qualified or "<locals>" in qualified:
        raise TypeError(
            f"bind needs a named module-level function, got {fn!r}. Move it to module level."
        )
    for name, value in options.items():
        if isinstance(value, (jax.Array, np.ndarray)):
            raise TypeError(
                f"option {name}= of {fn.__name__} is an array of shape {value.shape}. "
                "Options are plain values; put arrays into memory or into rows."
            )
        if callable(value) and "<lambda>" in getattr(value, "__qualname__", ""):
            raise TypeError(f"option {name}= of {fn.__name__} is a lambda; use a named function.")
        try:
            hash(value)
        except TypeError:
            raise TypeError(
                f"option {name}={value!r} of {fn.__name__} is not hashable. "
                "Use a tuple or a frozen dataclass."
            ) from None
    _refuse_unknown_options(fn, options)
    return Bound(fn, tuple(sorted(options.items())))


def _refuse_unknown_options(fn: Callable[..., Any], options: Mapping[str, Any]) -> None:
    try:
        parameters = inspect.signature(fn).parameters
    except ValueError:  # a builtin without a signature
        return
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    unknown = sorted(set(options) - set(parameters))
    if unknown:
        raise TypeError(f"{fn.__name__} has no option {unknown[0]!r}; it has {list(parameters)}.")
