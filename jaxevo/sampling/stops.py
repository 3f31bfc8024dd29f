"""Stop strings as a byte automaton over tokens, so that stopping happens on the device, exactly.

A token is a byte string, and the text of an answer is the concatenation of its tokens' bytes. An
Aho-Corasick automaton over bytes therefore tells after each token whether a stop string has been
completed, however the tokenizer happened to split it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

MATCHED = -1


def stop_table(stops: Sequence[str], token_bytes: Sequence[bytes]) -> np.ndarray:
    """The transition table: next state by (state, token), `MATCHED` once a stop string ended.

    Args:
      stops: non-empty stop strings; state 0 is the start.
      token_bytes: the bytes of each token id (special tokens: empty, which keep the state).

    Returns:
      int32 [Q, V].
    """
    if any(not s for s in stops):
        raise ValueError("a stop string is empty; every answer would end before its first token.")
    moves, matched = _automaton([s.encode("utf-8") for s in stops])
    states = len(moves)
    longest = max((len(t) for t in token_bytes), default=0)
    bytes_VL = np.zeros((len(token_bytes), longest), np.int64)
    length_V = np.array([len(t) for t in token_bytes])
    for v, token in enumerate(token_bytes):
        bytes_VL[v, : len(token)] = np.frombuffer(token, np.uint8)
    now_QV = np.broadcast_to(np.arange(states)[:, None], (states, len(token_bytes))).copy()
    done_QV = np.zeros_like(now_QV, bool)
    for place in range(longest):
        active_QV = (place < length_V)[None, :] & ~done_QV
        after_QV = moves[now_QV, bytes_VL[None, :, place]]
        now_QV = np.where(active_QV, after_QV, now_QV)
        done_QV |= active_QV & matched[after_QV]
    return np.where(done_QV, MATCHED, now_QV).astype(np.int32)


def _automaton(patterns: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Aho-Corasick: moves [Q, 256] and whether reaching a state completes a pattern [Q]."""
    edges: list[dict[int, int]] = [{}]
    ends = [False]
    for pattern in patterns:
        state = 0
        for byte in pattern:
            if byte not in edges[state]:
                edges[state][byte] = len(edges)
                edges.append({})
                ends.append(False)
            state = edges[state][byte]
        ends[state] = True
    moves = np.zeros((len(edges), 256), np.int64)
    fallback = [0] * len(edges)
    for byte, child in edges[0].items():
        moves[0, byte] = child
    queue = deque(edges[0].values())
    while queue:
        state = queue.popleft()
        ends[state] = ends[state] or ends[fallback[state]]
        moves[state] = moves[fallback[state]]
        for byte, child in edges[state].items():
            fallback[child] = int(moves[state, byte])
            moves[state, byte] = child
            queue.append(child)
    return moves, np.array(ends)
