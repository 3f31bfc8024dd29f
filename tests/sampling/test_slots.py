"""Refilled, regrouped and growing slots against a sampler of ten lines that has no cache at all."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxevo.keys import row_keys, uid_words
from jaxevo.models import decoder, hub
from jaxevo.run.build import make_sampler
from jaxevo.sampling import wave as module
from jaxevo.sampling.drawing import draw_token
from jaxevo.sampling.sampler import Sampling, publish
from jaxevo.sampling.sizes import (
    LEAST_ROWS,
    Steps,
    block_rows,
    padded_prompts,
    prompt_bucket,
)
from jaxevo.sampling.slots import CHUNK

LONG = 70  # tokens: several calls, and a ring that grows twice
KEY = jax.random.key(5)
TOY, SMOLLM2 = (hub.load(name, weights=False).config for name in ("toy", "smollm2-135m"))


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
            blocks, rows = len(slots.prefix_length_Q), len(slots.rows.length_N)
            seen[name].append((blocks, rows, slots.ring))
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
    _, rows, rings = zip(*moves["decode"], strict=True)
    assert len(moves["start"]) == 1
    assert rows[-1] == LEAST_ROWS < rows[0]  # rows that went on moved together
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
    assert max(blocks for blocks, _, _ in moves["decode"]) == 3
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
    real = module.read
    monkeypatch.setattr(
        module, "read", lambda *a, **k: read.append(int((a[2] > 1).sum())) or real(*a, **k)
    )
    first, second = prompts_of([6, 4])
    prompts = [first, second, first, first, second, first]
    out = sample(make_sampler(model, 6), model, prompts, 1, 5)
    assert read == [2]
    for n, prompt in enumerate(prompts):
        agrees(out, n, prompt, n, 5, plain)


def test_long_prompts_pass_through_in_chunks(model, plain):
    prompts = prompts_of([3, 700, 512])
    assert prompt_bucket(700, 700) > CHUNK  # more than one
    out = sample(make_sampler(model, 700), model, prompts, 2, 4)
    for n in range(6):
        agrees(out, n, prompts[n // 2], n, 4, plain)


def test_a_second_wave_and_other_weights_compile_nothing(model):
    prompts = prompts_of([5, 11, 3])
    sampler = dataclasses.replace(make_sampler(model, 11), eos_ids=())  # so lengths stay
    limit_N = np.linspace(2, 70, 12).astype(np.int32)
    sample(sampler, model, prompts, 4, LONG, limit_N=limit_N)
    programs = (module.read, module.start, module.decode, module.arrange)
    before = [program._cache_size() for program in programs]
    other = dataclasses.replace(model, params=jax.tree.map(lambda x: x * 1.01, model.params))
    sample(sampler, other, prompts_of([4, 2, 9], seed=3), 4, LONG, limit_N=limit_N)
    assert [program._cache_size() for program in programs] == before


def test_rows_that_are_left_move_closer_where_that_is_much_cheaper():
    def left(*counts, now=16, config=TOY, prompt_slots=16, most=64):
        return Steps(config, 64, prompt_slots, most).narrowed([counts], b=4, now=now)

    assert left(*[4] * 16) == (4, 16)
    assert left(*[4] * 15, 3) == (4, 16)  # one of 64 places is free
    assert left(*[1] * 12) == (1, 16)
    assert left(*[2] * 8) == (2, 8)
    assert left(*[2] * 8, now=8, prompt_slots=4096) == (4, 8)  # a prefix is all that costs
    assert left(5, now=8) == (4, 2)
    assert left(1, now=2) == (4, 2)  # a step has 8 rows at the least
    assert left(1, 1, 1, now=3, most=3) == (1, 3)
    assert left(*[4] * 11, now=16) == (4, 16)
    assert left(*[4] * 11, now=16, config=SMOLLM2) == (4, 12)


def test_programs_have_few_sizes():
    """Small ones are alike; of a large model, or many rows, none wastes more than a third."""

    def blocks(config, b, most):
        steps = Steps(config, 512, 16, most)
        return sorted({steps.blocks(n, b) for n in range(1, most + 1)})

    assert blocks(TOY, 1, 512) == [8, 16, 32, 64, 128, 192, 256, 384, 512]
    assert blocks(TOY, 4, 96) == [2, 4, 8, 16, 32, 48, 64, 96]
    assert blocks(SMOLLM2, 1, 64) == [8, 12, 16, 24, 32, 48, 64]
    assert [Steps(TOY, 5, 16, 3).blocks(n, 1) for n in (1, 3, 5)] == [3, 3, 5]  # room for 3
    assert Steps(SMOLLM2, 1, 16, 64).blocks(1, 1) == 1  # a call of one row
    assert {padded_prompts(TOY, n, 12) for n in range(1, 65)} == {32, 64}
    assert [padded_prompts(SMOLLM2, n, 39) for n in (1, 2, 3, 5)] == [1, 2, 3, 6]


def test_sizes_of_blocks_and_buckets():
    assert [block_rows(n) for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 16)] == [
        1, 2, 3, 4, 3, 3, 4, 4, 3, 4, 4
    ]  # fmt: skip
    assert [prompt_bucket(n, 23) for n in (1, 23)] == [23, 23]
    assert [prompt_bucket(n, 400) for n in (5, 128, 129, 300)] == [128, 128, 256, 400]
    assert [prompt_bucket(n, 3000) for n in (100, 600, 2900)] == [128, 1024, 3072]
