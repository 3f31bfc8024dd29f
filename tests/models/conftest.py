"""A GGUF file of 274 tokens and two layers, laid out like SmolLM2's."""

import dataclasses
import pathlib

import gguf
import numpy as np
import pytest

from jaxevo.models import decoder

TINY = decoder.DecoderConfig(
    vocab_size=274,
    width=64,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    ffn_width=96,
    norm_eps=1e-5,
    rope_theta=100_000.0,
    tied=True,
    max_positions=128,
)
CHAT_TEMPLATE = (
    "{{ '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclasses.dataclass(frozen=True)
class TinyGGUF:
    """The file, its config, and what its tensors decode to, in the file's own layout."""

    path: pathlib.Path
    config: decoder.DecoderConfig
    tensors: dict


def byte_tokens():
    """Every byte as one printable character, the printable ASCII ones first (GPT-2's order)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = 256 - len(printable)
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(hidden)]


def describe(writer, config):
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<extra_{n}>" for n in range(14))]
    writer.add_block_count(config.layers)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.ffn_width)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*names, *byte_tokens(), "th"])
    writer.add_token_types([3] * 17 + [1] * 257)
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHAT_TEMPLATE)


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory):
    """Random weights: embedding Q8_0, matrices Q4_1, norms float32."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    random, config, kv = np.random.default_rng(0), TINY, TINY.kv_heads * TINY.head_dim
    shapes = {"token_embd": (config.vocab_size, 64), "output_norm": (64,)}
    for layer in range(config.layers):
        of_layer = {
            "attn_norm": (64,),
            "attn_q": (64, 64),
            "attn_k": (kv, 64),
            "attn_v": (kv, 64),
            "attn_output": (64, 64),
            "ffn_norm": (64,),
            "ffn_gate": (96, 64),
            "ffn_up": (96, 64),
            "ffn_down": (64, 96),
        }
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in of_layer.items()}
    writer, tensors = gguf.GGUFWriter(path, "llama"), {}
    describe(writer, config)
    for name, shape in shapes.items():
        values = random.normal(size=shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q4_1
        if name == "token_embd":
            kind = gguf.GGMLQuantizationType.Q8_0
        elif values.ndim == 1:
            kind = gguf.GGMLQuantizationType.F32
        packed = gguf.quants.quantize(values, kind)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=kind)
        tensors[name] = gguf.quants.dequantize(packed, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return TinyGGUF(path, config, tensors)
