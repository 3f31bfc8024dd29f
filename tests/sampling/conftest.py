"""The model of the sampler's tests."""

import dataclasses

import pytest


@pytest.fixture(scope="module")
def model(tiny_model):
    """Weights whose answers end and differ."""
    head = tiny_model.params["head"] * 30.0
    return dataclasses.replace(tiny_model, params={**tiny_model.params, "head": head})
