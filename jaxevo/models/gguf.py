"""SmolLM2-135M-Instruct out of its GGUF file into an ordinary Hugging Face directory.

The GGUF's weights are 4-bit (Q4_1, embedding Q8_0). They are decoded once, to float32; that
decoded model, not the original bfloat16 checkpoint, is where training starts.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxevo.models.hf import write_hf_dir
from jaxevo.models.table import DecoderConfig

SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NORMAL, _CONTROL = 1, 3  # tokenizer.ggml.token_type


def convert_gguf(gguf: Path, target: Path, *, sha256: str = SHA256) -> Path:
    """Writes config, float32 safetensors, tokenizer and chat template of a llama GGUF file.

    The folder appears complete or not at all: it is written beside its place and renamed. When
    two processes convert at once, the first one to finish wins and the other discards its own.

    Args:
      gguf: the file.
      target: the folder to make; nothing happens when it exists.
      sha256: of the file.

    Raises:
      ValueError: when the file's hash is another one, or it holds what is not expected of it.
    """
    if target.is_dir():
        return target
    check_sha256(gguf, sha256)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        made = Path(scratch) / "model"
        made.mkdir()
        _write(gguf, made)
        try:
            os.rename(made, target)
        except OSError:
            if not target.is_dir():
                raise
            shutil.rmtree(made)
    return target


def check_sha256(path: Path, expected: str) -> None:
    """Raises ValueError unless the file has this SHA-256."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ValueError(
            f"{path} has SHA-256 {found}, but {expected} is needed. Delete it and fetch it again."
        )


def _write(gguf: Path, folder: Path) -> None:
    from gguf import GGUFReader

    reader = GGUFReader(gguf)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    config = _config(fields)
    tensors = dict(_hf_tensor(tensor, config) for tensor in reader.tensors)
    tokens = fields["tokenizer.ggml.tokens"]
    token_ids = {
        f"{name}_token_id": fields[f"tokenizer.ggml.{field}_token_id"]
        for name, field in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.max_positions,
        "clean_up_tokenization_spaces": False,
        "bos_token": tokens[token_ids["bos_token_id"]],
        "eos_token": tokens[token_ids["eos_token_id"]],
        "pad_token": tokens[token_ids["pad_token_id"]],
        "unk_token": tokens[fields["tokenizer.ggml.unknown_token_id"]],
        "chat_template": fields["tokenizer.chat_template"],
    }
    documents = {
        "tokenizer.json": _tokenizer_json(fields),
        "tokenizer_config.json": tokenizer_config,
    }
    write_hf_dir(folder, config, tensors, token_ids=token_ids, documents=documents)


def _config(fields: Mapping[str, Any]) -> DecoderConfig:
    architecture = fields["general.architecture"]
    if architecture != "llama":
        raise ValueError(f"the GGUF file holds a {architecture!r} model; only llama is supported.")
    heads = fields["llama.attention.head_count"]
    width = fields["llama.embedding_length"]
    return DecoderConfig(
        vocab_size=fields["llama.vocab_size"],
        width=width,
        layers=fields["llama.block_count"],
        heads=heads,
        kv_heads=fields["llama.attention.head_count_kv"],
        head_dim=width // heads,
        ffn_width=fields["llama.feed_forward_length"],
        # Stored in float32, where 1e-5 reads 9.9999997e-06.
        norm_eps=float(f"{fields['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        rope_theta=fields["llama.rope.freq_base"],
        tied=True,
        max_positions=fields["llama.context_length"],
    )


def _hf_tensor(tensor: Any, config: DecoderConfig) -> tuple[str, np.ndarray]:
    from gguf.quants import dequantize

    matched = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.weight", tensor.name)
    if matched is None or matched[2] not in _NAMES:
        raise ValueError(f"the GGUF file holds an unexpected tensor {tensor.name!r}.")
    layer, kind = matched.groups()
    values = np.array(dequantize(tensor.data, tensor.tensor_type), np.float32)
    if kind == "attn_q":
        values = unpermute(values, config.heads)
    if kind == "attn_k":
        values = unpermute(values, config.kv_heads)
    prefix = "" if layer is None else f"model.layers.{layer}."
    return f"{prefix}{_NAMES[kind]}.weight", values


def unpermute(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k from GGUF's interleaved rotary pairs (0, 0', 1, 1', ...) to halves.

    Rotary positions turn pairs of rows of a head; GGUF stores the two of a pair next to each
    other, Hugging Face checkpoints (and this decoder) store all first ones, then all second ones.
    """
    paired = rows.reshape(heads, -1, 2, rows.shape[-1])
    return np.ascontiguousarray(paired.swapaxes(1, 2)).reshape(rows.shape)


def _tokenizer_json(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Byte-level BPE whose pre-tokenizer makes every digit a token of its own."""
    import json

    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    kind = fields["tokenizer.ggml.model"], fields["tokenizer.ggml.pre"]
    if kind != ("gpt2", "smollm"):
        raise ValueError(f"the GGUF file's tokenizer is {kind}, only ('gpt2', 'smollm') is known.")
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    if not set(types) <= {_NORMAL, _CONTROL}:
        raise ValueError(f"the GGUF file has tokens of unknown types {sorted(set(types))}.")
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, types, strict=True)
            if kind == _CONTROL
        ]
    )
    if tokenizer.encode("12+345").ids != [33, 34, 27, 35, 36, 37]:
        raise ValueError("the tokenizer built from the GGUF file does not split digits one by one.")
    return json.loads(tokenizer.to_str())
