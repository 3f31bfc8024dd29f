"""Drawing one token for each row, and whether the row has ended with it.

The randomness of a token depends on its row's key and its position in the row, on nothing else:
not on the slot, the batch-mates, the padding or the number of prompts (design: `row_uid`).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxevo.sampling.stops import MATCHED
from jaxevo.sampling.truncation import kept_mask
from jaxevo.types import Array, register

FINISH = ("length", "eos", "stop")


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    temperature: > 0; 0 is greedy (log-probs are then those at temperature 1). top_k: keep the k
    likeliest tokens, 0 keeps all. top_p: keep the smallest set whose mass reaches it, in (0, 1].
    min_p: keep tokens with at least this fraction of the largest probability, in [0, 1].
    stop: strings that end an answer once they have been completed.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        ranges = (
            ("temperature", self.temperature >= 0, "at least 0"),
            ("top_k", self.top_k >= 0, "0 (off) or a positive count"),
            ("top_p", 0 < self.top_p <= 1, "in (0, 1]"),
            ("min_p", 0 <= self.min_p <= 1, "in [0, 1]"),
        )
        for name, fine, wanted in ranges:
            if not fine:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be {wanted}.")

    def with_stop(self, stop: tuple[str, ...]) -> Sampling:
        """The same with other stop strings."""
        return dataclasses.replace(self, stop=stop)

    def at(self, temperature: float) -> Sampling:
        """The same at another temperature."""
        return dataclasses.replace(self, temperature=temperature)

    @property
    def truncates(self) -> bool:
        """Whether any token can be cut."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


@register
@dataclasses.dataclass(frozen=True)
class Rows:
    """What is asked of each row and how far it has come; arrays [N].

    key_N: the row's key. length_N: tokens of its prompt. limit_N: most tokens to draw.
    temperature_N, top_k_N, top_p_N, min_p_N: as in `Sampling`, top_k being V where nothing is cut.
    drawn_N: tokens drawn. last_N: the latest one. stop_N: state of the stop strings. live_N:
    whether it goes on. finish_N: index into `FINISH`.
    """

    key_N: Array
    length_N: Array
    limit_N: Array
    temperature_N: Array
    top_k_N: Array
    top_p_N: Array
    min_p_N: Array
    drawn_N: Array
    last_N: Array
    stop_N: Array
    live_N: Array
    finish_N: Array


@register
@dataclasses.dataclass(frozen=True)
class Tokens:
    """Drawn tokens [N] (or [T, N], of T steps): id, log-prob at the sampling temperature before
    truncation, entropy in nats, log of the kept mass (0 where nothing was cut); 0 where a row had
    ended before.
    """

    ids: Array
    logp: Array
    entropy: Array
    log_kept: Array


@register
@dataclasses.dataclass(frozen=True)
class Ends:
    """What ends an answer: eos_V, and the transition table of stop strings or None."""

    eos_V: Array
    stops_QV: Array | None


def no_tokens(*shape: int) -> Tokens:
    """Zeros."""
    zeros = jnp.zeros(shape, jnp.float32)
    return Tokens(zeros.astype(jnp.int32), zeros, zeros, zeros)


def draw(
    logits_NV: Array, rows: Rows, ends: Ends, *, truncates: bool, greedy: bool
) -> tuple[Rows, Tokens]:
    """Draws the next token of every live row from float32 logits.

    truncates, greedy: whether any row cuts tokens, or has temperature 0.
    """
    greedy_N = rows.temperature_N == 0
    logits_NV = logits_NV / jnp.where(greedy_N, 1.0, rows.temperature_N)[:, None]
    shifted_NV = logits_NV - logits_NV.max(-1, keepdims=True)
    weight_NV = jnp.exp(shifted_NV)
    total_N = weight_NV.sum(-1)
    log_total_N = jnp.log(total_N)
    # Where a weight has vanished its logit may be -inf.
    moment_N = jnp.sum(jnp.where(weight_NV > 0, weight_NV * shifted_NV, 0.0), axis=-1)
    entropy_N = log_total_N - moment_N / total_N
    log_kept_N = jnp.zeros_like(entropy_N)
    if truncates:
        p_NV = weight_NV / total_N[:, None]
        keep_NV = kept_mask(
            p_NV,
            top_k=rows.top_k_N[:, None],
            top_p=rows.top_p_N[:, None],
            min_p=rows.min_p_N[:, None],
        )
        weight_NV = jnp.where(keep_NV, p_NV, 0.0)
        kept_N = jnp.minimum(weight_NV.sum(-1), 1.0)
        log_kept_N = jnp.where(keep_NV.all(-1), 0.0, jnp.log(kept_N))
    keys_N = jax.vmap(jax.random.fold_in)(rows.key_N, rows.length_N + rows.drawn_N)
    ids_N = draw_token(keys_N, weight_NV)
    if greedy:
        ids_N = jnp.where(greedy_N, jnp.argmax(logits_NV, -1).astype(jnp.int32), ids_N)
    logp_N = jnp.take_along_axis(shifted_NV, ids_N[:, None], axis=-1)[:, 0] - log_total_N

    live_N = rows.live_N
    stop_N, matched_N = rows.stop_N, jnp.zeros_like(live_N)
    if ends.stops_QV is not None:
        after_N = ends.stops_QV[stop_N, ids_N]
        matched_N = after_N == MATCHED
        stop_N = jnp.where(live_N & ~matched_N, after_N, stop_N)
    ended_N = ends.eos_V[ids_N]
    drawn_N = rows.drawn_N + live_N
    finish_N = jnp.where(live_N & ended_N, 1, jnp.where(live_N & matched_N, 2, rows.finish_N))
    rows = dataclasses.replace(
        rows,
        drawn_N=drawn_N,
        last_N=jnp.where(live_N, ids_N, rows.last_N),
        stop_N=stop_N,
        live_N=live_N & ~ended_N & ~matched_N & (drawn_N < rows.limit_N),
        finish_N=finish_N,
    )
    tokens = Tokens(ids_N, logp_N, entropy_N, log_kept_N)
    return rows, jax.tree.map(lambda x_N: jnp.where(live_N, x_N, jnp.zeros_like(x_N)), tokens)


def draw_token(keys_N: Array, weight_NV: Array) -> Array:
    """One index per row with probability proportional to its weights.

    Two levels, a block of 256 and then an index inside of it, each the maximum of log-weights with
    Gumbel noise: one pass over the weights and V / 256 + 256 random numbers per row. Rounding of
    the weights by ε changes a draw with probability of about ε; where a cumulative sum is inverted,
    ids of little weight are a hair's breadth apart, and one draw in a hundred would change.
    """
    N, V = weight_NV.shape
    blocks_NJK = jnp.pad(weight_NV, ((0, 0), (0, -V % 256))).reshape(N, -1, 256)
    J = blocks_NJK.shape[1]
    noise_NX = jax.vmap(lambda key: jax.random.gumbel(key, (J + 256,)))(keys_N)
    block_N = jnp.argmax(jnp.log(blocks_NJK.sum(-1)) + noise_NX[:, :J], axis=-1)
    inner_NK = jnp.take_along_axis(blocks_NJK, block_N[:, None, None], 1)[:, 0]
    inside_N = jnp.argmax(jnp.log(inner_NK) + noise_NX[:, J:], axis=-1)
    return (block_N * 256 + inside_N).astype(jnp.int32)
