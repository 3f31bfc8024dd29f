"""The host half of sampling: slots that are refilled and regrouped as rows come and go.

Equal prompts are read once. Between two calls of the decode program rows that have ended leave,
waiting ones move in where the cache has room, and what is left moves together: into fewer blocks,
and rings that grow with the answers. No choice made here changes a token (`sampling.drawing`).
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxevo.keys import row_keys, uid_words
from jaxevo.models import decoder
from jaxevo.sampling.conversations import Conversations, next_power
from jaxevo.sampling.drawing import Ends, Rows, Sampling, Tokens
from jaxevo.sampling.slots import CHUNK, Shared, Slots, arrange, decode, start
from jaxevo.types import Array, Params, Samples

CALL = 8  # steps of one call of the decode program, where answers are longer than SHORT
SHORT = 17  # tokens of answers that are decoded in one call
RING = 32  # places of the first ring of longer answers
PREFILL = 4096  # prompt tokens, padding included, that pass through the model at a time
BALANCE = 32  # products that take as long as reading a number, on two cores
MOVE = 0.8  # of what a step costs: what it must come to for rows to move closer together
LEAST_PROMPT = 128  # slots; shorter prompts are not worth programs of their own
LEAST_UNREAD = 32  # slots of what follows a kept beginning


# ---------------------------------------------------------------------------- sizes
def padded_count(count: int) -> int:
    """The least 2ⁿ or 3·2ⁿ that is not below `count`."""
    power = next_power(count)
    return 3 * power // 4 if power >= 4 and count <= 3 * power // 4 else power


def prompt_bucket(longest: int, slots: int) -> int:
    """Slots for prompts of up to `longest` tokens: 2ⁿ, at least 128, or all `slots` if fewer; of
    more than `CHUNK` always a multiple of that."""
    bucket = min(max(LEAST_PROMPT, next_power(longest)), slots)
    return bucket if bucket <= CHUNK else -(-bucket // CHUNK) * CHUNK


def block_rows(samples: int) -> int:
    """Rows of a block: the most, up to 4, of which blocks for `samples` rows waste no sixth."""
    return next(b for b in (4, 3, 2, 1) if b <= samples and 5 * -(-samples // b) * b <= 6 * samples)


def _block_bytes(
    config: decoder.DecoderConfig, itemsize: int, b: int, prompt_slots: int, new_tokens: int
) -> int:
    """Keys and values of a block whose rows have their longest answers."""
    per_slot = 2 * config.layers * config.kv_heads * config.head_dim * itemsize
    return per_slot * (prompt_slots + b * max(new_tokens - 1, 1))


def narrowed(left: Sequence[int], b: int, now: int, prefix_cost: float) -> tuple[int, int]:
    """Rows of a block and number of blocks for what is left: as they are, or much cheaper.

    Args:
      left: rows that go on, of each prompt.
      b, now: rows of a block and blocks as they stand.
      prefix_cost: what a block costs in a step beside its rows, in rows.
    """

    def cost(shape: tuple[int, int]) -> float:
        return shape[1] * (shape[0] + prefix_cost)

    sizes = sorted({b, max(b // 2, 1), 1})
    shapes = [(size, padded_count(sum(-(-n // size) for n in left))) for size in sizes]
    best = min(shapes, key=cost)
    return best if cost(best) <= MOVE * cost((b, now)) else (b, now)


def _prefix_cost(config: decoder.DecoderConfig, prompt_slots: int) -> float:
    """What a block's prefix costs in a step, which is read once, in what a row's products do."""
    numbers = 2 * config.kv_heads * config.head_dim * prompt_slots
    weights = config.layers * config.layer_weights + config.width * config.vocab_size
    return BALANCE * config.layers * numbers / weights


def _most_blocks(cache_bytes: int, block_bytes: int) -> int:
    """How many fit into the cache, of the numbers that programs are made for."""
    fitting = max(cache_bytes // block_bytes, 1)
    power = 1 << (fitting.bit_length() - 1)
    return 3 * power // 2 if power >= 2 and 3 * power // 2 <= fitting else power


def cache_need(
    config: decoder.DecoderConfig,
    itemsize: int,
    *,
    prompts: int,
    samples: int,
    prompt_slots: int,
    new_tokens: int,
    most: int,
) -> int:
    """Bytes of keys and values of a call at the most, where `most` are allowed."""
    b, slots = block_rows(samples), prompt_bucket(prompt_slots, prompt_slots)
    each = _block_bytes(config, itemsize, b, slots, new_tokens)
    return each * min(_most_blocks(most, each), padded_count(prompts * -(-samples // b)))


# ---------------------------------------------------------------------------- one call
@dataclasses.dataclass
class _Block:
    """Requests of one prompt that stand together, and the block and rows that they come from."""

    prompt: int
    requests: list[int]
    source: int = -1
    places: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Call:
    """What is asked of a sampler at once; row n = prompt * samples + sample.

    config, params: the model. prompts: token ids. key: of the run. uids: names of the N rows.
    new_tokens: most of any answer, by which programs are made. limit_N: most tokens of each.
    sampling: of each row. ends: what ends an answer. prompt_slots: of the longest prompt that may
    ever come. cache_bytes: most bytes of keys and values in use (a move needs them twice). ended:
    called with what is drawn and each row that is complete. kept: prompts read before; keep:
    whether those of this call are kept there, too.
    """

    config: decoder.DecoderConfig
    params: Params
    prompts: Sequence[np.ndarray]
    key: Array
    uids: Sequence[int]
    samples: int
    new_tokens: int
    limit_N: np.ndarray
    sampling: Sequence[Sampling]
    ends: Ends
    prompt_slots: int
    cache_bytes: int
    ended: Callable[[Samples, int], None] | None = None
    kept: Conversations | None = None
    keep: bool = False


class Wave:
    """All rows of one call, from the first prompt to the last token."""

    def __init__(self, call: Call):
        self.call = call
        self.ways: dict[str, Any] = {
            "config": call.config,
            "truncates": any(s.truncates for s in call.sampling),
            "greedy": any(s.temperature == 0 for s in call.sampling),
        }
        self.steps = call.new_tokens - 1 if call.new_tokens <= SHORT else CALL
        self.b = block_rows(call.samples)  # of the blocks as they stand; fewer when few are left
        self.prompt_slots = prompt_bucket(max(map(len, call.prompts)), call.prompt_slots)
        self.prefix_cost = _prefix_cost(call.config, self.prompt_slots)
        itemsize = call.params["embed"].dtype.itemsize
        self.most_blocks = _most_blocks(
            call.cache_bytes,
            _block_bytes(call.config, itemsize, self.b, self.prompt_slots, call.new_tokens),
        )

        numbers: dict[bytes, int] = {}
        self.prompts: list[np.ndarray] = []  # each once
        members: list[list[int]] = []
        for p, ids in enumerate(call.prompts):
            number = numbers.setdefault(ids.tobytes(), len(self.prompts))
            if number == len(self.prompts):
                self.prompts.append(ids)
                members.append([])
            rows = range(p * call.samples, (p + 1) * call.samples)
            members[number] += [n for n in rows if call.limit_N[n] > 0]
        # Of caches that are no larger than what is read at the least nothing can be saved.
        self.kept = call.kept if self.prompt_slots >= 2 * LEAST_UNREAD else None
        self.kept_row = self.shared = np.zeros(len(self.prompts), np.int32)
        if self.kept is not None:
            self.kept_row, self.shared = self.kept.find(self.prompts, self.prompt_slots)
        order = sorted(range(len(members)), key=self._read_slots, reverse=True)
        self.waiting = collections.deque(
            block for number in order for block in self._blocks(number, members[number])
        )
        N, R = len(call.limit_N), call.new_tokens
        self.out = Samples(
            ids_NR=np.zeros((N, R), np.int32),
            logp_NR=np.zeros((N, R), np.float32),
            entropy_NR=np.zeros((N, R), np.float32),
            log_kept_NR=np.zeros((N, R), np.float32),
            length_N=np.zeros(N, np.int32),
            finish_N=np.zeros(N, np.int32),
        )

    def run(self) -> Samples:
        """Draws everything that was asked for."""
        if self.call.ended is not None:
            for n in np.flatnonzero(self.call.limit_N <= 0):
                self.call.ended(self.out, int(n))
        slots: Slots | None = None
        blocks: list[_Block] = []
        while self.waiting or self._live(blocks):
            now, blocks = self._arranged(slots if self._live(blocks) else None, blocks)
            if self._live(blocks):
                now, tokens = decode(
                    self.call.params, now, self.call.ends, steps=self.steps, **self.ways
                )
                self._note(now.rows, blocks, tokens)
            slots = now
        return self.out

    # ------------------------------------------------------------------------ arrangement
    def _arranged(self, slots: Slots | None, blocks: list[_Block]) -> tuple[Slots, list[_Block]]:
        """Rows that have ended leave, waiting ones move in, where either is worth the move."""
        b, wanted = self.b, 0
        if slots is not None and not self.waiting:
            left = collections.Counter(
                block.prompt for block in blocks for n in block.requests if not self._done(n)
            )
            now = len(slots.prefix_length_Q)
            b, wanted = narrowed(list(left.values()), self.b, now, self.prefix_cost)
        live = list(self._regrouped(blocks, b))
        new = self._admitted(len(live))
        ring = self._ring(live, 0 if slots is None else slots.ring)
        started = list(self._started(new, ring if slots is None else slots.ring))
        if slots is None:
            if len(started) == 1:
                return started[0]
            wanted = padded_count(len(new))
        else:
            now = len(slots.prefix_length_Q)
            wanted = wanted or max(padded_count(len(live) + len(new)), now)
            if not new and (wanted, b, ring) == (now, self.b, slots.ring):
                return slots, blocks
        parts = [] if slots is None else [slots]
        for part, part_blocks in started:
            first = sum(len(before.prefix_length_Q) for before in parts)
            parts.append(part)
            for q, block in enumerate(part_blocks, first):
                block.source = q
                block.places = [q * self.b + i for i in range(len(block.requests))]
        self.b = b
        return self._moved(parts, [*live, *new], wanted, ring), [*live, *new]

    def _moved(
        self, parts: Sequence[Slots], blocks: Sequence[_Block], wanted: int, ring: int
    ) -> Slots:
        """Blocks side by side, each from where it stood in the parts."""
        take_Q, take_N = np.zeros(wanted, np.int32), np.zeros(wanted * self.b, np.int32)
        used_N = np.zeros(wanted * self.b, bool)
        for q, block in enumerate(blocks):
            take_Q[q] = block.source
            at = q * self.b + np.arange(len(block.places))
            take_N[at], used_N[at] = block.places, True
        return arrange(tuple(parts), *jax.device_put((take_Q, take_N, used_N)), ring=ring)

    def _admitted(self, live: int) -> list[_Block]:
        """Blocks that move in beside `live` ones: none, or a quarter of the places and more."""
        room = min(self.most_blocks - live, len(self.waiting))
        if live and 4 * room < min(self.most_blocks, len(self.waiting)):
            return []
        return [self.waiting.popleft() for _ in range(room)]

    def _blocks(self, prompt: int, requests: Sequence[int]) -> Iterator[_Block]:
        for first in range(0, len(requests), self.b):
            yield _Block(prompt, list(requests[first : first + self.b]))

    def _regrouped(self, blocks: Sequence[_Block], b: int) -> Iterator[_Block]:
        """The rows that go on, in as few blocks of b as their prompts need."""
        found: dict[int, tuple[int, list[tuple[int, int]]]] = {}
        for q, block in enumerate(blocks):
            going = [(n, q * self.b + i) for i, n in enumerate(block.requests) if not self._done(n)]
            if going:
                found.setdefault(block.prompt, (q, []))[1].extend(going)
        for prompt, (source, rows) in found.items():
            for first in range(0, len(rows), b):
                requests, places = zip(*rows[first : first + b], strict=True)
                yield _Block(prompt, list(requests), source, list(places))

    def _ring(self, live: Sequence[_Block], now: int) -> int:
        """Places that the next call needs, of a ladder of doubles up to the longest answer."""
        most = max(self.call.new_tokens - 1, 1)
        if self.call.new_tokens <= SHORT:
            return most
        drawn = [int(self.out.length_N[n]) for block in live for n in block.requests]
        need = max([drawn_n + self.steps for drawn_n in drawn], default=0)
        size = max(now, RING)
        while size < need:
            size *= 2
        return min(size, most)

    def _started(self, blocks: Sequence[_Block], ring: int) -> Iterator[tuple[Slots, list[_Block]]]:
        """New blocks after their prompts have been read, a few of about as much at a time."""
        chunk = max(PREFILL // self.prompt_slots, 1)
        rest = list(blocks)
        while rest:
            numbers: dict[int, int] = {}
            taken: list[_Block] = []
            slots = self._read_slots(rest[0].prompt)
            while (
                rest
                and (rest[0].prompt in numbers or len(numbers) < chunk)
                and self._read_slots(rest[0].prompt) == slots
            ):
                block = rest.pop(0)
                numbers.setdefault(block.prompt, len(numbers))
                taken.append(block)
            yield self._start(taken, numbers, ring), taken

    def _start(self, blocks: Sequence[_Block], numbers: dict[int, int], ring: int) -> Slots:
        call = self.call
        P, Q = padded_count(len(numbers)), padded_count(len(blocks))
        read_PS, length_P, shared = self._unread(numbers, P)
        prompt_Q = np.zeros(Q, np.int32)
        request_N = np.full(Q * self.b, -1)
        for q, block in enumerate(blocks):
            prompt_Q[q] = numbers[block.prompt]
            request_N[q * self.b : q * self.b + len(block.requests)] = block.requests
        real_N = request_N >= 0
        asked = [call.sampling[n] for n in request_N]
        uid_N2 = uid_words([call.uids[n] if n >= 0 else 0 for n in request_N])
        none_N = np.zeros(len(request_N), np.int32)
        whole = call.config.vocab_size
        rows = Rows(
            key_N=row_keys(call.key, jax.device_put(uid_N2)),
            length_N=np.repeat(length_P[prompt_Q], self.b),
            limit_N=np.where(real_N, call.limit_N[request_N], 0).astype(np.int32),
            temperature_N=np.array([s.temperature for s in asked], np.float32),
            top_k_N=np.array([s.top_k or whole for s in asked], np.int32),
            top_p_N=np.array([s.top_p for s in asked], np.float32),
            min_p_N=np.array([s.min_p for s in asked], np.float32),
            drawn_N=none_N,
            last_N=none_N,
            stop_N=none_N,
            live_N=real_N,
            finish_N=none_N,
        )
        placed = jax.device_put((read_PS, length_P, prompt_Q, rows))
        sizes = {"prefix": self.prompt_slots, "ring": ring}
        slots, tokens = start(call.params, *placed, call.ends, shared, **sizes, **self.ways)
        if self.kept is not None and call.keep:
            first = {block.prompt: q for q, block in reversed(list(enumerate(blocks)))}
            prompts = [self.prompts[number] for number in first]
            self.kept.keep(prompts, slots.prefix, list(first.values()))
        self._note(slots.rows, blocks, jax.tree.map(lambda x_N: x_N[None], tokens))
        return slots

    def _unread(
        self, numbers: dict[int, int], P: int
    ) -> tuple[np.ndarray, np.ndarray, Shared | None]:
        """Tokens to be read, lengths of the whole prompts, and what they share with kept ones."""
        slots, shared = self._read_slots(next(iter(numbers))), None
        row_P, shared_P = np.zeros(P, np.int32), np.zeros(P, np.int32)
        if slots < self.prompt_slots:
            for number, p in numbers.items():
                row_P[p], shared_P[p] = self.kept_row[number], self.shared[number]
            assert self.kept is not None
            assert self.kept.pool is not None
            shared = Shared(self.kept.pool, *jax.device_put((row_P, shared_P)))
        read_PS, length_P = np.zeros((P, slots), np.int32), np.ones(P, np.int32)
        for number, p in numbers.items():
            ids = self.prompts[number]
            read_PS[p, : len(ids) - shared_P[p]] = ids[shared_P[p] :]
            length_P[p] = len(ids)
        if self.kept is not None:
            found = int(shared_P.sum())
            self.kept.shared_tokens += found
            self.kept.read_tokens += sum(len(self.prompts[n]) for n in numbers) - found
        return read_PS, length_P, shared

    def _read_slots(self, prompt: int) -> int:
        """Slots for what has to be read: all of a prompt, or what follows a kept beginning."""
        some = max(LEAST_UNREAD, next_power(len(self.prompts[prompt]) - int(self.shared[prompt])))
        return some if self.shared[prompt] and 2 * some <= self.prompt_slots else self.prompt_slots

    # ------------------------------------------------------------------------ what was drawn
    def _live(self, blocks: Sequence[_Block]) -> bool:
        return any(not self._done(n) for block in blocks for n in block.requests)

    def _done(self, request: int) -> bool:
        drawn, limit = self.out.length_N[request], self.call.limit_N[request]
        return bool(self.out.finish_N[request] or drawn >= limit)

    def _note(self, rows: Rows, blocks: Sequence[_Block], tokens: Tokens) -> None:
        """Writes down the tokens [T, N] of a call."""
        drawn_N, finish_N, told = jax.device_get((rows.drawn_N, rows.finish_N, tokens))
        out = self.out
        for q, block in enumerate(blocks):
            for i, n in enumerate(block.requests):
                place, before = q * self.b + i, out.length_N[n]
                new = int(drawn_N[place]) - before
                if new <= 0:
                    continue
                span = slice(before, before + new)
                out.ids_NR[n, span] = told.ids[:new, place]
                out.logp_NR[n, span] = told.logp[:new, place]
                out.entropy_NR[n, span] = told.entropy[:new, place]
                out.log_kept_NR[n, span] = told.log_kept[:new, place]
                out.length_N[n], out.finish_N[n] = before + new, finish_N[place]
                if self.call.ended is not None and self._done(n):
                    self.call.ended(out, n)
