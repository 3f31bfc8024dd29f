"""What a parameter set may carry beside a language model: small heads on its hidden states.

A head is a sub-tree of the parameters, which `ParamSet.init` adds and the scorer reads.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxevo import flow
from jaxevo.types import Answers, Array, Params


def with_value_head(params: Params, key: Array) -> Params:
    """The parameters and a value head, which says 0 everywhere until it is trained.

    Args:
      params: a language model, whose embedding gives the width D.
      key: not needed: the head starts at 0, so that the first values are no noise.
    """
    del key
    width, dtype = params["embed"].shape[-1], params["embed"].dtype
    return {**params, "value": {"weight": jnp.zeros(width, dtype), "bias": jnp.zeros((), dtype)}}


def values(params: Params, hidden_MD: Array) -> jax.Array:
    """v = h · w + b, [M] float32.

    Raises:
      ValueError: for parameters without a value head.
    """
    if "value" not in params:
        raise ValueError(
            "these parameters have no value head. Add init=bind(with_value_head) to the ParamSet."
        )
    weight_D = params["value"]["weight"].astype(jnp.float32)
    return jnp.asarray(hidden_MD, jnp.float32) @ weight_D + params["value"]["bias"]


def with_flow_head(
    params: Params, key: Array, *, stream: str = "flow", size: int = 2, width: int = 64
) -> Params:
    """The parameters and a velocity network for a stream of flow transitions, named like it.

    Args:
      params: a language model, whose embedding gives the width D of the context.
      key: of the random weights.
      stream: the stream that the head speaks on.
      size: numbers of a state.
      width: hidden units of a layer.
    """
    context = params["embed"].shape[-1]
    return {**params, stream: flow.init_velocity(key, context=context, size=size, width=width)}


def action_logp(params: Params, stream: str, context_ND: Array, actions: Answers) -> jax.Array:
    """Log-probs of a stream's recorded actions, [N, A] float32, in the contexts of their rows.

    Raises:
      ValueError: for parameters without that stream's head.
    """
    return flow.transition_logp(flow_head(params, stream), context_ND, actions)


def flow_head(params: Params, stream: str) -> Params:
    """The velocity network of a stream.

    Raises:
      ValueError: for parameters without it.
    """
    if stream not in params:
        raise ValueError(
            f"these parameters have no head for the stream {stream!r}. Add "
            f"init=bind(with_flow_head, stream={stream!r}) to the ParamSet."
        )
    return params[stream]
