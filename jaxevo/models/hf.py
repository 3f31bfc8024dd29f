"""Hugging Face directories: config.json and safetensors into parameters, and back.

The tensor names and transpositions stand in `jaxevo.models.table`; here they are only followed.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxevo.models.hf_config import hf_config, read_config
from jaxevo.models.table import (
    FAMILIES,
    DecoderConfig,
    Family,
    Weight,
    map_table,
    side_by_side,
    tensor_names,
)
from jaxevo.models.tokenizer import HFTokenizer, Tokenizer
from jaxevo.types import Params


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model ready to sample and to train."""

    name: str
    config: DecoderConfig
    params: Params
    tokenizer: Tokenizer


# Of a model's shape: takes a weight's name and values to the devices that they belong to.
Put: TypeAlias = Callable[[DecoderConfig], Callable[[str, np.ndarray], jax.Array]]


def load_hf(
    path: str | Path, *, dtype: Any = jnp.float32, weights: bool = True, put: Put | None = None
) -> LoadedModel:
    """Loads an HF directory: weights by `load_weights`, tokenizer by `HFTokenizer.load`.

    With `weights=False` the parameters are shapes alone.
    """
    if weights:
        config, params = load_weights(path, dtype=dtype, put=put)
    else:
        config, _ = read_config(_required_json(Path(path) / "config.json"))
        params = shapes_of(config, dtype)
    return LoadedModel(Path(path).name, config, params, HFTokenizer.load(path))


def shapes_of(config: DecoderConfig, dtype: Any) -> Params:
    """The shape of every parameter of a model, without its values."""
    return map_table(lambda _, weight: jax.ShapeDtypeStruct(weight.shape, dtype), config)


def load_weights(
    path: str | Path, *, dtype: Any = jnp.float32, put: Put | None = None
) -> tuple[DecoderConfig, Params]:
    """Config and parameters of an HF directory, from one safetensors file or a sharded index.

    Tensors are read one by one into the stacked arrays; the peak is the model in `dtype` and its
    largest weight once more. `put` takes each of them, name and numpy array, to where it belongs;
    with it a host holds no more than the parts of its devices and one weight.

    Raises:
      ValueError: naming the architecture or option that is unsupported, or the tensors that are
        missing, unexpected or of another shape.
    """
    path = Path(path)
    raw = _required_json(path / "config.json")
    config, family = read_config(raw)
    # A copy where nobody puts it: a view of a numpy array could not be donated.
    place = (lambda _, x: jnp.array(x)) if put is None else put(config)
    with _Tensors(path) as tensors:
        _check_names(tensors.names(), config, family)
        params = map_table(
            lambda name, weight: place(
                name, _read_weight(tensors, config, family, (name, weight, dtype))
            ),
            config,
        )
        if config.tied:
            _check_tied(tensors, family)
    return config, params


# ---------------------------------------------------------------------------- tensors
class _Tensors:
    """The tensors of all safetensors files of a directory, by name, read on demand."""

    def __init__(self, path: Path) -> None:
        single, index = path / "model.safetensors", path / "model.safetensors.index.json"
        if single.is_file():
            self._files = [single]
        elif index.is_file():
            shards = _required_json(index)["weight_map"].values()
            self._files = [path / shard for shard in sorted(set(shards))]
        else:
            raise ValueError(
                f"{path} has neither {single.name} nor {index.name}. Convert the checkpoint to "
                "safetensors (transformers: model.save_pretrained(path))."
            )

    def __enter__(self) -> _Tensors:
        import safetensors

        self._open = [safetensors.safe_open(f, framework="numpy") for f in self._files]
        self._where = {name: handle for handle in self._open for name in handle.keys()}  # noqa: SIM118 (no mapping)
        return self

    def __exit__(self, *_: object) -> None:
        self._open, self._where = [], {}

    def names(self) -> set[str]:
        return set(self._where)

    def read(self, name: str) -> np.ndarray:
        return self._where[name].get_tensor(name)


def _check_names(found: set[str], config: DecoderConfig, family: Family) -> None:
    expected: set[str] = set()
    map_table(lambda name, _: expected.update(tensor_names(family, config, name)), config)
    allowed = expected | ({family.names["head"][0]} if config.tied else set())
    missing = sorted(expected - found)
    unexpected = sorted(n for n in found - allowed if not n.endswith(family.ignored))
    if missing or unexpected:
        raise ValueError(
            f"the checkpoint's tensors do not fit its config.json: missing {missing[:8]} "
            f"({len(missing)}), unexpected {unexpected[:8]} ({len(unexpected)})."
        )


def _read_weight(
    tensors: _Tensors, config: DecoderConfig, family: Family, entry: tuple[str, Weight, Any]
) -> np.ndarray:
    name, weight, dtype = entry
    pattern, transposed = family.names[name]
    stacked = np.empty(weight.shape, dtype)
    parts = _by_tensor(stacked, pattern)
    sizes = side_by_side(family, config, name)
    ends = dict(zip(sizes, itertools.accumulate(sizes.values()), strict=True))
    own = slice(ends[name] - sizes[name], ends[name])
    for part, tensor_name in zip(parts, tensor_names(family, config, name), strict=True):
        tensor = tensors.read(tensor_name)
        tensor = tensor.T if transposed else tensor
        wanted = (*part.shape[:-1], sum(sizes.values()))
        if tensor.shape != wanted:
            raise ValueError(
                f"{tensor_name} gives shape {tensor.shape}, but config.json asks for {wanted}."
            )
        part[...] = tensor[..., own]
    return stacked


def _by_tensor(stacked: np.ndarray, pattern: str) -> np.ndarray:
    """A view of a parameter as a row of the tensors that make it up, by layer, then by expert."""
    return stacked.reshape(-1, *stacked.shape[pattern.count("{") :])


def _check_tied(tensors: _Tensors, family: Family) -> None:
    head, embed = family.names["head"][0], family.names["embed"][0]
    if head in tensors.names() and not np.array_equal(tensors.read(head), tensors.read(embed)):
        raise ValueError(
            f"config.json ties the embeddings, but {head} differs from {embed}. "
            "Set tie_word_embeddings to false to load it as an untied model."
        )


# ---------------------------------------------------------------------------- writing
def hf_tensors(config: DecoderConfig, params: Params) -> Iterator[tuple[str, np.ndarray]]:
    """(tensor name, array) of every tensor of a checkpoint, as transformers lays them out."""
    family = FAMILIES[config.family]
    leaves = {
        "/".join(key.key for key in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    for name in leaves:
        pattern, transposed = family.names[name]
        together = list(side_by_side(family, config, name))
        if name != together[0]:
            continue
        parts = zip(*(_by_tensor(np.asarray(leaves[n]), pattern) for n in together), strict=True)
        for held, tensor_name in zip(parts, tensor_names(family, config, name), strict=True):
            part = held[0] if len(held) == 1 else np.concatenate(held, axis=-1)
            yield tensor_name, np.ascontiguousarray(part.T if transposed else part)


def write_hf_dir(
    path: Path,
    config: DecoderConfig,
    tensors: Mapping[str, np.ndarray],
    *,
    token_ids: Mapping[str, int],
    documents: Mapping[str, Any],
) -> None:
    """Writes an HF directory that transformers and `load_hf` open.

    Args:
      path: an existing folder.
      config: the shape of the model.
      tensors: by checkpoint name and in checkpoint layout, e.g. `dict(hf_tensors(...))`.
      token_ids: bos_token_id, eos_token_id, pad_token_id for the two configs.
      documents: further JSON files by name (tokenizer.json, tokenizer_config.json, ...).
    """
    save_tensors(path, tensors.items())
    dtype = {"torch_dtype": next(iter(tensors.values())).dtype.name}
    files = {
        "config.json": {**hf_config(config), **dtype, **token_ids},
        "generation_config.json": {"_from_model_config": True, **token_ids},
        **documents,
    }
    for name, content in files.items():
        (path / name).write_text(json.dumps(content, ensure_ascii=False, indent=2), "utf-8")


def save_tensors(
    path: Path,
    tensors: Iterable[tuple[str, np.ndarray]],
    *,
    shard_bytes: int = 5 * 10**9,
    name: str = "model",
) -> None:
    """Writes NAME.safetensors, or shards of at most so many bytes with their index."""
    from safetensors.numpy import save_file

    shards: list[list[str]] = []
    held: dict[str, np.ndarray] = {}
    total = 0

    def write() -> None:
        part = path / f"{len(shards)}.part"
        save_file(held, part, metadata={"format": "pt"})
        part.chmod(0o644)  # safetensors lets its owner alone read a file
        shards.append(list(held))
        held.clear()

    for tensor_name, tensor in tensors:
        if held and sum(x.nbytes for x in held.values()) + tensor.nbytes > shard_bytes:
            write()
        held[tensor_name], total = tensor, total + tensor.nbytes
    write()
    if len(shards) == 1:
        (path / "0.part").rename(path / f"{name}.safetensors")
        return
    files = [f"{name}-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for i, file in enumerate(files):
        (path / f"{i}.part").rename(path / file)
    weight_map = {n: file for file, names in zip(files, shards, strict=True) for n in names}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (path / f"{name}.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _required_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} does not exist, but a model directory needs it.")
    return json.loads(path.read_text("utf-8"))
