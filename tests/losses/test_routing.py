import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxevo.losses import certainty_weight, ratio, token_mean
from jaxevo.losses.terms import over_all_tokens
from jaxevo.types import Stream, bind


@pytest.mark.parametrize(
    ("entropy", "want"),
    [
        ([0.1, 0.7, 1.2, 2.0], [1.969229, 1.080736, 0.655500, 0.294535]),
        ([0.0, 1.0, 2.0], [1.995723, 0.734185, 0.270092]),
    ],
)
def test_worked_numbers_of_the_weights(entropy, want):
    mask = np.ones((1, len(entropy)), bool)
    found = certainty_weight(np.array([entropy]), mask)
    assert_allclose(found, [want], rtol=2e-6)  # six decimals are given
    assert float(found.mean()) == pytest.approx(1.0, abs=1e-6)
    assert_array_equal(certainty_weight(np.array([entropy]), mask, beta=0.0), np.ones_like(found))


def test_a_row_of_an_unsure_teacher_has_a_smaller_share():
    entropy = np.array([[0.3, 0.1, 0.9], [2.5, 3.0, 2.0]])
    sure, unsure = certainty_weight(entropy, np.ones((2, 3), bool)).sum(1)
    assert unsure < 0.2 * sure
    assert float(sure + unsure) == pytest.approx(6.0, rel=1e-6)


def test_masked_tokens_have_no_weight_and_no_tokens_have_none():
    entropy = np.array([[0.0, np.nan, 1.0], [np.inf, np.nan, 5.0]])
    mask = np.array([[1, 0, 1], [0, 0, 0]], bool)
    want = np.array([[1.462117, 0, 0.537883], [0, 0, 0]])
    assert_allclose(certainty_weight(entropy, mask), want, rtol=2e-6)
    assert_array_equal(certainty_weight(entropy, np.zeros_like(mask)), np.zeros_like(want))


def test_the_mean_of_several_parts_is_given():
    entropy, mask = np.array([[0.1, 0.7], [1.2, 2.0]]), np.ones((2, 2), bool)
    mean = np.exp(-entropy).mean()
    whole = certainty_weight(entropy, mask)
    parts = [certainty_weight(entropy[n : n + 1], mask[n : n + 1], mean=mean) for n in (0, 1)]
    assert_allclose(np.concatenate(parts), whole, rtol=1e-6)
    slope = jax.grad(lambda e: certainty_weight(e, mask).sum())(jnp.asarray(entropy))
    assert_array_equal(slope, np.zeros((2, 2)))


def told(now, frozen, credit, batch, *, value, rows, stream="text"):
    del frozen, batch
    mask = now[stream].mask_NA & np.array(rows)[:, None]
    loss = jnp.array(value) * credit["weight"] if "weight" in credit else jnp.array(value)
    return jnp.where(mask, loss, 0.0), mask


@pytest.mark.parametrize(("beta", "want"), [(1.0, 0.626894), (0.0, 0.65)])
def test_worked_numbers_of_one_denominator(beta, want):
    """Two denominators would give 1.253788 with beta 1."""
    now = {"text": Stream(None, np.ones((2, 2), bool))}
    taught = np.array([[False], [True]]) & np.ones((2, 2), bool)
    weight = certainty_weight(np.array([[9.0, 9.0], [0.0, 1.0]]), taught, beta=beta)
    policy = bind(told, value=((1.0, 1.0), (7.0, 7.0)), rows=(True, False))
    distill = bind(told, value=((7.0, 7.0), (0.2, 0.4)), rows=(False, True))
    parts = [
        token_mean(*over_all_tokens(now, {}, credit, None, term=term))
        for term, credit in ((policy, {}), (distill, {"weight": weight}))
    ]
    assert float(sum(ratio(*part) for part in parts)) == pytest.approx(want, abs=5e-7)
