"""One reward from many yes/no questions."""

from __future__ import annotations

import math
from collections.abc import Sequence


def decomposed(semantic: Sequence[float], quality: Sequence[float]) -> float:
    """√(mean semantic · mean quality), in [0, 1].

    Args:
      semantic: a judge's probabilities of yes, in [0, 1], on what was asked for.
      quality: the same on how well it was done.

    Raises:
      ValueError: for a group without a question, which would be perfect by default.

    References:
      arXiv 2605.12495 (DVReward).
    """
    for name, answers in (("semantic", semantic), ("quality", quality)):
        if not answers:
            raise ValueError(f"there is no {name} question; a reward needs one of each kind.")
    return math.sqrt(sum(semantic) / len(semantic) * sum(quality) / len(quality))
