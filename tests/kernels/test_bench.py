from __future__ import annotations

import json
import pathlib

import jax
import jax.numpy as jnp
import pytest

from jaxevo.kernels import bench

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hbm", "products", pytest.param("vmem", marks=pytest.mark.soak)])
def test_the_targets_that_need_no_clock_are_reached(name):
    rows = bench.SECTIONS[name]()
    assert bench.met({name: rows}) == {name: True}


@pytest.mark.slow
def test_one_kernel_for_both_gradients_takes_less_time_than_two():
    rows = bench.hbm()
    pairs = list(zip(rows[::2], rows[1::2], strict=True))
    assert all((a["variant"], b["variant"]) == ("together", "apart") for a, b in pairs)
    assert all(a["modelled_ms"] < b["modelled_ms"] for a, b in pairs)
    assert all(a["hbm_ms"] > b["hbm_ms"] for a, b in pairs)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("memory", {"implementation": "chunked", "share_of_plain": 0.06}),
        ("hbm", {"variant": "together", "ratio": 0.81}),
        ("products", {"op": "token_kl", "kind": "reverse", "way": "chunked", "products": 8.0}),
        ("vmem", {"bytes": 2, "limit": 1}),
        ("cpu", {"op": "token_kl", "way": "chunked", "times_plain": 1.7}),
    ],
)
def test_a_missed_target_is_told(name, row):
    assert bench.met({name: [row]}) == {name: False}


def test_programs_that_disagree_are_not_timed():
    programs = {"plain": jax.jit(jnp.sum), "wrong": jax.jit(jnp.mean)}
    with pytest.raises(RuntimeError, match="the programs disagree"):
        bench._turns({n: lambda x, f=f: (f(x),) for n, f in programs.items()}, (jnp.ones(3),), 1)


def test_the_committed_result_says_what_it_has_met():
    result = json.loads((ROOT / "experiments/bench/results/kernels.json").read_text())
    assert result["met"] == bench.met(result["sections"])
