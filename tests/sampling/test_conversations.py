"""Prompts that begin as kept ones do: the same answers, and little of them is read."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxevo.run.build import make_sampler
from jaxevo.sampling.sampler import Sampling, publish
from jaxevo.sampling.wave import LEAST_UNREAD

KEY = jax.random.key(5)
NEW = 12


@pytest.fixture(scope="module")
def sampler(model):
    return make_sampler(model, 256)


@pytest.fixture(scope="module")
def weights(model):
    return publish(model.params)


@pytest.fixture
def ask(sampler, weights):
    """ask(prompts, first uid, conversations or None, ...) -> answers, checked against none kept."""

    def go(prompts, uid, kept, *, samples=2, keep=True, by=sampler):
        uids = range(uid, uid + len(prompts) * samples)
        options = {"key": KEY, "uids": uids, "samples": samples, "new_tokens": NEW}
        options["sampling"] = Sampling()
        found = by(weights, prompts, kept=kept, keep=keep, **options)
        wanted = sampler(weights, prompts, **options)
        np.testing.assert_array_equal(found.ids_NR, wanted.ids_NR)
        np.testing.assert_array_equal(found.length_N, wanted.length_N)
        np.testing.assert_allclose(found.logp_NR, wanted.logp_NR, atol=1e-4)
        return [found.ids_NR[n, : found.length_N[n]] for n in range(len(prompts) * samples)]

    return go


def drawn(count, tokens, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(2, 20, tokens + 5 * n).astype(np.int32) for n in range(count)]


def read(kept):
    """Tokens that had to be read and those that were found, since the last look."""
    counts = kept.read_tokens, kept.shared_tokens
    kept.read_tokens = kept.shared_tokens = 0
    return counts


def test_a_turn_reads_what_is_new(sampler, ask):
    kept, prompts = sampler.conversations(), drawn(5, 100)
    answers = ask(prompts, 0, kept)
    assert read(kept) == (sum(map(len, prompts)), 0)
    injected = np.arange(4, dtype=np.int32) + 3
    talks = [np.concatenate((prompts[n // 2], a, injected)) for n, a in enumerate(answers)]
    more = ask(talks, 100, kept, samples=1)
    assert read(kept)[0] == sum(len(a) + 4 for a in answers)
    longer = [np.concatenate((talk, a)) for talk, a in zip(talks, more, strict=True)]
    ask(longer, 200, kept, samples=1)
    assert read(kept)[0] == sum(max(len(a), 1) for a in more)


def test_forks_and_edits_share_what_they_have_in_common(sampler, ask):
    kept, (prompt,) = sampler.conversations(), drawn(1, 150)
    ask([prompt], 0, kept)
    read(kept)
    rolled_back = np.concatenate((prompt[:130], prompt[3:20]))
    forks = [np.concatenate((prompt, np.full(3, n, np.int32))) for n in (3, 4, 5)]
    ask([rolled_back, *forks, prompt], 10, kept)
    assert read(kept) == (17 + 3 * 3 + 1, 130 + 3 * 150 + 149)


def test_what_has_nothing_in_common_is_read_beside_what_has(sampler, ask):
    kept, old = sampler.conversations(), drawn(3, 120)
    ask(old, 0, kept)
    read(kept)
    new = drawn(2, 140, seed=1)
    ask([new[0], old[1], new[1], old[0]], 50, kept)
    assert read(kept) == (len(new[0]) + len(new[1]) + 2, len(old[0]) + len(old[1]) - 2)


def test_a_turn_that_outgrows_the_caches_is_right(sampler, ask):
    kept, prompts = sampler.conversations(), drawn(3, 110)
    ask(prompts, 0, kept)
    longer = [np.concatenate((p, p[:30])) for p in prompts]  # from 128 slots to 256
    ask(longer, 20, kept)
    read(kept)
    ask([np.concatenate((p, p[:5])) for p in longer], 40, kept)
    assert read(kept)[0] == 3 * 5


def test_without_room_the_least_used_go_and_answers_stay_right(model, ask):
    sampler = make_sampler(model, 256)
    per_slot = 2 * 4 * model.config.layers * model.config.kv_heads * model.config.head_dim
    small = dataclasses.replace(sampler, cache_bytes=2 * 3 * 256 * per_slot)  # three prompts
    kept, prompts = small.conversations(), drawn(5, 150)
    for round_ in range(3):
        ask(prompts, 100 * round_, kept, by=small)
        assert len(kept.pool[0]["k"]) == 3
    assert read(kept)[1] > 0
    ask(prompts[3:], 400, kept, by=small)
    ask(prompts[3:], 500, kept, by=small)
    _, found = read(kept)
    assert found >= sum(len(p) - 1 for p in prompts[3:])


def test_calls_that_keep_nothing_leave_what_is_kept(sampler, ask):
    kept, prompts = sampler.conversations(), drawn(2, 100)
    ask(prompts, 0, kept)
    ask(drawn(3, 100, seed=2), 30, kept, keep=False)
    read(kept)
    ask(prompts, 60, kept)
    assert read(kept) == (2, sum(map(len, prompts)) - 2)


def test_short_contexts_are_not_worth_it(model, weights):
    sampler = make_sampler(model, 2 * LEAST_UNREAD - 1)
    kept = sampler.conversations()
    options = {"key": KEY, "uids": range(2), "samples": 1, "new_tokens": 4}
    sampler(weights, drawn(2, 40), kept=kept, keep=True, sampling=Sampling(), **options)
    assert kept.pool is None
