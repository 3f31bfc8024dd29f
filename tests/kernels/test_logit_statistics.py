from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxevo.kernels import logit_statistics

M, D, V = 6, 16, 37
TOLERANCE = 2e-5  # float32 rounding of logits of size ~10
VARIANTS = [("reference", None), ("chunked", 8)]


def problem(seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(M, D)), dtype), jnp.asarray(rng.normal(size=(D, V)), dtype)


def check(found, x, top_k, start=0):
    """Against float64 logits."""
    logsumexp = np.logaddexp.reduce(x, axis=1)
    ids = np.argsort(-x, axis=1, kind="stable")[:, :top_k]
    logp = np.take_along_axis(x, ids, 1) - logsumexp[:, None]
    np.testing.assert_array_equal(found.ids_MK, ids + start)
    for got, truth in (
        (found.logsumexp_M, logsumexp),
        (found.mean_logit_M, x.mean(1)),
        (found.logp_MK, logp),
        (found.log_kept_M, np.logaddexp.reduce(logp, axis=1)),
    ):
        np.testing.assert_allclose(got, truth, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(("implementation", "block_V"), VARIANTS)
@pytest.mark.parametrize("top_k", [1, 5, V])  # 5 is below the last block's width, V above all
def test_against_float64(implementation, block_V, top_k):
    hidden, unembed = problem()
    how = {"temperature": 0.7, "implementation": implementation, "block_V": block_V}
    found = logit_statistics(hidden, unembed, top_k=top_k, **how)
    x = np.asarray(hidden, np.float64) @ np.asarray(unembed, np.float64) / 0.7
    check(found, x, top_k)
    assert (np.asarray(found.log_kept_M) <= 0).all()


@pytest.mark.parametrize(("implementation", "block_V"), VARIANTS)
def test_a_cap_and_a_slice_of_legal_ids(implementation, block_V):
    hidden, unembed = problem(1)
    how = {"soft_cap": 3.0, "legal": (5, 30), "implementation": implementation}
    found = logit_statistics(hidden, unembed, top_k=4, block_V=block_V, **how)
    x = np.asarray(hidden, np.float64) @ np.asarray(unembed, np.float64)[:, 5:30]
    check(found, 3.0 * np.tanh(x / 3.0), 4, start=5)


@pytest.mark.parametrize(("implementation", "block_V"), VARIANTS)
def test_ties_go_to_the_lower_id(implementation, block_V):
    x = jnp.zeros((2, V)).at[0, 20].set(1.0).at[1, 3].set(-1.0)
    how = {"top_k": 3, "implementation": implementation, "block_V": block_V}
    found = logit_statistics(x, jnp.eye(V), **how)
    np.testing.assert_array_equal(found.ids_MK, [[20, 0, 1], [0, 1, 2]])


def test_self_certainty_is_the_divergence_from_uniform():
    hidden, unembed = problem(2)
    found = logit_statistics(hidden, unembed)
    p = jax.nn.softmax(hidden @ unembed)
    truth = -jnp.log(p * V).mean(axis=1)  # KL(uniform‖p)
    got = found.logsumexp_M - found.mean_logit_M - np.log(V)
    np.testing.assert_allclose(got, truth, rtol=1e-4)


def test_no_gradient_and_no_array_of_all_logits(largest_array):
    hidden, unembed = problem(3)
    grads = jax.grad(lambda h, u: logit_statistics(h, u).logsumexp_M.sum(), argnums=(0, 1))
    assert not any(g.any() for g in grads(hidden, unembed))
    shapes = jnp.zeros((64, 8)), jnp.zeros((8, 4096))
    assert largest_array(lambda *a: logit_statistics(*a, block_V=128), *shapes) < 64 * 1024


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, r"top_k=0, but it must lie in \[1, 37\]"),
        ({"top_k": 4, "legal": (0, 3)}, r"top_k=4, but it must lie in \[1, 3\]"),
        ({"legal": (3, 3)}, "legal=\\(3, 3\\), but 0 <= start < stop <= 37 is needed"),
        ({"soft_cap": 0.0}, "soft_cap=0.0, but it must be above 0"),
        ({"implementation": "pallas_tpu"}, r"use one of \['chunked', 'reference'\]"),
    ],
)
def test_errors_say_what_is_needed(options, message):
    with pytest.raises(ValueError, match=message):
        logit_statistics(*problem(), **options)
