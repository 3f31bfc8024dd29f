from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxevo.kernels import Band, band_hinge, entropy_band
from jaxevo.kernels.entropy_band._bisect import as_float, kth_largest, ordered

VARIANTS = ["reference", "chunked", "pallas_tpu_interpret"]
FORKS = [0.8, 1.0, 1.2, 1.6, 2.4]  # of the worked numbers of arXiv 2511.17938's card


def numpy_band(entropy, mask, *, fraction=0.2, at_least=1, low=0.1, high=0.5, among="forks"):
    """float64, row by row."""
    fork, limits = np.zeros(mask.shape, bool), []
    for n, (row, valid) in enumerate(zip(np.asarray(entropy, np.float64), mask, strict=True)):
        places = np.flatnonzero(valid)
        count = min(max(at_least, int(np.floor(fraction * len(places) + 0.5))), len(places))
        fork[n, sorted(places, key=lambda t: (-row[t], t))[:count]] = True
        counted = row[fork[n]] if among == "forks" else row[places]
        limits.append(np.quantile(counted, [low, high]) if len(counted) else [0.0, 0.0])
    return Band(fork, *np.array(limits).T)


def assert_same(found, wanted, tolerance=1e-6):
    np.testing.assert_array_equal(found.fork_NA, wanted.fork_NA)
    for name in ("low_N", "high_N"):
        one, other = getattr(found, name), getattr(wanted, name)
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


# ---------------------------------------------------------------------------- worked numbers
def twenty_five():
    """The worked forks among twenty tokens of less entropy."""
    row = np.linspace(0, 0.7, 25)
    row[[2, 5, 11, 17, 24]] = FORKS
    return jnp.asarray(row[None], jnp.float32)


@pytest.mark.parametrize("implementation", VARIANTS)
def test_the_worked_band(implementation):
    entropy_NA = twenty_five()
    band = entropy_band(entropy_NA, jnp.ones((1, 25), bool), implementation=implementation)
    np.testing.assert_array_equal(np.flatnonzero(band.fork_NA), [2, 5, 11, 17, 24])
    np.testing.assert_allclose((band.low_N[0], band.high_N[0]), (0.88, 1.2), rtol=1e-6)
    below_NA, above_NA = (jnp.where(band.fork_NA, x, 0.0) for x in band_hinge(entropy_NA, band))
    np.testing.assert_allclose((below_NA.sum(), above_NA.sum()), (0.08, 1.6), rtol=1e-5)
    np.testing.assert_allclose((below_NA + above_NA).sum() / 5, 0.336, rtol=1e-5)


@pytest.mark.parametrize("implementation", VARIANTS)
def test_how_many_tokens_are_forks(implementation):
    lengths = np.array([0, 1, 3, 7, 8, 13, 25])
    mask_NA = jnp.arange(25) < lengths[:, None]
    entropy_NA = jax.random.uniform(jax.random.key(0), mask_NA.shape)
    band = entropy_band(entropy_NA, mask_NA, implementation=implementation)
    np.testing.assert_array_equal(band.fork_NA.sum(1), [0, 1, 1, 1, 2, 3, 5])
    np.testing.assert_array_equal((band.low_N[0], band.high_N[0]), (0, 0))


@pytest.mark.parametrize(("forks", "above", "below"), [(5, 2, 1), (3, 1, 1), (2, 1, 1), (1, 0, 0)])
def test_how_many_forks_pay_when_nothing_has_moved(forks, above, below):
    entropy_NA = jnp.asarray([FORKS[:forks]], jnp.float32)
    band = entropy_band(entropy_NA, jnp.ones((1, forks), bool), fraction=1.0)
    grad_NA = jax.grad(lambda h: sum(map(jnp.sum, band_hinge(h, band))))(entropy_NA)
    assert (int((grad_NA > 0).sum()), int((grad_NA < 0).sum())) == (above, below)
    assert (int((grad_NA == 0).sum())) == forks - above - below


# ---------------------------------------------------------------------------- against float64
@pytest.mark.parametrize("implementation", VARIANTS)
@pytest.mark.parametrize("among", ["forks", "valid"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 130), (9, 257)])
def test_against_float64(implementation, among, shape):
    generator = np.random.default_rng(shape[1])
    # Few values, so that there are ties at the threshold.
    entropy_NA = generator.integers(0, 12, shape).astype(np.float32) / 4
    mask_NA = generator.random(shape) < generator.random((shape[0], 1))
    options = {"fraction": 0.3, "low": 0.2, "high": 0.85, "among": among}
    garbage_NA = jnp.where(mask_NA, entropy_NA, jnp.nan)
    found = entropy_band(garbage_NA, mask_NA, implementation=implementation, **options)
    assert_same(found, numpy_band(entropy_NA, mask_NA, **options))


numbers = st.floats(-10, 10, width=32, allow_subnormal=False)
rows = st.lists(st.tuples(numbers, st.booleans()), min_size=11, max_size=11)


@functools.lru_cache
def jitted(implementation, fraction):
    return jax.jit(
        functools.partial(
            entropy_band, fraction=fraction, at_least=0, implementation=implementation
        )
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, min_size=2, max_size=2), st.sampled_from([0.0, 0.2, 0.7]))
def test_any_numbers(drawn, fraction):
    entropy_NA = np.array([[x for x, _ in row] for row in drawn], np.float32)
    mask_NA = np.array([[valid for _, valid in row] for row in drawn])
    wanted = numpy_band(entropy_NA, mask_NA, fraction=fraction, at_least=0)
    for implementation in ("reference", "chunked"):
        assert_same(jitted(implementation, fraction)(entropy_NA, mask_NA), wanted, 1e-5)


@settings(deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_subnormal=False), min_size=9, max_size=9)
)
def test_the_bits_of_floats_keep_their_order(values):
    x = jnp.asarray(values, jnp.float32)
    keys = np.asarray(ordered(x))
    np.testing.assert_array_equal(np.argsort(keys, kind="stable"), np.argsort(x, kind="stable"))
    np.testing.assert_array_equal(as_float(ordered(x)), x + 0.0)


def test_the_kth_largest_of_extreme_numbers():
    x = np.array([[np.inf, -np.inf, 2e-38, -2e-38, 0.0, 3e38, -3e38, 1.0]], np.float32)
    keys = ordered(jnp.asarray(x))
    for k, wanted in enumerate(np.sort(x[0])[::-1], 1):
        assert as_float(kth_largest(keys, jnp.full((1, 1), k)))[0, 0] == wanted


# ---------------------------------------------------------------------------- gradients, refusals
def test_a_band_is_a_constant_and_its_edges_have_no_slope():
    entropy_NA, mask_NA = twenty_five(), jnp.ones((1, 25), bool)

    def hinge(entropy_NA):
        band = entropy_band(entropy_NA, mask_NA)
        below_NA, above_NA = band_hinge(entropy_NA, band)
        return jnp.where(band.fork_NA, below_NA + above_NA, 0.0).sum()

    wanted = np.zeros(25)
    wanted[[2, 17, 24]] = -1, 1, 1  # 0.8 lies below, 1.2 on the edge, 1.6 and 2.4 above
    np.testing.assert_array_equal(jax.grad(hinge)(entropy_NA)[0], wanted)


def test_one_program_for_all_lengths():
    traces = []

    @jax.jit
    def run(entropy_NA, mask_NA):
        traces.append(None)
        return entropy_band(entropy_NA, mask_NA)

    entropy_NA = jnp.ones((2, 9))
    for length in (0, 4, 9):
        band = run(entropy_NA, jnp.broadcast_to(jnp.arange(9) < length, (2, 9)))
        assert band.fork_NA.sum() == 2 * min(length, max(1, int(0.2 * length + 0.5)))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fraction": 1.5}, "fraction=1.5"),
        ({"at_least": -1}, "at_least=-1"),
        ({"low": 0.6}, "low=0.6, high=0.5"),
        ({"among": "all"}, "among='all'"),
        ({"implementation": "fast"}, "implementation='fast'"),
        ({"mask_NA": jnp.ones((2, 4), bool)}, r"entropy has shape \(2, 3\) and mask \(2, 4\)"),
    ],
)
def test_bad_input_is_named(changes, said):
    good = {"entropy_NA": jnp.ones((2, 3)), "mask_NA": jnp.ones((2, 3), bool)}
    with pytest.raises(ValueError, match=said):
        entropy_band(**{**good, **changes})
