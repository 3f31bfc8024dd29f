"""Refilled, regrouped and growing slots against a sampler of ten lines that has no cache at all."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxevo.keys import row_keys, uid_words
from jaxevo.models import decoder
from jaxevo.run.build import make_sampler
from jaxevo.sampling import wave as module
from jaxevo.sampling.drawing import draw_token
from jaxevo.sampling.sampler import Sampling, publish
from jaxevo.sampling.wave import block_rows, narrowed, prompt_bucket

LONG = 70  # tokens: several calls, and a ring that grows twice
KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def plain(model):
    """One row, token by token, each by a forward pass over everything before it."""
    config, params = model.config, model.params

    @jax.jit
    def logits_at(ids_S, last):
        S = ids_S.shape[0]
        mask_BSS = jnp.tri(S, dtype=bool)[None]
        hidden, _ = decoder.apply(config, params, ids_S[None], jnp.arange(S)[None], mask_BSS)
        return hidden[0, last] @ decoder.unembed(config, params)

    def answer(prompt, uid, limit, temperature=1.0):
        key = row_keys(KEY, uid_words([uid]))[0]
        ids, logp, slots = list(prompt), [], -(-(len(prompt) + limit) // 64) * 64
        while len(ids) < len(prompt) + limit:
            padded_S = np.zeros(slots, np.int32)
            padded_S[: len(ids)] = ids
            logits_V = logits_at(padded_S, len(ids) - 1) / temperature
            p_V = jax.nn.softmax(logits_V)
            drawn = int(draw_token(jax.random.fold_in(key, len(ids))[None], p_V[None])[0])
            logp.append(float(jnp.log(p_V[drawn])))
            ids.append(drawn)
            if drawn == 1:  # the tokenizer's EOS
                break
        return ids[len(prompt) :], logp

    return answer


def prompts_of(lengths, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(3, 20, n).astype(np.int32) for n in lengths]


def sample(sampler, model, prompts, samples, new_tokens, **options):
    options = {"uids": list(range(len(prompts) * samples)), "sampling": Sampling(), **options}
    return sampler(
        publish(model.params), prompts, key=KEY, samples=samples, new_tokens=new_tokens, **options
    )


def agrees(out, n, prompt, uid, limit, plain, **options):
    ids, logp = plain(prompt, uid, limit, **options)
    assert out.ids_NR[n, : out.length_N[n]].tolist() == ids
    np.testing.assert_allclose(out.logp_NR[n, : len(ids)], logp, atol=1e-4)


@pytest.fixture
def moves(monkeypatch):
    """Counts what the host half of a call does: prompts read, steps called, slots moved."""
    seen = {"start": [], "decode": [], "arrange": []}

    def watched(name):
        real = getattr(module, name)

        def call(*args, **options):
            out = real(*args, **options)
            slots = out if name == "arrange" else out[0]
            seen[name].append((len(slots.prefix_length_Q), slots.ring))
            return out

        monkeypatch.setattr(module, name, call)

    for name in seen:
        watched(name)
    return seen


def test_rows_of_all_lengths_are_those_of_the_plain_sampler(model, plain, moves):
    prompts = prompts_of([5, 11, 3])
    limit_N = np.array([70, 2, 9, 64, 1, 33, 12, 70, 20, 3, 41, 0], np.int32)
    out = sample(make_sampler(model, 11), model, prompts, 4, LONG, limit_N=limit_N)
    for n in range(11):
        agrees(out, n, prompts[n // 4], n, limit_N[n], plain)
    assert out.length_N[11] == 0
    blocks, rings = zip(*moves["decode"], strict=True)
    assert len(moves["start"]) == 1
    assert blocks[-1] < blocks[0]  # rows that went on moved together
    assert rings[0] == module.RING < rings[-1] == LONG - 1
    assert sorted(rings) == list(rings)


def test_each_row_is_told_of_when_it_is_complete(model, moves):
    limit_N, told = np.array([70, 2, 9, 64, 1, 33, 12, 70, 20, 3, 41, 0], np.int32), {}

    def ended(out, n):
        assert n not in told
        told[n] = (len(moves["decode"]), out.ids_NR[n, : out.length_N[n]].tolist())

    prompts = prompts_of([5, 11, 3])
    out = sample(make_sampler(model, 11), model, prompts, 4, LONG, limit_N=limit_N, ended=ended)
    assert sorted(told) == list(range(12))
    for n, (_, ids) in told.items():
        assert ids == out.ids_NR[n, : out.length_N[n]].tolist()
    calls = [calls for calls, _ in told.values()]
    assert calls == sorted(calls)
    assert calls[0] < calls[-1] == len(moves["decode"])


def test_rows_wait_where_the_cache_is_small(model, plain, moves):
    prompts = prompts_of([4, 7, 7, 2, 6, 9], seed=1)
    config = model.config
    slot = 2 * config.layers * config.kv_heads * config.head_dim * 4
    small = dataclasses.replace(make_sampler(model, 9), cache_bytes=3 * slot * (9 + 3 * 39))
    limit_N = np.random.default_rng(2).integers(2, 40, 18).astype(np.int32)
    out = sample(small, model, prompts, 3, 40, limit_N=limit_N)
    for n in range(18):
        agrees(out, n, prompts[n // 3], n, limit_N[n], plain)
    assert len(moves["start"]) > 2
    assert max(blocks for blocks, _ in moves["decode"]) == 3
    whole = sample(make_sampler(model, 9), model, prompts, 3, 40, limit_N=limit_N)
    np.testing.assert_array_equal(out.ids_NR, whole.ids_NR)


def test_each_row_may_be_sampled_in_its_own_way(model, plain):
    prompts = prompts_of([5, 8])
    ways = [Sampling(temperature=t) for t in (0.7, 1.0, 1.6, 0.0)]
    cut = Sampling(temperature=1.6, top_k=3)
    out = sample(make_sampler(model, 8), model, prompts, 2, 12, sampling=ways)
    for n in range(3):
        agrees(out, n, prompts[n // 2], n, 12, plain, temperature=ways[n].temperature)
    mixed = sample(make_sampler(model, 8), model, prompts, 2, 12, sampling=[*ways[:3], cut])
    np.testing.assert_array_equal(mixed.ids_NR[:3], out.ids_NR[:3])
    assert not mixed.log_kept_NR[:3].any()
    assert mixed.log_kept_NR[3].any()
    assert out.ids_NR[3].tolist() != mixed.ids_NR[3].tolist()
    with pytest.raises(ValueError, match="unlike stop strings"):
        sample(make_sampler(model, 8), model, prompts, 1, 4, sampling=[cut, cut.with_stop(("a",))])


def test_equal_prompts_are_read_once(model, plain, monkeypatch):
    read = []
    real = module.start
    monkeypatch.setattr(
        module, "start", lambda *a, **k: read.append(a[1].shape[0]) or real(*a, **k)
    )
    first, second = prompts_of([6, 4])
    prompts = [first, second, first, first, second, first]
    out = sample(make_sampler(model, 6), model, prompts, 1, 5)
    assert read == [2]
    for n, prompt in enumerate(prompts):
        agrees(out, n, prompt, n, 5, plain)


def test_long_prompts_pass_through_in_chunks(model, plain):
    prompts = prompts_of([3, 700, 512])
    assert prompt_bucket(700, 700) > module.CHUNK  # more than one
    out = sample(make_sampler(model, 700), model, prompts, 2, 4)
    for n in range(6):
        agrees(out, n, prompts[n // 2], n, 4, plain)


def test_a_second_wave_and_other_weights_compile_nothing(model):
    prompts = prompts_of([5, 11, 3])
    sampler = dataclasses.replace(make_sampler(model, 11), eos_ids=())  # so lengths stay
    limit_N = np.linspace(2, 70, 12).astype(np.int32)
    sample(sampler, model, prompts, 4, LONG, limit_N=limit_N)
    programs = (module.start, module.decode, module.arrange)
    before = [program._cache_size() for program in programs]
    other = dataclasses.replace(model, params=jax.tree.map(lambda x: x * 1.01, model.params))
    sample(sampler, other, prompts_of([4, 2, 9], seed=3), 4, LONG, limit_N=limit_N)
    assert [program._cache_size() for program in programs] == before


def test_rows_that_are_left_move_closer_where_that_is_much_cheaper():
    assert narrowed([[4, 4, 4]], b=4, now=3, prefix_cost=0.5) == (4, 3)
    assert narrowed([[4, 3, 4]], b=4, now=3, prefix_cost=0.5) == (4, 3)  # one of 12 places is free
    assert narrowed([[1, 1, 1]], b=4, now=3, prefix_cost=0.5) == (1, 3)
    assert narrowed([[2, 2]], b=4, now=3, prefix_cost=0.5) == (2, 2)
    assert narrowed([[2, 2]], b=4, now=2, prefix_cost=30.0) == (4, 2)  # a prefix is all that costs
    assert narrowed([[5]], b=4, now=8, prefix_cost=0.5) == (2, 3)


def test_sizes_of_blocks_and_buckets():
    assert [block_rows(n) for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 16)] == [
        1, 2, 3, 4, 3, 3, 4, 4, 3, 4, 4
    ]  # fmt: skip
    assert [prompt_bucket(n, 23) for n in (1, 23)] == [23, 23]
    assert [prompt_bucket(n, 400) for n in (5, 128, 129, 300)] == [128, 128, 256, 400]
    assert [prompt_bucket(n, 3000) for n in (100, 600, 2900)] == [128, 1024, 3072]
