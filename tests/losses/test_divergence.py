import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from jaxevo.losses import categorical_kl, entropy

P, Q = np.log([0.5, 0.3, 0.2]), np.log([0.4, 0.4, 0.2])
KINDS = ("reverse", "forward", "js")
V = 7


@functools.partial(jax.jit, static_argnames=("kind", "alpha", "top_k", "tail", "temperature"))
def graded(z, t, mask=None, **options):
    """Σ of the divergence and its gradient for the student's logits; compiled once per options."""
    return jax.value_and_grad(lambda x: categorical_kl(x, t, mask=mask, **options).sum())(z)


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
    index = np.argsort(-p, axis=-1, kind="stable")[..., :k]
    p, q = np.take_along_axis(p, index, -1), np.take_along_axis(q, index, -1)
    if tail:
        return (np.append(x, 1 - x.sum(-1, keepdims=True), -1) for x in (p, q))
    return (x / x.sum(-1, keepdims=True) for x in (p, q))


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
    got, got_grad = graded(np.float32(P), np.float32(Q), **options)
    # six digits are given; the small-α value is a difference of logs of size 1 in float32
    assert_allclose(got, value, atol=1e-6 if value > 1e-3 else 1e-7)
    if grad is not None:
        assert_allclose(got_grad, grad, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("top_k", "tail"), [(None, True), (3, True), (3, False)])
def test_value_and_gradient_equal_the_float64_closed_forms(kind, top_k, tail):
    options = {"kind": kind, "alpha": 0.3, "top_k": top_k, "tail": tail, "temperature": 0.7}

    @settings(max_examples=15, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.floats(0.1, 4))
    def check(seed, spread):
        z, t = spread * np.random.default_rng(seed).normal(size=(2, 4, V)).astype(np.float32)
        p, q = softmax(z / 0.7), softmax(t / 0.7)
        value, grad = graded(z, t, **options)
        if top_k is None:
            want = divergence(p, q, kind, 0.3).sum()
            assert_allclose(grad, gradient(p, q, kind, 0.3) / 0.7, rtol=2e-4, atol=2e-5)
        else:
            want = divergence(*reduced(p, q, top_k, tail), kind, 0.3).sum()
            h = 1e-6 * np.eye(V)[None, :, :]  # finite differences of the float64 value
            up, down = (
                divergence(
                    *reduced(softmax((z[:, None] + s * h) / 0.7), q[:, None] + 0 * h, top_k, tail),
                    kind,
                    0.3,
                )
                for s in (1, -1)
            )
            assert_allclose(grad, (up - down) / 2e-6, rtol=2e-4, atol=2e-4)
        assert_allclose(value, want, rtol=2e-4, atol=2e-5)  # logs of up to 30 in float32

    check()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("top_k", "tail"), [(None, True), (2, True), (2, False)])
def test_equal_distributions_have_no_divergence_and_no_gradient(kind, top_k, tail):
    z = np.random.default_rng(3).normal(size=(8, V)).astype(np.float32)
    value, grad = graded(z, z, kind=kind, top_k=top_k, tail=tail)
    if kind == "js":  # log m is rounded
        assert_allclose(value, 0, atol=1e-6)
        assert_allclose(grad, np.zeros_like(z), atol=1e-6)
    else:
        assert value == 0
        assert_array_equal(grad, np.zeros_like(z))


@pytest.mark.parametrize("kind", KINDS)
def test_top_k_of_the_whole_vocabulary_is_the_whole_vocabulary(kind):
    z, t = np.random.default_rng(4).normal(size=(2, V)).astype(np.float32)
    full = graded(z, t, kind=kind)[0]
    assert_allclose(graded(z, t, kind=kind, top_k=V, tail=False)[0], full, atol=1e-6)
    assert_allclose(graded(z, t, kind=kind, top_k=V)[0], full, atol=1e-6)
    alone = graded(z, t, kind=kind, top_k=1, tail=False)[0]
    assert_array_equal(alone, 0)  # one renormalised token says nothing


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
@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_k": 2, "tail": False}])
def test_logits_of_any_size_give_exact_finite_values_and_gradients(kind, options):
    big = np.array([1e4, -1e4, 0.0, 1e4], np.float32)
    turned = np.array([-1e4, 1e4, 0.0, 1e4], np.float32)
    value, grad = graded(big, turned, kind=kind, **options)
    assert np.isfinite(value)
    assert np.isfinite(grad).all()
    if not options:  # p = [½, 0, 0, ½], q = [0, ½, 0, ½] with logs of −20000
        js = 0.5 * np.log(2)  # each side: half its mass alone in m (log 2), half shared (log 1)
        want = {"reverse": 1e4, "forward": 1e4, "js": js}[kind]
        assert_allclose(value, want, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_k": 4}, {"top_k": 3, "tail": False}])
def test_forbidden_tokens_drop_out(kind, options):
    z, t = np.random.default_rng(5).normal(size=(2, 3)).astype(np.float32)
    forbidden = np.full(1, -np.inf, np.float32)
    wide = graded(np.append(z, forbidden), np.append(t, forbidden), kind=kind, **options)
    narrow_options = {**options, "top_k": min(options.get("top_k", 3), 3)}
    narrow = graded(z, t, kind=kind, **narrow_options)
    assert_allclose(wide[0], narrow[0], atol=1e-6)
    assert_allclose(wide[1], np.append(narrow[1], 0), atol=1e-6)


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
    z, t = np.random.default_rng(6).normal(size=(2, 2, 3, V)).astype(np.float32)
    mask = np.array([[1, 0, 1], [0, 0, 1]], bool)

    def loss(x, y):
        if kind == "entropy":
            return jax.value_and_grad(lambda u: entropy(u, mask=mask).sum())(x)
        return graded(x, y, mask, kind=kind, top_k=3)

    clean, clean_grad = loss(z, t)
    dirty, dirty_grad = loss(*(np.where(mask[..., None], x, np.float32(garbage)) for x in (z, t)))
    assert clean == dirty
    assert_array_equal(clean_grad, dirty_grad)
    assert_array_equal(np.asarray(dirty_grad)[~mask], 0)


def test_entropy_worked_numbers_and_gradient():
    assert_allclose(entropy(np.array([2.0, 0, 0, 0])), 0.918284, atol=1e-6)
    assert_allclose(entropy(np.zeros(5)), np.log(5), rtol=1e-6)
    assert_array_equal(entropy(np.array([1e4, -1e4, -np.inf])), 0)
    assert_allclose(entropy(np.array([0.0, 0.0, -np.inf])), np.log(2), rtol=1e-6)
    z = np.random.default_rng(7).normal(size=(3, V)).astype(np.float32)
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
