"""Baselines for the roles of a game, which live from round to round."""

from __future__ import annotations

import numpy as np

from jaxevo.types import Array


def role_baselines(
    returns_ER: Array, baseline_R: Array, *, decay: float
) -> tuple[np.ndarray, np.ndarray]:
    """b ← decay · b + (1 − decay) · R, one episode after the other, for each role by itself.

    Args:
      returns_ER: what each role got in each episode, in the order in which they count; NaN where
        it was not played, which leaves its baseline alone.
      baseline_R: the baselines before the first one.
      decay: in [0, 1]; the share of the old baseline.

    Returns:
      before_ER, the baselines that each episode met, so that R − b does not know R; and the
      baselines after the last episode. Both float64.

    Raises:
      ValueError: for a decay outside [0, 1].

    References: arXiv 2506.24119, role-conditioned advantage estimation.
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"role_baselines needs a decay in [0, 1], got {decay}.")
    returns_ER, baseline_R = np.asarray(returns_ER, np.float64), np.array(baseline_R, np.float64)
    before_ER = np.empty_like(returns_ER)
    for e, returns_R in enumerate(returns_ER):
        before_ER[e] = baseline_R
        moved_R = decay * baseline_R + (1 - decay) * returns_R
        baseline_R = np.where(np.isnan(returns_R), baseline_R, moved_R)
    return before_ER, baseline_R
