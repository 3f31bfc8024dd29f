"""A model of a run as a Hugging Face directory."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Literal

GB = 10**9
DOCUMENTS = (".json", ".jinja", ".txt", ".model")  # configs, tokenizer, chat template

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def export(
    *,
    source: str,
    to: str = "exported",
    weights: str = "policy",
    dtype: Literal["float32", "bfloat16"] = "float32",
    shard_gb: float = 5.0,
    adapter: bool = False,
) -> int:
    """Writes a run's model as a Hugging Face directory, which transformers and vLLM open.

    Configuration, tokenizer and generation settings are those of the model that the run began with.
    So is the chat template, unless the run was trained under bare ChatML turns (--template chatml):
    these are then the template. Of a run of adapters the merged model is written, or with
    --adapter the adapters alone, as the PEFT package reads them.

    Args:
      source: run folder, whose last checkpoint is written, or a model.
      to: directory to make.
      weights: which parameter set of the run.
      dtype: of the written tensors.
      shard_gb: a file holds at most so many GB.
      adapter: write the adapters of a LoRA run, not the model.
    """
    import jax.numpy as jnp
    import numpy as np

    from jaxevo.models import hub
    from jaxevo.models.hf import hf_tensors, save_tensors
    from jaxevo.models.lora import merged, peft_config, peft_tensors
    from jaxevo.run.restore import load_subject, lora_of, run_options

    target = Path(to)
    if target.exists():
        raise FileExistsError(f"{to} exists; name a directory that does not.")
    if shard_gb <= 0:
        raise ValueError(f"--shard-gb {shard_gb}, but a file needs room: more than 0.")
    lora = lora_of(run_options(source))
    if adapter and lora is None:
        raise ValueError(f"{source} has no adapters: it was not trained with --lora-rank.")
    loaded = load_subject(source, name=weights)
    folder = hub.folder_of(loaded.name)
    if folder is None:
        raise ValueError(
            f"{loaded.name!r} has no Hugging Face form; models from a directory or the hub do."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as scratch:
        made = Path(scratch) / "model"
        made.mkdir()
        kind, name = np.dtype(getattr(jnp, dtype)), "model"
        if adapter and lora is not None:
            base = loaded.name if loaded.name != hub.SMOLLM2 else str(folder)
            config = peft_config(loaded.config, lora, base)
            (made / "adapter_config.json").write_text(json.dumps(config, indent=2), "utf-8")
            tensors, name = peft_tensors(loaded.config, loaded.params), "adapter_model"
        else:
            _copy_documents(folder, made, dtype)
            if run_options(source).get("template") == "chatml":
                _set_template(made, CHATML)
            tensors = hf_tensors(loaded.config, merged(loaded.config, loaded.params))
        cast = ((name, tensor.astype(kind)) for name, tensor in tensors)
        save_tensors(made, cast, shard_bytes=int(shard_gb * GB), name=name)
        os.rename(made, target)
    print(f"{target}: {loaded.config.family}{' adapters' if adapter else ''}, {dtype}")
    return 0


def _set_template(folder: Path, template: str) -> None:
    for file in folder.glob("chat_template.*"):
        file.unlink()
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    config["chat_template"] = template
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False), "utf-8")


def _copy_documents(source: Path, target: Path, dtype: str) -> None:
    """All of a model directory but its weights; config.json with the dtype of the new ones."""
    for file in source.iterdir():
        weights = file.name.endswith(".safetensors.index.json")
        if file.is_file() and file.suffix in DOCUMENTS and not weights:
            shutil.copyfile(file, target / file.name)
    config = json.loads((source / "config.json").read_text("utf-8"))
    config.pop("dtype", None)  # its name since transformers 5, which reads the older one as well
    config["torch_dtype"] = dtype
    (target / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False), "utf-8")
