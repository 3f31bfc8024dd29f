import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxevo.models import decoder, hf
from jaxevo.models.table import RopeScaling

SCALING = RopeScaling(8.0, 1.0, 4.0, original_max_positions=32)
CONFIG = decoder.DecoderConfig(
    vocab_size=20,
    width=8,
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=4,
    ffn_width=12,
    rope_theta=500.0,
    tied=False,
)


def write(folder, config, edit=None, **options):
    """A checkpoint of random weights; `edit` changes its tensors, options its config.json."""
    params = decoder.init_params(jax.random.key(0), config)
    tensors = dict(hf.hf_tensors(config, params))
    if edit is not None:
        edit(tensors)
    hf.write_hf_dir(folder, config, tensors, token_ids={"eos_token_id": 1}, documents={})
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, **options}))
    return params


@pytest.mark.parametrize("tied", [True, False])
def test_written_weights_are_read_back(tmp_path, tied):
    config = dataclasses.replace(CONFIG, tied=tied, rope_scaling=SCALING)
    params = write(tmp_path, config)
    found_config, found = hf.load_weights(tmp_path)
    assert found_config == config
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_checkpoint_layout_is_out_by_in(tmp_path):
    params = write(tmp_path, CONFIG)
    stored = load_file(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(
        stored["model.layers.1.mlp.down_proj.weight"], params["layers"]["down"][1].T
    )
    np.testing.assert_array_equal(stored["lm_head.weight"], params["head"].T)
    np.testing.assert_array_equal(stored["model.embed_tokens.weight"], params["embed"])


def test_dtype_rounds_once(tmp_path):
    params = write(tmp_path, CONFIG)
    _, found = hf.load_weights(tmp_path, dtype=jnp.bfloat16)
    jax.tree.map(
        lambda f, p: np.testing.assert_array_equal(f, p.astype(jnp.bfloat16)), found, params
    )


def test_missing_and_unexpected_tensors_are_named(tmp_path):
    def edit(tensors):
        tensors["model.layers.0.self_attn.q_norm.weight"] = np.ones(4, np.float32)
        del tensors["model.norm.weight"]

    write(tmp_path, CONFIG, edit)
    with pytest.raises(ValueError, match=r"missing \['model.norm.weight'\].*unexpected .*q_norm"):
        hf.load_weights(tmp_path)


def test_wrong_shape_is_named(tmp_path):
    def edit(tensors):
        tensors["model.layers.1.mlp.up_proj.weight"] = np.ones((8, 12), np.float32)

    write(tmp_path, CONFIG, edit)
    with pytest.raises(ValueError, match=r"layers.1.mlp.up_proj.weight gives shape \(12, 8\)"):
        hf.load_weights(tmp_path)


def test_harmless_extra_tensors(tmp_path):
    tied = dataclasses.replace(CONFIG, tied=True)

    def edit(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(2, np.float32)

    params = write(tmp_path, tied, edit)
    jax.tree.map(np.testing.assert_array_equal, hf.load_weights(tmp_path)[1], params)
    stored = load_file(tmp_path / "model.safetensors")
    stored["lm_head.weight"] = stored["lm_head.weight"] + 1
    save_file(stored, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"ties the embeddings, but lm_head.weight differs"):
        hf.load_weights(tmp_path)


UNSUPPORTED = {
    "family": ({"model_type": "gemma3"}, "model_type 'gemma3'"),
    "architecture": ({"architectures": ["LlamaForSequenceClassification"]}, "Classification"),
    "activation": ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
    "bias": ({"attention_bias": True}, "attention_bias=True"),
    "layers": (
        {"layer_types": ["full_attention", "sliding_attention"]},
        r"\['sliding_attention'\]",
    ),
    "used window": (
        {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": True},
        "use_sliding_window=True",
    ),
    "experts": (
        {"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"]},
        "no num_experts, which a qwen3_moe model needs",
    ),
    "window": ({"sliding_window": 4096}, "sliding_window=4096"),
    "quantised": ({"quantization_config": {"bits": 4}}, "quantization_config="),
    "scaling": ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "type 'longrope'"),
    "yarn": (
        {
            "rope_scaling": {
                "type": "yarn",
                "factor": 2.0,
                "original_max_position_embeddings": 8,
                "mscale": 1.0,
            }
        },
        "yarn with truncate, mscale",
    ),
    "partial heads": (
        {"partial_rotary_factor": 0.75},
        "partial_rotary_factor=0.75, which is not supported",
    ),
    "partial": ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "over the whole head"),
}


@pytest.mark.parametrize(("options", "named"), UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_what_is_unsupported_is_named(tmp_path, options, named):
    write(tmp_path, CONFIG, **options)
    with pytest.raises(ValueError, match=named):
        hf.load_weights(tmp_path)


def test_incomplete_directories(tmp_path):
    with pytest.raises(ValueError, match=r"config.json does not exist"):
        hf.load_weights(tmp_path)
    write(tmp_path, CONFIG)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="Convert the checkpoint to safetensors"):
        hf.load_weights(tmp_path)
