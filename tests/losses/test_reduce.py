import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from jaxevo.losses import (
    constant_norm,
    masked,
    ratio,
    seq_mean_token_mean,
    seq_mean_token_sum,
    sum_norm,
    token_mean,
)
from jaxevo.types import bind

N, A = 6, 4
REDUCERS = {
    "token_mean": bind(token_mean),
    "seq_mean_token_mean": bind(seq_mean_token_mean),
    "seq_mean_token_mean_count": bind(seq_mean_token_mean, empty_rows="count"),
    "seq_mean_token_sum": bind(seq_mean_token_sum),
    "seq_mean_token_sum_count": bind(seq_mean_token_sum, empty_rows="count"),
    "constant_norm": bind(constant_norm, length=A),
    "sum_norm": bind(sum_norm, length=A, rows=N),
}
JITTED = {name: jax.jit(fn) for name, fn in REDUCERS.items()}


def reference(name, value, mask, real):
    """Loops over the rows that exist, in float64."""
    rows = [value[i][mask[i]] for i in range(len(value)) if real[i]]
    filled = [row for row in rows if len(row)]
    total = sum(row.sum() for row in rows)
    counted = len(rows) if name.endswith("count") else len(filled)
    answers = {
        "token_mean": (total, sum(len(row) for row in rows)),
        "seq_mean_token_mean": (sum(row.mean() for row in filled), counted),
        "seq_mean_token_sum": (total, counted),
        "constant_norm": (total, len(rows) * A),
        "sum_norm": (total * N, len(rows) * A),
    }
    num, den = answers[name.removesuffix("_count")]
    return num / den if den else 0.0


@st.composite
def masked_values(draw):
    seed = draw(st.integers(0, 2**32 - 1))
    lengths = draw(st.lists(st.integers(0, A), min_size=N, max_size=N))
    real = np.array(draw(st.lists(st.booleans(), min_size=N, max_size=N)))
    value = np.random.default_rng(seed).normal(size=(N, A)).astype(np.float32)
    mask = np.arange(A)[None] < np.array(lengths)[:, None]
    return value, mask & real[:, None], real


@pytest.mark.parametrize(
    ("reduce", "expected"),
    [
        (token_mean, 1.75),
        (seq_mean_token_mean, 1.5),
        (seq_mean_token_sum, 3.5),
        (bind(constant_norm, length=3), 7 / 6),
        (bind(sum_norm, length=3, rows=2), 7 / 3),
        (bind(sum_norm, length=2, rows=2), 3.5),  # Tunix takes the number of rows for the length
    ],
)
def test_worked_numbers(reduce, expected):
    value = np.array([[1.0, 50, 50], [2, 2, 2]])
    mask = np.array([[1, 0, 0], [1, 1, 1]], bool)
    assert_allclose(ratio(*reduce(value, mask)), expected, rtol=1e-6)


@pytest.mark.parametrize("name", REDUCERS)
def test_equals_the_float64_reference_for_any_mask(name):
    @settings(max_examples=20, deadline=None)
    @given(masked_values())
    def check(case):
        value, mask, real = case
        got = ratio(*JITTED[name](value, mask, rows_N=real))
        # sums of at most 24 float32 values of size 1
        assert_allclose(got, reference(name, value, mask, real), rtol=1e-5, atol=1e-5)

    check()


@pytest.mark.parametrize("name", REDUCERS)
def test_pairs_add_up_over_any_split_into_padded_micro_batches(name):
    @settings(max_examples=20, deadline=None)
    @given(masked_values(), st.lists(st.integers(0, 2), min_size=N, max_size=N))
    def check(case, where):
        value, mask, real = case
        pairs = []
        for part in range(3):
            chosen = np.flatnonzero(np.array(where) == part)
            piece = [np.zeros_like(x) for x in (value, mask, real)]
            for target, source in zip(piece, (value, mask, real), strict=True):
                target[: len(chosen)] = source[chosen]
            pairs.append(JITTED[name](piece[0], piece[1], rows_N=piece[2]))
        whole = ratio(*JITTED[name](value, mask, rows_N=real))
        summed = ratio(sum(p[0] for p in pairs), sum(p[1] for p in pairs))
        assert_allclose(summed, whole, rtol=1e-5, atol=1e-6)  # another order of float32 sums

    check()


@pytest.mark.parametrize("name", REDUCERS)
@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e4])
def test_garbage_under_the_mask_changes_neither_value_nor_gradient(name, garbage):
    value = np.random.default_rng(0).normal(size=(N, A)).astype(np.float32)
    mask = np.arange(A)[None] < np.array([4, 0, 1, 2, 3, 4])[:, None]
    loss = jax.value_and_grad(lambda v: ratio(*REDUCERS[name](v, mask)))
    clean, clean_grad = loss(jnp.where(mask, value, 0.0))
    dirty, dirty_grad = loss(jnp.where(mask, value, garbage))
    assert clean == dirty
    assert_array_equal(clean_grad, dirty_grad)
    assert_array_equal(np.asarray(dirty_grad)[~mask], 0)


def test_empty_rows_are_excluded_or_counted_and_padding_rows_never():
    value, mask = np.ones((4, 2)), np.array([[1, 1], [0, 0], [1, 0], [0, 0]], bool)
    real = np.array([1, 1, 1, 0], bool)
    for fn, total in ((seq_mean_token_mean, 2), (seq_mean_token_sum, 3)):
        assert_allclose(ratio(*fn(value, mask, rows_N=real)), total / 2, rtol=1e-6)
        counted = fn(value, mask, empty_rows="count", rows_N=real)
        assert_allclose(ratio(*counted), total / 3, rtol=1e-6)
        without_rows = fn(value, mask, empty_rows="count")
        assert_allclose(ratio(*without_rows), total / 4, rtol=1e-6)
    assert_allclose(ratio(*constant_norm(value, mask, length=2, rows_N=real)), 3 / 6, rtol=1e-6)
    assert_allclose(ratio(*constant_norm(value, mask, length=2)), 3 / 8, rtol=1e-6)
    assert_allclose(ratio(*sum_norm(value, mask, length=2, rows=3, rows_N=real)), 1.5, rtol=1e-6)


@pytest.mark.parametrize("name", REDUCERS)
def test_rows_that_do_not_exist_are_left_out_even_with_a_mask(name):
    value = np.array([[1.0, 2], [5, 6]])
    gone = REDUCERS[name](value, np.ones((2, 2), bool), rows_N=np.array([True, False]))
    alone = REDUCERS[name](value[:1], np.ones((1, 2), bool))
    assert_allclose(gone, alone, rtol=1e-6)


def test_token_mean_equals_sequence_mean_when_all_lengths_agree():
    value = np.random.default_rng(1).normal(size=(3, 5))
    mask = np.arange(5)[None] < np.full((3, 1), 4)
    assert_allclose(
        ratio(*token_mean(value, mask)), ratio(*seq_mean_token_mean(value, mask)), rtol=1e-5
    )


@pytest.mark.parametrize("name", REDUCERS)
def test_an_empty_batch_gives_zero_with_zero_gradient(name):
    real, mask = np.zeros(N, bool), np.zeros((N, A), bool)
    fn = jax.value_and_grad(lambda v: ratio(*REDUCERS[name](v, mask, rows_N=real)))
    value, grad = fn(jnp.full((N, A), jnp.nan))
    assert value == 0
    assert_array_equal(grad, np.zeros((N, A)))


def test_ratio_divides_and_survives_zero_over_zero():
    assert_allclose(ratio(3.0, 4.0), 0.75)
    value, grads = jax.value_and_grad(ratio, argnums=(0, 1))(jnp.float32(jnp.nan), jnp.float32(0))
    assert (value, *grads) == (0, 0, 0)


def test_masked_fills_and_stops_the_gradient():
    x = jnp.array([[1.0, jnp.nan]])
    assert_array_equal(masked(x, np.array([[1, 0]]), fill=3.0), [[1, 3]])
    grad = jax.grad(lambda y: masked(y * y, np.array([[1, 0]])).sum())(
        masked(x, np.array([[1, 0]]))
    )
    assert_array_equal(grad, [[2, 0]])


def test_refusals():
    value, mask = np.ones((2, 2)), np.ones((2, 2), bool)
    with pytest.raises(ValueError, match="empty_rows must be"):
        seq_mean_token_mean(value, mask, empty_rows="drop")
    with pytest.raises(ValueError, match="length=0"):
        constant_norm(value, mask, length=0)
    with pytest.raises(ValueError, match="rows=0"):
        sum_norm(value, mask, length=1, rows=0)
    with pytest.raises(AssertionError, match="shape"):
        token_mean(value, mask[:1])
