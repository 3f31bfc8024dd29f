"""Decoder and checkpoints against transformers (torch).

Tiny random models of every family, with the same weights on both sides. Tolerance 2e-4 on logits of
size about 1: float32 sums of 64 to 128 products in another order, through two layers.
"""

import copy
import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxevo.models import decoder, hf
from jaxevo.models.attention import Trees, capped
from jaxevo.models.tokenizer import HFTokenizer

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.slow


TOLERANCE = 2e-4
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
VARIANTS = {  # name: architecture, options of its config
    "Llama, tied": ("Llama", {"tie_word_embeddings": True}),
    "Llama, untied": ("Llama", {"tie_word_embeddings": False}),
    "Llama 3.1, its positions": (
        "Llama",
        {"tie_word_embeddings": False, "rope_parameters": LLAMA3},
    ),
    "Mistral": ("Mistral", {"sliding_window": None, "head_dim": 32}),
    "Mistral, windows": ("Mistral", {"sliding_window": 7}),
    "Qwen 2 and 2.5": ("Qwen2", {"tie_word_embeddings": True}),
    "Qwen 3": ("Qwen3", {"head_dim": 32}),
    "Qwen 3, experts": (
        "Qwen3Moe",
        {
            "head_dim": 32,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 48,
            "norm_topk_prob": True,
        },
    ),
    "Phi 3": ("Phi3", {"sliding_window": 7, "pad_token_id": 0}),
    "OLMo 2": ("Olmo2", {}),
    "OLMo 3, YaRN": (
        "Olmo3",
        {
            "sliding_window": 7,
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_theta": 10_000.0, **YARN},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            },
        },
    ),
    "Gemma 2": ("Gemma2", {"sliding_window": 7, "query_pre_attn_scalar": 24, "head_dim": 32}),
    "Gemma 2, low caps": (
        "Gemma2",
        {
            "sliding_window": 7,
            "head_dim": 32,
            "attn_logit_softcapping": 1.0,
            "final_logit_softcapping": 2.0,
        },
    ),
    "Gemma 3, stretched": (
        "Gemma3Text",
        {
            "sliding_window": 7,
            "head_dim": 32,
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
        },
    ),
}


@functools.partial(jax.jit, static_argnums=0)
def logits_of(config, params, ids_BS, positions_BS, mask_BSC):
    hidden_BSD, _ = decoder.apply(config, params, ids_BS, positions_BS, mask_BSC)
    assert hidden_BSD.dtype == params["embed"].dtype
    return read(config, params, hidden_BSD)


def read(config, params, hidden):
    head_DV = decoder.unembed(config, params).astype(jnp.float32)
    return capped(hidden.astype(jnp.float32) @ head_DV, config.logit_cap)


@dataclasses.dataclass(frozen=True)
class Pair:
    """The same weights in torch and here."""

    theirs: object
    config: decoder.DecoderConfig
    params: dict

    def logits(self, ids_BS, positions_BS, mask_BSC):
        return np.asarray(logits_of(self.config, self.params, ids_BS, positions_BS, mask_BSC))

    def expected(self, ids):
        with torch.no_grad():
            return self.theirs(torch.tensor([list(ids)])).logits[0].numpy()


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request, tmp_path_factory):
    import transformers

    torch.manual_seed(0)
    architecture, options = VARIANTS[request.param]
    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.15,
        **options,
    )
    kind = f"{architecture.removesuffix('Text')}ForCausalLM"
    model = getattr(transformers, kind)(config).eval()
    for vector in (p for p in model.parameters() if p.ndim == 1):  # norms of 1, biases of 0
        vector.data += 0.3 * torch.randn(vector.shape)
    folder = tmp_path_factory.mktemp(request.param)
    shard = "60KB" if request.param == "Llama, untied" else "10GB"
    model.save_pretrained(folder, max_shard_size=shard)
    if request.param == "Llama, untied":
        assert (folder / "model.safetensors.index.json").is_file()
    return Pair(model, *hf.load_weights(folder))


def random_ids(seed, length):
    return np.random.default_rng(seed).integers(0, 128, length)


def causal(rows, slots):
    return np.broadcast_to(np.tril(np.ones((slots, slots), bool)), (rows, slots, slots))


@pytest.fixture
def assert_close(record_property):
    """Compares logits, and leaves the largest difference on the record."""
    largest = [0.0]

    def compare(ours, theirs):
        largest.append(float(np.abs(ours - theirs).max()))
        record_property("largest_difference", max(largest))
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, rtol=TOLERANCE)

    return compare


def test_alone(pair, assert_close):
    ids = random_ids(0, 40)
    ours = pair.logits(ids[None], np.arange(40)[None], causal(1, 40))
    assert_close(ours[0], pair.expected(ids))
    assert np.std(ours) > 0.3  # the models say something, so that agreement means something


def test_right_padded_batch(pair, assert_close):
    rows = [random_ids(seed, length) for seed, length in enumerate((3, 17, 24))]
    ids_BS = random_ids(9, (3, 24))  # garbage in the padding
    positions_BS = np.broadcast_to(np.arange(24), (3, 24)).copy()
    real_BS = np.zeros((3, 24), bool)
    for row, ids in enumerate(rows):
        ids_BS[row, : len(ids)] = ids
        real_BS[row, : len(ids)] = True
    positions_BS[~real_BS] = 12345
    mask_BSC = causal(3, 24) & real_BS[:, None, :] & real_BS[:, :, None]
    ours = pair.logits(ids_BS, positions_BS, mask_BSC)
    assert np.isfinite(ours).all()
    for row, ids in enumerate(rows):
        assert_close(ours[row, : len(ids)], pair.expected(ids))


def test_two_sequences_in_one_row(pair, assert_close):
    first, second = random_ids(1, 9), random_ids(2, 14)
    block_S = np.repeat([0, 1], [9, 14])
    positions = np.concatenate((np.arange(9), np.arange(14)))
    mask = causal(1, 23) & (block_S[:, None] == block_S[None])
    ours = pair.logits(np.concatenate((first, second))[None], positions[None], mask)
    assert_close(ours[0, :9], pair.expected(first))
    assert_close(ours[0, 9:], pair.expected(second))


def test_shared_prefix_with_two_answers(pair, assert_close):
    prompt, one, two = random_ids(1, 11), random_ids(2, 6), random_ids(3, 8)
    branch_S = np.repeat([0, 1, 2], [11, 6, 8])
    positions = np.concatenate((np.arange(11), 11 + np.arange(6), 11 + np.arange(8)))
    sees = (branch_S[None] == 0) | (branch_S[:, None] == branch_S[None])
    ours = pair.logits(
        np.concatenate((prompt, one, two))[None], positions[None], causal(1, 25) & sees
    )
    assert_close(ours[0, :17], pair.expected([*prompt, *one]))
    assert_close(ours[0, 17:], pair.expected([*prompt, *two])[11:])


def test_a_packed_tree_with_two_answers(pair, assert_close):
    """The trainer's layout: depth first, positions restarted, a slot sees what it stems from."""
    prompt, one, two = random_ids(1, 11), random_ids(2, 6), random_ids(3, 8)
    until = np.repeat([25, 17, 25], [11, 6, 8])[None]
    positions = np.concatenate((np.arange(11), 11 + np.arange(6), 11 + np.arange(8)))[None]
    ours = pair.logits(np.concatenate((prompt, one, two))[None], positions, Trees(until))
    assert_close(ours[0, :17], pair.expected([*prompt, *one]))
    assert_close(ours[0, 17:], pair.expected([*prompt, *two])[11:])


def test_cache_prefill_then_token_by_token(pair, assert_close):
    ids_BS, prompt, total, capacity = random_ids(5, (2, 18)), 10, 18, 24
    step = jax.jit(
        lambda cache, ids, positions, mask, slot: decoder.apply(
            pair.config, pair.params, ids, positions, mask, cache=cache, slot=slot
        ),
        donate_argnums=0,
    )
    cache = decoder.init_cache(pair.config, rows=2, capacity=capacity)
    pieces, slots_C = [], np.arange(capacity)
    for begin, end in [(0, prompt), *((t, t + 1) for t in range(prompt, total))]:
        positions = np.broadcast_to(np.arange(begin, end), (2, end - begin))
        mask = slots_C[None, None] <= positions[:, :, None]
        hidden, cache = step(cache, ids_BS[:, begin:end], positions, mask, jnp.int32(begin))
        pieces.append(np.asarray(read(pair.config, pair.params, hidden)))
    ours = np.concatenate(pieces, axis=1)
    for row in range(2):
        assert_close(ours[row], pair.expected(ids_BS[row]))


def test_rows_that_share_a_prompt(pair, assert_close):
    """The sampler's step: two prompts, two rows each, token by token."""
    prompts, answers, steps = random_ids(6, (2, 9)), random_ids(7, (4, 5)), 5
    cache = decoder.init_cache(pair.config, rows=2, capacity=9)
    positions = np.broadcast_to(np.arange(9), (2, 9))
    _, prefix = decoder.apply(
        pair.config, pair.params, prompts, positions, causal(2, 9), cache=cache
    )
    own = decoder.init_cache(pair.config, rows=4, capacity=steps)
    step = jax.jit(functools.partial(decoder.decode, pair.config))
    where_NR, pieces = np.broadcast_to(9 + np.arange(steps), (4, steps)), []
    for t in range(steps):
        seen_NR = np.broadcast_to(np.arange(steps) <= t, (4, steps))
        where = np.full(4, 9 + t)
        hidden_ND, own = step(
            pair.params,
            answers[:, t],
            where,
            prefix,
            np.ones((2, 9), bool),
            own,
            seen_NR,
            t,
            where_NR,
        )
        pieces.append(np.asarray(read(pair.config, pair.params, hidden_ND)))
    for row, ours in enumerate(np.stack(pieces, axis=1)):
        assert_close(ours, pair.expected([*prompts[row // 2], *answers[row]])[9:])


def test_bfloat16_file_and_weights(pair, tmp_path, record_property):
    copy.deepcopy(pair.theirs).to(torch.bfloat16).save_pretrained(tmp_path)
    config, params = hf.load_weights(tmp_path, dtype=jnp.bfloat16)
    exact = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), pair.params)
    jax.tree.map(np.testing.assert_array_equal, params, exact)
    ids = random_ids(0, 20)
    ours = np.asarray(logits_of(config, params, ids[None], np.arange(20)[None], causal(1, 20)))[0]
    want = pair.expected(ids)
    error_T = np.sqrt(np.mean((ours - want) ** 2, axis=1)) / np.std(want)
    # 8 bits of mantissa (0.4 % a rounding), a dozen roundings in sequence: a few per cent. Where a
    # rounding changes which experts a token takes, it is another function for that token.
    record_property("median_error", float(np.median(error_T)))
    assert np.median(error_T) < 0.05
    assert (error_T > 0.1).sum() <= (2 if config.experts else 0)


def test_our_export_opens_in_transformers(pair, tmp_path):
    from transformers import AutoModelForCausalLM

    tensors = dict(hf.hf_tensors(pair.config, pair.params))
    hf.write_hf_dir(tmp_path, pair.config, tensors, token_ids={"eos_token_id": 2}, documents={})
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids = random_ids(3, 30)
    with torch.no_grad():
        logits = again(torch.tensor(ids[None])).logits[0].numpy()
    np.testing.assert_array_equal(logits, pair.expected(ids))
    assert hf.load_weights(tmp_path)[0] == pair.config
    written = json.loads((tmp_path / "generation_config.json").read_text())
    assert written["eos_token_id"] == 2


def test_without_tokenizer_json_transformers_converts(tmp_path):
    vocabulary = {"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3, "Ġ": 4}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "eos_token_id": 3}')
    tokenizer = HFTokenizer.load(tmp_path)
    assert tokenizer.encode("ab a") == [2, 4, 0]
    assert tokenizer.token_bytes(4) == b" "
    assert tokenizer.eos_ids == (3,)
