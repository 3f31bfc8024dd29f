"""What a parameter set may carry beside a language model: small heads on its hidden states.

A head is a sub-tree of the parameters, which `ParamSet.init` adds and the scorer reads.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxevo.types import Array, Params


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
