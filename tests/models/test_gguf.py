import concurrent.futures
import hashlib

import numpy as np
import pytest

from jaxevo.models import gguf, hf


def convert(tiny, target):
    digest = hashlib.sha256(tiny.path.read_bytes()).hexdigest()
    return gguf.convert_gguf(tiny.path, target, sha256=digest)


def interleave(rows, heads):
    """llama.cpp's order, row by row: rows j and j + half of a head stand next to each other."""
    size = len(rows) // heads
    order = [h * size + j + second * (size // 2) for h in range(heads) for j in range(size // 2)
             for second in (0, 1)]  # fmt: skip
    return rows[order]


def test_unpermute_undoes_the_interleaving():
    rows = np.random.default_rng(0).normal(size=(24, 5))
    for heads in (1, 2, 3):
        assert not np.array_equal(interleave(rows, heads), rows)
        np.testing.assert_array_equal(gguf.unpermute(interleave(rows, heads), heads), rows)


def test_converted_weights_are_the_decoded_ones(tiny_gguf, tmp_path):
    model = hf.load_hf(convert(tiny_gguf, tmp_path / "tiny"))
    config, raw = tiny_gguf.config, tiny_gguf.tensors
    assert model.config == config
    layers = model.params["layers"]
    for layer in range(config.layers):
        for ours, theirs in (("v", "attn_v"), ("o", "attn_output"), ("down", "ffn_down")):
            np.testing.assert_array_equal(layers[ours][layer].T, raw[f"blk.{layer}.{theirs}"])
        for ours, heads in (("q", config.heads), ("k", config.kv_heads)):
            rows = np.asarray(layers[ours][layer]).T
            np.testing.assert_array_equal(interleave(rows, heads), raw[f"blk.{layer}.attn_{ours}"])
    np.testing.assert_array_equal(model.params["embed"], raw["token_embd"])
    np.testing.assert_array_equal(model.params["final_norm"], raw["output_norm"])
    assert model.tokenizer.eos_ids == (2,)
    assert model.tokenizer.encode("12+345") == [33, 34, 27, 35, 36, 37]


def test_two_at_once_leave_one_complete_folder(tiny_gguf, tmp_path):
    target = tmp_path / "tiny"
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: convert(tiny_gguf, target), range(2)))
    assert made == [target, target]
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny"]
    assert hf.load_weights(target)[0] == tiny_gguf.config


def test_existing_folder_is_left_alone(tiny_gguf, tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    assert convert(tiny_gguf, tmp_path) == tmp_path
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.txt"]


def test_another_file_is_refused(tiny_gguf, tmp_path):
    with pytest.raises(ValueError, match=r"SHA-256 .* is needed"):
        gguf.convert_gguf(tiny_gguf.path, tmp_path / "tiny")
    assert list(tmp_path.iterdir()) == []
