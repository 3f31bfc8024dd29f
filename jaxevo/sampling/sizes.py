"""Static sizes of the programs that sample: few, and none that is much too large."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jaxevo.models import decoder
from jaxevo.sampling.conversations import next_power
from jaxevo.sampling.slots import CHUNK

BALANCE = 32  # products that take as long as reading a number, on two cores
MOVE = 0.8  # of what a step costs: what it must come to for rows to move closer together
LEAST_PROMPT = 128  # slots; shorter prompts are not worth programs of their own
LEAST_ROWS = 8  # of a step, where a call has several: reading all weights takes as long as ten
LEAST_READ = 2**28  # products of a reading: fewer have no program of their own
FINE_READ = 2**32  # products of a reading, from which on there are programs for 3·2ⁿ prompts, too
FINE_STEP = 2**26  # and of a step, for 3·2ⁿ blocks


def padded_count(count: int, *, least: int = 1, fine: int = 1) -> int:
    """The least 2ⁿ, or from `fine` on 3·2ⁿ, that is below neither `count` nor `least`."""
    power = next_power(max(count, least))
    between = 3 * power // 4
    return between if power >= 4 and max(count, least, fine) <= between else power


def padded_prompts(config: decoder.DecoderConfig, count: int, slots: int) -> int:
    """`padded_count` of prompts of so many slots that are read together."""
    each = _weights(config) * slots
    least = 1 << max((LEAST_READ // each).bit_length() - 1, 0)
    return padded_count(count, least=least, fine=FINE_READ // each)


def prompt_bucket(longest: int, slots: int) -> int:
    """Slots for prompts of up to `longest` tokens: 2ⁿ, at least 128, or all `slots` if fewer; of
    more than `CHUNK` always a multiple of that."""
    bucket = min(max(LEAST_PROMPT, next_power(longest)), slots)
    return bucket if bucket <= CHUNK else -(-bucket // CHUNK) * CHUNK


def block_rows(samples: int) -> int:
    """Rows of a block: the most, up to 4, of which blocks for `samples` rows waste no sixth."""
    return next(b for b in (4, 3, 2, 1) if b <= samples and 5 * -(-samples // b) * b <= 6 * samples)


def block_bytes(
    config: decoder.DecoderConfig, itemsize: int, b: int, prompt_slots: int, new_tokens: int
) -> int:
    """Keys and values of a block whose rows have their longest answers."""
    return _kept(config) * itemsize * (prompt_slots + b * max(new_tokens - 1, 1))


@dataclasses.dataclass(frozen=True)
class Steps:
    """Sizes of the programs with which the rows of one call take their steps.

    config: of the model. rows: of the call. prompt_slots: of a block's prefix. most: blocks that
    there is room for.
    """

    config: decoder.DecoderConfig
    rows: int
    prompt_slots: int
    most: int

    def blocks(self, count: int, b: int) -> int:
        """`padded_count` of blocks of b rows; no more than there is room for, if that will do."""
        least = 1 if self.rows == 1 else -(-LEAST_ROWS // b)
        fine = FINE_STEP // (_weights(self.config) * b)
        return max(min(padded_count(count, least=least, fine=fine), self.most), count)

    def narrowed(self, left: Sequence[Sequence[int]], b: int, now: int) -> tuple[int, int]:
        """Rows of a block and blocks of a lane for what is left: as they are, or much cheaper.

        Args:
          left: for each lane, the rows that go on, of each prompt.
          b, now: rows of a block and blocks of a lane as they stand.
        """
        prefix = _kept(self.config) * self.prompt_slots  # is read once in a step
        prefix_cost = BALANCE * prefix / _weights(self.config)  # in what a row costs

        def cost(shape: tuple[int, int]) -> float:
            return shape[1] * (shape[0] + prefix_cost)

        def sized(size: int) -> tuple[int, int]:
            return size, self.blocks(max(sum(-(-n // size) for n in lane) for lane in left), size)

        best = min(map(sized, sorted({b, max(b // 2, 1), 1})), key=cost)
        return best if cost(best) <= MOVE * cost((b, now)) else (b, now)


def _weights(config: decoder.DecoderConfig) -> int:
    """Of the products of a token."""
    return config.layers * config.layer_weights + config.width * config.vocab_size


def _kept(config: decoder.DecoderConfig) -> int:
    """Numbers in the keys and values of a token."""
    return 2 * config.layers * config.kv_heads * config.head_dim


def most_blocks(cache_bytes: int, block_bytes: int) -> int:
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
    each = block_bytes(config, itemsize, b, slots, new_tokens)
    fitting = most_blocks(most, each)
    steps = Steps(config, prompts * samples, slots, fitting)
    return each * steps.blocks(min(prompts * -(-samples // b), fitting), b)
