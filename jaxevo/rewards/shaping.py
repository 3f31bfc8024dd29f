"""What is added to or made of a reward before rows are compared."""

from __future__ import annotations


def signed(score: float) -> float:
    """2·score − 1: a score in [0, 1] as a reward in [−1, 1]."""
    return 2.0 * score - 1.0


def overlong_penalty(length: int, *, limit: int, buffer: float) -> float:
    """min(0, −(length − (limit − buffer)) / buffer): 0, then falling to −1 at the limit.

    Args:
      length: tokens of the answer.
      limit: the longest answer, in tokens.
      buffer: the last tokens of it, over which the penalty grows; 0 for no penalty.

    Raises:
      ValueError: for a buffer that is negative or longer than the limit.

    References: DAPO, arXiv 2503.14476, equation 13.
    """
    if not 0 <= buffer <= limit:
        raise ValueError(f"overlong_penalty needs a buffer in [0, {limit}], got {buffer}.")
    return 0.0 if buffer == 0 else min(0.0, -(length - (limit - buffer)) / buffer)
