"""Adapters as PEFT reads them: the same tensors, and the same logits (`peft_adapter.py`)."""

import json
import pathlib

import numpy as np
import pytest

from jaxevo.base import joined
from jaxevo.models import decoder
from jaxevo.models.hf import hf_tensors, load_weights, save_tensors
from jaxevo.models.lora import TARGETS, LoRA, merged, peft_config, peft_tensors, with_adapters

RECORD = pathlib.Path(__file__).parent / "peft_adapter.npz"
MODULES = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
           "o": "self_attn.o_proj", "gate": "mlp.gate_proj", "up": "mlp.up_proj",
           "down": "mlp.down_proj"}  # fmt: skip


@pytest.fixture(scope="module")
def record():
    return dict(np.load(RECORD))


def part(record, name):
    return {key.removeprefix(name): x for key, x in record.items() if key.startswith(name)}


@pytest.fixture(scope="module")
def read_back(record, tmp_path_factory):
    """Config, base and adapters of the recorded tensors."""
    folder = tmp_path_factory.mktemp("base")
    save_tensors(folder, part(record, "base/").items())
    (folder / "config.json").write_text(str(record["base_config"]))
    config, base = load_weights(folder)
    said = json.loads(str(record["adapter_config"]))
    own = {}
    for name in TARGETS:
        for letter in "AB":
            tensors = [
                record[f"adapter/base_model.model.model.layers.{n}.{MODULES[name]}.lora_{letter}.weight"].T
                for n in range(config.layers)
            ]  # fmt: skip
            own[f"{name}_lora_{letter.lower()}"] = np.stack(tensors)
    lora = LoRA(said["r"], said["lora_alpha"])
    return with_adapters(config, lora), lora, base, {"layers": own}


def logits(config, params, ids):
    S = ids.shape[1]
    mask = np.tril(np.ones((S, S), bool))[None]
    hidden, _ = decoder.apply(config, params, ids, np.arange(S)[None], mask)
    return np.asarray(hidden @ decoder.unembed(config, params))


def test_the_adapted_model_says_what_pefts_does(record, read_back):
    config, _, base, own = read_back
    for params in (joined(base, own), merged(config, joined(base, own))):
        said = logits(config, params, record["ids"])
        np.testing.assert_allclose(said, record["logits"], atol=2e-5)
    np.testing.assert_allclose(
        logits(config, base, record["ids"]), record["base_logits"], atol=2e-5
    )
    assert np.abs(record["logits"] - record["base_logits"]).max() > 0.1


def test_what_is_written_is_what_peft_read(record, read_back):
    config, lora, base, own = read_back
    written = dict(peft_tensors(config, joined(base, own)))
    recorded = part(record, "adapter/")
    assert written.keys() == recorded.keys()
    for name, tensor in written.items():
        np.testing.assert_array_equal(tensor, recorded[name])
    said = json.loads(str(record["adapter_config"]))
    assert peft_config(config, lora, said["base_model_name_or_path"]) == said


def test_the_merged_model_is_written_without_adapters(read_back):
    config, _, base, own = read_back
    names = dict(hf_tensors(config, merged(config, joined(base, own)))).keys()
    assert names == dict(hf_tensors(config, base)).keys()
