"""Low-rank adapters: a parameter set over a base that does not learn.

    y = x W + s · (x A) B        A [in, r], B [r, out], s = α / r

A begins as PEFT draws it, uniform in ±1/√in, and B at 0, so that a run begins at its base. A set of
parameters is then the adapters (and heads) alone: gradients, optimizer states, checkpoints and the
sets that follow are of their size, and a set that nobody trains, a reference, is the base itself.

References: arXiv:2106.09685, section 4.1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxevo.models.table import (
    FAMILIES,
    DecoderConfig,
    Weight,
    map_table,
    tensor_names,
    weight_table,
)
from jaxevo.types import Params

TARGETS = ("q", "k", "v", "o", "gate", "up", "down")
LAYERS = "layers"


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Which matrices of a layer get adapters, of what rank, and how loud they are.

    rank: r, at least 1. alpha: α above 0. targets: of `TARGETS`, at least one.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self) -> None:
        unknown = sorted(set(self.targets) - set(TARGETS))
        if unknown or not self.targets or len(set(self.targets)) < len(self.targets):
            raise ValueError(
                f"LoRA targets {self.targets}: take each of {', '.join(TARGETS)} once."
            )
        if self.rank < 1 or self.alpha <= 0:
            raise ValueError(
                f"LoRA of rank {self.rank} and alpha {self.alpha}, but both must be above 0."
            )

    @property
    def scale(self) -> float:
        """s = α / r."""
        return self.alpha / self.rank


def init_adapters(key: jax.Array, config: DecoderConfig, lora: LoRA) -> Params:
    """Adapters of every layer, float32: {"layers": {"q_lora_a": [L, in, r], "q_lora_b": ...}}.

    Raises:
      ValueError: for feed-forward layers of experts, whose matrices are not adapted.
    """
    layers: dict[str, jax.Array] = {}
    for n, name in enumerate(TARGETS):
        if name not in lora.targets:
            continue
        weight: Weight = weight_table(config)[LAYERS][name]
        if "experts" in weight.axes:
            raise ValueError(
                f"LoRA on {name!r} of a model with experts is not supported; target q, k, v, o."
            )
        count, into, out = weight.shape
        bound = 1.0 / math.sqrt(into)
        shape = (count, into, lora.rank)
        own = jax.random.fold_in(key, n)
        layers[f"{name}_lora_a"] = jax.random.uniform(own, shape, minval=-bound, maxval=bound)
        layers[f"{name}_lora_b"] = jnp.zeros((count, lora.rank, out))
    return {LAYERS: layers}


def weight_axes(config: DecoderConfig) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
    """(name, logical axes) of every weight of the table, and of an adapter for each target."""
    found: dict[str, tuple[str | None, ...]] = {}
    map_table(lambda name, weight: found.update({name: weight.axes}), config)
    for name in TARGETS:
        *layers, into, out = found[f"{LAYERS}/{name}"]
        found[f"{LAYERS}/{name}_lora_a"] = (*layers, into, None)
        found[f"{LAYERS}/{name}_lora_b"] = (*layers, None, out)
    return tuple(found.items())


def with_adapters(config: DecoderConfig, lora: LoRA) -> DecoderConfig:
    """The decoder's shape, with what adapters' products are multiplied by."""
    return dataclasses.replace(config, adapter_scale=lora.scale)


def adapted(layers: Params) -> Iterator[tuple[str, jax.Array, jax.Array]]:
    """(target, A, B) of every adapter."""
    for name in TARGETS:
        if f"{name}_lora_a" in layers:
            yield name, layers[f"{name}_lora_a"], layers[f"{name}_lora_b"]


def merged(config: DecoderConfig, params: Params) -> Params:
    """Base and adapters as plain weights, W + s · A B, formed in float32; no adapters are left."""
    layers = dict(params[LAYERS])
    for name, a, b in adapted(params[LAYERS]):
        weight = layers[name]
        change = config.adapter_scale * jnp.einsum("lir,lro->lio", a, b, precision="highest")
        layers[name] = (weight.astype(jnp.float32) + change).astype(weight.dtype)
        del layers[f"{name}_lora_a"], layers[f"{name}_lora_b"]
    return {**params, LAYERS: layers}


# ---------------------------------------------------------------------------- PEFT's files
def peft_config(config: DecoderConfig, lora: LoRA, base: str) -> dict[str, object]:
    """adapter_config.json of the PEFT package; `base` is the name or folder of the base model.

    Raises:
      ValueError: for a family whose checkpoints hold several matrices in one tensor.
    """
    modules = [_module(config, name, 0) for name in TARGETS if name in lora.targets]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted({module.rpartition(".")[2] for module in modules}),
    }


def peft_tensors(config: DecoderConfig, params: Params) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of every tensor of adapter_model.safetensors."""
    for name, a, b in adapted(params[LAYERS]):
        for letter, stacked in (("A", np.asarray(a)), ("B", np.asarray(b))):
            for layer, matrix in enumerate(stacked):
                module = _module(config, name, layer)
                yield f"base_model.model.{module}.lora_{letter}.weight", matrix.T.copy()


def _module(config: DecoderConfig, name: str, layer: int) -> str:
    """The module of a layer's matrix in the classes of transformers."""
    family = FAMILIES[config.family]
    own = family.names[f"{LAYERS}/{name}"]
    if sum(other == own for other in family.names.values()) > 1:
        raise ValueError(
            f"{config.family} checkpoints hold {name!r} in one tensor with others, which PEFT "
            "would adapt as one. Export the merged model, without --adapter."
        )
    names = list(tensor_names(family, config, f"{LAYERS}/{name}"))
    return names[layer].removesuffix(".weight")
