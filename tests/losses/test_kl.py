import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxevo.losses import categorical_kl, kl_penalty, sampled_reverse_kl

P, Q = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.4, 0.2])
STUDENT = np.array([0.3, -1.2, 0.8, 0.1, -0.4])  # logits of a 5-token categorical
TEACHER = np.array([-0.5, 0.6, 0.2, 1.0, -2.0])


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def exact_gradient(kind):
    """d KL / d student logits in closed form, float64."""
    p, q = softmax(STUDENT), softmax(TEACHER)
    if kind == "zero":
        return np.zeros(5)
    if kind == "reverse":
        return p * (np.log(p / q) - (p * np.log(p / q)).sum())
    return p - q


def expected_gradient(loss):
    """E over y ~ p of ∂ loss(log p(y)) / ∂ logits, by enumeration of all five tokens."""
    jacobian = jax.jacobian(lambda z: loss(jax.nn.log_softmax(z)[None])[0])(jnp.float32(STUDENT))
    return softmax(STUDENT) @ np.asarray(jacobian, np.float64)


@pytest.mark.parametrize(
    ("estimator", "values", "mean"),
    [
        ("k1", [0.223144, -0.287682, 0.0], 0.025267),
        ("k2", [0.024897, 0.041380, 0.0], 0.024862),
        ("k3", [0.023144, 0.045651, 0.0], 0.025267),
    ],
)
def test_estimators_worked_numbers(estimator, values, mean):
    got = kl_penalty(np.log(P)[None], np.log(Q)[None], estimator=estimator)[0]
    assert_allclose(got, values, atol=1e-6)  # the numbers are given to six digits
    assert_allclose((P * got).sum(), mean, atol=1e-6)


@pytest.mark.parametrize(
    ("estimator", "kind"), [("k1", "zero"), ("k2", "reverse"), ("k3", "forward")]
)
def test_expected_gradient_of_each_estimator_is_exact(estimator, kind):
    ref = jnp.float32(np.log(softmax(TEACHER)))[None]
    got = expected_gradient(lambda logp: kl_penalty(logp, ref, estimator=estimator))
    assert_allclose(got, exact_gradient(kind), atol=1e-6)  # float32 rounding of sums of size 1


def test_expected_gradient_of_the_sampled_reverse_kl_is_that_of_the_reverse_kl():
    teacher = jnp.float32(np.log(softmax(TEACHER)))[None]
    got = expected_gradient(lambda logp: sampled_reverse_kl(logp, teacher))
    assert_allclose(got, exact_gradient("reverse"), atol=1e-6)
    full = jax.grad(lambda z: categorical_kl(z, TEACHER))(jnp.float32(STUDENT))
    assert_allclose(got, full, atol=1e-6)


def test_sampled_reverse_kl_value_and_gradient_per_token():
    logp, teacher = np.array([[-1.0, -2.0]]), np.array([[-1.5, -0.5]])
    value, grad = jax.value_and_grad(lambda x: sampled_reverse_kl(x, teacher).sum())(logp)
    assert_allclose(value, 0.5 * -1.0 + -1.5 * -2.0, rtol=1e-6)
    assert_allclose(grad, [[0.5, -1.5]], rtol=1e-6)


def test_k3_stays_finite_far_from_the_reference():
    logp, ref = np.array([[-500.0, 0.0]]), np.array([[0.0, -500.0]])
    value = kl_penalty(logp, ref, estimator="k3")
    assert_allclose(value, [[np.exp(20) - 21, 19]], rtol=1e-5)
    grad = jax.grad(lambda x: kl_penalty(x, ref, estimator="k3").sum())(logp)
    assert_array_equal(grad, [[0, 0]])


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e4])
@pytest.mark.parametrize("name", ["k1", "k2", "k3", "sampled"])
def test_garbage_under_the_mask_changes_neither_value_nor_gradient(name, garbage):
    rng = np.random.default_rng(0)
    logp, ref = -rng.exponential(size=(2, 2, 3)).astype(np.float32)
    mask = np.array([[1, 0, 1], [0, 1, 0]], bool)

    def loss(x, r):
        if name == "sampled":
            return sampled_reverse_kl(x, r, mask_NA=mask).sum()
        return kl_penalty(x, r, estimator=name, mask_NA=mask).sum()

    clean, clean_grads = jax.value_and_grad(loss, argnums=(0, 1))(logp, ref)
    dirty_inputs = (jnp.where(mask, x, garbage) for x in (logp, ref))
    dirty, dirty_grads = jax.value_and_grad(loss, argnums=(0, 1))(*dirty_inputs)
    assert clean == dirty
    assert_array_equal(clean_grads[0], dirty_grads[0])
    assert_array_equal(np.asarray(dirty_grads[0])[~mask], 0)
    assert_array_equal(dirty_grads[1], np.zeros((2, 3)))  # the reference never learns


def test_an_unknown_estimator_is_refused():
    with pytest.raises(ValueError, match="estimator must be"):
        kl_penalty(np.zeros((1, 1)), np.zeros((1, 1)), estimator="abs")
