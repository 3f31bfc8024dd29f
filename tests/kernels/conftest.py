"""Reading jaxprs: the largest array, and FLOPs and dtypes of all matrix products."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import pytest

from jaxevo.kernels import traffic


def _equations(fn: Callable[..., Any], *args: Any) -> Iterator[Any]:
    return (equation for equation, _ in traffic.equations(jax.make_jaxpr(fn)(*args).jaxpr))


def _largest_array(fn: Callable[..., Any], *args: Any) -> int:
    made = (var for equation in _equations(fn, *args) for var in equation.outvars)
    return max(math.prod(var.aval.shape) for var in made)


def _product_dtypes(fn: Callable[..., Any], *args: Any) -> set[str]:
    products = (e for e in _equations(fn, *args) if e.primitive.name == "dot_general")
    return {str(equation.outvars[0].aval.dtype) for equation in products}


def _made_shapes(fn: Callable[..., Any], *args: Any) -> set[tuple[int, ...]]:
    made = (e for e in _equations(fn, *args) if e.primitive.name == "broadcast_in_dim")
    return {tuple(var.aval.shape) for equation in made for var in equation.outvars}


@pytest.fixture(scope="session")
def largest_array() -> Callable[..., int]:
    """Elements of the largest array that any equation of fn(*args) makes."""
    return _largest_array


@pytest.fixture(scope="session")
def product_flops() -> Callable[..., int]:
    """FLOPs of the dot products of fn(*args), scans counted by their length."""
    return traffic.product_flops


@pytest.fixture(scope="session")
def product_dtypes() -> Callable[..., set[str]]:
    """Dtypes that the dot products of fn(*args) return."""
    return _product_dtypes


@pytest.fixture(scope="session")
def made_shapes() -> Callable[..., set[tuple[int, ...]]]:
    """Shapes of the arrays that fn(*args) makes by broadcasting (zeros among them)."""
    return _made_shapes
