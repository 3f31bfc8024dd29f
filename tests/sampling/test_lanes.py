"""Rows spread over the devices of a mesh are drawn as on one, and each device does its share."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from jaxevo.models.lora import weight_axes
from jaxevo.parallel.mesh import Placement, make_mesh
from jaxevo.run.build import make_sampler
from jaxevo.sampling import wave as module
from jaxevo.sampling.sampler import Sampling, publish

KEY = jax.random.key(5)
COLLECTIVE = re.compile(
    r" = (\S+) (all-gather|all-to-all|collective-permute|all-reduce|reduce-scatter)"
)


def placed(model, **axes):
    return Placement(make_mesh(jax.devices()[:2], **axes), weight_axes(model.config))


def sample(sampler, model, prompts, samples, new_tokens, placement=None, **options):
    params = model.params
    if placement is None:
        placement = Placement(make_mesh(jax.devices()[:1]))
        weights = publish(params)
    else:
        weights = publish(placement.put(params), place=placement.for_sampling)
    with placement.scope():
        return sampler(
            weights, prompts, key=KEY, samples=samples, new_tokens=new_tokens,
            uids=list(range(len(prompts) * samples)), sampling=Sampling(), **options,
        )  # fmt: skip


def prompts_of(lengths, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(3, 20, n).astype(np.int32) for n in lengths]


def assert_same(one, other):
    for name in ("ids_NR", "length_N", "finish_N"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    np.testing.assert_allclose(one.logp_NR, other.logp_NR, atol=2e-5)
    np.testing.assert_allclose(one.entropy_NR, other.entropy_NR, atol=2e-5)


@pytest.mark.parametrize(
    "axes",
    [{}, *(pytest.param({axis: 2}, marks=pytest.mark.soak) for axis in ("fsdp", "tensor"))],
    ids=str,
)
def test_rows_are_those_of_one_device(model, axes):
    prompts, limit_N = prompts_of([5, 11, 3]), np.array([40, 2, 9, 33, 1, 33, 12, 40, 20], np.int32)
    sampler = make_sampler(model, 11)
    alone = sample(sampler, model, prompts, 3, 40, limit_N=limit_N)
    assert_same(
        alone, sample(sampler, model, prompts, 3, 40, placed(model, **axes), limit_N=limit_N)
    )


def test_rows_wait_lane_by_lane(model, monkeypatch):
    prompts = prompts_of([4, 7, 7, 2, 6, 9, 3], seed=1)
    config, blocks = model.config, []
    slot = 2 * config.layers * config.kv_heads * config.head_dim * 4
    small = dataclasses.replace(make_sampler(model, 9), cache_bytes=2 * slot * (9 + 3 * 23))
    limit_N = np.random.default_rng(2).integers(2, 24, 21).astype(np.int32)
    alone = sample(small, model, prompts, 3, 24, limit_N=limit_N)
    real = module.decode

    def counted(params, slots, *args, **options):
        blocks.append(len(slots.prefix_length_Q))
        return real(params, slots, *args, **options)

    monkeypatch.setattr(module, "decode", counted)
    assert_same(alone, sample(small, model, prompts, 3, 24, placed(model), limit_N=limit_N))
    assert max(blocks) == 4  # two of each lane
    assert all(count % 2 == 0 for count in blocks)


def test_what_was_read_before_is_found_on_all_lanes(model):
    sampler, placement = make_sampler(model, 70), placed(model)
    first = prompts_of([66, 65, 67], seed=3)
    more = [np.concatenate((ids, [4, 9])).astype(np.int32) for ids in first[::-1]]
    want = [sample(sampler, model, prompts, 1, 5) for prompts in (first, more)]
    with placement.scope():
        kept = sampler.conversations()
    got = [
        sample(sampler, model, prompts, 1, 5, placement, kept=kept, keep=True)
        for prompts in (first, more)
    ]
    assert kept.shared_tokens > 0
    for one, other in zip(want, got, strict=True):
        assert_same(one, other)


def collectives(lowered):
    """What goes from device to device, by operation and type."""
    return [(m[2], m[1]) for m in COLLECTIVE.finditer(lowered.compile().as_text())]


def lowered_programs(model, monkeypatch, placement):
    """The programs of one call, by name, in the order of their first use."""
    found = {}
    for name in ("start", "decode", "arrange"):
        real = getattr(module, name)

        def call(*args, real=real, name=name, **options):
            found.setdefault(name, real.lower(*args, **options))
            return real(*args, **options)

        monkeypatch.setattr(module, name, call)
    limit_N = np.arange(2, 34, 2).astype(np.int32)
    prompts = prompts_of([5, 11, 3, 8])
    sampler = dataclasses.replace(make_sampler(model, 11), eos_ids=())
    sample(sampler, model, prompts, 4, 40, placement, limit_N=limit_N)
    return found


def test_lanes_tell_each_other_only_whether_they_are_live(model, monkeypatch):
    alone = lowered_programs(model, monkeypatch, None)
    monkeypatch.undo()
    spread = lowered_programs(model, monkeypatch, placed(model))
    assert spread.keys() == {"start", "decode", "arrange"}
    assert collectives(spread["start"]) == []
    assert collectives(spread["arrange"]) == []
    assert {(kind, type_.split("[")[0]) for kind, type_ in collectives(spread["decode"])} == {
        ("all-reduce", "pred")
    }
    for name in ("start", "decode"):
        flops = [found[name].compile().cost_analysis()["flops"] for found in (alone, spread)]
        assert 0.45 < flops[1] / flops[0] < 0.6
