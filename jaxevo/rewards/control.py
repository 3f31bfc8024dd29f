"""Rewards that know nothing: the control arms of an experiment."""

from __future__ import annotations

import numpy as np

from jaxevo.types import Verdict


def random_reward(seed: int, uid: int, *, share: float = 0.5) -> Verdict:
    """r ~ Bernoulli(share), a pure function of the run's seed and the row's uid.

    A run under this reward shows how much of a gain comes from the training itself (shorter
    answers, a sharper distribution) and not from the reward. The draw is u < share with
    u = Philox(SeedSequence(seed, spawn_key=(uid,))) / 2⁶⁴, so it does not depend on the order of
    rows or on the number of hosts, and rows rewarded at a small share stay rewarded at a larger.

    Args:
      seed: the run's seed, >= 0.
      uid: the row's uid, >= 0.
      share: probability of reward 1, in [0, 1].

    Returns:
      pass with score 1 or fail with score 0, without feedback.

    Raises:
      ValueError: for arguments outside their range.
    """
    if seed < 0 or uid < 0 or not 0.0 <= share <= 1.0:
        raise ValueError(
            f"random_reward needs seed >= 0, uid >= 0 and share in [0, 1], got seed={seed}, "
            f"uid={uid}, share={share}."
        )
    sequence = np.random.SeedSequence(int(seed), spawn_key=(int(uid),))
    bits = int(np.random.Philox(sequence).random_raw())
    return Verdict("pass", 1.0) if bits < share * 2.0**64 else Verdict("fail", 0.0)
