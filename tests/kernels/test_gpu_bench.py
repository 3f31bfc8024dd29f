"""What the GPU bench does before and around its clock; the clock itself needs a card."""

from __future__ import annotations

import math

import numpy as np
import pytest


@pytest.fixture(scope="module")
def gpu(experiments_on_path):
    from experiments.bench import gpu

    return gpu


def test_both_ops_are_right_against_float64(gpu):
    worst = gpu.check()
    assert set(worst) == {"fused_logprob", "token_kl"}
    assert all(0.0 < deviation < 2.0**-7 for deviation in worst.values())


def test_a_wrong_op_is_not_timed(gpu, monkeypatch):
    truth = gpu.in_float64
    monkeypatch.setattr(gpu, "in_float64", lambda *a: tuple(1.1 * np.asarray(x) for x in truth(*a)))
    with pytest.raises(RuntimeError, match=r"fused_logprob deviates by 0\.0"):
        gpu.check()


def test_rows_count_needed_flops_only(gpu):
    rows = gpu.shape_rows((8, 16, 64), repeats=2)
    assert {(r["op"], r["way"]) for r in rows} == {
        (op, way) for op in gpu.NEEDED for way in ("jaxevo", "plain XLA")
    }
    assert all(math.isfinite(r["tflops"]) for r in rows)


def test_without_a_card_it_says_so(gpu):
    with pytest.raises(SystemExit, match="this bench needs a GPU, but JAX finds cpu"):
        gpu.measure(None)
