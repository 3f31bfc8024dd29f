import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from jaxevo.losses import categorical_kl, entropy

P, Q = np.log([0.5, 0.3, 0.2]), np.log([0.4, 0.4, 0.2])
KINDS = ("reverse", "forward", "js")


ROWS, V, ALPHA, TAU = 4, 7, 0.3, 0.7  # one shape and one α: nine compilations serve most tests
OPTIONS = [(None, True), (3, True), (3, False)]


@functools.partial(jax.jit, static_argnames=("kind", "top_k", "tail"))
def graded(z, t, mask, kind, top_k, tail):
    """Σ of the divergence at temperature τ, and its gradient for the student's logits."""
    options = {"kind": kind, "alpha": ALPHA, "top_k": top_k, "tail": tail, "temperature": TAU}
    return jax.value_and_grad(lambda x: categorical_kl(x, t, mask=mask, **options).sum())(z)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


ALL = np.ones(ROWS, bool)


def softmax(x):
    e = np.exp(np.float64(x) - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(p, q):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, p * np.log(p / q), 0.0).sum(-1)


def divergence(p, q, kind, alpha):
    m = (1 - alpha) * p + alpha * q
    both = (1 - alpha) * kl(p, m) + alpha * kl(q, m)
    return {"reverse": kl(p, q), "forward": kl(q, p), "js": both}[kind]


def gradient(p, q, kind, alpha):
    """The closed forms for the student's logits."""
    if kind == "forward":
        return p - q
    m = q if kind == "reverse" else (1 - alpha) * p + alpha * q
    scale = 1.0 if kind == "reverse" else 1 - alpha
    return scale * p * (np.log(p / m) - kl(p, m)[..., None])


def reduced(p, q, k, tail):
    index = np.argsort(-p, axis=-1, kind="stable")
    p, q = np.take_along_axis(p, index, -1), np.take_along_axis(q, index, -1)
    if tail:  # summed, not 1 - rest: finite differences of its logarithm need all digits
        tails = (np.maximum(x[..., k:].sum(-1, keepdims=True), 1e-7) for x in (p, q))
        return (np.append(x[..., :k], rest, -1) for x, rest in zip((p, q), tails, strict=True))
    return (x[..., :k] / x[..., :k].sum(-1, keepdims=True) for x in (p, q))


@pytest.mark.parametrize(
    ("options", "value", "grad"),
    [
        ({"kind": "reverse"}, 0.025267, [0.098938, -0.093885, -0.005053]),
        ({"kind": "forward"}, 0.025815, [0.1, -0.1, 0.0]),
        ({"kind": "js"}, 0.006367, [0.024731, -0.024088, -0.000644]),
        ({"kind": "js", "alpha": 0.001}, 2.5789e-5, None),
        ({"kind": "reverse", "top_k": 1}, 0.020411, [0.101366, -0.060820, -0.040547]),
        ({"kind": "forward", "top_k": 1}, 0.020136, None),
        ({"kind": "js", "top_k": 1}, 0.005059, None),
        ({"kind": "reverse", "top_k": 2, "tail": False}, 0.031584, [0.119725, -0.119725, 0.0]),
        ({"kind": "reverse", "top_k": 2}, 0.025267, [0.098938, -0.093885, -0.005053]),
        ({"kind": "forward", "top_k": 2}, 0.025815, [0.1, -0.1, 0.0]),
        ({"kind": "js", "top_k": 2}, 0.006367, [0.024731, -0.024088, -0.000644]),
    ],
)
def test_worked_numbers(options, value, grad):
    got, got_grad = jax.value_and_grad(lambda z: categorical_kl(z, Q, **options))(P)
    # six digits are given; the small-α value is a difference of logs of size 1 in float32
    assert_allclose(got, value, atol=1e-6 if value > 1e-3 else 1e-7)
    if grad is not None:
        assert_allclose(got_grad, grad, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("top_k", "tail"), OPTIONS)
def test_value_and_gradient_equal_the_float64_closed_forms(kind, top_k, tail):
    def exact(p, q):
        return divergence(*((p, q) if top_k is None else reduced(p, q, top_k, tail)), kind, ALPHA)

    @settings(max_examples=15, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.floats(0.1, 4))
    def check(seed, spread):
        z, t = np.float32(spread) * normal(seed, 2, ROWS, V)
        p, q = softmax(z / TAU), softmax(t / TAU)
        value, grad = graded(z, t, ALL, kind, top_k, tail)
        assert_allclose(value, exact(p, q).sum(), rtol=2e-4, atol=2e-5)  # logs of up to 40
        if top_k is None:
            assert_allclose(grad, gradient(p, q, kind, ALPHA) / TAU, rtol=2e-4, atol=2e-5)
        else:
            h = 1e-6 * np.eye(V)  # finite differences of the float64 value, one row per logit
            q_NVV = np.broadcast_to(q[:, None], (ROWS, V, V))
            up, down = (exact(softmax((z[:, None] + s * h) / TAU), q_NVV) for s in (1, -1))
            assert_allclose(grad, (up - down) / 2e-6, rtol=2e-4, atol=2e-4)

    check()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("top_k", "tail"), OPTIONS)
def test_equal_distributions_have_no_divergence_and_no_gradient(kind, top_k, tail):
    z = normal(3, ROWS, V)
    value, grad = graded(z, z, ALL, kind, top_k, tail)
    # XLA may compute log p twice, in two orders: what is left is an ulp of logs of size 1
    assert_allclose(value, 0, atol=1e-6)
    assert_allclose(grad, np.zeros_like(z), atol=1e-6)
    if kind != "js":  # op by op, log p is the same on both sides to the bit
        options = {"kind": kind, "top_k": top_k, "tail": tail}
        with jax.disable_jit():
            exact = jax.value_and_grad(lambda x: categorical_kl(x, z, **options).sum())(z)
        assert exact[0] == 0
        assert_array_equal(exact[1], np.zeros_like(z))


@pytest.mark.parametrize("kind", KINDS)
def test_top_k_of_the_whole_vocabulary_is_the_whole_vocabulary(kind):
    z, t = normal(4, 2, ROWS, V)
    full = categorical_kl(z, t, kind=kind)
    assert_allclose(categorical_kl(z, t, kind=kind, top_k=V, tail=False), full, atol=1e-6)
    assert_allclose(categorical_kl(z, t, kind=kind, top_k=V), full, atol=1e-6)
    alone = categorical_kl(z, t, kind=kind, top_k=1, tail=False)
    assert_array_equal(alone, np.zeros(ROWS))  # one renormalised token says nothing


def test_js_ends_in_the_plain_divergences_divided_by_their_small_share():
    for alpha, limit in ((1e-2, "forward"), (1 - 1e-2, "reverse")):
        scaled = categorical_kl(P, Q, kind="js", alpha=alpha) / 1e-2
        assert_allclose(scaled, categorical_kl(P, Q, kind=limit), rtol=0.02)  # first order in 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_the_teacher_gets_no_gradient(kind):
    for options in ({}, {"top_k": 2}):
        grad = jax.grad(lambda t, o=options: categorical_kl(P, t, kind=kind, **o))(Q)
        assert_array_equal(grad, np.zeros(3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("top_k", "tail"), OPTIONS)
def test_logits_of_any_size_give_exact_finite_values_and_gradients(kind, top_k, tail):
    z = np.tile(np.float32([1e4, -1e4, 0, 1e4, -1e4, 0, 0]), (ROWS, 1))
    t = np.tile(np.float32([-1e4, 1e4, 0, 1e4, -1e4, 0, 0]), (ROWS, 1))
    value, grad = graded(z, t, ALL, kind, top_k, tail)
    assert np.isfinite(value)
    assert np.isfinite(grad).all()
    if top_k is None:  # p = ½ on tokens 0 and 3, q = ½ on tokens 1 and 3, logs of −20000 / τ
        a = ALPHA
        js = (1 - a) / 2 * -np.log(1 - a) + a / 2 * -np.log(a)  # on token 3 the two agree
        want = {"reverse": 1e4 / TAU, "forward": 1e4 / TAU, "js": js}[kind]
        assert_allclose(value, ROWS * want, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("top_k", "tail"), OPTIONS)
def test_tokens_forbidden_on_both_sides_drop_out(kind, top_k, tail):
    z, t = normal(5, 2, ROWS, V)
    for forbidden in ([6], [0, 2, 3, 5, 6]):  # the second leaves fewer tokens than the top k
        z[:, forbidden] = t[:, forbidden] = -np.inf
        allowed = np.isfinite(z[0])
        p, q = softmax(z[:, allowed] / TAU), softmax(t[:, allowed] / TAU)
        value, grad = graded(z, t, ALL, kind, top_k, tail)
        if top_k is None or allowed.sum() <= top_k:
            want, slope = divergence(p, q, kind, ALPHA), gradient(p, q, kind, ALPHA) / TAU
            assert_allclose(np.asarray(grad)[:, allowed], slope, atol=1e-5)
        else:
            want = divergence(*reduced(p, q, top_k, tail), kind, ALPHA)
        assert_allclose(value, want.sum(), atol=1e-5)
        assert_array_equal(np.asarray(grad)[:, ~allowed], 0)


def test_a_token_that_only_one_side_forbids():
    open_, shut = np.zeros(2, np.float32), np.array([0, -np.inf], np.float32)
    assert categorical_kl(open_, shut, kind="reverse") == np.inf
    assert categorical_kl(shut, open_, kind="forward") == np.inf
    assert_allclose(categorical_kl(shut, open_, kind="reverse"), np.log(2), rtol=1e-6)
    assert_allclose(categorical_kl(open_, shut, kind="forward"), np.log(2), rtol=1e-6)
    js, grad = jax.value_and_grad(lambda z: categorical_kl(z, shut, kind="js"))(open_)
    p, q = np.array([0.5, 0.5]), np.array([1.0, 0.0])
    assert_allclose(js, divergence(p, q, "js", 0.5), rtol=1e-6)
    assert_allclose(grad, gradient(p, q, "js", 0.5), rtol=1e-6)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e4])
@pytest.mark.parametrize("kind", [*KINDS, "entropy"])
def test_garbage_under_the_mask_changes_neither_value_nor_gradient(kind, garbage):
    z, t = normal(6, 2, ROWS, V)
    mask = np.array([1, 0, 1, 0], bool)

    def loss(x, y):
        if kind == "entropy":
            return jax.value_and_grad(lambda u: entropy(u, mask=mask).sum())(x)
        return graded(x, y, mask, kind, 3, True)

    clean, clean_grad = loss(z, t)
    dirty, dirty_grad = loss(*(np.where(mask[:, None], x, np.float32(garbage)) for x in (z, t)))
    assert clean == dirty
    assert_array_equal(clean_grad, dirty_grad)
    assert_array_equal(np.asarray(dirty_grad)[~mask], 0)


def test_entropy_worked_numbers_and_gradient():
    assert_allclose(entropy(np.array([2.0, 0, 0, 0])), 0.918284, atol=1e-6)
    assert_allclose(entropy(np.zeros(5)), np.log(5), rtol=1e-6)
    assert_array_equal(entropy(np.array([1e4, -1e4, -np.inf])), 0)
    assert_allclose(entropy(np.array([0.0, 0.0, -np.inf])), np.log(2), rtol=1e-6)
    z = normal(7, ROWS, V)
    p = softmax(z / 0.5)
    h = -(p * np.log(p)).sum(-1, keepdims=True)
    value, grad = jax.value_and_grad(lambda x: entropy(x, temperature=0.5).sum())(z)
    assert_allclose(value, h.sum(), rtol=1e-5)
    assert_allclose(grad, -p * (np.log(p) + h) / 0.5, atol=1e-5)


def test_refusals():
    with pytest.raises(ValueError, match="kind must be"):
        categorical_kl(P, Q, kind="jensen")
    for alpha in (0.0, 1.0):
        with pytest.raises(ValueError, match="must lie inside"):
            categorical_kl(P, Q, kind="js", alpha=alpha)
    for top_k in (0, 4):
        with pytest.raises(ValueError, match=f"top_k={top_k}"):
            categorical_kl(P, Q, top_k=top_k)
