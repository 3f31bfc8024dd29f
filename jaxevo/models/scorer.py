"""The scorer: one forward pass over packed token trees, read at answer slots and probes.

Here, and only here, the shift between positions and predictions happens: answer slot t is read
from the hidden state of the token before it.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp

from jaxevo.heads import action_logp, values
from jaxevo.kernels import fused_logprob
from jaxevo.models import decoder
from jaxevo.types import Answers, Array, Packed, Params, Stream


def attention_mask(packed: Packed) -> Array:
    """mask_BSS: slot q sees slot k iff k's node is on q's path and k does not stand after q."""
    rows = jnp.arange(packed.node_BS.shape[0])[:, None, None]
    on_path = packed.ancestor_BLL[rows, packed.node_BS[:, :, None], packed.node_BS[:, None, :]]
    causal = packed.positions_BS[:, None, :] <= packed.positions_BS[:, :, None]
    return on_path & causal


def score(
    params: Params,
    packed: Packed,
    answers: Mapping[str, Answers],
    temperature: Array,
    *,
    config: decoder.DecoderConfig,
    read: tuple[str, ...],
    remat: bool = False,
) -> Mapping[str, Stream]:
    """Reads log-probs, entropies or hidden states of the recorded answers under `params`.

    The log-prob of a token is categorical; that of an action of another stream is its head's, in
    the context that the row's probe has seen.

    Args:
      params: weights of one decoder.
      packed: the rows' tokens under one context; `index_NA` tells which slot predicts what.
      answers: by stream; `text` is always there.
      temperature: scalar > 0; log-probs and entropies are those of softmax(logits / temperature).
      config: the decoder's shape.
      read: any of `logp`, `entropy`, `hidden`, `values`.
      remat: recompute activations layer by layer in the backward pass.

    Returns:
      a Stream for each stream of answers, with the fields that were not read None.
    """
    hidden_BSD, _ = decoder.apply(
        config, params, packed.ids_BS, packed.positions_BS, attention_mask(packed), remat=remat
    )
    D = hidden_BSD.shape[-1]
    hidden_MD = hidden_BSD.reshape(-1, D)[packed.index_NA.reshape(-1)]
    head_DV = decoder.unembed(config, params)
    text = answers["text"]
    shape = text.mask_NA.shape
    logp_NA = entropy_NA = None
    if "logp" in read or "entropy" in read:
        targets_M = jnp.asarray(text.ids_NA).reshape(-1)
        out = fused_logprob(hidden_MD, head_DV, targets_M, temperature=temperature)
        logp_NA, entropy_NA = out.logp_M.reshape(shape), out.entropy_M.reshape(shape)
    keep = "hidden" in read
    others = {name: actions for name, actions in answers.items() if name != "text"}
    context_ND = hidden_MD.reshape(*shape, D)[jnp.arange(shape[0]), text.probe_N]
    return {
        "text": Stream(
            logp_NA=logp_NA if "logp" in read else None,
            mask_NA=text.mask_NA,
            entropy_NA=entropy_NA if "entropy" in read else None,
            hidden_NAD=hidden_MD.reshape(*shape, D) if keep else None,
            head_DV=head_DV if keep else None,
            values_NA=values(params, hidden_MD).reshape(shape) if "values" in read else None,
        ),
        **{
            name: Stream(
                action_logp(params, name, context_ND, actions) if "logp" in read else None,
                actions.mask_NA,
            )
            for name, actions in others.items()
        },
    }
