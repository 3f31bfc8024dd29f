"""The sampler: what it draws depends on the row alone, and its log-probs are the trainer's."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxevo.models import decoder
from jaxevo.run.build import make_sampler
from jaxevo.sampling.drawing import FINISH
from jaxevo.sampling.sampler import Sampling, publish
from jaxevo.sampling.sizes import padded_count

PROMPTS = [np.array(ids, np.int32) for ids in ([3, 4, 12, 6], [7, 12, 9, 14, 5, 6], [12, 3])]
G, R = 3, 6
UIDS = list(range(len(PROMPTS) * G))


@pytest.fixture(scope="module")
def sampler(tiny_model):
    return make_sampler(tiny_model, 6)


@pytest.fixture(scope="module")
def sharp(tiny_model):
    """Weights whose answers end and differ: logits spread further than a random start's."""
    return {**tiny_model.params, "head": tiny_model.params["head"] * 30.0}


def draw(sampler, params, prompts=None, uids=None, samples=G, **options):
    prompts = PROMPTS if prompts is None else prompts
    limit_N = options.pop("limit_N", None)
    return sampler(
        params, prompts, key=jax.random.key(1), uids=UIDS if uids is None else uids,
        samples=samples, new_tokens=R, limit_N=limit_N, sampling=Sampling(**options),
    )  # fmt: skip


def forward_logp(model, params, prompt, answer, temperature):
    """Log-probs of an answer by one plain causal pass over the whole row."""
    ids = np.concatenate([prompt, answer])[None]
    S = ids.shape[1]
    mask = jnp.tri(S, dtype=bool)[None]
    hidden, _ = decoder.apply(model.config, params, ids, np.arange(S)[None], mask)
    logits = hidden @ decoder.unembed(model.config, params) / temperature
    logp_SV = np.asarray(jax.nn.log_softmax(logits.astype(jnp.float32)))[0]
    start = len(prompt) - 1
    return logp_SV[np.arange(start, start + len(answer)), answer], logp_SV[start:]


@pytest.mark.parametrize(
    ("temperature", "truncation"),
    [(0.3, {}), (1.5, {}), (0.3, {"top_k": 4}), (1.0, {"top_p": 0.7}), (1.5, {"min_p": 0.2})],
)
def test_log_probs_are_those_of_a_plain_forward(
    tiny_model, sampler, sharp, temperature, truncation
):
    out = draw(sampler, sharp, temperature=temperature, **truncation)
    for n in range(len(UIDS)):
        answer = out.ids_NR[n, : out.length_N[n]]
        logp, logp_SV = forward_logp(tiny_model, sharp, PROMPTS[n // G], answer, temperature)
        np.testing.assert_allclose(
            out.logp_NR[n, : len(answer)], logp, atol=1e-4 / min(1, temperature)
        )
        entropy = -(np.exp(logp_SV) * logp_SV).sum(-1)[: len(answer)]
        np.testing.assert_allclose(out.entropy_NR[n, : len(answer)], entropy, atol=1e-4)
    kept_NR = np.exp(out.log_kept_NR)
    assert (kept_NR <= 1).all()
    assert (kept_NR < 1).any() == bool(truncation)


def test_the_kept_mass_is_that_of_the_kept_tokens(tiny_model, sampler, sharp):
    out = draw(sampler, sharp, top_k=4)
    answer = out.ids_NR[0, : out.length_N[0]]
    _, logp_SV = forward_logp(tiny_model, sharp, PROMPTS[0], answer, 1.0)
    top4 = np.sort(np.exp(logp_SV[: len(answer)]), axis=-1)[:, -4:].sum(-1)
    np.testing.assert_allclose(np.exp(out.log_kept_NR[0, : len(answer)]), top4, atol=1e-5)


def test_a_row_draws_the_same_tokens_alone_in_a_batch_and_under_more_padding(
    tiny_model, sampler, sharp
):
    together = draw(sampler, sharp)
    for p, prompt in enumerate(PROMPTS):
        alone = draw(sampler, sharp, [prompt], UIDS[p * G : (p + 1) * G])
        np.testing.assert_array_equal(alone.ids_NR, together.ids_NR[p * G : (p + 1) * G])
    single = draw(sampler, sharp, [PROMPTS[1]] * 2, [G + 2, G], samples=1)
    np.testing.assert_array_equal(single.ids_NR, together.ids_NR[[G + 2, G]])
    wider = dataclasses.replace(sampler, prompt_slots=11)
    padded = draw(wider, sharp)
    np.testing.assert_array_equal(padded.ids_NR, together.ids_NR)
    np.testing.assert_allclose(padded.logp_NR, together.logp_NR, atol=1e-5)


def test_rows_end_at_eos_which_counts_and_nothing_after_it_does(sampler, sharp):
    out = draw(sampler, {**sharp, "head": sharp["head"].at[:, 1].add(0.5)}, temperature=1.5)
    finish = [FINISH[i] for i in out.finish_N]
    assert {"eos", "length"} == set(finish)
    for n, reason in enumerate(finish):
        answer = out.ids_NR[n, : out.length_N[n]]
        assert (reason == "eos") == (answer[-1] == 1)
        assert 1 not in answer[:-1]
        assert not out.ids_NR[n, out.length_N[n] :].any()
        assert not out.logp_NR[n, out.length_N[n] :].any()


def test_each_row_has_its_own_limit(sampler, sharp):
    limit_N = np.array([1, 2, 6, 3, 0, 6, 6, 6, 6], np.int32)
    free, bounded = draw(sampler, sharp), draw(sampler, sharp, limit_N=limit_N)
    np.testing.assert_array_equal(bounded.length_N[4], 0)
    for n, limit in enumerate(limit_N):
        if limit:
            length = min(limit, free.length_N[n])
            assert bounded.length_N[n] == length
            np.testing.assert_array_equal(bounded.ids_NR[n, :length], free.ids_NR[n, :length])


def test_greedy_takes_the_likeliest_token(tiny_model, sampler, sharp):
    out = draw(sampler, sharp, temperature=0.0)
    answer = out.ids_NR[0, : out.length_N[0]]
    _, logp_SV = forward_logp(tiny_model, sharp, PROMPTS[0], answer, 1.0)
    np.testing.assert_array_equal(answer, logp_SV[: len(answer)].argmax(-1))
    assert (out.ids_NR[:G] == out.ids_NR[0]).all()


def test_stop_strings_end_a_row_after_the_token_that_completes_them(tiny_model, sampler, sharp):
    free = draw(sampler, sharp)
    rows = zip(free.ids_NR, free.length_N, strict=True)
    texts = [tiny_model.tokenizer.text(ids[:n]) for ids, n in rows]
    stop = next(t[1:3] for t in texts if len(t) >= 4)
    out = draw(sampler, sharp, stop=(stop, "nowhere"))
    hit = 0
    for n, text in enumerate(texts):
        got = tiny_model.tokenizer.text(out.ids_NR[n, : out.length_N[n]])
        want = text[: text.index(stop) + len(stop)] if stop in text else text
        assert got == want
        hit += stop in text
        assert (FINISH[out.finish_N[n]] == "stop") == (stop in text)
    assert hit


def test_a_warm_sampler_follows_new_weights(sampler, tiny_model, sharp):
    draw(sampler, sharp)
    warm = draw(sampler, tiny_model.params)
    cold = draw(make_sampler(tiny_model, 6), tiny_model.params)
    np.testing.assert_array_equal(warm.ids_NR, cold.ids_NR)
    np.testing.assert_array_equal(warm.logp_NR, cold.logp_NR)


def test_published_weights_are_no_alias(tiny_model):
    mine = jax.tree.map(jnp.copy, tiny_model.params)
    copy = publish(mine)
    jax.tree.map(lambda x: x.delete(), mine)
    assert np.isfinite(np.asarray(copy["embed"])).all()
    assert publish(copy, dtype=jnp.bfloat16)["embed"].dtype == jnp.bfloat16


def test_prompts_that_do_not_fit_are_refused(sampler, sharp):
    with pytest.raises(ValueError, match="prompts have 2 to 7 tokens, but must have 1 to 6"):
        draw(sampler, sharp, [np.arange(7, dtype=np.int32), PROMPTS[2]], UIDS[:6])


def test_prompts_are_padded_to_few_counts():
    counts = [padded_count(n) for n in range(1, 100)]
    assert all(count >= n for n, count in enumerate(counts, 1))
    assert sorted(set(counts)) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128]
    assert all(2 * count <= 3 * n for n, count in enumerate(counts, 1))
