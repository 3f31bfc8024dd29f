"""Keys and values of prompts that were read, for later prompts that begin as they do.

A turn of a conversation, a step of a tree search, or an answer that goes on after an edit: each is
a prompt most of which has been read before, so that only what is new need be read. What is shared
is found by the tokens alone; whoever samples needs no handles, and cannot mix conversations up.
Valid for one set of weights, and thrown away with them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxevo.models import decoder
from jaxevo.types import Array

FIRST_ROWS = 8


def next_power(count: int) -> int:
    """The least 2ⁿ that is not below `count`."""
    return 1 << (count - 1).bit_length()


class Conversations:
    """Up to `most_bytes` of kept prompts, M rows of C slots; those longest unused make room.

    Attributes:
      pool: the keys and values, None before the first prompt.
      shared_tokens, read_tokens: of all prompts so far, how many were found here, and how many the
        model read.
    """

    def __init__(self, config: decoder.DecoderConfig, most_bytes: int):
        self.pool: decoder.Cache | None = None
        self.shared_tokens = self.read_tokens = 0
        self._config, self._most_bytes = config, most_bytes
        self._ids_MC = np.zeros((0, 0), np.int32)
        self._length_M, self._used_M = np.zeros(0, np.int32), np.zeros(0, np.int64)
        self._now = 0

    def find(self, prompts: Sequence[np.ndarray], slots: int) -> tuple[np.ndarray, np.ndarray]:
        """For each prompt the kept row that begins most as it does, and how many tokens it shares.

        The last token of a prompt is never shared: the model reads it to say what comes next. Rows
        that are found here stay where they are until the next call.

        Args:
          prompts: token ids.
          slots: of the caches in which `keep` will find them.
        """
        self._now += 1
        row_P, shared_P = np.zeros(len(prompts), np.int32), np.zeros(len(prompts), np.int32)
        if self.pool is not None:
            if slots > self._ids_MC.shape[1]:
                self._resize(min(len(self._length_M), self._most(slots, self.pool)), slots)
            for p, ids in enumerate(prompts):
                shared_M = self._shared(ids[:-1])
                row_P[p] = shared_M.argmax()
                shared_P[p] = shared_M[row_P[p]]
            self._used_M[row_P[shared_P > 0]] = self._now
        return row_P, shared_P

    def keep(self, prompts: Sequence[np.ndarray], prefix: decoder.Cache, at: Sequence[int]) -> None:
        """Keeps prompts whose keys and values stand in rows `at` of `prefix`, while there is room.

        A prompt that goes on from a kept one takes its row. Else there is room in rows that no
        prompt since the last `find` has used.
        """
        if self.pool is None:
            slots = prefix[0]["k"].shape[2]
            rows, dtype = min(FIRST_ROWS, self._most(slots, prefix)), prefix[0]["k"].dtype
            self.pool = decoder.init_cache(self._config, rows, slots, dtype)
            self._ids_MC = np.zeros((rows, slots), np.int32)
            self._length_M, self._used_M = np.zeros(rows, np.int32), np.zeros(rows, np.int64)
        slots = self._ids_MC.shape[1]
        most = self._most(slots, self.pool)
        take, into = [], []
        for ids, place in zip(prompts, at, strict=True):
            shared_M = self._shared(ids)
            if shared_M.max() == len(ids):
                continue
            begins_M = (shared_M == self._length_M) & (self._length_M > 0)
            row = int(np.where(begins_M, shared_M, 0).argmax())
            if not begins_M.any():
                row = int(self._used_M.argmin())
                if self._used_M[row] == self._now:
                    row = len(self._used_M)
                    if row == most:
                        break
                    self._resize(min(2 * row, most), slots)
            self._ids_MC[row, : len(ids)] = ids
            self._length_M[row], self._used_M[row] = len(ids), self._now
            take.append(place)
            into.append(row)
        if take:
            take_P, into_P = np.zeros((2, len(prefix[0]["k"])), np.int32)
            take_P[: len(take)], into_P[: len(into)] = take, into
            placed = jax.device_put((take_P, into_P, np.int32(len(take))))
            self.pool = _written(self.pool, prefix, *placed)

    def _shared(self, ids: np.ndarray) -> np.ndarray:
        """How many tokens each kept prompt has in common with this one, from the first on."""
        length = min(len(ids), self._ids_MC.shape[1])
        equal_MC = self._ids_MC[:, :length] == ids[:length]
        equal_MC &= np.arange(length) < self._length_M[:, None]
        return (
            np.where(equal_MC.all(1), length, equal_MC.argmin(1)) if length else 0 * self._length_M
        )

    def _most(self, slots: int, like: decoder.Cache) -> int:
        """How many rows of so many slots there is room for."""
        config, itemsize = self._config, like[0]["k"].dtype.itemsize
        slot_bytes = 2 * config.layers * config.kv_heads * config.head_dim * itemsize
        return max(self._most_bytes // (slots * slot_bytes), 1)

    def _resize(self, rows: int, slots: int) -> None:
        """Another number of rows or slots; the rows that were used last stay."""
        stay = np.sort(np.argsort(-self._used_M, kind="stable")[:rows])
        take = np.zeros(rows, np.int32)
        take[: len(stay)] = stay
        assert self.pool is not None
        self.pool = _resized(self.pool, jax.device_put(take), slots=slots)
        ids_MC = np.zeros((rows, slots), np.int32)
        ids_MC[: len(stay), : self._ids_MC.shape[1]] = self._ids_MC[stay]
        self._ids_MC = ids_MC
        self._length_M = np.pad(self._length_M[stay], (0, rows - len(stay)))
        self._used_M = np.pad(self._used_M[stay], (0, rows - len(stay)))


@functools.partial(jax.jit, donate_argnames="pool")
def _written(
    pool: decoder.Cache, prefix: decoder.Cache, take_P: Array, into_P: Array, count: Array
) -> decoder.Cache:
    """The first `count` of the rows `take_P` of `prefix`, in rows `into_P` of the pool."""

    def write(n: Array, pool: decoder.Cache) -> decoder.Cache:
        def row(old: jax.Array, new: jax.Array) -> jax.Array:
            new = jax.lax.dynamic_slice_in_dim(new, take_P[n], 1)[:, :, : old.shape[2]]
            return jax.lax.dynamic_update_slice(old, new, (into_P[n], 0, 0, 0))

        return jax.tree.map(row, pool, prefix)

    return jax.lax.fori_loop(0, count, write, pool)


@functools.partial(jax.jit, static_argnames="slots")
def _resized(pool: decoder.Cache, take: Array, *, slots: int) -> decoder.Cache:
    def resize(x: jax.Array) -> jax.Array:
        return jnp.pad(x[take], ((0, 0), (0, 0), (0, slots - x.shape[2]), (0, 0)))

    return jax.tree.map(resize, pool)
