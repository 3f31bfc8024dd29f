"""config.json of Hugging Face directories into `DecoderConfig`, and back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from jaxevo.models.table import (
    FAMILIES,
    DecoderConfig,
    Family,
    LinearScaling,
    RopeScaling,
    Scaling,
    YarnScaling,
)


def read_config(raw: Mapping[str, Any]) -> tuple[DecoderConfig, Family]:
    """The shape of the model that a config.json describes, and the family of its tensor names.

    Raises:
      ValueError: for an unknown family, or an option that this decoder does not compute.
    """
    family = FAMILIES.get(raw.get("model_type", ""))
    if family is None or family.architecture not in raw.get("architectures", [family.architecture]):
        raise ValueError(
            f"model_type {raw.get('model_type')!r} with architectures {raw.get('architectures')} "
            f"is not supported; supported are {sorted(FAMILIES)} causal language models."
        )
    options = {**_SUPPORTED, **family.options}
    if family.full_every is not None:
        options["sliding_window"] = ()
    for option, supported in options.items():
        if supported and raw.get(option, supported[0]) not in supported:
            raise ValueError(
                f"config.json has {option}={raw[option]!r}, which is not supported; "
                f"this decoder computes {option}={supported[0]!r}."
            )
    heads, width = raw["num_attention_heads"], raw["hidden_size"]
    windowed = _read_windows(raw, family)
    theta, scaling, window_theta = _read_rope(raw)
    if not any(windowed) or (scaling is None and window_theta == theta):
        window_theta = None
    config = DecoderConfig(
        vocab_size=raw["vocab_size"],
        width=width,
        layers=raw["num_hidden_layers"],
        heads=heads,
        kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim") or width // heads,
        ffn_width=raw["intermediate_size"],
        norm_eps=raw.get("rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        tied=raw.get("tie_word_embeddings", False),
        max_positions=raw.get("max_position_embeddings", 2048),
        family=raw["model_type"],
        windowed=windowed,
        window=raw["sliding_window"] if windowed else 0,
        window_theta=window_theta,
        **family.traits,
    )
    said = {}
    for field, entries in family.fields.items():
        found = [raw[entry] for entry in entries if entry in raw]
        if not found:
            raise ValueError(
                f"config.json has no {entries[0]}, which a {config.family} model needs."
            )
        said[field] = found[0]
    return dataclasses.replace(config, **said), family


_SUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "rope_interleaved": (False, None),
    "partial_rotary_factor": (1.0, None),
    "sliding_window": (None,),
    "quantization_config": (None,),
}


def _read_windows(raw: Mapping[str, Any], family: Family) -> tuple[bool, ...]:
    """Which layers see a window alone; () for none."""
    kinds = raw.get("layer_types")
    every, layers = family.full_every, raw["num_hidden_layers"]
    known = ("full_attention",) if every is None else ("full_attention", "sliding_attention")
    if unknown := sorted(set(kinds or ()) - set(known)):
        raise ValueError(
            f"config.json has layer_types {unknown}, which are not supported; this decoder "
            f"computes {list(known)}."
        )
    if kinds is not None:
        windowed = tuple(kind == "sliding_attention" for kind in kinds)
    else:
        every = raw.get("sliding_window_pattern", every)
        windowed = tuple(
            every is not None and (not every or (i + 1) % every != 0) for i in range(layers)
        )
    return windowed if any(windowed) and raw.get("sliding_window") else ()


def _read_rope(raw: Mapping[str, Any]) -> tuple[float, Scaling | None, float]:
    """θ and scaling from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling`, and
    the θ of layers with a window."""
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    of_windows = {"rope_theta": raw.get("rope_local_base_freq")}
    if "full_attention" in rope:
        of_windows, rope = rope.get("sliding_attention") or {}, rope["full_attention"]
    theta = float(rope.get("rope_theta") or raw.get("rope_theta") or 10_000.0)
    window_theta = float(of_windows.get("rope_theta") or theta)
    kind, kind_of_windows = _rope_type(rope), _rope_type(of_windows)
    whole_head = {r.get("partial_rotary_factor", 1.0) for r in (rope, of_windows)} == {1.0}
    if kind in _SCALINGS and kind_of_windows == "default" and whole_head:
        return theta, _SCALINGS[kind](rope), window_theta
    raise ValueError(
        f"config.json asks for rotary positions of type {kind!r} ({dict(rope)}), which is not "
        f"supported; supported are {sorted(_SCALINGS)} over the whole head, and 'default' in "
        "layers with a window."
    )


def _rope_type(rope: Mapping[str, Any]) -> str:
    return rope.get("rope_type", rope.get("type", "default"))


def _yarn(rope: Mapping[str, Any]) -> YarnScaling:
    factor, given = float(rope["factor"]), rope.get("attention_factor")
    if not rope.get("truncate", True) or rope.get("mscale") or rope.get("mscale_all_dim"):
        raise ValueError(
            f"config.json asks for yarn with truncate, mscale or mscale_all_dim ({dict(rope)}), "
            "which are not supported."
        )
    return YarnScaling(
        factor=factor,
        original_max_positions=int(rope["original_max_position_embeddings"]),
        beta_fast=float(rope.get("beta_fast") or 32),
        beta_slow=float(rope.get("beta_slow") or 1),
        attention_factor=0.1 * math.log(factor) + 1.0 if given is None else float(given),
    )


_SCALINGS: Mapping[str, Callable[[Mapping[str, Any]], Scaling | None]] = {
    "default": lambda rope: None,
    "linear": lambda rope: LinearScaling(float(rope["factor"])),
    "llama3": lambda rope: RopeScaling(
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_max_positions=int(rope["original_max_position_embeddings"]),
    ),
    "yarn": _yarn,
}


def _written_scaling(scaling: Scaling | None) -> dict[str, Any] | None:
    """What config.json says of a scaling; the inverse of `_SCALINGS`."""
    if scaling is None:
        return None
    kind = {RopeScaling: "llama3", YarnScaling: "yarn", LinearScaling: "linear"}[type(scaling)]
    said = dataclasses.asdict(scaling)
    if "original_max_positions" in said:
        said["original_max_position_embeddings"] = said.pop("original_max_positions")
    return {"rope_type": kind, **said}


def hf_config(config: DecoderConfig) -> dict[str, Any]:
    """The config.json of a checkpoint of its family, readable by transformers 4 and 5.

    It names no special tokens, where transformers would else take those of the family's first
    model.
    """
    family = FAMILIES[config.family]
    scaling = _written_scaling(config.rope_scaling)
    windows: dict[str, Any] = {}
    if family.full_every is not None:
        windows["sliding_window"] = config.window or None
    if family.full_every:
        windowed = config.windowed or (False,) * config.layers
        windows["layer_types"] = [f"{'sliding' if w else 'full'}_attention" for w in windowed]
    if family.layered_rope:
        local = config.window_theta or config.rope_theta
        windows["rope_parameters"] = {
            "full_attention": {
                "rope_type": "default",
                "rope_theta": config.rope_theta,
                **(scaling or {}),
            },
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        }
    return {
        "architectures": [family.architecture],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.ffn_width,
        "hidden_act": {"silu": "silu", "gelu_tanh": "gelu_pytorch_tanh"}[config.activation],
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
        "tie_word_embeddings": config.tied,
        "max_position_embeddings": config.max_positions,
        "attention_bias": False,
        "mlp_bias": False,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
        **windows,
        **{option: values[0] for option, values in family.options.items() if values},
        **{entries[0]: getattr(config, field) for field, entries in family.fields.items()},
    }
