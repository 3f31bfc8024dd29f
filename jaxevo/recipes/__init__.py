"""Recipes: one file per method, one factory per file, named like it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

from jaxevo.types import Recipe


def recipe_names() -> list[str]:
    """All recipes, as they are named on the command line (hyphens for underscores)."""
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__))


def recipe_factory(name: str) -> Callable[..., Recipe]:
    """The keyword-only factory of a recipe.

    Raises:
      ValueError: an unknown name.
    """
    if name not in recipe_names():
        raise ValueError(f"unknown recipe {name!r}; choose one of {', '.join(recipe_names())}.")
    module = name.replace("-", "_")
    return getattr(importlib.import_module(f"{__name__}.{module}"), module)
