"""Sampling: one prefill per prompt, then a `while_loop` decode that stops when all rows have.

The randomness of a token depends on its row's key and its position in the row, on nothing else:
not on the slot, the batch-mates, the padding or the number of prompts (design: `row_uid`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxevo.keys import row_keys, uid_words
from jaxevo.models import decoder
from jaxevo.sampling.stops import MATCHED
from jaxevo.sampling.truncation import kept_mask
from jaxevo.types import Array, Params, register

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

    @property
    def truncates(self) -> bool:
        """Whether any token can be cut."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


@register
@dataclasses.dataclass(frozen=True)
class Samples:
    """Answers as drawn: ids, log-prob at the sampling temperature before truncation, entropy in
    nats, log of the kept mass (0 where nothing was cut), all [N, R]; `length_N` tokens are real.
    `finish_N` indexes `FINISH`.
    """

    ids_NR: Array
    logp_NR: Array
    entropy_NR: Array
    log_kept_NR: Array
    length_N: Array
    finish_N: Array


@register
@dataclasses.dataclass(frozen=True)
class _Decode:
    """The state of the decode loop: `step` tokens of every row stand in `out`; `hidden_ND` is the
    final hidden state of the last token, from which the next one is drawn."""

    step: Array
    out: Samples
    done_N: Array
    stop_state_N: Array
    cache: Any


@register
@dataclasses.dataclass(frozen=True)
class _Draw:
    """What drawing needs and no step changes."""

    row_keys_N: Array
    length_N: Array
    limit_N: Array
    eos_V: Array
    stops_QV: Array | None
    temperature: Array
    top_k: Array
    top_p: Array
    min_p: Array


def draw_token(keys_N: Array, weight_NV: Array) -> Array:
    """One index per row with probability proportional to its weights, by inverting the CDF.

    Two levels (blocks of 256, then inside the block) cost one pass over the weights and one
    uniform per row, where Gumbel noise would cost a random number per vocabulary entry.
    """
    N, V = weight_NV.shape
    blocks_NJK = jnp.pad(weight_NV, ((0, 0), (0, -V % 256))).reshape(N, -1, 256)
    edges_NJ = jnp.cumsum(blocks_NJK.sum(-1), axis=-1)
    uniform_N = jax.vmap(lambda key: jax.random.uniform(key))(keys_N)
    target_N = uniform_N * edges_NJ[:, -1]
    block_N = _first_above(edges_NJ, target_N)
    before_N = jnp.where(
        block_N > 0, jnp.take_along_axis(edges_NJ, jnp.maximum(block_N - 1, 0)[:, None], 1)[:, 0], 0
    )
    inner_NK = jnp.take_along_axis(blocks_NJK, block_N[:, None, None], 1)[:, 0]
    inside_N = _first_above(before_N[:, None] + jnp.cumsum(inner_NK, -1), target_N)
    # Rounding may point one past the last weight that is not zero: step back onto it.
    last_N = 255 - jnp.argmax(inner_NK[:, ::-1] > 0, axis=-1)
    return (block_N * 256 + jnp.minimum(inside_N, last_N)).astype(jnp.int32)


def _first_above(edges_NJ: Array, target_N: Array) -> Array:
    count_N = jnp.sum(edges_NJ <= target_N[:, None], axis=-1)
    return jnp.minimum(count_N, edges_NJ.shape[-1] - 1)


def _draw(
    hidden_ND: Array, head_DV: Array, state: _Decode, draw: _Draw, truncates: bool
) -> _Decode:
    """Draws token number `state.step` of every row that is not done."""
    t, out = state.step, state.out
    logits_NV = jnp.dot(hidden_ND, head_DV, preferred_element_type=jnp.float32)
    greedy = draw.temperature == 0
    logits_NV = logits_NV / jnp.where(greedy, 1.0, draw.temperature)
    logp_NV = jax.nn.log_softmax(logits_NV, axis=-1)
    p_NV = jnp.exp(logp_NV)
    entropy_N = -jnp.sum(jnp.where(p_NV > 0, p_NV * logp_NV, 0.0), axis=-1)
    log_kept_N = jnp.zeros_like(entropy_N)
    if truncates:
        keep_NV = kept_mask(p_NV, top_k=draw.top_k, top_p=draw.top_p, min_p=draw.min_p)
        p_NV = jnp.where(keep_NV, p_NV, 0.0)
        log_kept_N = jnp.where(keep_NV.all(-1), 0.0, jnp.log(jnp.minimum(p_NV.sum(-1), 1.0)))
    keys_N = jax.vmap(jax.random.fold_in)(draw.row_keys_N, draw.length_N + t)
    ids_N = jnp.where(greedy, jnp.argmax(logits_NV, -1), draw_token(keys_N, p_NV)).astype(jnp.int32)
    logp_N = jnp.take_along_axis(logp_NV, ids_N[:, None], axis=-1)[:, 0]

    live_N = ~state.done_N
    stop_state_N, matched_N = state.stop_state_N, jnp.zeros_like(live_N)
    if draw.stops_QV is not None:
        after_N = draw.stops_QV[stop_state_N, ids_N]
        matched_N = after_N == MATCHED
        stop_state_N = jnp.where(live_N & ~matched_N, after_N, stop_state_N)
    ended_N = draw.eos_V[ids_N]
    length_N = jnp.where(live_N, t + 1, out.length_N)
    finish_N = jnp.where(live_N & ended_N, 1, jnp.where(live_N & matched_N, 2, out.finish_N))

    def put(x_NR: Array, x_N: Array) -> Array:
        column_N = jnp.where(live_N, x_N, jnp.zeros_like(x_N))
        return jax.lax.dynamic_update_slice_in_dim(x_NR, column_N[:, None], t, axis=1)

    samples = Samples(
        ids_NR=put(out.ids_NR, ids_N),
        logp_NR=put(out.logp_NR, logp_N),
        entropy_NR=put(out.entropy_NR, entropy_N),
        log_kept_NR=put(out.log_kept_NR, log_kept_N),
        length_N=length_N,
        finish_N=finish_N,
    )
    done_N = state.done_N | ended_N | matched_N | (t + 1 >= draw.limit_N)
    return _Decode(t + 1, samples, done_N, stop_state_N, state.cache)


@functools.partial(jax.jit, static_argnames=("config", "samples", "new_tokens", "truncates"))
def generate(
    params: Params,
    prompt_PC: Array,
    prompt_length_P: Array,
    draw: _Draw,
    *,
    config: decoder.DecoderConfig,
    samples: int,
    new_tokens: int,
    truncates: bool,
) -> Samples:
    """Draws `samples` answers of up to `new_tokens` tokens for every (right-padded) prompt."""
    P, C = prompt_PC.shape
    N = P * samples
    cache = decoder.init_cache(config, P, C + new_tokens, params["embed"].dtype)
    slots_C = jnp.arange(C + new_tokens)
    causal_CC = slots_C[None, :] <= jnp.arange(C)[:, None]
    in_prompt_PC = slots_C < prompt_length_P[:, None]
    positions_PC = jnp.broadcast_to(jnp.arange(C), (P, C))
    mask_PCC = causal_CC & in_prompt_PC[:, None, :]
    hidden_PCD, cache = decoder.apply(
        config, params, prompt_PC, positions_PC, mask_PCC, cache=cache, slot=0
    )
    hidden_PD = hidden_PCD[jnp.arange(P), prompt_length_P - 1]
    cache = jax.tree.map(lambda x: jnp.repeat(x, samples, axis=1), cache)
    in_prompt_NC = jnp.repeat(in_prompt_PC, samples, axis=0)
    head_DV = decoder.unembed(config, params)

    zeros_NR = jnp.zeros((N, new_tokens), jnp.float32)
    zeros_N = jnp.zeros(N, jnp.int32)
    empty = Samples(zeros_NR.astype(jnp.int32), zeros_NR, zeros_NR, zeros_NR, zeros_N, zeros_N)
    done_N = draw.limit_N <= 0
    state = _Decode(jnp.int32(0), empty, done_N, zeros_N, cache)
    state = _draw(jnp.repeat(hidden_PD, samples, axis=0), head_DV, state, draw, truncates)

    def unfinished(state: _Decode) -> Array:
        return (state.step < new_tokens) & ~state.done_N.all()

    def advance(state: _Decode) -> _Decode:
        slot = C + state.step - 1
        last_N1 = jax.lax.dynamic_slice_in_dim(state.out.ids_NR, state.step - 1, 1, axis=1)
        mask_NC = in_prompt_NC | ((slots_C >= C) & (slots_C <= slot))
        position_N1 = (draw.length_N + state.step - 1)[:, None]
        hidden_N1D, cache = decoder.apply(
            config, params, last_N1, position_N1, mask_NC[:, None], cache=state.cache, slot=slot
        )
        state = dataclasses.replace(state, cache=cache)
        return _draw(hidden_N1D[:, 0], head_DV, state, draw, truncates)

    return jax.lax.while_loop(unfinished, advance, state).out


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A decoder with a tokenizer's stops, ready to draw from any parameter set of its shape.

    prompt_slots: prompts are padded to this many tokens (a longer one is refused), and their number
    to 2ⁿ or 3·2ⁿ, so that a run has few compiled programs.
    """

    config: decoder.DecoderConfig
    eos_ids: tuple[int, ...]
    prompt_slots: int
    stop_table: Callable[[tuple[str, ...]], np.ndarray]

    def __call__(
        self,
        params: Params,
        prompts: Sequence[np.ndarray],
        *,
        key: Array,
        uids: Sequence[int],
        samples: int,
        new_tokens: int,
        limit_N: Array | None = None,
        sampling: Sampling,
    ) -> Samples:
        """Draws `samples` answers per prompt; row n = prompt * samples + sample. Numpy out.

        All randomness of row n comes from the run's key and `uids[n]`.

        Raises:
          ValueError: an empty prompt, or one longer than `prompt_slots`.
        """
        lengths = [len(p) for p in prompts]
        if min(lengths) == 0 or max(lengths) > self.prompt_slots:
            raise ValueError(
                f"prompts have {min(lengths)} to {max(lengths)} tokens, but must have 1 to "
                f"{self.prompt_slots}. Raise the prompt limit or shorten the task."
            )
        N, P = len(prompts) * samples, padded_count(len(prompts))
        length_P = np.ones(P, np.int32)
        length_P[: len(prompts)] = lengths
        prompt_PC = np.zeros((P, self.prompt_slots), np.int32)
        for p, ids in enumerate(prompts):
            prompt_PC[p, : len(ids)] = ids
        eos_V = np.zeros(self.config.vocab_size, bool)
        eos_V[list(self.eos_ids)] = True
        allowed_N = np.zeros(P * samples, np.int32)  # rows of padding are done before they begin
        allowed_N[:N] = new_tokens if limit_N is None else np.minimum(limit_N, new_tokens)
        uid_N2 = jax.device_put(uid_words([*uids, *(0,) * (P * samples - N)]))
        draw = _Draw(
            row_keys_N=row_keys(key, uid_N2),
            length_N=np.repeat(length_P, samples),
            limit_N=allowed_N,
            eos_V=eos_V,
            stops_QV=self.stop_table(sampling.stop) if sampling.stop else None,
            temperature=np.float32(sampling.temperature),
            top_k=np.int32(sampling.top_k or self.config.vocab_size),
            top_p=np.float32(sampling.top_p),
            min_p=np.float32(sampling.min_p),
        )
        inputs = jax.device_put((prompt_PC, length_P, draw))
        out = generate(
            params,
            *inputs,
            config=self.config,
            samples=samples,
            new_tokens=new_tokens,
            truncates=sampling.truncates,
        )
        return jax.tree.map(lambda x: x[:N], jax.device_get(out))


def padded_count(prompts: int) -> int:
    """The least 2ⁿ or 3·2ⁿ that is not below `prompts`."""
    power = 1 << (prompts - 1).bit_length()
    return 3 * power // 4 if power >= 4 and prompts <= 3 * power // 4 else power


def publish(params: Params, *, dtype: Any = None) -> Params:
    """The sampler's own copy of some weights, cast to `dtype` when given; never an alias."""
    return jax.tree.map(lambda x: jnp.array(x, dtype=dtype, copy=True), params)
