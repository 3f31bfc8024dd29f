from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxevo.kernels import LogProbs, fused_logprob, fused_logprob_sum, keeps_logits, traffic
from jaxevo.kernels._pallas_tpu import made_for
from jaxevo.kernels._streaming import default_block
from jaxevo.kernels.fused_logprob.shapes import HEADS

M, D, V = 6, 37, 37  # square, so that random and identity unembeddings share a compilation
NAMES = ("implementation", "block_M", "block_V", "keep_logits")
VARIANTS = [
    ("reference", None, None, False),
    ("chunked", None, 8, False),
    ("chunked", None, 8, True),
    ("pallas_tpu_interpret", 4, 16, False),
]
QUICK = {"xla_backend_optimization_level": 0}  # halves the compile time
TOLERANCE = 2e-5  # float32 rounding of logits of size ~10, times a few sums


def numpy_version(hidden, unembed, targets, temperature, cotangents):
    """float64: the three outputs, and both gradients of Σ cotangent · output."""
    hidden, unembed = np.asarray(hidden, np.float64), np.asarray(unembed, np.float64)
    x = hidden @ unembed / np.reshape(temperature, (-1, 1))
    top = x.max(1)
    logsumexp = top + np.log(np.exp(x - top[:, None]).sum(1))
    logp = x - logsumexp[:, None]
    p, one_hot = np.exp(logp), np.eye(x.shape[1])[targets]
    entropy = -(p * logp).sum(1)
    g_logp, g_entropy, g_logsumexp = (g[:, None] for g in np.asarray(cotangents, np.float64))
    d = g_logp * (one_hot - p) + g_logsumexp * p - g_entropy * p * (logp + entropy[:, None])
    d = d / np.reshape(temperature, (-1, 1))
    return ((one_hot * logp).sum(1), entropy, logsumexp), (d @ unembed.T, hidden.T @ d)


@functools.lru_cache
def jitted(implementation, block_M, block_V, keep_logits=False):
    """(hidden, unembed, targets, temperature, cotangents) -> outputs, gradients; compiled once."""

    def loss(hidden, unembed, targets, temperature, cotangents):
        out = fused_logprob(
            hidden,
            unembed,
            targets,
            temperature=temperature,
            keep_logits=keep_logits,
            implementation=implementation,
            block_M=block_M,
            block_V=block_V,
        )
        return sum(jnp.vdot(g, o) for g, o in zip(cotangents, out, strict=True)), out

    grad = jax.grad(loss, argnums=(0, 1), has_aux=True)
    compiled = jax.jit(lambda *args: grad(*args)[::-1], compiler_options=QUICK)

    def with_temperature_per_row(hidden, unembed, targets, temperature, cotangents):
        per_row = jnp.broadcast_to(jnp.float32(temperature), targets.shape)
        return compiled(hidden, unembed, targets, per_row, cotangents)

    return with_temperature_per_row


def problem(seed=0, rows=M, scale=1.0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    hidden = jnp.asarray(rng.normal(size=(rows, D)) * scale, dtype)
    unembed = jnp.asarray(rng.normal(size=(D, V)) / 2, dtype)
    targets = rng.integers(0, V, rows)
    targets[0] = V - 1  # in the narrower last block
    cotangents = jnp.asarray(rng.normal(size=(3, rows)), jnp.float32)
    return hidden, unembed, jnp.asarray(targets, jnp.int32), cotangents


def check(variant, arrays, temperature, *, value=TOLERANCE, gradient=TOLERANCE):
    hidden, unembed, targets, cotangents = arrays
    out, grads = jitted(*variant)(hidden, unembed, targets, temperature, cotangents)
    want, want_grads = numpy_version(hidden, unembed, targets, temperature, cotangents)
    for got, truth in zip(out, want, strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, truth, rtol=value, atol=value)
    for got, truth, like in zip(grads, want_grads, (hidden, unembed), strict=True):
        assert got.dtype == like.dtype
        size = np.abs(truth).max()
        np.testing.assert_allclose(np.asarray(got, np.float64), truth, atol=gradient * size)
    return out, grads


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.5])
@pytest.mark.parametrize("variant", VARIANTS)
def test_values_and_gradients_equal_float64(variant, temperature):
    check(variant, problem(), temperature)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("which", [0, 1, 2])
def test_each_output_has_its_own_gradient(variant, which):
    hidden, unembed, targets, cotangents = problem(1)
    only = jnp.zeros_like(cotangents).at[which].set(cotangents[which])
    check(variant, (hidden, unembed, targets, only), 1.0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_temperature_per_row(variant):
    arrays = problem(2)
    check(variant, arrays, jnp.asarray([0.3, 0.5, 1.0, 1.5, 2.0, 1.0], jnp.float32))


def test_a_number_is_the_temperature_of_all_rows():
    hidden, unembed, targets, _ = problem(2)
    one = fused_logprob(hidden, unembed, targets, temperature=0.7)
    each = fused_logprob(hidden, unembed, targets, temperature=jnp.full(M, 0.7))
    jax.tree.map(np.testing.assert_array_equal, one, each)


def with_gradients(variant, arrays, **options):
    hidden, unembed, targets, cotangents = arrays
    way = dict(zip(NAMES, variant, strict=True))

    def loss(hidden, unembed):
        out = fused_logprob(hidden, unembed, targets, **options, **way)
        return sum(jnp.vdot(g, o) for g, o in zip(cotangents, out, strict=True)), out

    grads, out = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(hidden, unembed)
    return out, grads


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("legal", [(0, 30), (5, 37), (17, 18)])
def test_only_legal_ids_have_probability(variant, legal):
    hidden, unembed, targets, cotangents = problem(13)
    (start, stop), inside = legal, slice(*legal)
    out, (dhidden, dunembed) = with_gradients(
        variant, (hidden, unembed, targets, cotangents), legal=legal
    )
    clamped = np.clip(targets, start, stop - 1) - start
    want, truth = numpy_version(hidden, unembed[:, inside], clamped, 1.0, cotangents)
    for got, wanted in zip(out, want, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=TOLERANCE, atol=TOLERANCE)
    for got, wanted in zip((dhidden, dunembed[:, inside]), truth, strict=True):
        np.testing.assert_allclose(got, wanted, atol=TOLERANCE * max(1.0, np.abs(wanted).max()))
    assert not np.delete(np.asarray(dunembed), np.arange(start, stop), axis=1).any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_soft_cap_equals_float64(variant):
    (hidden, unembed, targets, cotangents), cap, tau = problem(12), 3.0, 0.7
    out, grads = with_gradients(
        variant, (hidden, unembed, targets, cotangents), temperature=tau, soft_cap=cap
    )
    hidden, unembed = np.asarray(hidden, np.float64), np.asarray(unembed, np.float64)
    tanh = np.tanh(hidden @ unembed / cap)
    want, (slopes, _) = numpy_version(cap * tanh, np.eye(V), targets, tau, cotangents)
    for got, truth in zip(out, want, strict=True):
        np.testing.assert_allclose(got, truth, rtol=TOLERANCE, atol=TOLERANCE)
    d = slopes * (1 - tanh**2)
    for got, truth in zip(grads, (d @ unembed.T, hidden.T @ d), strict=True):
        np.testing.assert_allclose(got, truth, atol=TOLERANCE * np.abs(truth).max())


@pytest.mark.parametrize("legal", [None, (5, 30)])
@pytest.mark.parametrize("block_M", [1, 4, None])
def test_the_sum_has_the_value_and_the_gradients_of_the_reference(block_M, legal):
    hidden, unembed, targets, cotangents = problem(14)
    weights, options = LogProbs(*cotangents), {"temperature": 0.7, "soft_cap": 3.0, "legal": legal}

    def summed(hidden, unembed):
        return fused_logprob_sum(hidden, unembed, targets, weights, block_M=block_M, **options)

    def weighted(hidden, unembed):
        out = fused_logprob(hidden, unembed, targets, implementation="reference", **options)
        return sum(jnp.vdot(w, x) for w, x in zip(weights, out, strict=True))

    value, grads = jax.jit(jax.value_and_grad(summed, argnums=(0, 1)))(hidden, unembed)
    want, truth = jax.jit(jax.value_and_grad(weighted, argnums=(0, 1)))(hidden, unembed)
    np.testing.assert_allclose([value, summed(hidden, unembed)], [want] * 2, rtol=TOLERANCE)
    for got, wanted in zip(grads, truth, strict=True):
        np.testing.assert_allclose(got, wanted, atol=TOLERANCE * np.abs(wanted).max())


def test_products_and_dtypes_of_the_sum(product_flops):
    hidden, unembed, targets, cotangents = problem(15, dtype=jnp.bfloat16)

    def summed(hidden, unembed, scale):
        weights = LogProbs(*cotangents)
        return scale * fused_logprob_sum(hidden, unembed, targets, weights, block_M=2)

    grads = jax.grad(summed, argnums=(0, 1))
    assert product_flops(grads, hidden, unembed, 2.0) == 3 * 2 * M * D * V
    twice, once = (grads(hidden, unembed, scale) for scale in (2.0, 1.0))
    for got, half in zip(twice, once, strict=True):
        assert got.dtype == jnp.bfloat16
        np.testing.assert_array_equal(got, 2 * half)


@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16_inputs_are_accumulated_in_float32(variant):
    # Values keep float32 accuracy; gradients are rounded to bfloat16 (2^-9) on the way and at last.
    check(variant, problem(3, dtype=jnp.bfloat16), 1.0, gradient=2.0**-7)


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_row(variant):
    check(variant, problem(4, rows=1), 0.7)


@pytest.mark.parametrize("block_V", [8, 16])  # 5 blocks, of which a core has 3; 3 of 2
def test_two_cores_take_half_of_the_vocabulary_each(block_V):
    with made_for("v5p"):
        check(("pallas_tpu_interpret", 4, block_V), problem(11), 1.0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_extreme_logits_stay_finite_and_right(variant):
    rng = np.random.default_rng(5)
    x = jnp.asarray(rng.choice([-1e4, 0.0, 3.0, 9999.0, 1e4], size=(M, V)), jnp.float32)
    cotangents = jnp.asarray(rng.normal(size=(3, M)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, V, M), jnp.int32)
    # One unit in the last place of 1e4 is 1e-3, and log-probs near 0 are differences of such.
    out, grads = check(
        variant, (x, jnp.eye(V), targets, cotangents), 1.0, value=1e-3, gradient=2e-3
    )
    assert all(np.isfinite(a).all() for a in (*out, *grads))
    assert (np.asarray(out.logp_M) <= 0).all()


def test_entropy_of_large_close_logits_does_not_cancel():
    # Σ p x − logsumexp would lose 1e-3 at logits of 1e4; sums relative to the max lose nothing.
    x = 1e4 + jnp.asarray([[0.0, 1.0, 2.0, 1.0, 0.0, -1.0]], jnp.float32)
    out = fused_logprob(x, jnp.eye(6), jnp.zeros(1, jnp.int32), block_V=2)
    (_, entropy, _), _ = numpy_version(x, np.eye(6), [0], 1.0, np.zeros((3, 1)))
    np.testing.assert_allclose(out.entropy_M, entropy, rtol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_worked_numbers(variant):
    # p = [.5, .3, .2], the student of the cards: H = 1.029653, log p of token 1 = log 0.3.
    x = np.full((M, V), -1e4, np.float32)  # tokens without probability
    x[:, :3] = np.log([0.5, 0.3, 0.2]) + 2.0
    only_logp = jnp.zeros((3, M)).at[0].set(1.0)
    out, (dhidden, _) = jitted(*variant)(x, jnp.eye(V), np.full(M, 1), 1.0, only_logp)
    np.testing.assert_allclose(np.stack(out)[:, 0], [-1.203973, 1.029653, 2.0], atol=1e-6)
    np.testing.assert_allclose(dhidden[0, :4], [-0.5, 0.7, -0.2, 0.0], atol=1e-6)


def test_gradient_is_the_slope_of_the_float64_values():
    hidden, unembed, targets, cotangents = problem(6)
    _, (dhidden, dunembed) = jitted("chunked", None, 8, False)(
        hidden, unembed, targets, 1.3, cotangents
    )
    rng = np.random.default_rng(7)
    to_hidden, to_unembed = rng.normal(size=hidden.shape), rng.normal(size=unembed.shape)

    def loss(step):
        moved = np.float64(hidden) + step * to_hidden, np.float64(unembed) + step * to_unembed
        out, _ = numpy_version(*moved, targets, 1.3, cotangents)
        return sum(np.vdot(g, o) for g, o in zip(np.float64(cotangents), out, strict=True))

    slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
    np.testing.assert_allclose(
        np.vdot(dhidden, to_hidden) + np.vdot(dunembed, to_unembed), slope, rtol=1e-4
    )


@pytest.mark.parametrize("block_V", [1, 16, 64, None])
def test_block_size_changes_nothing_but_rounding(block_V):
    arrays = problem(8)
    want = jitted("chunked", None, 8, False)(*arrays[:3], 0.9, arrays[3])
    got = jitted("chunked", None, block_V)(*arrays[:3], 0.9, arrays[3])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, want)


def kernels_of(**options):
    """Pallas calls that a program on one chip has."""
    shapes = jnp.ones((8, 4)), jnp.ones((4, 16)), jnp.zeros(8, jnp.int32)
    return len(traffic.count(lambda *a: fused_logprob(*a, **options), *shapes))


def test_none_takes_the_kernels_on_a_tpu_only():
    assert kernels_of() == 0
    with made_for("v5e"):
        assert kernels_of() == 1
        assert kernels_of(implementation="chunked") == 0


def test_none_takes_chunked_where_kernels_do_not_fit():
    wide = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((8, 2**17), (2**17, 16))]
    targets = jax.ShapeDtypeStruct((8,), jnp.int32)
    with made_for("v5e"):
        assert traffic.count(fused_logprob, *wide, targets) == []
        with pytest.raises(ValueError, match=r"do not fit the VMEM of a v5e\. Use implem"):
            jax.eval_shape(
                functools.partial(fused_logprob, implementation="pallas_tpu"), *wide, targets
            )


def test_none_takes_chunked_here():
    arrays = problem(8)
    got = jitted(None, None, 8)(*arrays[:3], 0.9, arrays[3])
    jax.tree.map(
        np.testing.assert_array_equal,
        got,
        jitted("chunked", None, 8, False)(*arrays[:3], 0.9, arrays[3]),
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_without_cotangent_leave_no_trace(variant):
    hidden, unembed, targets, cotangents = problem(9)
    cotangents = cotangents.at[:, 2].set(0.0)
    _, (dhidden, dunembed) = jitted(*variant)(hidden, unembed, targets, 1.0, cotangents)
    assert (np.asarray(dhidden[2]) == 0).all()
    other = hidden.at[2].set(1e3), unembed, targets.at[2].set(-100)
    _, (_, dunembed_other) = jitted(*variant)(*other, 1.0, cotangents)
    np.testing.assert_array_equal(dunembed, dunembed_other)


@pytest.mark.parametrize("variant", VARIANTS)
def test_ids_outside_of_the_vocabulary_are_clamped(variant):
    hidden, unembed, targets, cotangents = problem(10)
    outside, inside = targets.at[1].set(V + 5).at[2].set(-1), targets.at[1].set(V - 1).at[2].set(0)
    got = jitted(*variant)(hidden, unembed, outside, 1.0, cotangents)
    want = jitted(*variant)(hidden, unembed, inside, 1.0, cotangents)
    jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize("variant", VARIANTS)
def test_temperature_gets_no_gradient(variant):
    hidden, unembed, targets, _ = problem(11)

    def loss(temperature):
        options = dict(zip(NAMES, variant, strict=True))
        return fused_logprob(
            hidden, unembed, targets, temperature=temperature, **options
        ).entropy_M.sum()

    assert jax.grad(loss)(0.8) == 0.0


def gradients_of(implementation, block_V=None, **options):
    def loss(hidden, unembed, targets):
        out = fused_logprob(
            hidden, unembed, targets, implementation=implementation, block_V=block_V, **options
        )
        return sum(jnp.sum(o) for o in out)

    return jax.value_and_grad(loss, argnums=(0, 1))


def test_no_rows_times_vocabulary_array(largest_array):
    rows = 64
    arrays = jnp.zeros((rows, 4)), jnp.zeros((4, V)), jnp.zeros(rows, jnp.int32)
    assert largest_array(gradients_of("chunked", 16), *arrays) == rows * 16
    assert largest_array(gradients_of("reference"), *arrays) >= rows * V


@pytest.mark.parametrize(
    ("implementation", "kept", "products"),
    [("chunked", False, 4), ("chunked", True, 3), ("reference", False, 3)],
)
def test_number_of_products(product_flops, implementation, kept, products):
    arrays = problem()[:3]
    flops = product_flops(gradients_of(implementation, 8, keep_logits=kept), *arrays)
    assert flops == products * 2 * M * D * V


def test_logits_are_kept_for_gradients_alone(largest_array):
    rows = 64
    arrays = jnp.zeros((rows, 4)), jnp.zeros((4, V)), jnp.zeros(rows, jnp.int32)
    values = functools.partial(fused_logprob, implementation="chunked", block_V=16)
    assert largest_array(functools.partial(values, keep_logits=True), *arrays) == rows * 16
    assert largest_array(gradients_of("chunked", 16, keep_logits=True), *arrays) == rows * 48


def test_logits_are_kept_on_a_cpu_while_they_are_few():
    assert keeps_logits(1024, 2**16)
    assert not keeps_logits(1025, 2**16)


def test_products_of_bfloat16_return_float32(product_dtypes):
    # XLA on CPU keeps excess precision, so that values alone cannot tell.
    arrays = problem(dtype=jnp.bfloat16)[:3]
    assert product_dtypes(gradients_of("chunked", 8), *arrays) == {"float32"}
    reference = functools.partial(fused_logprob, implementation="reference")
    assert product_dtypes(reference, *arrays) == {"float32"}


def test_a_real_tied_head_compiles_without_the_logits_or_a_copy_of_the_embedding():
    rows, (width, vocabulary) = 1024, HEADS["smollm2-135m"]
    shapes = (
        jax.ShapeDtypeStruct((rows, width), jnp.float32),
        jax.ShapeDtypeStruct((vocabulary, width), jnp.float32),
        jax.ShapeDtypeStruct((rows,), jnp.int32),
    )

    def bytes_beside_inputs_and_outputs(implementation):
        run = gradients_of(implementation)
        tied = jax.jit(lambda hidden, embed_VD, targets: run(hidden, embed_VD.T, targets)[1][0])
        return tied.lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    logits, embedding = 4 * rows * vocabulary, 4 * vocabulary * width
    assert bytes_beside_inputs_and_outputs("chunked") < min(logits, embedding)
    assert bytes_beside_inputs_and_outputs("reference") > logits


@pytest.mark.parametrize(
    ("rows", "vocabulary", "want"),
    [(768, 49152, 4096), (96, 151936, 4096), (32768, 49152, 1024), (5, 37, 37), (10**6, 500, 128)],
)
def test_default_block_is_even_and_bounded(rows, vocabulary, want):
    assert default_block(rows, vocabulary) == want


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_MD": jnp.zeros((M, D + 1))}, r"\[M, D\] and \[D, V\] are needed"),
        ({"targets_M": jnp.zeros(M + 1, jnp.int32)}, r"6 hidden states need \(6,\)"),
        ({"implementation": "triton"}, r"use one of \['chunked', 'pallas_tpu',"),
        ({"block_V": 0}, "at least one row and one column"),
    ],
)
def test_errors_say_what_is_needed(change, message):
    hidden, unembed, targets, _ = problem()
    arguments = {"hidden_MD": hidden, "unembed_DV": unembed, "targets_M": targets} | change
    with pytest.raises(ValueError, match=message):
        fused_logprob(**arguments)
