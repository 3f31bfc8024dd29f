import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxevo.models import decoder, layers
from jaxevo.models.attention import Trees
from jaxevo.models.table import (
    FAMILIES,
    RopeScaling,
    Weight,
    map_table,
    side_by_side,
    tensor_names,
    weight_table,
)

pytestmark = pytest.mark.usefixtures("quick_to_compile")

CONFIG = decoder.DecoderConfig(
    vocab_size=31,
    width=24,
    layers=3,
    heads=4,
    kv_heads=2,
    head_dim=6,
    ffn_width=40,
    rope_theta=100.0,
    tied=False,
)
apply = jax.jit(decoder.apply, static_argnums=0, static_argnames="remat")


@pytest.fixture(scope="module")
def params():
    drawn = decoder.init_params(jax.random.key(0), CONFIG)
    return {**drawn, "embed": 20 * drawn["embed"]}


def causal(rows, slots):
    return np.broadcast_to(np.tril(np.ones((slots, slots), bool)), (rows, slots, slots))


def counting(rows, slots):
    return np.broadcast_to(np.arange(slots), (rows, slots))


def numpy_decoder(params, ids_S, positions_S, mask_SC):
    """The same equations for one row, in float64."""
    w = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def norm(x, scale):
        return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + CONFIG.norm_eps) * scale

    def turn(x):  # pair i of a head is a complex number, turned by position · θ^(-2i / head_dim)
        half = CONFIG.head_dim // 2
        angle = positions_S[:, None] * CONFIG.rope_theta ** (-np.arange(half) / half)
        turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)[:, None]
        return np.concatenate((turned.real, turned.imag), axis=-1)

    x = w["embed"][ids_S]
    for n in range(CONFIG.layers):
        layer = {name: stacked[n] for name, stacked in w["layers"].items()}
        y = norm(x, layer["attn_norm"])
        q, k, v = ((y @ layer[m]).reshape(len(x), -1, CONFIG.head_dim) for m in "qkv")
        q, k = turn(q), turn(k)
        mixed = []
        for head in range(CONFIG.heads):
            shared = head // (CONFIG.heads // CONFIG.kv_heads)
            scores = q[:, head] @ k[:, shared].T / np.sqrt(CONFIG.head_dim)
            odds = np.where(mask_SC, np.exp(scores), 0.0)
            mixed.append(odds / odds.sum(axis=-1, keepdims=True) @ v[:, shared])
        x = x + np.concatenate(mixed, axis=-1) @ layer["o"]
        y = norm(x, layer["ffn_norm"])
        gate = y @ layer["gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (y @ layer["up"])) @ layer["down"]
    return norm(x, w["final_norm"])


def test_equals_the_equations(params):
    random = np.random.default_rng(0)
    ids_BS, positions_BS = random.integers(0, 31, (2, 12)), random.integers(0, 50, (2, 12))
    mask_BSC = random.random((2, 12, 12)) < 0.5
    mask_BSC |= np.eye(12, dtype=bool)
    hidden_BSD, cache = apply(CONFIG, params, ids_BS, positions_BS, mask_BSC)
    assert cache is None
    for row in range(2):
        wanted = numpy_decoder(params, ids_BS[row], positions_BS[row], mask_BSC[row])
        # float32 with about a hundred terms a sum, on values of size 1
        np.testing.assert_allclose(hidden_BSD[row], wanted, atol=3e-5)


def padded_loss(params, ids_BS, positions_BS, mask_BSC):
    hidden_BSD, _ = decoder.apply(CONFIG, params, ids_BS, positions_BS, mask_BSC)
    return jnp.sum(jnp.sin(3.0 * hidden_BSD[:, :7])), hidden_BSD


def test_garbage_in_padding_reaches_nothing():
    params = decoder.init_params(jax.random.key(0), CONFIG)
    gradient = jax.jit(jax.grad(padded_loss, has_aux=True))
    real_S = np.arange(12) < 7
    mask_BSC = causal(2, 12) & real_S[None, None] & real_S[None, :, None]
    clean_BS = np.where(real_S, np.random.default_rng(0).integers(0, 31, (2, 12)), 0)
    wanted, wanted_hidden = gradient(params, clean_BS, counting(2, 12), mask_BSC)
    for garbage in (5, 31, -7, 2**31 - 1):  # also ids and positions that do not exist
        ids_BS = np.where(real_S, clean_BS, garbage)
        positions_BS = np.where(real_S, counting(2, 12), garbage)
        found, hidden = gradient(params, ids_BS, positions_BS, mask_BSC)
        np.testing.assert_array_equal(hidden[:, :7], wanted_hidden[:, :7])
        assert np.isfinite(hidden).all()
        jax.tree.map(np.testing.assert_array_equal, found, wanted)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(wanted))
    assert np.abs(wanted["layers"]["q"]).max() > 0


def test_cache_gives_what_the_whole_sequence_gives(params):
    ids_BS = np.random.default_rng(1).integers(0, 31, (2, 9))
    whole, _ = apply(CONFIG, params, ids_BS, counting(2, 9), causal(2, 9))
    cache = decoder.init_cache(CONFIG, rows=2, capacity=16)
    assert len(cache) == 3
    assert cache[0]["k"].shape == (2, 2, 16, 6)
    gap = 4  # unused cache slots in front, and some behind
    for begin, end in ((0, 5), (5, 8), (8, 9)):
        positions_BS = counting(2, 9)[:, begin:end]
        slots_C = np.arange(16) - gap
        mask_BSC = (slots_C >= 0) & (slots_C <= positions_BS[:, :, None])
        hidden, cache = apply(
            CONFIG,
            params,
            ids_BS[:, begin:end],
            positions_BS,
            mask_BSC,
            cache=cache,
            slot=gap + begin,
        )
        np.testing.assert_allclose(hidden, whole[:, begin:end], atol=2e-5)  # float32 sums
    used = np.any([np.abs(layer["k"]).sum(axis=(0, 1, 3)) > 0 for layer in cache], axis=0)
    np.testing.assert_array_equal(used, (np.arange(16) >= 4) & (np.arange(16) < 13))


def test_donated_cache_is_updated_in_place(params):
    cache = decoder.init_cache(CONFIG, rows=4, capacity=512)
    size = sum(x.nbytes for x in jax.tree.leaves(cache))

    def step(params, cache, ids_BS, slot):
        positions_BS = jnp.full((4, 1), slot)
        mask_BSC = jnp.broadcast_to(jnp.arange(512) <= slot, (4, 1, 512))
        return decoder.apply(CONFIG, params, ids_BS, positions_BS, mask_BSC, cache=cache, slot=slot)

    compiled = jax.jit(step, donate_argnums=1).lower(
        params, cache, np.zeros((4, 1), np.int32), np.int32(3)
    )
    memory = compiled.compile().memory_analysis()
    assert memory.alias_size_in_bytes == size
    assert memory.temp_size_in_bytes < size  # one layer's slice, not a second cache


@pytest.mark.slow
def test_remat_saves_memory_and_changes_no_gradient(params):
    ids_BS = np.random.default_rng(2).integers(0, 31, (4, 32))

    @functools.partial(jax.jit, static_argnames="remat")
    def gradient(params, *, remat):
        def loss(params):
            hidden_BSD, _ = decoder.apply(
                CONFIG, params, ids_BS, counting(4, 32), causal(4, 32), remat=remat
            )
            return jnp.sum(jnp.sin(hidden_BSD))

        return jax.grad(loss)(params)

    ways = [gradient.lower(params, remat=remat).compile() for remat in ("none", "dots", "layers")]
    for again in ways[1:]:
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, atol=1e-4, rtol=1e-4),  # float32 order
            ways[0](params),
            again(params),
        )
    none, dots, layers = (way.memory_analysis().temp_size_in_bytes for way in ways)
    assert layers < dots < none
    assert layers < 0.8 * none


@pytest.mark.parametrize("packed", [False, True])
def test_training_keeps_no_scores(params, packed):
    rows, slots = 2, 37
    mask = Trees(np.full((rows, slots), slots)) if packed else causal(rows, slots)

    def backward(params):
        def hidden(params):
            ids_BS = np.zeros((rows, slots), int)
            return decoder.apply(CONFIG, params, ids_BS, counting(rows, slots), mask)[0]

        return jax.vjp(hidden, params)[1]

    shapes = [x.shape for x in jax.tree.leaves(jax.eval_shape(backward, params))]
    kept = [shape for shape in shapes if shape[:2] == (CONFIG.layers, rows)]
    assert not any(shape[-2:] == (slots, slots) for shape in kept)
    # The input, what attention mixed, what follows it, and both normed; queries, keys and values;
    # the inner products of the feed-forward layer.
    streams = 5 * CONFIG.width + (CONFIG.heads + 2 * CONFIG.kv_heads) * CONFIG.head_dim
    floats = sum(map(math.prod, kept))
    assert floats == CONFIG.layers * rows * slots * (streams + 2 * CONFIG.ffn_width)


def test_llama3_scaling_keeps_fast_and_stretches_slow_turns():
    scaling = RopeScaling(8.0, 1.0, 4.0, original_max_positions=1000)
    plain = dataclasses.replace(CONFIG, head_dim=128, rope_theta=500_000.0)
    scaled = dataclasses.replace(plain, rope_scaling=scaling)
    angle, stretched = (np.arctan2(*layers.rotary(c, np.ones((1, 1)))[::-1]).ravel()
                        for c in (plain, scaled))  # fmt: skip
    turns = 1000 * angle / (2 * np.pi)
    fast, slow = turns > 4, turns < 1
    np.testing.assert_allclose(stretched[fast], angle[fast], rtol=1e-6)
    np.testing.assert_allclose(stretched[slow], angle[slow] / 8, rtol=1e-5)
    middle = ~fast & ~slow
    assert middle.any()
    assert (stretched[middle] < angle[middle]).all()
    assert (stretched[middle] > angle[middle] / 8).all()


# ---------------------------------------------------------------------------- the weight table
def test_initial_values_follow_the_table():
    wide = dataclasses.replace(CONFIG, width=96, ffn_width=200, vocab_size=500)
    drawn = decoder.init_params(jax.random.key(1), wide)
    named = map_table(lambda name, weight: (name, weight), wide)
    pairs = jax.tree.leaves(named, is_leaf=lambda node: isinstance(node, tuple))
    for (name, weight), values in zip(pairs, jax.tree.leaves(drawn), strict=True):
        assert values.shape == weight.shape
        assert len(weight.axes) == len(weight.shape)
        if weight.std is None:
            assert (values == 1).all()
        else:  # 5 standard errors of a standard deviation
            tolerance = 5 * weight.std / np.sqrt(2 * values.size)
            assert abs(np.std(values) - weight.std) < tolerance, name
    assert drawn["layers"]["q"].shape == (3, 96, 24)
    assert not np.array_equal(drawn["layers"]["gate"], drawn["layers"]["up"])


def test_a_weight_depends_on_its_name_alone():
    tied = dataclasses.replace(CONFIG, tied=True)
    with_head = decoder.init_params(jax.random.key(3), CONFIG)
    without = decoder.init_params(jax.random.key(3), tied)
    head = with_head.pop("head")
    jax.tree.map(np.testing.assert_array_equal, with_head, without)
    np.testing.assert_array_equal(decoder.unembed(tied, without), without["embed"].T)
    np.testing.assert_array_equal(decoder.unembed(CONFIG, {"head": head}), head)


def test_dtype_of_weights_is_dtype_of_result():
    params = decoder.init_params(jax.random.key(0), CONFIG, jnp.bfloat16)
    hidden_BSD, _ = apply(CONFIG, params, np.zeros((1, 4), int), counting(1, 4), causal(1, 4))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {hidden_BSD.dtype}
    assert hidden_BSD.dtype == jnp.bfloat16


@pytest.mark.parametrize("name", FAMILIES)
def test_every_weight_has_its_own_checkpoint_names(name):
    family, moe = FAMILIES[name], {"experts": 3, "experts_per_token": 2}
    more = moe if "experts" in family.fields else {}
    config = dataclasses.replace(CONFIG, family=name, **family.traits, **more)
    named = map_table(lambda name, _: list(tensor_names(family, config, name)), config)
    names = jax.tree.leaves(named)
    own = jax.tree.leaves(map_table(lambda name, _: name, config))
    firsts = [n for n in own if n == next(iter(side_by_side(family, config, n)))]
    assert len(set(names)) == sum(len(list(tensor_names(family, config, n))) for n in firsts)
    stacked = weight_table(config)["layers"]
    of_experts = 3 if more else 0  # gate, up and down are one tensor each
    per_layer = len(stacked) - of_experts + of_experts * config.experts
    assert len(names) == config.layers * per_layer + 3
    assert all(isinstance(weight, Weight) for weight in stacked.values())


@pytest.mark.parametrize("norm", [True, False])
def test_experts_are_those_of_their_equation(norm):
    """Token by token in float64; one expert gets no token at all."""
    T, D, E, F, each = 7, 6, 4, 5, 2
    keys = jax.random.split(jax.random.key(5), 5)
    shapes = ((T, D), (D, E), (E, D, F), (E, D, F), (E, F, D))
    x, *weights = (jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True))
    weights[0] = weights[0].at[:, 3].set(0.0)
    x = x.at[:, 0].set(9.0)
    weights[0] = weights[0].at[0].set(jnp.asarray([1.0, 1.0, 1.0, -9.0]))
    got = layers.experts(x, *weights, each=each, norm=norm)
    wide, (router, gate, up, down) = np.float64(x), (np.float64(w) for w in weights)
    for t in range(T):
        logits = wide[t] @ router
        share = np.exp(logits - logits.max())
        share /= share.sum()
        chosen = np.argsort(-share)[:each]
        assert 3 not in chosen
        total = share[chosen].sum() if norm else 1.0
        want = np.zeros(D)
        for e in chosen:
            gated = wide[t] @ gate[e]
            want += share[e] / total * (gated / (1 + np.exp(-gated)) * (wide[t] @ up[e])) @ down[e]
        np.testing.assert_allclose(got[t], want, rtol=2e-4, atol=2e-4)


def test_a_token_does_not_change_what_experts_say_of_another():
    keys = jax.random.split(jax.random.key(6), 5)
    shapes = ((5, 6), (6, 4), (4, 6, 5), (4, 6, 5), (4, 5, 6))
    x, *weights = (jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True))

    def first(x):
        return layers.experts(x, *weights, each=2, norm=True)[:2]

    np.testing.assert_array_equal(first(x), first(x.at[2:].set(-x[2:])))
    slopes = jax.grad(lambda x: first(x).sum())(x)
    assert not slopes[2:].any()
    assert slopes[:2].all()


def test_config_refuses_impossible_shapes():
    with pytest.raises(ValueError, match="multiple of kv_heads"):
        dataclasses.replace(CONFIG, kv_heads=3)
    with pytest.raises(ValueError, match="even head_dim"):
        dataclasses.replace(CONFIG, head_dim=7)
    with pytest.raises(ValueError, match="windowed names 1 layers and window=4, but there are"):
        dataclasses.replace(CONFIG, windowed=(True,), window=4)
    with pytest.raises(ValueError, match="of 4 experts a token takes 1 to 4"):
        dataclasses.replace(CONFIG, experts=4, experts_per_token=5)


@pytest.mark.parametrize("activation", layers.ACTIVATIONS)
def test_backward_pass_of_gated_layers_is_that_of_their_equation(activation):
    def plain(x, gate, up, down):
        return (layers.ACTIVATIONS[activation](x @ gate) * (x @ up)) @ down

    def kept_short(x, gate, up, down):
        return layers.gated(x, gate, up, down, activation)

    shapes = ((2, 5, 6), (6, 9), (6, 9), (9, 6))
    keys = jax.random.split(jax.random.key(3), len(shapes))
    inputs = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]

    def gradients(function):
        return jax.grad(lambda *a: jnp.sum(jnp.sin(function(*a))), argnums=(0, 1, 2, 3))(*inputs)

    for ours, wanted in zip(gradients(kept_short), gradients(plain), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-5)
