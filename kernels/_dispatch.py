"""What the public functions share: choice of an implementation and checks of shapes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import tpu as pltpu

Implementation: TypeAlias = Literal["reference", "chunked", "pallas_tpu", "pallas_tpu_interpret"]


def implementations(
    reference: Callable[..., Any], chunked: Callable[..., Any], pallas_tpu: Callable[..., Any]
) -> dict[str, Callable[..., Any]]:
    """One op's implementations by name; `pallas_tpu` also runs its kernels' steps in XLA."""
    interpreted = functools.partial(pallas_tpu, interpret=True)
    return {
        "reference": reference,
        "chunked": chunked,
        "pallas_tpu": pallas_tpu,
        "pallas_tpu_interpret": interpreted,
    }


def choose(
    implementation: str | None,
    table: Mapping[str, Callable[..., Any]],
    *,
    has_kernels: bool = False,
) -> Callable[..., Any]:
    """The implementation of that name; for None `chunked`, or `pallas_tpu` on a TPU.

    Args:
      implementation: a name in the table, or None.
      table: of `implementations`.
      has_kernels: whether `pallas_tpu` can do what is asked for.

    Raises:
      ValueError: for a name that the table does not have.
    """
    default = "pallas_tpu" if has_kernels and is_one_tpu() else "chunked"
    name = default if implementation is None else implementation
    if name not in table:
        raise ValueError(f"implementation={name!r} is unknown; use one of {sorted(table)} or None.")
    return table[name]


def is_one_tpu() -> bool:
    """Whether a program is traced for one TPU, or for one of several inside of `jax.shard_map`.

    XLA cannot split a Pallas call over the devices of a mesh by itself.
    """
    mesh = jax.sharding.get_abstract_mesh()
    devices = jax.device_count() if mesh.empty else mesh.size
    return pltpu.is_tpu_device() and (devices == 1 or mesh.are_all_axes_manual)


def check_head(name: str, hidden_MD: jax.Array, unembed_DV: jax.Array) -> None:
    """Raises ValueError unless hidden states [M, D] meet an unembedding [D, V]."""
    if hidden_MD.ndim != 2 or unembed_DV.ndim != 2 or hidden_MD.shape[1] != unembed_DV.shape[0]:
        raise ValueError(
            f"{name}hidden has shape {hidden_MD.shape} and {name}unembed {unembed_DV.shape}, but "
            "[M, D] and [D, V] are needed. Flatten the leading axes; transpose an embedding [V, D]."
        )


def check_blocks(block_M: int | None, block_V: int | None) -> None:
    """Raises ValueError for a block without rows or columns."""
    if any(block is not None and block < 1 for block in (block_M, block_V)):
        raise ValueError(
            f"block_M={block_M}, block_V={block_V}, but a block needs at least one row and one "
            "column."
        )


def check_soft_cap(soft_cap: float | None) -> None:
    """Raises ValueError for a cap that is not above 0."""
    if soft_cap is not None and soft_cap <= 0.0:
        raise ValueError(f"soft_cap={soft_cap}, but it must be above 0, or be None.")


def legal_ids(legal: tuple[int, int] | None, vocabulary: int) -> tuple[int, int]:
    """The first legal id and the one behind the last; all for None.

    Raises:
      ValueError: for a slice that is empty or leaves the vocabulary.
    """
    start, stop = (0, vocabulary) if legal is None else legal
    if not 0 <= start < stop <= vocabulary:
        raise ValueError(f"legal={legal}, but 0 <= start < stop <= {vocabulary} is needed.")
    return start, stop


def refuse_split(vocab_axis: str | None) -> None:
    """Raises ValueError where the vocabulary is split over devices."""
    if vocab_axis is not None:
        raise ValueError(
            f"vocab_axis={vocab_axis!r} needs implementation='chunked' or 'pallas_tpu'; reference "
            "makes all logits on one device."
        )


def inverse_temperature(temperature: jax.typing.ArrayLike, rows: int) -> jax.Array:
    """1 / temperature as [M] float32 without gradient, from a scalar or one number per row."""
    inverse = 1.0 / jnp.asarray(temperature, jnp.float32)
    return lax.stop_gradient(jnp.broadcast_to(inverse, (rows,)))
