"""The scorer: one forward pass over packed token trees, read at answer slots and probes.

The shift between positions and predictions has happened in `collect.pack`: what is read for answer
slot t is the hidden state of the token before it. Heads run on what is read, and on nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxevo.heads import action_logp, values
from jaxevo.kernels import keeps_logits
from jaxevo.models import decoder
from jaxevo.models.attention import Trees
from jaxevo.parallel.heads import fused_logprob
from jaxevo.types import Answers, Array, Packed, Params, Stream

DECODER = ("embed", "layers", "final_norm", "head")  # top-level names of the weight table


def score(
    params: Params,
    packed: Packed,
    answers: Mapping[str, Answers],
    temperature: Array,
    *,
    config: decoder.DecoderConfig,
    read: tuple[str, ...],
    remat: decoder.Remat = "none",
    compute: str = "float32",
) -> Mapping[str, Stream]:
    """Reads log-probs, entropies or hidden states of the recorded answers under `params`.

    The log-prob of a token is categorical; that of an action of another stream is its head's, in
    the context that the row's probe has seen.

    Args:
      params: weights of one decoder.
      packed: the rows' tokens under one context, and which slots predict what.
      answers: by stream; `text` is always there, and read for its mask and probes alone.
      temperature: scalar > 0; log-probs and entropies are those of softmax(logits / temperature).
      config: the decoder's shape.
      read: any of `logp`, `entropy`, `hidden`, `values`.
      remat: what the backward pass computes again, as of `decoder.apply`.
      compute: dtype that the decoder's weights are cast to; gradients come back in their own.

    Returns:
      a Stream for each stream of answers, with the fields that were not read None.
    """
    own = params if compute == "float32" else _cast(params, compute)
    hidden_BSD, _ = decoder.apply(
        config, own, packed.ids_BS, packed.positions_BS, Trees(packed.until_BS), remat=remat
    )
    D = hidden_BSD.shape[-1]
    hidden_MD = jnp.take_along_axis(hidden_BSD, packed.read_BR[..., None], axis=1).reshape(-1, D)
    head_DV = decoder.unembed(config, own)
    text, index_NA = answers["text"], packed.index_NA
    logp_NA = entropy_NA = None
    if "logp" in read or "entropy" in read:
        targets_M = jnp.asarray(packed.target_BR).reshape(-1)
        out = fused_logprob(
            hidden_MD,
            head_DV,
            targets_M,
            temperature=temperature,
            soft_cap=config.logit_cap,
            keep_logits=keeps_logits(len(targets_M), config.vocab_size),
        )
        logp_NA, entropy_NA = out.logp_M[index_NA], out.entropy_M[index_NA]
    keep = "hidden" in read
    others = {name: actions for name, actions in answers.items() if name != "text"}
    rows = jnp.arange(index_NA.shape[0])
    context_ND = hidden_MD[index_NA[rows, text.probe_N]]
    return {
        "text": Stream(
            logp_NA=logp_NA if "logp" in read else None,
            mask_NA=text.mask_NA,
            entropy_NA=entropy_NA if "entropy" in read else None,
            hidden_NAD=hidden_MD[index_NA] if keep else None,
            head_DV=head_DV if keep else None,
            logit_cap=config.logit_cap,
            values_NA=values(params, hidden_MD)[index_NA] if "values" in read else None,
        ),
        **{
            name: Stream(
                action_logp(params, name, context_ND, actions) if "logp" in read else None,
                actions.mask_NA,
            )
            for name, actions in others.items()
        },
    }


def _cast(params: Params, dtype: str) -> Params:
    """The decoder's weights in another dtype; heads beside it stay as they are."""
    own = {name: params[name] for name in DECODER if name in params}
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), own)
