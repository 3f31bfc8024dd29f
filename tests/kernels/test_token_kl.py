from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxevo.kernels import (
    Blend,
    LogProbs,
    fused_logprob_sum,
    token_kl,
    token_kl_sum,
    traffic,
)
from jaxevo.kernels._pallas_tpu import made_for

M, D, E, V = 6, 37, 41, 37  # D = V, so that random and identity heads share a compilation
PALLAS = "pallas_tpu_interpret"
WITH_TOP_K = ["reference", "chunked"]
IMPLEMENTATIONS = [*WITH_TOP_K, PALLAS]
KINDS = ["reverse", "forward", "js"]
# kind, top_k, tail: every kind whole, and both ends of a support with every kind between them
MEASURES = [
    ("reverse", None, True),
    ("forward", None, True),
    ("js", None, True),
    ("reverse", 5, True),
    ("forward", 5, True),
    ("js", 5, False),
]
EVERY = [(i, *m) for i in IMPLEMENTATIONS for m in MEASURES if i != PALLAS or m[1] is None]
# Halves the compile time; fused as outside of tests, on which it hangs what is exactly 0.
QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": True}
TOLERANCE = 5e-5  # float32 rounding of logits of up to 40 (4e-6 each), times a few sums
P, Q = [0.5, 0.3, 0.2], [0.4, 0.4, 0.2]  # student and teacher of the cards


def log_softmax(x):
    x = x - x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def numpy_version(x, y, *, kind, alpha=0.5, top_k=None, tail=True, clip=np.inf, ids=None):
    """float64 divergence of logits x (student) and y (teacher)."""
    logp, logq = log_softmax(np.asarray(x, np.float64)), log_softmax(np.asarray(y, np.float64))
    if top_k is not None:
        ids = np.argsort(-logp, axis=1, kind="stable")[:, :top_k] if ids is None else ids
        pair = []
        for log_all in (logp, logq):
            log_top = np.take_along_axis(log_all, ids, 1)
            held = np.logaddexp.reduce(log_top, 1, keepdims=True)
            rest = np.log(-np.expm1(np.minimum(held, -1e-7)))
            pair.append(np.concatenate([log_top, rest], 1) if tail else log_top - held)
        logp, logq = pair
    if kind == "reverse":
        terms = np.exp(logp) * (logp - logq)
    elif kind == "forward":
        terms = np.exp(logq) * (logq - logp)
    else:
        logm = np.logaddexp(np.log(1 - alpha) + logp, np.log(alpha) + logq)
        of_student = (1 - alpha) * np.exp(logp) * (logp - logm)
        terms = of_student + alpha * np.exp(logq) * (logq - logm)
    return np.minimum(terms, clip).sum(1)


def numpy_slopes(x, y, *, top_k=None, **options):
    """Central differences of the float64 version by each student logit; rows do not interact."""
    x, slopes = np.asarray(x, np.float64), np.zeros(x.shape)
    ids = None if top_k is None else np.argsort(-x, axis=1, kind="stable")[:, :top_k]
    for v in range(x.shape[1]):
        step = np.eye(x.shape[1])[v] * 1e-5
        up, down = (numpy_version(x + s, y, top_k=top_k, ids=ids, **options) for s in (step, -step))
        slopes[:, v] = (up - down) / 2e-5
    return slopes


@functools.lru_cache
def jitted(implementation, block_V=None, block_M=None, *, clip=np.inf, **options):
    """(4 arrays of the heads, temperature, cotangent) -> kl, gradients; compiled once."""

    def loss(student, teacher, student_DV, teacher_EV, temperature, cotangent):
        kl_M = token_kl(
            student,
            teacher,
            student_DV,
            teacher_EV,
            temperature=temperature,
            implementation=implementation,
            block_M=block_M,
            block_V=block_V,
            pointwise_clip=None if clip == np.inf else clip,
            **options,
        )
        return jnp.vdot(cotangent, kl_M), kl_M

    grad = jax.grad(loss, argnums=(0, 2), has_aux=True)
    compiled = jax.jit(lambda *args: grad(*args)[::-1], compiler_options=QUICK)

    def with_temperature_per_row(*args):
        *heads, temperature, cotangent = args
        per_row = jnp.broadcast_to(jnp.float32(temperature), cotangent.shape)
        return compiled(*heads, per_row, cotangent)

    return with_temperature_per_row


def run(implementation, *, kind, alpha=0.5, top_k=None, tail=True, clip=np.inf):
    blocks = {"chunked": (8, None), PALLAS: (16, 4)}.get(implementation, (None, None))
    options = {"kind": kind, "alpha": alpha, "top_k": top_k, "tail": tail, "clip": clip}
    return jitted(implementation, *blocks, **options)


def on_logits(implementation, x, y, **options):
    """kl and its gradient by the student's logits, through identity unembeddings.

    Up to [M, V] logits; the other rows repeat the last one, the other tokens have no probability.
    """
    x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
    padding = (0, M - x.shape[0]), (0, V - x.shape[1])
    x_MV, y_MV = (
        np.pad(np.pad(z, ((0, 0), padding[1]), constant_values=-1e4), (padding[0], (0, 0)), "edge")
        for z in (x, y)
    )
    y_ME = np.pad(y_MV, ((0, 0), (0, E - V)))
    heads = x_MV, y_ME, np.eye(V, dtype=np.float32), np.eye(E, V, dtype=np.float32)
    kl, (dlogits, _) = run(implementation, **options)(*heads, 1.0, np.ones(M, np.float32))
    return np.asarray(kl)[: len(x)], np.asarray(dlogits)[: len(x), : x.shape[1]]


def problem(seed=0, rows=M, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    shapes = (rows, D), (rows, E), (D, V), (E, V)
    return tuple(jnp.asarray(rng.normal(size=shape) / 1.5, dtype) for shape in shapes)


def check(implementation, arrays, temperature, *, gradient=TOLERANCE, **options):
    rng = np.random.default_rng(99)
    student, teacher, student_DV, teacher_EV = (np.asarray(a, np.float64) for a in arrays)
    g = rng.normal(size=student.shape[0])
    kl, grads = run(implementation, **options)(*arrays, temperature, jnp.asarray(g, jnp.float32))
    tau = np.reshape(np.asarray(temperature, np.float64), (-1, 1))
    x, y = student @ student_DV / tau, teacher @ teacher_EV / tau
    np.testing.assert_allclose(kl, numpy_version(x, y, **options), rtol=TOLERANCE, atol=TOLERANCE)
    d = numpy_slopes(x, y, **options) * g[:, None] / tau
    for got, truth, like in zip(grads, (d @ student_DV.T, student.T @ d), arrays[::2], strict=True):
        assert got.dtype == like.dtype
        atol = gradient * np.abs(truth).max()
        np.testing.assert_allclose(np.asarray(got, np.float64), truth, atol=atol)


@pytest.mark.parametrize(("implementation", "kind", "top_k", "tail"), EVERY)
def test_values_and_gradients_equal_float64(implementation, kind, top_k, tail):
    for temperature in (0.3, 1.0, 1.5):
        check(implementation, problem(), temperature, kind=kind, top_k=top_k, tail=tail)


def test_two_cores_take_half_of_the_vocabulary_each():
    with made_for("v5p"):
        check(PALLAS, problem(11), 1.0, kind="reverse")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_generalised_js_off_one_half(implementation):
    check(implementation, problem(1), 1.0, kind="js", alpha=0.2)


@pytest.mark.parametrize(("implementation", "kind", "top_k", "tail"), EVERY)
def test_clipped_terms_equal_float64(implementation, kind, top_k, tail):
    # The differences are taken 1e-5 away: no term lies that close to the clip.
    check(implementation, problem(8), 1.0, kind=kind, top_k=top_k, tail=tail, clip=0.05)


# p = [.02, .98], q = [.5, .5], terms cut at 0.05 nats: the gradient of the forward KL turns round.
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("kind", "value", "gradient"),
    [("forward", -0.286472, [0.01, -0.01]), ("reverse", -0.014378, [-0.043490, 0.043490])],
)
def test_worked_numbers_of_clipped_terms(implementation, kind, value, gradient):
    x, y = np.log([[0.02, 0.98]]), np.log([[0.5, 0.5]])
    kl, slopes = on_logits(implementation, x, y, kind=kind, clip=0.05)
    np.testing.assert_allclose(kl, [value], atol=1e-6)
    np.testing.assert_allclose(slopes, [gradient], atol=1e-6)


def with_cap(x, cap):
    return cap * np.tanh(x / cap)


@pytest.mark.parametrize(("implementation", "kind", "top_k"), [
    *((i, "reverse", None) for i in IMPLEMENTATIONS), ("chunked", "forward", 5)
])  # fmt: skip
def test_a_soft_cap_and_a_blended_teacher_equal_float64(implementation, kind, top_k):
    arrays, (_, second, _, second_FV), share, cap = problem(9), problem(10), 0.3, 3.0
    blocks = {"block_M": 4, "block_V": 16} if implementation == PALLAS else {"block_V": 8}
    g, tau = np.random.default_rng(9).normal(size=M), 0.7

    def weighted(student, student_DV):
        options = {"kind": kind, "top_k": top_k, "soft_cap": cap, "temperature": tau}
        kl_M = token_kl(
            student, arrays[1], student_DV, arrays[3], blend=Blend(second, second_FV, share),
            implementation=implementation, **options, **blocks,
        )  # fmt: skip
        return jnp.vdot(g, kl_M), kl_M

    grads, kl = jax.jit(jax.grad(weighted, argnums=(0, 1), has_aux=True))(arrays[0], arrays[2])
    student, teacher, student_DV, teacher_EV, second, second_FV = (
        np.asarray(a, np.float64) for a in (*arrays, second, second_FV)
    )
    raw = student @ student_DV
    x = with_cap(raw, cap) / tau
    y = (1 - share) * with_cap(teacher @ teacher_EV, cap) + share * with_cap(
        second @ second_FV, cap
    )
    options = {"kind": kind, "top_k": top_k}
    np.testing.assert_allclose(kl, numpy_version(x, y / tau, **options), atol=TOLERANCE)
    d = numpy_slopes(x, y / tau, **options) * g[:, None] / tau * (1 - np.tanh(raw / cap) ** 2)
    for got, truth in zip(grads, (d @ student_DV.T, student.T @ d), strict=True):
        np.testing.assert_allclose(got, truth, atol=TOLERANCE * np.abs(truth).max())


@pytest.mark.parametrize("block_M", [1, 4, None])
@pytest.mark.parametrize(("kind", "top_k", "tail"), MEASURES)
def test_the_sum_has_the_value_and_the_gradients_of_the_reference(block_M, kind, top_k, tail):
    student, teacher, student_DV, teacher_EV = problem(14)
    *_, second, _, second_FV = problem(15)
    weights = jnp.asarray(np.random.default_rng(14).normal(size=M), jnp.float32)
    options = {
        "kind": kind, "top_k": top_k, "tail": tail, "pointwise_clip": 0.2, "soft_cap": 3.0,
        "blend": Blend(second, second_FV, 0.3), "temperature": 0.7,
    }  # fmt: skip

    def summed(student, student_DV):
        heads = student, teacher, student_DV, teacher_EV
        return token_kl_sum(*heads, weights, block_M=block_M, **options)

    def weighted(student, student_DV):
        heads = student, teacher, student_DV, teacher_EV
        return jnp.vdot(weights, token_kl(*heads, implementation="reference", **options))

    value, grads = jax.jit(jax.value_and_grad(summed, argnums=(0, 1)))(student, student_DV)
    want, truth = jax.jit(jax.value_and_grad(weighted, argnums=(0, 1)))(student, student_DV)
    np.testing.assert_allclose([value, summed(student, student_DV)], [want] * 2, rtol=TOLERANCE)
    for got, wanted in zip(grads, truth, strict=True):
        np.testing.assert_allclose(got, wanted, atol=TOLERANCE * np.abs(wanted).max())


def test_products_and_dtypes_of_the_sum(product_flops):
    heads = problem(16, dtype=jnp.bfloat16)
    weights = jnp.ones(M)

    def summed(student, student_DV, scale):
        return scale * token_kl_sum(student, heads[1], student_DV, heads[3], weights, block_M=2)

    args = heads[0], heads[2], jnp.float32(2.0)
    grads = jax.grad(summed, argnums=(0, 1))
    assert product_flops(grads, *args) == 2 * M * V * (3 * D + E)
    got = grads(*args)
    assert [g.dtype for g in got] == [jnp.bfloat16] * 2
    one = grads(*args[:2], jnp.float32(1.0))
    for twice, once in zip(got, one, strict=True):
        np.testing.assert_array_equal(twice, 2 * once)


def test_sampled_tokens_estimate_the_gradient_of_the_whole_vocabulary():
    """∇KL(p‖q) = E_{v∼p} [(log p_v − log q_v) ∇ log p_v]: in 20000 draws, and in the sum itself."""
    student, teacher, student_DV, teacher_EV = problem(17, rows=1)
    draws = 20000
    logp = jax.nn.log_softmax(student @ student_DV)[0]
    logq = jax.nn.log_softmax(teacher @ teacher_EV)[0]
    rng = np.random.default_rng(17)
    p = np.exp(np.asarray(logp, np.float64))
    drawn = rng.choice(V, size=draws, p=p / p.sum())
    every = jnp.arange(V)

    def estimate(hidden, tokens, weights):
        zeros = jnp.zeros(len(tokens))
        rows = jnp.broadcast_to(hidden, (len(tokens), D))
        return fused_logprob_sum(rows, student_DV, tokens, LogProbs(weights, zeros, zeros))

    exact = jax.grad(lambda h: token_kl(h, teacher, student_DV, teacher_EV).sum())(student)
    summed = jax.grad(estimate)(student, every, jnp.exp(logp) * (logp - logq))
    np.testing.assert_allclose(summed, exact, atol=TOLERANCE)
    tokens = jnp.asarray(drawn)
    sampled = jax.grad(estimate)(student, tokens, (logp - logq)[tokens] / draws)
    slopes = np.eye(V) - np.exp(logp)[None]  # ∂ log p_v / ∂x
    each = (np.asarray(logp - logq)[:, None] * slopes) @ np.asarray(student_DV).T
    spread = np.sqrt(np.exp(logp) @ (each - np.asarray(exact)) ** 2 / draws)
    assert (np.abs(sampled - exact)[0] < 5 * spread).all()


@pytest.mark.parametrize("implementation", ["chunked", PALLAS])
def test_a_blend_of_one_model_with_itself_is_that_model(implementation):
    student, teacher, student_DV, teacher_EV = problem(12)
    blend = Blend(teacher, teacher_EV, 0.25)
    heads = student, teacher, student_DV, teacher_EV
    both = token_kl(*heads, blend=blend, implementation=implementation)
    np.testing.assert_allclose(both, token_kl(*heads), rtol=TOLERANCE)


@pytest.mark.parametrize(("implementation", "kind", "top_k", "tail"), EVERY)
def test_one_temperature_per_row(implementation, kind, top_k, tail):
    temperature = jnp.asarray([0.3, 0.5, 1.0, 1.5, 2.0, 1.0], jnp.float32)
    check(implementation, problem(2), temperature, kind=kind, top_k=top_k, tail=tail)


def test_a_number_is_the_temperature_of_all_rows():
    one, each = (token_kl(*problem(2), temperature=t) for t in (0.7, jnp.full(M, 0.7)))
    np.testing.assert_array_equal(one, each)


@pytest.mark.parametrize(
    ("implementation", "kind", "top_k"),
    [(i, "js", None) for i in IMPLEMENTATIONS] + [(i, "forward", 5) for i in WITH_TOP_K],
)
def test_bfloat16_inputs_are_accumulated_in_float32(implementation, kind, top_k):
    # Values keep float32 accuracy; gradients are rounded to bfloat16 (2^-9) on the way and at last.
    arrays = problem(3, dtype=jnp.bfloat16)
    check(implementation, arrays, 1.0, gradient=2.0**-7, kind=kind, top_k=top_k, tail=True)


def test_one_row():
    check("chunked", problem(4, rows=1), 0.7, kind="reverse", top_k=5, tail=True)


@pytest.mark.parametrize(("implementation", "kind", "top_k", "tail"), EVERY)
def test_extreme_logits_stay_finite_and_right(implementation, kind, top_k, tail):
    rng = np.random.default_rng(5)
    x, y = (rng.permuted(np.tile(np.linspace(-1e4, 1e4, V), (M, 1)), axis=1) for _ in range(2))
    x, y = np.float32(x), np.float32(y)
    options = {"kind": kind, "top_k": top_k, "tail": tail}
    kl, dlogits = on_logits(implementation, x, y, **options)
    assert np.isfinite(dlogits).all()
    np.testing.assert_allclose(kl, numpy_version(x, y, **options), rtol=1e-5, atol=2e-3)
    np.testing.assert_allclose(dlogits, numpy_slopes(x, y, **options), atol=2e-3)


@pytest.mark.parametrize("implementation", WITH_TOP_K)
def test_a_small_tail_keeps_its_digits(implementation):
    # The student's tail holds 1e-5, the teacher's nearly all: 1 − Σ in float32 would be 1 % off.
    rng = np.random.default_rng(13)
    x, y = rng.normal(size=(2, M, V)) + 20.0
    x[:, :5] += 15.0
    y[:, :5] -= 5.0
    options = {"kind": "forward", "top_k": 5, "tail": True}
    kl, dlogits = on_logits(implementation, x, y, **options)
    np.testing.assert_allclose(kl, numpy_version(x, y, **options), rtol=3e-6)
    # Here the differences of the float64 version lose more digits than the float32 gradient.
    np.testing.assert_allclose(dlogits, numpy_slopes(x, y, **options), atol=1e-4)


WORKED = [
    ({"kind": "reverse"}, 0.025267, [0.098938, -0.093885, -0.005053]),
    ({"kind": "forward"}, 0.025815, [0.1, -0.1, 0.0]),
    ({"kind": "js"}, 0.006367, [0.024731, -0.024088, -0.000644]),
    ({"kind": "reverse", "top_k": 1}, 0.020411, [0.101366, -0.060820, -0.040547]),
    ({"kind": "forward", "top_k": 1}, 0.020136, [0.1, -0.06, -0.04]),
    ({"kind": "js", "top_k": 1}, 0.005059, None),
    ({"kind": "reverse", "top_k": 1, "tail": False}, 0.0, [0.0, 0.0, 0.0]),
    ({"kind": "reverse", "top_k": 2, "tail": False}, 0.031584, [0.119725, -0.119725, 0.0]),
    ({"kind": "js", "alpha": 0.001}, 2.5789e-5, None),
]


@pytest.mark.parametrize(
    ("implementation", "options", "value", "gradient"),
    [(i, *w) for i in IMPLEMENTATIONS for w in WORKED if i != PALLAS or "top_k" not in w[0]],
)
def test_worked_numbers(implementation, options, value, gradient):
    kl, dlogits = on_logits(implementation, np.log([P]), np.log([Q]), **options)
    small = 1e-3 * value if value < 1e-4 else 1e-6  # the cards print six decimals, or five digits
    np.testing.assert_allclose(kl[0], value, atol=small)
    if gradient is not None:
        np.testing.assert_allclose(dlogits[0], gradient, atol=1e-6)


@pytest.mark.parametrize(("kind", "top_k", "tail"), MEASURES)
def test_equal_models_have_no_divergence_and_no_gradient(kind, top_k, tail):
    student, _, student_DV, _ = problem(6)
    step = run("chunked", kind=kind, top_k=top_k, tail=tail)
    kl, grads = step(student, student, student_DV, student_DV, 0.7, jnp.ones(M))
    assert (np.asarray(kl) == 0).all()
    # Exactly: Adam would make whole steps of rounding errors.
    assert all((np.asarray(g) == 0).all() for g in grads)


@pytest.mark.parametrize(("implementation", "kind", "top_k", "tail"), EVERY)
def test_never_negative_and_blind_to_a_constant(implementation, kind, top_k, tail):
    rng = np.random.default_rng(7)
    x = rng.normal(size=(M, V))
    y = x + rng.normal(size=(M, V)) * np.array([0.0, 1e-4, 1e-2, 0.1, 1.0, 5.0])[:, None]
    options = {"kind": kind, "top_k": top_k, "tail": tail}
    kl, dlogits = on_logits(implementation, x, y, **options)
    assert (kl >= -1e-6).all()  # float32 rounding of sums of terms of both signs
    moved, dmoved = on_logits(implementation, x + 3.0, y - 2.0, **options)
    np.testing.assert_allclose(moved, kl, atol=TOLERANCE)
    np.testing.assert_allclose(dmoved, dlogits, atol=TOLERANCE)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_exchanging_student_and_teacher(implementation):
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(2, M, V))
    full = {"top_k": None, "tail": True}

    def kl(first, second, kind):
        return on_logits(implementation, first, second, kind=kind, **full)[0]

    np.testing.assert_allclose(kl(x, y, "reverse"), kl(y, x, "forward"), rtol=1e-5)
    np.testing.assert_allclose(kl(x, y, "js"), kl(y, x, "js"), rtol=1e-5)
    assert (np.abs(kl(x, y, "reverse") - kl(y, x, "reverse")) > 1e-3).all()


@pytest.mark.parametrize(("kind", "top_k"), [("js", None), ("reverse", 5)])
def test_block_size_changes_nothing_but_rounding(kind, top_k):
    arrays = (*problem(9), 0.9, jnp.ones(M))
    want = run("chunked", kind=kind, top_k=top_k)(*arrays)
    for block_V in (3, None):  # fewer columns than top_k, and all at once
        got = jitted("chunked", block_V, kind=kind, alpha=0.5, top_k=top_k, tail=True)(*arrays)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-5), got, want)


@pytest.mark.parametrize(("top_k", "kernels"), [(None, 1), (3, 0)])
def test_none_takes_the_kernels_on_a_tpu_where_they_know_the_measure(top_k, kernels):
    heads = jnp.ones((8, 4)), jnp.ones((8, 4)), jnp.ones((4, 16)), jnp.ones((4, 16))
    with made_for("v6e"):
        found = traffic.count(functools.partial(token_kl, top_k=top_k), *heads)
    assert len(found) == kernels


def test_none_takes_chunked_here():
    arrays = (*problem(9), 0.9, jnp.ones(M))
    got = jitted(None, 8, kind="reverse")(*arrays)
    jax.tree.map(np.testing.assert_array_equal, got, run("chunked", kind="reverse")(*arrays))


@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("implementation", WITH_TOP_K)
def test_all_tokens_as_support_equal_the_whole_vocabulary(implementation, tail):
    x, y = np.float32(np.random.default_rng(10).normal(size=(2, M, V)))
    full, dfull = on_logits(implementation, x, y, kind="reverse")
    top, dtop = on_logits(implementation, x, y, kind="reverse", top_k=V, tail=tail)
    # The floor under the empty tail is the same on both sides; the rest is float32 rounding.
    np.testing.assert_allclose(top, full, atol=1e-6)
    np.testing.assert_allclose(dtop, dfull, atol=1e-6)


@pytest.mark.parametrize("implementation", WITH_TOP_K)
def test_ties_go_to_the_lower_id(implementation):
    # Seven tokens are equal across block borders; which five count decides what the teacher says.
    x = np.zeros((1, V))
    x[0, [3, 9, 17, 18, 30, 35, 36]] = 2.0
    y = np.random.default_rng(11).normal(size=(1, V))
    options = {"kind": "forward", "top_k": 5, "tail": True}
    kl, dlogits = on_logits(implementation, x, y, **options)
    ids = np.array([[3, 9, 17, 18, 30]])
    np.testing.assert_allclose(kl, numpy_version(x, y, ids=ids, **options), rtol=1e-5)
    assert dlogits[0, 35] == dlogits[0, 36]
    assert (dlogits[0, ids] != dlogits[0, 35]).all()


@pytest.mark.parametrize(
    ("implementation", "top_k"),
    [(i, None) for i in IMPLEMENTATIONS] + [(i, 5) for i in WITH_TOP_K],
)
def test_the_teacher_and_the_temperature_get_no_gradient(implementation, top_k):
    arrays = problem(12)

    def loss(teacher, teacher_EV, temperature):
        blocks = {"block_M": 4, "block_V": 16}
        options = {"top_k": top_k, "implementation": implementation, **blocks}
        return token_kl(
            arrays[0], teacher, arrays[2], teacher_EV, temperature=temperature, **options
        ).sum()

    for gradient in jax.grad(loss, argnums=(0, 1, 2))(arrays[1], arrays[3], 0.8):
        assert (np.asarray(gradient) == 0).all()


def gradients_of(implementation, **options):
    def loss(student, teacher, student_DV, teacher_EV):
        return token_kl(
            student, teacher, student_DV, teacher_EV, implementation=implementation, **options
        ).sum()

    return jax.value_and_grad(loss, argnums=(0, 2))


@pytest.mark.parametrize("top_k", [None, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_times_vocabulary_array(largest_array, kind, top_k):
    rows = 64
    arrays = tuple(jnp.zeros(s) for s in ((rows, 4), (rows, 3), (4, V), (3, V)))
    options = {"kind": kind, "top_k": top_k}
    assert largest_array(gradients_of("chunked", block_V=16, **options), *arrays) <= rows * (
        16 + (top_k or 0)
    )
    assert largest_array(gradients_of("reference", **options), *arrays) >= rows * V


@pytest.mark.parametrize("top_k", [None, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_no_zeros_of_the_teachers_size_are_made(made_shapes, kind, top_k):
    arrays = problem()
    shapes = made_shapes(gradients_of("chunked", kind=kind, top_k=top_k, block_V=8), *arrays)
    assert (V, D) in shapes  # the buffer of the student's gradient
    assert not shapes & {(V, E), (E, V), (M, E)}


@pytest.mark.parametrize(
    ("kind", "top_k", "student_products", "teacher_products"),
    [("reverse", None, 4, 2), ("forward", None, 4, 2), ("js", None, 5, 3), ("js", 5, 4, 1)],
)
def test_number_of_products(product_flops, kind, top_k, student_products, teacher_products):
    flops = product_flops(gradients_of("chunked", kind=kind, top_k=top_k, block_V=8), *problem())
    assert flops == 2 * M * V * (student_products * D + teacher_products * E)


@pytest.mark.parametrize("top_k", [None, 5])
def test_products_of_bfloat16_return_float32(product_dtypes, top_k):
    # XLA on CPU keeps excess precision, so that values alone cannot tell.
    run_all = gradients_of("chunked", kind="js", top_k=top_k, block_V=8)
    assert product_dtypes(run_all, *problem(dtype=jnp.bfloat16)) == {"float32"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "jeffreys"}, "kind='jeffreys' is unknown"),
        ({"kind": "js", "alpha": 1.0}, "0 < alpha < 1"),
        ({"top_k": 0}, r"must lie in \[1, 37\]"),
        ({"top_k": V + 1}, r"must lie in \[1, 37\]"),
        ({"implementation": "triton"}, r"use one of \['chunked', 'pallas_tpu',"),
        ({"top_k": 3, "implementation": PALLAS}, "top_k=3 needs implementation='chunked'"),
        ({"block_V": 0}, "at least one row and one column"),
    ],
)
def test_errors_say_what_is_needed(options, message):
    with pytest.raises(ValueError, match=message):
        token_kl(*problem(), **options)


def test_models_over_different_vocabularies_are_refused():
    student, teacher, student_DV, teacher_EV = problem()
    with pytest.raises(ValueError, match="6 slots over 37 tokens, the teacher 6 over 36"):
        token_kl(student, teacher, student_DV, teacher_EV[:, 1:])
    with pytest.raises(ValueError, match="teacher_hidden has shape"):
        token_kl(student, teacher, student_DV, student_DV)
