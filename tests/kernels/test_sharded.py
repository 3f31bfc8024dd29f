from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from jaxevo.kernels import fused_logprob, token_kl

PROGRAM = pathlib.Path(__file__).parent / "eight_devices.py"
TOLERANCE = 5e-5  # float32 rounding of logits of size ~10, relative to the largest gradient


@pytest.mark.slow
def test_eight_devices_equal_one():
    flags = {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"}
    done = subprocess.run(
        [sys.executable, str(PROGRAM)], capture_output=True, text=True, env=os.environ | flags
    )
    assert done.returncode == 0, done.stderr
    worst = json.loads(done.stdout)
    assert len(worst) == 5 * 5
    assert {case: d for case, d in worst.items() if not d <= TOLERANCE} == {}


@pytest.mark.parametrize("check_vma", [pytest.param(True, marks=pytest.mark.soak), False])
def test_extreme_logits_on_two_devices_stay_finite_and_right(check_vma):
    mesh = Mesh(np.array(jax.devices()[:2]), ("v",))
    x = np.random.default_rng(5).choice([-1e4, 0.0, 9999.0, 1e4], size=(6, 8)).astype(np.float32)
    x[0, :4], x[0, 4:] = 1e4, -1e4  # nothing on the second device
    targets = jnp.asarray([0, 7, 3, 4, 1, 6])

    def fn(hidden, unembed):
        return fused_logprob(hidden, unembed, targets, vocab_axis="v")

    specs = (PartitionSpec(), PartitionSpec(None, "v"))
    spread = jax.shard_map(
        fn, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=check_vma
    )

    def both(run, hidden):
        out, grad = run(hidden, jnp.eye(8)), jax.grad(lambda h: sum(run(h, jnp.eye(8))).sum())
        return *out, grad(hidden)

    def alone(hidden, unembed):
        return fused_logprob(hidden, unembed, targets)

    for got, want in zip(both(spread, x), both(alone, x), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-3)  # a unit in the last place of 1e4 is 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"legal": (0, 3)}, r"legal=\(0, 3\) and vocab_axis='v' do not go together"),
        ({"implementation": "reference"}, "vocab_axis='v' needs implementation='chunked'"),
    ],
)
def test_what_cannot_be_split_is_refused(options, message):
    mesh = Mesh(np.array(jax.devices()[:2]), ("v",))

    def fn(hidden, unembed):
        return fused_logprob(hidden, unembed, jnp.zeros(2, int), vocab_axis="v", **options).logp_M

    run = jax.shard_map(
        fn,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(None, "v")),
        out_specs=PartitionSpec(),
    )
    with pytest.raises(ValueError, match=message):
        run(jnp.ones((2, 3)), jnp.ones((3, 8)))


def test_a_support_cannot_be_split():
    heads = jnp.ones((2, 3)), jnp.ones((2, 3)), jnp.ones((3, 8)), jnp.ones((3, 8))
    with pytest.raises(ValueError, match="top_k=2 and vocab_axis='v' do not go together"):
        token_kl(*heads, top_k=2, vocab_axis="v")
