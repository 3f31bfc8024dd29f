"""One weight table: shape, logical axes, initial values and checkpoint name of every parameter.

Parameters are nested dicts. The weights of all layers stand stacked under `layers`, so that one
`lax.scan` runs them; matrices are stored `[in, out]`.

    {"embed": [V, D], "layers": {name: [layers, ...]}, "final_norm": [D], "head": [D, V] if untied}

Initial values, sharding, checkpoints and adapters all read this table and nothing else. A further
family is one more entry of `FAMILIES`: traits that the decoder computes, and tensor names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeAlias, TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3's stretching of the slow rotary frequencies (arXiv:2407.21783)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclasses.dataclass(frozen=True)
class YarnScaling:
    """YaRN (arXiv:2309.00071): slow rotary frequencies are divided by `factor`, with a ramp between
    those that turn `beta_slow` and `beta_fast` times in the original context; cos and sin are
    multiplied by `attention_factor`."""

    factor: float
    original_max_positions: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0


@dataclasses.dataclass(frozen=True)
class LinearScaling:
    """All rotary frequencies divided by `factor`."""

    factor: float


Scaling: TypeAlias = RopeScaling | YarnScaling | LinearScaling
Norms: TypeAlias = Literal["before", "after", "both"]


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder: RMSNorm, rotary positions, grouped-query attention, gated layers.

    tied: the unembedding is the transposed embedding. max_positions: the context length that the
    weights were trained for. family: the key of `FAMILIES` that its checkpoints belong to.
    qkv_bias: queries, keys and values have one. qk_norm: queries and keys are normed, each `head`
    by itself or over their whole `width`. norms: where they stand, in front of attention and
    feed-forward layer, behind them, before what they say is added, or both. norm_plus_one: their
    scale is 1 + weight. activation: of the gate. embed_scale: embeddings are multiplied by √width.
    query_scalar: scores are q · k / √query_scalar; head_dim where None. score_cap, logit_cap: c of
    c · tanh(x / c) for scores, and for logits. experts: feed-forward layers of `ffn_width` that a
    slot takes `experts_per_token` of, mixed by the router's probabilities, which norm_topk makes
    sum to 1; 0 for one layer that all slots take. windowed: by layer, whether a slot sees only the
    last `window` positions, its own included; () for none. window_theta: θ of these layers, without
    scaling; None for the same positions everywhere. adapter_scale: what the products of low-rank
    adapters are multiplied by, where parameters have some (`lora.py`).
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
    rope_scaling: Scaling | None = None
    tied: bool = True
    max_positions: int = 2048
    family: str = "llama"
    qkv_bias: bool = False
    qk_norm: Literal["head", "width"] | None = None
    norms: Norms = "before"
    norm_plus_one: bool = False
    activation: Literal["silu", "gelu_tanh"] = "silu"
    embed_scale: bool = False
    query_scalar: float | None = None
    score_cap: float | None = None
    logit_cap: float | None = None
    experts: int = 0
    experts_per_token: int = 0
    norm_topk: bool = False
    windowed: tuple[bool, ...] = ()
    window: int = 0
    window_theta: float | None = None
    adapter_scale: float = 1.0

    @property
    def layer_weights(self) -> int:
        """Numbers in the matrices of one layer that a slot meets in products."""
        projections = 2 * self.heads + 2 * self.kv_heads
        ffn = 3 * self.ffn_width * (self.experts_per_token if self.experts else 1)
        return self.width * (projections * self.head_dim + ffn + self.experts)

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(
                f"{self.heads} heads cannot share {self.kv_heads} key-value heads evenly; "
                "heads must be a multiple of kv_heads."
            )
        if self.head_dim % 2:
            raise ValueError(f"rotary positions need an even head_dim, got {self.head_dim}.")
        if self.windowed and (len(self.windowed) != self.layers or self.window < 1):
            raise ValueError(
                f"windowed names {len(self.windowed)} layers and window={self.window}, but there "
                f"are {self.layers} layers, and a window holds at least one position."
            )
        if self.experts and not 1 <= self.experts_per_token <= self.experts:
            raise ValueError(
                f"experts_per_token={self.experts_per_token}, but of {self.experts} experts a "
                f"token takes 1 to {self.experts}."
            )


@dataclasses.dataclass(frozen=True)
class Weight:
    """One parameter: its shape, the logical name of each axis, and its initial distribution.

    Initially N(0, std²), or all ones where std is None. Mesh axes are chosen elsewhere, from the
    logical names `layers`, `vocab`, `width`, `heads`, `kv_heads`, `head_dim`, `ffn`,
    `experts`.
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

    ones = 0.0 if config.norm_plus_one else None

    def norm(size: int = width, axis: str = "width") -> Weight:
        return Weight((layers, size), ("layers", axis), ones)

    def matrix(into: tuple[int, str], out: tuple[int, str], scale: float = 1.0) -> Weight:
        shape, axes = (layers, into[0], out[0]), ("layers", into[1], out[1])
        return Weight(shape, axes, scale * into[0] ** -0.5)

    def of_each_expert(one: Weight) -> Weight:
        shape, axes = (layers, config.experts, *one.shape[1:]), ("layers", "experts", *one.axes[1:])
        return dataclasses.replace(one, shape=shape, axes=axes)

    table: dict[str, Any] = {
        "embed": Weight((config.vocab_size, width), ("vocab", "width"), 0.02),
        "layers": {
            "q": matrix((width, "width"), (q_width, "heads")),
            "k": matrix((width, "width"), (kv_width, "kv_heads")),
            "v": matrix((width, "width"), (kv_width, "kv_heads")),
            "o": matrix((q_width, "heads"), (width, "width"), residual),
            "gate": matrix((width, "width"), (ffn, "ffn")),
            "up": matrix((width, "width"), (ffn, "ffn")),
            "down": matrix((ffn, "ffn"), (width, "width"), residual),
        },
        "final_norm": Weight((width,), ("width",), ones),
    }
    for name in ("attn", "ffn"):
        if config.norms != "after":
            table["layers"][f"{name}_norm"] = norm()
        if config.norms != "before":
            table["layers"][f"{name}_out_norm"] = norm()
    sides = {"q": (q_width, "heads"), "k": (kv_width, "kv_heads"), "v": (kv_width, "kv_heads")}
    if config.qkv_bias:
        for name, (size, axis) in sides.items():
            table["layers"][f"{name}_bias"] = Weight((layers, size), ("layers", axis), 0.0)
    if config.qk_norm is not None:
        for name in "qk":
            one_head = config.qk_norm == "head"
            over = (config.head_dim, "head_dim") if one_head else sides[name]
            table["layers"][f"{name}_norm"] = norm(*over)
    if config.experts:
        for name in ("gate", "up", "down"):
            table["layers"][name] = of_each_expert(table["layers"][name])
        table["layers"]["router"] = matrix((width, "width"), (config.experts, "experts"))
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
_ROTARY = "rotary_emb.inv_freq"


@dataclasses.dataclass(frozen=True)
class Family:
    """One family of checkpoints: what its config.json means, and how it names its tensors.

    names: parameter name -> (tensor name, stored transposed); `{layer}` and `{expert}` stand for
    their numbers; parameters with one tensor name stand in it side by side, in the order of
    `weight_table`. traits: fields of `DecoderConfig` that all its models have. fields: further
    ones, and the entry of config.json that says it, with other names that it has had. options:
    entries of config.json beside those of all families, with the values that the decoder computes,
    the default first; an empty tuple for one that says nothing. full_every: where config.json has
    no layer_types, each so-many-th layer sees everything and the others a window; 0 where all have
    one, None where windows are not known. layered_rope: layers with a window have rotary positions
    of their own. ignored: endings of tensor names that carry no weights of their own.
    """

    architecture: str
    names: Mapping[str, tuple[str, bool]]
    traits: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fields: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    options: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    full_every: int | None = None
    layered_rope: bool = False
    # Some older checkpoints store the rotary frequencies, which the config already determines.
    ignored: tuple[str, ...] = (_ROTARY,)


def _names(**more: tuple[str, bool]) -> dict[str, tuple[str, bool]]:
    """Tensor names of llama, and those of a layer that are other or more."""
    own = {
        "embed": ("model.embed_tokens.weight", False),
        "final_norm": ("model.norm.weight", False),
        "head": ("lm_head.weight", True),
    }
    layer = {
        "attn_norm": ("input_layernorm.weight", False),
        "q": ("self_attn.q_proj.weight", True),
        "k": ("self_attn.k_proj.weight", True),
        "v": ("self_attn.v_proj.weight", True),
        "o": ("self_attn.o_proj.weight", True),
        "ffn_norm": ("post_attention_layernorm.weight", False),
        "gate": ("mlp.gate_proj.weight", True),
        "up": ("mlp.up_proj.weight", True),
        "down": ("mlp.down_proj.weight", True),
        **more,
    }
    prefix = "model.layers.{layer}."
    return own | {f"layers/{name}": (prefix + tensor, t) for name, (tensor, t) in layer.items()}


_BIASES = {f"{name}_bias": (f"self_attn.{name}_proj.bias", False) for name in "qkv"}
_QK_NORMS = {f"{name}_norm": (f"self_attn.{name}_norm.weight", False) for name in "qk"}
_NORMS_AFTER = {
    "attn_out_norm": ("post_attention_layernorm.weight", False),
    "ffn_out_norm": ("post_feedforward_layernorm.weight", False),
}
_NORMS_BOTH = {**_NORMS_AFTER, "ffn_norm": ("pre_feedforward_layernorm.weight", False)}
_GEMMA = {"norm_plus_one": True, "activation": "gelu_tanh", "embed_scale": True}
_GEMMA_OPTIONS = {
    "hidden_act": (),  # `hidden_activation` counts
    "hidden_activation": ("gelu_pytorch_tanh",),
    "use_bidirectional_attention": (False, None),
}
_GEMMA_FIELDS = {"query_scalar": ("query_pre_attn_scalar",)}
_EXPERTS = {
    "router": ("mlp.gate.weight", True),
    **{n: (f"mlp.experts.{{expert}}.{n}_proj.weight", True) for n in ("gate", "up", "down")},
}
_FUSED = {
    **dict.fromkeys("qkv", ("self_attn.qkv_proj.weight", True)),
    **dict.fromkeys(("gate", "up"), ("mlp.gate_up_proj.weight", True)),
}
# A window that is there, and not used.
_NO_WINDOW = {"use_sliding_window": (False, None), "sliding_window": (), "max_window_layers": ()}

FAMILIES: Mapping[str, Family] = {  # by `model_type` of config.json
    "llama": Family("LlamaForCausalLM", _names()),
    "mistral": Family("MistralForCausalLM", _names(), full_every=0),
    "qwen2": Family(
        "Qwen2ForCausalLM", _names(**_BIASES), traits={"qkv_bias": True}, options=_NO_WINDOW
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM", _names(**_QK_NORMS), traits={"qk_norm": "head"}, options=_NO_WINDOW
    ),
    "qwen3_moe": Family(
        "Qwen3MoeForCausalLM",
        _names(**_QK_NORMS, **_EXPERTS),
        traits={"qk_norm": "head"},
        fields={
            "experts": ("num_experts", "num_local_experts"),
            "experts_per_token": ("num_experts_per_tok",),
            "norm_topk": ("norm_topk_prob",),
            "ffn_width": ("moe_intermediate_size",),
        },
        options={**_NO_WINDOW, "decoder_sparse_step": (1,), "mlp_only_layers": ([], None)},
    ),
    "phi3": Family("Phi3ForCausalLM", _names(**_FUSED), full_every=0),
    "olmo2": Family(
        "Olmo2ForCausalLM",
        _names(**_NORMS_AFTER, **_QK_NORMS),
        traits={"qk_norm": "width", "norms": "after"},
    ),
    "olmo3": Family(
        "Olmo3ForCausalLM",
        _names(**_NORMS_AFTER, **_QK_NORMS),
        traits={"qk_norm": "width", "norms": "after"},
        full_every=4,
        layered_rope=True,
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        _names(**_NORMS_BOTH),
        traits={**_GEMMA, "norms": "both"},
        fields={
            **_GEMMA_FIELDS,
            "score_cap": ("attn_logit_softcapping",),
            "logit_cap": ("final_logit_softcapping",),
        },
        options=_GEMMA_OPTIONS,
        full_every=2,
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        _names(**_NORMS_BOTH, **_QK_NORMS),
        traits={**_GEMMA, "norms": "both", "qk_norm": "head"},
        fields=_GEMMA_FIELDS,
        options={
            **_GEMMA_OPTIONS,
            "attn_logit_softcapping": (None,),
            "final_logit_softcapping": (None,),
        },
        full_every=6,
        layered_rope=True,
    ),
}


def tensor_names(family: Family, config: DecoderConfig, name: str) -> Iterator[str]:
    """The checkpoint tensors that make up one parameter: by layer, and in it by expert."""
    pattern, _ = family.names[name]
    for layer in range(config.layers if "{layer}" in pattern else 1):
        for expert in range(config.experts if "{expert}" in pattern else 1):
            yield pattern.format(layer=layer, expert=expert)


def side_by_side(family: Family, config: DecoderConfig, name: str) -> dict[str, int]:
    """The parameters that one checkpoint tensor holds beside this one, in their order there, and
    how many of its columns each has (not transposed)."""
    sizes: dict[str, int] = {}
    map_table(lambda other, weight: sizes.update({other: weight.shape[-1]}), config)
    return {n: size for n, size in sizes.items() if family.names[n] == family.names[name]}
