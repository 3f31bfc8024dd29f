"""The model of the sampler's tests; their programs run a few times each and compile quickly."""

import dataclasses

import pytest


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_to_compile):
    pass


@pytest.fixture(scope="module")
def model(tiny_model):
    """Weights whose answers end and differ."""
    head = tiny_model.params["head"] * 30.0
    return dataclasses.replace(tiny_model, params={**tiny_model.params, "head": head})
