"""The real model: SmolLM2-135M-Instruct, converted from its GGUF file.

What it says and how surprised it is by real text would be noise with a wrong weight layout (the
interleaved rows of q and k above all), a wrong tokenizer or wrong rotary positions.
"""

import dataclasses
import functools
import gzip
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxevo.models import decoder, hub
from jaxevo.models.tokenizer import HFTokenizer
from jaxevo.types import Message

ROOT = pathlib.Path(__file__).parents[2]

pytestmark = [
    pytest.mark.smollm2,
    pytest.mark.slow,
    pytest.mark.usefixtures("quick_to_compile"),
]
PASSAGES = ROOT / "tests" / "data" / "xquad_en_12.jsonl.gz"


PROMPTS = (
    "What is the capital of Italy?",
    "Name three colours.",
    "Write one sentence about the sea.",
    "What is 12 + 30?",
    "Translate 'good morning' into French.",
    "Who wrote Romeo and Juliet?",
    "List the days of the week.",
    "What do bees make?",
    "Give me a word that rhymes with cat.",
    "How many legs does a spider have?",
    "Is the sun a star?",
    "Explain gravity to a child.",
    "What is the opposite of hot?",
    "Continue: 1, 2, 3, 4,",
    "Write a Python function that adds two numbers.",
    "What is the largest planet?",
    "Tell me a short story about a fox.",
    "Why is the sky blue?",
    "Say hello in Spanish.",
    "What is H2O?",
)


@pytest.fixture(scope="module")
def smollm2():
    return hub.load("smollm2-135m")


@functools.partial(jax.jit, static_argnums=(0, 4))
def continue_greedily(config, params, ids_BS, lengths_B, new_tokens):
    """Prefill of right-padded prompts, then one token after the other through the cache."""
    rows, slots = ids_BS.shape
    capacity = slots + new_tokens
    slots_C = jnp.arange(capacity)
    head_DV = decoder.unembed(config, params)
    cache = decoder.init_cache(config, rows, capacity)
    positions_BS = jnp.broadcast_to(jnp.arange(slots), (rows, slots))
    mask_BSC = slots_C[None, None] <= positions_BS[:, :, None]
    hidden_BSD, cache = decoder.apply(
        config, params, ids_BS, positions_BS, mask_BSC, cache=cache, slot=0
    )
    last_BD = jnp.take_along_axis(hidden_BSD, lengths_B[:, None, None] - 1, axis=1)[:, 0]

    def step(carry, n):
        token_B, cache = carry
        in_prompt = slots_C[None] < lengths_B[:, None]
        generated = (slots_C[None] >= slots) & (slots_C[None] <= slots + n)
        hidden_BSD, cache = decoder.apply(
            config,
            params,
            token_B[:, None],
            (lengths_B + n)[:, None],
            (in_prompt | generated)[:, None],
            cache=cache,
            slot=slots + n,
        )
        return (jnp.argmax(hidden_BSD[:, 0] @ head_DV, axis=-1), cache), token_B

    first_B = jnp.argmax(last_BD @ head_DV, axis=-1)
    _, tokens_TB = jax.lax.scan(step, (first_B, cache), jnp.arange(new_tokens))
    return tokens_TB.T


def greedy(model, prompts, new_tokens):
    lengths = np.array([len(prompt) for prompt in prompts])
    ids_BS = np.zeros((len(prompts), 48), np.int32)
    for row, prompt in zip(ids_BS, prompts, strict=True):
        row[: len(prompt)] = prompt
    tokens = continue_greedily(model.config, model.params, ids_BS, lengths, new_tokens)
    return np.asarray(tokens).tolist()


def answers(model, questions):
    """The model's greedy replies with its own chat template, up to the first end token."""
    prompts = [model.tokenizer.render([Message("user", q)], template="model") for q in questions]
    replies = []
    for ids in greedy(model, prompts, 12):
        end = next((n for n, i in enumerate(ids) if i in model.tokenizer.eos_ids), len(ids))
        replies.append(model.tokenizer.text(ids[:end]))
    return replies


def test_known_answers(smollm2):
    replies = answers(
        smollm2,
        ["What is the capital of France?", "What is 3 + 4? Answer with a number only."],
    )
    assert replies == ["The capital of France is Paris.", "3 + 4 = 7"]


def test_perplexity_of_real_passages(smollm2):
    """28.97 with torch on the same weights: exp of the mean over 1,952 predicted tokens."""
    with gzip.open(PASSAGES, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    rows = [smollm2.tokenizer.encode(text)[:256] for text in texts]
    assert sum(len(row) - 1 for row in rows) == 1952
    score = jax.jit(mean_loss, static_argnums=0)
    sums = []
    for begin in range(0, 12, 4):
        ids_BS = np.zeros((4, 256), np.int32)
        real_BS = np.zeros((4, 256), bool)
        for n, row in enumerate(rows[begin : begin + 4]):
            ids_BS[n, : len(row)], real_BS[n, : len(row)] = row, True
        sums.append(float(score(smollm2.config, smollm2.params, ids_BS, real_BS)))
    assert 28.9 < np.exp(sum(sums) / 1952) < 29.05


def mean_loss(config, params, ids_BS, real_BS):
    rows, slots = ids_BS.shape
    positions_BS = jnp.broadcast_to(jnp.arange(slots), (rows, slots))
    mask_BSC = positions_BS[:, None, :] <= positions_BS[:, :, None]
    hidden_BSD, _ = decoder.apply(config, params, ids_BS, positions_BS, mask_BSC)
    logp_BSV = jax.nn.log_softmax(hidden_BSD[:, :-1] @ decoder.unembed(config, params))
    logp_BS = jnp.take_along_axis(logp_BSV, ids_BS[:, 1:, None], axis=-1)[..., 0]
    return -jnp.sum(jnp.where(real_BS[:, 1:], logp_BS, 0.0))


def test_shape_of_the_model(smollm2):
    assert sum(leaf.size for leaf in jax.tree.leaves(smollm2.params)) == 134_515_008
    assert (smollm2.config.layers, smollm2.config.heads, smollm2.config.kv_heads) == (30, 9, 3)
    assert smollm2.tokenizer.eos_ids == (2,)
    assert smollm2.tokenizer.chat


def test_digits_one_by_one(smollm2):
    assert smollm2.tokenizer.encode("12+345") == [33, 34, 27, 35, 36, 37]


def test_chatml_has_no_default_system_turn(smollm2):
    turn = [Message("user", "What is 7+8? Reply with just the number.")]
    ids = smollm2.tokenizer.render(turn)
    assert len(ids) == 23
    assert smollm2.tokenizer.decode(ids) == (
        "<|im_start|>user\nWhat is 7+8? Reply with just the number.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert len(smollm2.tokenizer.render(turn, template="model")) > 23


def test_bytes_and_round_trip(smollm2):
    tokenizer = smollm2.tokenizer
    for text in ("", "12 + 345 = 357\n\t x", "Ünïcödé — 漢字 🙂👩‍👩‍👧 ٣½", "\x00\x7f\u00ad\u2028"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert b"".join(tokenizer.token_bytes(i) for i in ids) == text.encode()
    assert [tokenizer.token_bytes(i) for i in range(17)] == [b""] * 17
    assert all(tokenizer.token_bytes(i) for i in range(17, tokenizer.vocab_size))


@pytest.fixture(scope="module")
def smollm2_torch():
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(hub.smollm2_dir(), dtype=torch.float32).eval()


@pytest.mark.slow
def test_continues_greedily_as_transformers_does(smollm2, smollm2_torch):
    """By induction: after our first n tokens, transformers' most likely next token is our next."""
    torch = pytest.importorskip("torch")
    prompts = [smollm2.tokenizer.render([Message("user", text)]) for text in PROMPTS]
    for prompt, answer in zip(prompts, greedy(smollm2, prompts, 16), strict=True):
        with torch.no_grad():
            logits = smollm2_torch(torch.tensor([[*prompt, *answer]])).logits[0]
        assert logits[len(prompt) - 1 : -1].argmax(-1).tolist() == answer


def test_tokenizer_equals_transformers():
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(hub.smollm2_dir())
    ours = HFTokenizer.load(hub.smollm2_dir())
    texts = ["12+345 = 357\n\n  x", "Ünïcödé 漢字 🙂👩‍👩‍👧", "a<|im_end|>b", " lead", "½ ² Ⅷ ٣", ""]
    for text in texts:
        ids = theirs.encode(text, add_special_tokens=False)
        assert ours.encode(text) == ids
        assert ours.decode(ids) == theirs.decode(ids)
    assert (theirs.eos_token_id, theirs.pad_token_id) == (ours.eos_ids[0], ours.pad_id)


TEMPLATES = {
    "smollm2 default system turn": None,
    "loop controls and generation blocks": (
        "{{ bos_token }}\n{%- for m in messages %}\n  {% if m.role == 'tool' %}\n"
        "    {% continue %}\n  {% endif %}\n"
        "{%- if m.role == 'assistant' %}{%- generation -%} {{ m.content | trim }}"
        "{% endgeneration %}"
        "\n{% else %}{{ m | tojson }}{% endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>{% endif %}"
    ),
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_chat_template_equals_transformers(template):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(hub.smollm2_dir())
    ours = HFTokenizer.load(hub.smollm2_dir())
    if template is not None:
        ours = dataclasses.replace(ours, chat_template=template)
        theirs.chat_template = template
    turns = [("user", "Grüße & <b>1+1</b>"), ("assistant", " 2 "), ("tool", "x"), ("user", "why?")]
    expected = theirs.apply_chat_template(
        [{"role": role, "content": content} for role, content in turns],
        add_generation_prompt=True,
        tokenize=False,
    )
    ids = ours.render([Message(*turn) for turn in turns], template="model")
    assert ours.decode(ids) == expected
    assert ids == theirs.encode(expected, add_special_tokens=False)
