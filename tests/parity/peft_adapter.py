"""An adapter that jaxevo wrote, read by the PEFT package.

In two environments, by hand:

    python tests/parity/peft_adapter.py write FOLDER                                  # jaxevo's
    python tests/parity/peft_adapter.py read FOLDER tests/parity/peft_adapter.npz     # peft's

`test_peft_adapter.py` compares: `base/NAME` and `adapter/NAME` are the tensors of both
directories, `ids` what was asked, `logits` what PEFT's model said, `base_logits` what it said with
the adapter switched off.
"""

import json
import pathlib
import sys

import numpy as np

IDS = np.arange(24).reshape(2, 12) * 7 % 64
RANK, ALPHA = 3, 6.0


def write(folder: pathlib.Path) -> None:
    import jax

    from jaxevo.models import decoder
    from jaxevo.models.hf import hf_tensors, save_tensors, write_hf_dir
    from jaxevo.models.lora import LoRA, init_adapters, peft_config, peft_tensors, with_adapters

    config = decoder.DecoderConfig(
        vocab_size=64, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, ffn_width=48
    )
    lora = LoRA(RANK, ALPHA)
    base, adapter = folder / "base", folder / "adapter"
    base.mkdir(parents=True)
    adapter.mkdir()
    keys = iter(jax.random.split(jax.random.key(1), 99))
    own = init_adapters(jax.random.key(0), config, lora)
    own = jax.tree.map(lambda x: 0.3 * jax.random.normal(next(keys), x.shape), own)
    tensors = dict(hf_tensors(config, decoder.init_params(jax.random.key(2), config)))
    write_hf_dir(base, config, tensors, token_ids={"eos_token_id": 0}, documents={})
    adapted = with_adapters(config, lora)
    save_tensors(adapter, peft_tensors(adapted, own), name="adapter_model")
    said = peft_config(adapted, lora, "base")
    (adapter / "adapter_config.json").write_text(json.dumps(said, indent=1))


def read(folder: pathlib.Path, out: pathlib.Path) -> None:
    import peft
    import torch
    import transformers
    from safetensors.numpy import load_file

    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder / "base", dtype=torch.float32, attn_implementation="eager"
    )
    adapted = peft.PeftModel.from_pretrained(model, folder / "adapter").eval()
    with torch.no_grad():
        logits = adapted(torch.tensor(IDS)).logits.numpy()
        with adapted.disable_adapter():
            base_logits = adapted(torch.tensor(IDS)).logits.numpy()
    versions = f"peft {peft.__version__}, transformers {transformers.__version__}"
    found = {"ids": IDS, "logits": logits, "base_logits": base_logits, "versions": versions}
    for part, name in (("base", "model"), ("adapter", "adapter_model")):
        tensors = load_file(folder / part / f"{name}.safetensors")
        found |= {f"{part}/{tensor}": array for tensor, array in tensors.items()}
    found["base_config"] = (folder / "base" / "config.json").read_text()
    found["adapter_config"] = (folder / "adapter" / "adapter_config.json").read_text()
    np.savez_compressed(out, **found)
    print(versions, np.abs(logits - base_logits).max())


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](*map(pathlib.Path, sys.argv[2:]))
