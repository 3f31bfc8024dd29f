"""Reading jaxprs: the largest array, and FLOPs and dtypes of all matrix products."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import pytest
from jax.extend import core
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from jaxevo.kernels.traffic import dot_flops


def _equations(jaxpr: Any, times: int = 1) -> Iterator[tuple[Any, int]]:
    """Every equation, sub-jaxprs included, with how often it runs."""
    for equation in jaxpr.eqns:
        yield equation, times
        inner = (
            times * equation.params.get("length", 1) if equation.primitive.name == "scan" else times
        )
        for value in jax.tree.leaves(
            equation.params, is_leaf=lambda x: isinstance(x, (core.Jaxpr, core.ClosedJaxpr))
        ):
            if isinstance(value, core.ClosedJaxpr):
                yield from _equations(value.jaxpr, inner)
            elif isinstance(value, core.Jaxpr):
                yield from _equations(value, inner)


def _largest_array(fn: Callable[..., Any], *args: Any) -> int:
    return max(
        math.prod(var.aval.shape)
        for equation, _ in _equations(jax.make_jaxpr(fn)(*args).jaxpr)
        for var in equation.outvars
    )


def _product_flops(fn: Callable[..., Any], *args: Any) -> int:
    total = 0
    for equation, times in _equations(jax.make_jaxpr(fn)(*args).jaxpr):
        if equation.primitive.name == "dot_general":
            total += times * dot_flops(equation)
    return total


def _product_dtypes(fn: Callable[..., Any], *args: Any) -> set[str]:
    return {
        str(equation.outvars[0].aval.dtype)
        for equation, _ in _equations(jax.make_jaxpr(fn)(*args).jaxpr)
        if equation.primitive.name == "dot_general"
    }


def _made_shapes(fn: Callable[..., Any], *args: Any) -> set[tuple[int, ...]]:
    return {
        tuple(var.aval.shape)
        for equation, _ in _equations(jax.make_jaxpr(fn)(*args).jaxpr)
        if equation.primitive.name == "broadcast_in_dim"
        for var in equation.outvars
    }


@pytest.fixture(scope="session")
def largest_array() -> Callable[..., int]:
    """Elements of the largest array that any equation of fn(*args) makes."""
    return _largest_array


@pytest.fixture(scope="session")
def product_flops() -> Callable[..., int]:
    """FLOPs of the dot products of fn(*args), scans counted by their length."""
    return _product_flops


@pytest.fixture(scope="session")
def product_dtypes() -> Callable[..., set[str]]:
    """Dtypes that the dot products of fn(*args) return."""
    return _product_dtypes


@pytest.fixture(scope="session")
def made_shapes() -> Callable[..., set[tuple[int, ...]]]:
    """Shapes of the arrays that fn(*args) makes by broadcasting (zeros among them)."""
    return _made_shapes


@pytest.fixture(scope="session")
def chip() -> Callable[..., Any]:
    """`chip(name)`: a context in which kernels are made for that TPU."""
    kinds = {"v5e": ("TPU v5 lite", 1), "v5p": ("TPU v5", 2), "v6e": ("TPU v6 lite", 1)}

    def context(name: str) -> Any:
        kind, cores = kinds[name]
        device = AbstractDevice(device_kind=kind, num_cores=cores, platform="tpu")
        return use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=device))

    return context
