"""Low-rank adapters: what they add, where they begin, and that nothing else learns or is kept."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxevo.base import joined, without
from jaxevo.models import decoder
from jaxevo.models.lora import TARGETS, LoRA, init_adapters, merged, with_adapters
from jaxevo.sampling.sampler import Published, publish

pytestmark = pytest.mark.usefixtures("quick_to_compile")

LORA = LoRA(rank=3, alpha=6.0)


def adapted(model, lora=LORA, seed=1):
    """Config, base, and adapters of which none is 0."""
    own = init_adapters(jax.random.key(seed), model.config, lora)
    keys = iter(jax.random.split(jax.random.key(seed + 1), 99))
    own = jax.tree.map(lambda x: 0.1 * jax.random.normal(next(keys), x.shape), own)
    return with_adapters(model.config, lora), model.params, own


def hidden(config, params, ids):
    mask = np.tril(np.ones((ids.shape[1], ids.shape[1]), bool))[None]
    positions = np.arange(ids.shape[1])[None]
    return decoder.apply(config, params, ids, positions, mask)[0]


IDS = np.arange(14).reshape(2, 7) % 11


def test_the_layer_is_the_base_and_the_scaled_product(tiny_model):
    config, base, own = adapted(tiny_model)
    assert config.adapter_scale == 2.0
    by_hand = {**base, "layers": dict(base["layers"])}
    for name in TARGETS:
        a, b = (np.asarray(own["layers"][f"{name}_lora_{x}"], np.float64) for x in "ab")
        weight = np.asarray(base["layers"][name], np.float64)
        by_hand["layers"][name] = jnp.asarray(weight + 2.0 * np.einsum("lir,lro->lio", a, b))
    by_hand = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), by_hand)
    want = hidden(tiny_model.config, by_hand, IDS)
    np.testing.assert_allclose(hidden(config, joined(base, own), IDS), want, atol=2e-5)
    whole = merged(config, joined(base, own))
    assert jax.tree.structure(whole) == jax.tree.structure(base)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole, by_hand)


def test_a_set_begins_at_its_base(tiny_model):
    own = init_adapters(jax.random.key(0), tiny_model.config, LORA)
    config = with_adapters(tiny_model.config, LORA)
    np.testing.assert_array_equal(
        hidden(config, joined(tiny_model.params, own), IDS),
        hidden(tiny_model.config, tiny_model.params, IDS),
    )
    for name in TARGETS:
        a = np.asarray(own["layers"][f"{name}_lora_a"])
        bound = a.shape[1] ** -0.5
        assert 0.9 * bound < np.abs(a).max() <= bound
        assert not np.asarray(own["layers"][f"{name}_lora_b"]).any()


def test_gradients_reach_the_adapters_and_equal_those_of_the_merged_weight(tiny_model):
    config, base, own = adapted(tiny_model)

    def of_adapters(own):
        return jnp.sum(jnp.sin(hidden(config, joined(base, own), IDS)))

    def of_weights(params):
        return jnp.sum(jnp.sin(hidden(tiny_model.config, params, IDS)))

    found = jax.grad(of_adapters)(own)["layers"]
    whole = jax.grad(of_weights)(merged(config, joined(base, own)))["layers"]
    for name in TARGETS:
        a, b = (own["layers"][f"{name}_lora_{x}"] for x in "ab")
        want_a = 2.0 * jnp.einsum("lio,lro->lir", whole[name], b)
        want_b = 2.0 * jnp.einsum("lir,lio->lro", a, whole[name])
        for x, want in (("a", want_a), ("b", want_b)):
            got = found[f"{name}_lora_{x}"]
            np.testing.assert_allclose(got, want, atol=1e-4 * float(jnp.abs(want).max()))


def test_the_sampler_has_one_copy_of_the_base_and_applies_adapters_unmerged(tiny_model):
    config, base, own = adapted(tiny_model)
    published = Published(base, publish)
    first, second = published(own), published(jax.tree.map(lambda x: 2 * x, own))
    for one, other in zip(first["layers"], second["layers"], strict=True):
        assert one["q"] is other["q"]
        assert not np.array_equal(one["q_lora_a"], other["q_lora_a"])
    assert first["embed"] is second["embed"]
    cache = decoder.init_cache(config, 2, 7)
    mask = np.tril(np.ones((7, 7), bool))[None]
    got, _ = decoder.apply(config, first, IDS, np.arange(7)[None], mask, cache=cache)
    np.testing.assert_allclose(got, hidden(config, joined(base, own), IDS), atol=2e-5)


def test_heads_are_a_sets_own(tiny_model):
    from jaxevo.heads import with_value_head

    own = init_adapters(jax.random.key(0), tiny_model.config, LORA)
    whole = with_value_head(joined(tiny_model.params, own), jax.random.key(0))
    rest = without(tiny_model.params, whole)
    assert rest.keys() == {"layers", "value"}
    assert rest["layers"].keys() == own["layers"].keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ()}, "take each of"),
        ({"targets": ("q", "q")}, "take each of"),
        ({"targets": ("embed",)}, "take each of q, k, v, o, gate, up, down once"),
        ({"rank": 0}, "must be above 0"),
        ({"alpha": -1.0}, "must be above 0"),
    ],
)
def test_what_is_no_adapter_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(LORA, **options)


def test_experts_are_refused(tiny_model):
    config = dataclasses.replace(tiny_model.config, experts=4, experts_per_token=2)
    with pytest.raises(ValueError, match="'gate' of a model with experts is not supported"):
        init_adapters(jax.random.key(0), config, LORA)
    init_adapters(jax.random.key(0), config, LoRA(2, 2.0, ("q", "o")))
