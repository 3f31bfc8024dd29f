"""From per-token values to a (numerator, denominator) pair.

Every reducer is called as `reduce(value_NA, mask_NA, rows_N=real_N)` and returns two float32
scalars. Both are sums over rows: add them over micro-batches and devices, then divide once with
`ratio`. The result is the same for every way of cutting the rows apart.

`rows_N` [N] bool says which rows exist; rows where it is False are left out altogether. None means
that every row exists. It matters where rows without a single valid token are counted
(`empty_rows="count"`, `constant_norm`, `sum_norm`), because an empty mask alone does not tell an
empty answer from a padding row.
"""

from __future__ import annotations

from typing import Literal

import chex
import jax
import jax.numpy as jnp

from jaxevo.types import Array, Bound, bind

EmptyRows = Literal["exclude", "count"]
Reduction = Literal["token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "constant_norm"]


def masked(x_NA: Array, mask_NA: Array | None, fill: float = 0.0) -> jax.Array:
    """x where the mask is set, `fill` elsewhere, in float32; without a mask, x itself.

    Used on inputs (before they enter a product or an exp) as well as on results: the backward
    pass of `where(mask, a * x, 0)` multiplies 0 by a, which is NaN when a is.
    """
    x_NA = jnp.asarray(x_NA, jnp.float32)
    return x_NA if mask_NA is None else jnp.where(jnp.asarray(mask_NA, bool), x_NA, fill)


def ratio(numerator: Array, denominator: Array) -> jax.Array:
    """numerator / denominator, and 0 with gradient 0 where the denominator is 0."""
    denominator = jnp.asarray(denominator, jnp.float32)
    some = denominator != 0
    return jnp.where(some, numerator / jnp.where(some, denominator, 1.0), 0.0)


def token_mean(
    value_NA: Array, mask_NA: Array, *, rows_N: Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """ΣΣ m·x over ΣΣ m: every token counts the same (DAPO; TRL "dapo", verl "token-mean").

    Args:
      value_NA: per-token values.
      mask_NA: True on the tokens the mean is taken over.
      rows_N: rows that exist; None means all.

    Returns:
      (numerator, denominator), float32 scalars.

    >>> num, den = token_mean(jnp.array([[1., 9.], [2., 2.]]), jnp.array([[1, 0], [1, 1]]))
    >>> float(num), float(den)
    (5.0, 3.0)
    """
    mask_NA, _ = _masks(value_NA, mask_NA, rows_N)
    return masked(value_NA, mask_NA).sum(), _count(mask_NA)


def seq_mean_token_mean(
    value_NA: Array,
    mask_NA: Array,
    *,
    empty_rows: EmptyRows = "exclude",
    rows_N: Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Σᵢ (Σₜ m·x / Σₜ m) over the number of rows: every row counts the same (GRPO).

    Args:
      value_NA: per-token values.
      mask_NA: True on the tokens that are averaged within their row.
      empty_rows: whether a row without a valid token counts as a row of value 0 ("count", TRL
        "grpo") or is no row at all ("exclude", verl and Tunix).
      rows_N: rows that exist; None means all. Padding rows are never counted when it is given.

    Returns:
      (numerator, denominator), float32 scalars.

    References:
      Shao et al., DeepSeekMath, arXiv 2402.03300, eq. 3.
    """
    mask_NA, rows_N = _masks(value_NA, mask_NA, rows_N)
    length_N = mask_NA.sum(axis=1, dtype=jnp.float32)
    row_N = masked(value_NA, mask_NA).sum(axis=1) / jnp.maximum(length_N, 1.0)
    return row_N.sum(), _row_count(mask_NA, rows_N, empty_rows)


def seq_mean_token_sum(
    value_NA: Array,
    mask_NA: Array,
    *,
    empty_rows: EmptyRows = "exclude",
    rows_N: Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Σᵢ Σₜ m·x over the number of rows; options as in `seq_mean_token_mean`."""
    mask_NA, rows_N = _masks(value_NA, mask_NA, rows_N)
    return masked(value_NA, mask_NA).sum(), _row_count(mask_NA, rows_N, empty_rows)


def constant_norm(
    value_NA: Array, mask_NA: Array, *, length: float, rows_N: Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """ΣΣ m·x over N·L: a mean over rows of token sums, scaled by a constant (Dr.GRPO).

    N counts every row that exists, also one whose mask is empty: the norm must not depend on
    what became of the rows.

    Args:
      value_NA: per-token values.
      mask_NA: True on the tokens that are summed.
      length: L > 0, usually the longest answer allowed, in tokens.
      rows_N: rows that exist; None means all. A padded batch needs it.

    Returns:
      (numerator, denominator), float32 scalars.

    Raises:
      ValueError: when `length` is not positive.

    References:
      Liu et al., Understanding R1-Zero-like training, arXiv 2503.20783.
    """
    refuse_not_positive("length", length)
    mask_NA, rows_N = _masks(value_NA, mask_NA, rows_N)
    return masked(value_NA, mask_NA).sum(), length * _count(rows_N)


def sum_norm(
    value_NA: Array, mask_NA: Array, *, length: float, rows: int, rows_N: Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """ΣΣ m·x / L for a batch of `rows` rows: the token sum, not averaged over rows.

    A plain sum has no denominator that could be added up over micro-batches, so the sum is
    written as rows · (ΣΣ m·x / (N·L)), with N the rows found, which add up. When the whole batch
    has exactly `rows` rows this is ΣΣ/L; a batch that lost rows is scaled up to `rows`.

    Args:
      value_NA: per-token values.
      mask_NA: True on the tokens that are summed.
      length: L > 0.
      rows: rows of one whole update, over all its micro-batches and devices.
      rows_N: rows that exist; None means all. A padded batch needs it.

    Returns:
      (numerator, denominator), float32 scalars.

    Raises:
      ValueError: when `length` or `rows` is not positive.
    """
    refuse_not_positive("rows", rows)
    numerator, denominator = constant_norm(value_NA, mask_NA, length=length, rows_N=rows_N)
    return rows * numerator, denominator


def reducer(name: Reduction, *, length: float | None = None) -> Bound:
    """A reducer by name, for recipes; `length` is L of `constant_norm`."""
    if name == "constant_norm":
        if length is None:
            raise ValueError("constant_norm needs length=, usually the longest answer in tokens.")
        return bind(constant_norm, length=length)
    return bind(
        {
            "token_mean": token_mean,
            "seq_mean_token_mean": seq_mean_token_mean,
            "seq_mean_token_sum": seq_mean_token_sum,
        }[name]
    )


def _masks(value_NA: Array, mask_NA: Array, rows_N: Array | None) -> tuple[jax.Array, jax.Array]:
    """The mask restricted to rows that exist, and those rows."""
    chex.assert_rank(value_NA, 2)
    chex.assert_equal_shape([value_NA, mask_NA])
    mask_NA = jnp.asarray(mask_NA, bool)
    if rows_N is None:
        return mask_NA, jnp.ones(mask_NA.shape[0], bool)
    chex.assert_shape(rows_N, mask_NA.shape[:1])
    rows_N = jnp.asarray(rows_N, bool)
    return mask_NA & rows_N[:, None], rows_N


def _row_count(mask_NA: jax.Array, rows_N: jax.Array, empty_rows: EmptyRows) -> jax.Array:
    if empty_rows == "exclude":
        return _count(mask_NA.any(axis=1))
    if empty_rows == "count":
        return _count(rows_N)
    raise ValueError(f'empty_rows must be "exclude" or "count", got {empty_rows!r}.')


def _count(mask: jax.Array) -> jax.Array:
    return mask.sum(dtype=jnp.float32)


def refuse_not_positive(name: str, value: float) -> None:
    """Raises ValueError for an option of 0 or less."""
    if value <= 0:
        raise ValueError(f"{name}={value} must be positive.")
