"""One weight table: shape, logical axes, initial values and checkpoint name of every parameter.

Parameters are nested dicts. The weights of all layers stand stacked under `layers`, so that one
`lax.scan` runs them; matrices are stored `[in, out]`.

    {"embed": [V, D], "layers": {name: [layers, ...]}, "final_norm": [D], "head": [D, V] if untied}

Initial values, sharding, checkpoints and adapters all read this table and nothing else. A further
family of the same architecture is one more entry of `FAMILIES`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3's stretching of the slow rotary frequencies (arXiv:2407.21783)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder: pre-norm, rotary positions, grouped-query attention, SwiGLU.

    `tied`: the unembedding is the transposed embedding. `max_positions`: the context length the
    weights were trained for.
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_width: int
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    tied: bool = True
    max_positions: int = 2048

    @property
    def layer_weights(self) -> int:
        """Numbers in the matrices of one layer, each of which meets every slot in a product."""
        projections = 2 * self.heads + 2 * self.kv_heads
        return self.width * (projections * self.head_dim + 3 * self.ffn_width)

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(
                f"{self.heads} heads cannot share {self.kv_heads} key-value heads evenly; "
                "heads must be a multiple of kv_heads."
            )
        if self.head_dim % 2:
            raise ValueError(f"rotary positions need an even head_dim, got {self.head_dim}.")


@dataclasses.dataclass(frozen=True)
class Weight:
    """One parameter: its shape, the logical name of each axis, and its initial distribution.

    Initially N(0, std²), or all ones where std is None. Mesh axes are chosen elsewhere, from the
    logical names `layers`, `vocab`, `width`, `heads`, `kv_heads`, `ffn`.
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    std: float | None


def weight_table(config: DecoderConfig) -> dict[str, Any]:
    """The `Weight` of every parameter, in the nesting of the parameters themselves.

    Projections start at std 1/√fan_in; those that write into the residual stream are divided by
    √(2 · layers) more, so that the stream's variance does not grow with depth.
    """
    layers, width, ffn = config.layers, config.width, config.ffn_width
    q_width, kv_width = config.heads * config.head_dim, config.kv_heads * config.head_dim
    residual = (2 * layers) ** -0.5

    def norm() -> Weight:
        return Weight((layers, width), ("layers", "width"), None)

    def matrix(into: tuple[int, str], out: tuple[int, str], scale: float = 1.0) -> Weight:
        shape, axes = (layers, into[0], out[0]), ("layers", into[1], out[1])
        return Weight(shape, axes, scale * into[0] ** -0.5)

    table: dict[str, Any] = {
        "embed": Weight((config.vocab_size, width), ("vocab", "width"), 0.02),
        "layers": {
            "attn_norm": norm(),
            "q": matrix((width, "width"), (q_width, "heads")),
            "k": matrix((width, "width"), (kv_width, "kv_heads")),
            "v": matrix((width, "width"), (kv_width, "kv_heads")),
            "o": matrix((q_width, "heads"), (width, "width"), residual),
            "ffn_norm": norm(),
            "gate": matrix((width, "width"), (ffn, "ffn")),
            "up": matrix((width, "width"), (ffn, "ffn")),
            "down": matrix((ffn, "ffn"), (width, "width"), residual),
        },
        "final_norm": Weight((width,), ("width",), None),
    }
    if not config.tied:
        table["head"] = Weight((width, config.vocab_size), ("width", "vocab"), 0.02)
    return table


def map_table(fn: Callable[[str, Weight], T], config: DecoderConfig) -> dict[str, Any]:
    """`fn(name, weight)` for every entry, in the same nesting; name is e.g. `layers/q`."""

    def walk(node: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        return {
            key: fn(prefix + key, value)
            if isinstance(value, Weight)
            else walk(value, f"{prefix}{key}/")
            for key, value in node.items()
        }

    return walk(weight_table(config), "")


# ---------------------------------------------------------------------------- checkpoint names
@dataclasses.dataclass(frozen=True)
class Family:
    """How one family of checkpoints names its tensors.

    names: parameter name -> (tensor name, stored transposed); `{layer}` stands for the layer's
    number. ignored: endings of tensor names that carry no weights of their own.
    """

    architecture: str
    names: Mapping[str, tuple[str, bool]]
    ignored: tuple[str, ...] = ()


LLAMA = Family(
    architecture="LlamaForCausalLM",
    names={
        "embed": ("model.embed_tokens.weight", False),
        "layers/attn_norm": ("model.layers.{layer}.input_layernorm.weight", False),
        "layers/q": ("model.layers.{layer}.self_attn.q_proj.weight", True),
        "layers/k": ("model.layers.{layer}.self_attn.k_proj.weight", True),
        "layers/v": ("model.layers.{layer}.self_attn.v_proj.weight", True),
        "layers/o": ("model.layers.{layer}.self_attn.o_proj.weight", True),
        "layers/ffn_norm": ("model.layers.{layer}.post_attention_layernorm.weight", False),
        "layers/gate": ("model.layers.{layer}.mlp.gate_proj.weight", True),
        "layers/up": ("model.layers.{layer}.mlp.up_proj.weight", True),
        "layers/down": ("model.layers.{layer}.mlp.down_proj.weight", True),
        "final_norm": ("model.norm.weight", False),
        "head": ("lm_head.weight", True),
    },
    # Some older checkpoints store the rotary frequencies, which the config already determines.
    ignored=("rotary_emb.inv_freq",),
)

FAMILIES: Mapping[str, Family] = {"llama": LLAMA}  # by `model_type` of config.json


def tensor_names(family: Family, config: DecoderConfig, name: str) -> Iterator[str]:
    """The checkpoint tensors that make up one parameter, layer by layer."""
    pattern, _ = family.names[name]
    for layer in range(config.layers if "{layer}" in pattern else 1):
        yield pattern.format(layer=layer)
