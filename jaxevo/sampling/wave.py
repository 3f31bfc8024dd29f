"""The host half of sampling: slots that are refilled and regrouped as rows come and go.

Equal prompts are read once. Between two calls of the decode program rows that have ended leave,
waiting ones move in where the cache has room, and what is left moves together: into fewer blocks,
and rings that grow with the answers. No choice made here changes a token (`sampling.drawing`).
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

from jaxevo.keys import row_keys, uid_words
from jaxevo.models import decoder
from jaxevo.parallel.mesh import row_devices
from jaxevo.sampling.conversations import Conversations, next_power
from jaxevo.sampling.drawing import Ends, Rows, Sampling, Tokens
from jaxevo.sampling.sizes import (
    Steps,
    block_bytes,
    block_rows,
    most_blocks,
    padded_prompts,
    prompt_bucket,
)
from jaxevo.sampling.slots import Prompts, Shared, Slots, arrange, decode, read, start
from jaxevo.types import Array, Params, Samples

CALL = 8  # steps of one call of the decode program, where answers are longer than SHORT
SHORT = 17  # tokens of answers that are decoded in one call
RING = 32  # places of the first ring of longer answers
PREFILL = 4096  # prompt tokens, padding included, that pass through the model at a time
LEAST_UNREAD = 32  # slots of what follows a kept beginning


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
    ever come. cache_bytes: most bytes of keys and values in use in a lane (a move needs twice as
    many). ended: called with what is drawn and each row that is complete. kept: prompts read
    before; keep: whether those of this call are kept there, too.
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


Lanes: TypeAlias = list[list[_Block]]  # the blocks of each lane (`slots.py`), in order


class Wave:
    """All rows of one call, from the first prompt to the last token."""

    def __init__(self, call: Call):
        self.call = call
        self.lanes = row_devices()
        self.ways: dict[str, Any] = {
            "truncates": any(s.truncates for s in call.sampling),
            "greedy": any(s.temperature == 0 for s in call.sampling),
        }
        self.steps = call.new_tokens - 1 if call.new_tokens <= SHORT else CALL
        self.b = block_rows(call.samples)  # of the blocks as they stand; fewer when few are left
        self.prompt_slots = prompt_bucket(max(map(len, call.prompts)), call.prompt_slots)
        itemsize = call.params["embed"].dtype.itemsize
        block = block_bytes(call.config, itemsize, self.b, self.prompt_slots, call.new_tokens)
        most = most_blocks(call.cache_bytes, block)
        self.sizes = Steps(call.config, len(call.limit_N), self.prompt_slots, most)

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
        lanes: Lanes = self._no_blocks()
        while self.waiting or self._live(lanes):
            now, lanes = self._arranged(slots if self._live(lanes) else None, lanes)
            if self._live(lanes):
                how = {"config": self.call.config, "steps": self.steps, **self.ways}
                now, tokens = decode(self.call.params, now, self.call.ends, **how)
                self._note(now.rows, lanes, tokens)
            slots = now
        return self.out

    def _no_blocks(self) -> Lanes:
        return [[] for _ in range(self.lanes)]

    # ------------------------------------------------------------------------ arrangement
    def _arranged(self, slots: Slots | None, lanes: Lanes) -> tuple[Slots, Lanes]:
        """Rows that have ended leave, waiting ones move in, where either is worth the move."""
        b, wanted = self.b, 0
        now = 0 if slots is None else self._per_lane(slots)
        if slots is not None and not self.waiting:
            left = [
                collections.Counter(
                    block.prompt for block in lane for n in block.requests if not self._done(n)
                )
                for lane in lanes
            ]
            each = [list(of_prompts.values()) for of_prompts in left]
            b, wanted = self.sizes.narrowed(each, self.b, now)
        live = [list(self._regrouped(lane, b)) for lane in lanes]
        new = self._admitted([len(lane) for lane in live])
        together = [[*before, *later] for before, later in zip(live, new, strict=True)]
        ring = self._ring(live, 0 if slots is None else slots.ring)
        started = list(self._started(new, ring if slots is None else slots.ring))
        if slots is None and len(started) == 1:
            return started[0]
        wanted = wanted or max(self._padded(together), now)
        if slots is not None and not started and (wanted, b, ring) == (now, self.b, slots.ring):
            return slots, lanes
        parts = [] if slots is None else [slots]
        for part, of_part in started:
            first = sum(map(self._per_lane, parts))
            parts.append(part)
            for lane in of_part:
                for q, block in enumerate(lane, first):
                    block.source = q
                    block.places = [q * self.b + i for i in range(len(block.requests))]
        self.b = b
        return self._moved(parts, together, wanted, ring), together

    def _padded(self, lanes: Lanes) -> int:
        """Blocks of each lane that there is a program for."""
        return self.sizes.blocks(max(map(len, lanes)), self.b)

    def _per_lane(self, slots: Slots) -> int:
        """Blocks of each lane."""
        return len(slots.prefix_length_Q) // self.lanes

    def _moved(self, parts: Sequence[Slots], lanes: Lanes, wanted: int, ring: int) -> Slots:
        """Blocks side by side, each from where it stood in its lane of the parts."""
        take_LQ = np.zeros((self.lanes, wanted), np.int32)
        take_LN = np.zeros((self.lanes, wanted * self.b), np.int32)
        used_LN = np.zeros(take_LN.shape, bool)
        for number, lane in enumerate(lanes):
            for q, block in enumerate(lane):
                take_LQ[number, q] = block.source
                at = q * self.b + np.arange(len(block.places))
                take_LN[number, at], used_LN[number, at] = block.places, True
        chosen = [x.reshape(-1) for x in (take_LQ, take_LN, used_LN)]
        return arrange(tuple(parts), *jax.device_put(chosen), lanes=self.lanes, ring=ring)

    def _admitted(self, live: Sequence[int]) -> Lanes:
        """Blocks that move in beside the live ones of each lane: none, or a quarter of the places
        and more. Those of a prompt stand in one lane as far as that leaves all equally full."""
        new, most = self._no_blocks(), self.lanes * self.sizes.most
        room = min(most - sum(live), len(self.waiting))
        if any(live) and 4 * room < min(most, len(self.waiting)):
            return new
        full = max(-(-(sum(live) + room) // self.lanes), *live)
        counts, lane, last = list(live), 0, -1
        for _ in range(room):
            block = self.waiting.popleft()
            if block.prompt != last or counts[lane] >= full:
                lane = int(np.argmin(counts))
            new[lane].append(block)
            counts[lane] += 1
            last = block.prompt
        return new

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

    def _ring(self, live: Lanes, now: int) -> int:
        """Places that the next call needs, of a ladder of doubles up to the longest answer."""
        most = max(self.call.new_tokens - 1, 1)
        if self.call.new_tokens <= SHORT:
            return most
        drawn = [self.out.length_N[n] for lane in live for block in lane for n in block.requests]
        need = max([int(drawn_n) + self.steps for drawn_n in drawn], default=0)
        size = max(now, RING)
        while size < need:
            size *= 2
        return min(size, most)

    def _started(self, lanes: Lanes, ring: int) -> Iterator[tuple[Slots, Lanes]]:
        """New blocks after their prompts have been read, a few of about as much at a time."""
        chunk = max(PREFILL // self.prompt_slots, 1)
        rest = [collections.deque(lane) for lane in lanes]
        while any(rest):
            slots = max(self._read_slots(lane[0].prompt) for lane in rest if lane)
            numbers: list[dict[int, int]] = [{} for _ in rest]  # of each lane's prompts
            taken = self._no_blocks()
            for lane, own, its_numbers in zip(rest, taken, numbers, strict=True):
                while (
                    lane
                    and (lane[0].prompt in its_numbers or len(its_numbers) < chunk)
                    and self._read_slots(lane[0].prompt) == slots
                ):
                    block = lane.popleft()
                    its_numbers.setdefault(block.prompt, len(its_numbers))
                    own.append(block)
            yield self._start(taken, numbers, slots, ring), taken

    def _start(
        self, lanes: Lanes, numbers: Sequence[Mapping[int, int]], read_slots: int, ring: int
    ) -> Slots:
        call, L = self.call, self.lanes
        prompts = self._read(numbers, read_slots)
        Q = self._padded(lanes)
        prompt_Q = np.zeros(L * Q, np.int32)
        request_N, length_Q = np.full(L * Q * self.b, -1), np.ones(L * Q, np.int32)
        for number, lane in enumerate(lanes):
            for q, block in enumerate(lane, number * Q):
                prompt_Q[q] = numbers[number][block.prompt]
                length_Q[q] = len(self.prompts[block.prompt])
                request_N[q * self.b : q * self.b + len(block.requests)] = block.requests
        real_N = request_N >= 0
        asked = [call.sampling[n] for n in request_N]
        uid_N2 = uid_words([call.uids[n] if n >= 0 else 0 for n in request_N])
        none_N = np.zeros(len(request_N), np.int32)
        whole = call.config.vocab_size
        rows = Rows(
            key_N=row_keys(call.key, jax.device_put(uid_N2)),
            length_N=np.repeat(length_Q, self.b),
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
        placed = jax.device_put((prompt_Q, rows))
        slots, tokens = start(prompts, *placed, call.ends, lanes=L, ring=ring, **self.ways)
        self._note(slots.rows, lanes, jax.tree.map(lambda x_N: x_N[None], tokens))
        return slots

    def _read(self, numbers: Sequence[Mapping[int, int]], slots: int) -> Prompts:
        """Prompts of all lanes, P / L of each, but for what they share with kept ones."""
        call, shared = self.call, None
        P = padded_prompts(call.config, max(map(len, numbers)), slots)
        placed = [
            (prompt, lane * P + p) for lane, own in enumerate(numbers) for prompt, p in own.items()
        ]
        row_P, shared_P = np.zeros((2, self.lanes * P), np.int32)
        if slots < self.prompt_slots:
            for prompt, p in placed:
                row_P[p], shared_P[p] = self.kept_row[prompt], self.shared[prompt]
            assert self.kept is not None
            assert self.kept.pool is not None
            shared = Shared(self.kept.pool, *jax.device_put((row_P, shared_P)))
        read_PS, length_P = np.zeros((len(row_P), slots), np.int32), np.ones(len(row_P), np.int32)
        for prompt, p in placed:
            ids = self.prompts[prompt]
            read_PS[p, : len(ids) - shared_P[p]] = ids[shared_P[p] :]
            length_P[p] = len(ids)
        new = jax.device_put((read_PS, length_P))
        sizes = {"config": call.config, "prefix": self.prompt_slots}
        prompts = read(call.params, *new, shared, **sizes)
        if self.kept is not None:
            found = int(shared_P.sum())
            self.kept.shared_tokens += found
            self.kept.read_tokens += sum(len(self.prompts[n]) for n, _ in placed) - found
            if call.keep:
                once = dict(placed)  # of a prompt that stands in several lanes
                asked = [self.prompts[number] for number in once]
                self.kept.keep(asked, prompts.cache, list(once.values()))
        return prompts

    def _read_slots(self, prompt: int) -> int:
        """Slots for what has to be read: all of a prompt, or what follows a kept beginning."""
        some = max(LEAST_UNREAD, next_power(len(self.prompts[prompt]) - int(self.shared[prompt])))
        return some if self.shared[prompt] and 2 * some <= self.prompt_slots else self.prompt_slots

    # ------------------------------------------------------------------------ what was drawn
    def _live(self, lanes: Lanes) -> bool:
        return any(not self._done(n) for lane in lanes for block in lane for n in block.requests)

    def _done(self, request: int) -> bool:
        drawn, limit = self.out.length_N[request], self.call.limit_N[request]
        return bool(self.out.finish_N[request] or drawn >= limit)

    def _note(self, rows: Rows, lanes: Lanes, tokens: Tokens) -> None:
        """Writes down the tokens [T, N] of a call."""
        drawn_N, finish_N, told = jax.device_get((rows.drawn_N, rows.finish_N, tokens))
        out, per_lane = self.out, len(drawn_N) // self.lanes
        for number, lane in enumerate(lanes):
            for place, n in self._places(lane, first=number * per_lane):
                before = out.length_N[n]
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

    def _places(self, lane: Sequence[_Block], first: int) -> Iterator[tuple[int, int]]:
        """(row of the slots, request) of all rows of a lane whose own rows begin at `first`."""
        for q, block in enumerate(lane):
            for i, n in enumerate(block.requests):
                yield first + q * self.b + i, n
