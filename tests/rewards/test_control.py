import math

import numpy as np
import pytest

from jaxevo.rewards import random_reward
from jaxevo.types import row_uid


def scores(seed, share, count=2000):
    uids = [row_uid(3, 0, n // 8, n % 8) for n in range(count)]
    return np.array([random_reward(seed, uid, share=share).score for uid in uids])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_share_of_ones(share):
    # Four standard deviations of a Bernoulli mean.
    assert abs(scores(0, share).mean() - share) < 4 * math.sqrt(share * (1 - share) / 2000)


def test_a_pure_function_of_seed_and_row():
    np.testing.assert_array_equal(scores(1, 0.5), scores(1, 0.5))
    agree = (scores(1, 0.5) == scores(2, 0.5)).mean()
    assert abs(agree - 0.5) < 4 * 0.5 / math.sqrt(2000)
    # Words of seed and uid are not simply joined: these two would collide.
    pairs = [(1, 2 + 2**32 * n) for n in range(64)], [(1 + 2**32 * 2, n) for n in range(64)]
    left, right = ([random_reward(*pair).score for pair in side] for side in pairs)
    assert left != right


def test_a_larger_share_rewards_a_superset():
    assert (scores(5, 0.3) <= scores(5, 0.6)).all()
    assert scores(5, 0.0).sum() == 0
    assert scores(5, 1.0).all()


def test_verdict_and_faults():
    assert random_reward(0, 1, share=1.0).status == "pass"
    assert random_reward(0, 1, share=0.0).status == "fail"
    assert random_reward(0, 1).feedback == ""
    for seed, uid, share in ((-1, 0, 0.5), (0, -1, 0.5), (0, 0, 1.5), (0, 0, math.nan)):
        with pytest.raises(ValueError, match="random_reward needs seed >= 0"):
            random_reward(seed, uid, share=share)
