import numpy as np
import pytest
from numpy.testing import assert_array_equal

from jaxevo.advantages import (
    baseline_advantage,
    group_advantage,
    group_relative,
    leave_one_out,
    leave_one_out_advantage,
    zero_advantage,
)
from jaxevo.types import Batch, bind


def a_batch():
    n = 5
    return Batch(
        answers={},
        reward_N=np.array([1.0, 0, 0.5, 0.25, 9], np.float32),
        parts={},
        numbers={"baseline": np.array([0.5, -1, 0, 0.25, 0], np.float32)},
        group_N=np.array([0, 0, 1, 1, 0], np.int32),
        episode_N=np.zeros(n, np.int32),
        turn_N=np.zeros(n, np.int32),
        role_N=np.zeros(n, np.int32),
        uid_N2=np.zeros((n, 2), np.uint32),
        real_N=np.array([1, 1, 1, 1, 0], bool),
        temperature=np.float32(1),
    )


def test_the_adapters_hand_everything_on():
    batch = a_batch()
    arrays = {"reward_N": batch.reward_N, "group_N": batch.group_N, "real_N": batch.real_N}
    for options in ({}, {"scale": "none"}, {"ddof": 0}, {"epsilon": 0.5}):
        got = bind(group_advantage, **options)(batch)
        assert_array_equal(got, group_relative(**arrays, **options))
    assert_array_equal(leave_one_out_advantage(batch), leave_one_out(**arrays))
    assert_array_equal(zero_advantage(batch), np.zeros(5))


def test_the_singleton_rule_is_handed_on():
    batch = a_batch()
    alone = Batch(**{**vars(batch), "group_N": np.array([0, 0, 1, 2, 0], np.int32)})
    assert group_advantage(alone)[2] == 0.5
    assert group_advantage(alone, singleton="zero")[2] == 0


def test_a_misspelt_option_is_refused_when_it_is_bound():
    with pytest.raises(TypeError, match="no option 'sclae'"):
        bind(group_advantage, sclae="none")


def test_a_baseline_comes_with_the_rows():
    assert_array_equal(baseline_advantage(a_batch()), [0.5, 1, 0.5, 0, 9])
    with pytest.raises(ValueError, match=r"needs 'value' in the rows' numbers, which have \['base"):
        baseline_advantage(a_batch(), number="value")
