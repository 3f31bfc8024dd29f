import numpy as np
import pytest

from jaxevo.rewards.vote import agreement, bell, consistency, majority, undecided


def test_the_majority_wins_and_empty_answers_cannot():
    assert majority(["7", "8", "8", "7"]) == "7"  # the first seen of equals
    assert majority(["", "", "", "8"]) == "8"
    assert majority(["", ""]) == ""
    assert majority([]) == ""
    np.testing.assert_array_equal(agreement(["A", "A", "A", "B"]), [1, 1, 1, 0])
    np.testing.assert_array_equal(agreement(["", "8", ""]), [0, 1, 0])
    np.testing.assert_array_equal(agreement(["", ""]), [0, 0])


def test_consistency_counts_all_answers_and_is_0_where_most_say_nothing():
    assert consistency(["4"] * 5 + ["5"] * 3 + ["", ""]) == 0.5
    assert consistency(["4"] * 4 + [""] * 5 + ["5"]) == 0.0
    assert consistency([""]) == 0.0
    assert consistency(["4", ""]) == 0.5
    with pytest.raises(ValueError, match="needs at least one"):
        consistency([])


def test_the_bell():
    worked = {0: 0, 0.1: 0.293470, 0.3: 0.811213, 0.5: 1, 0.7: 0.811213, 1: 0}
    for share, value in worked.items():
        assert bell(share) == pytest.approx(value, abs=5e-7)  # six decimals were worked
    assert bell(0.3, sharpness=1.0) == pytest.approx(0.84, abs=1e-12)
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"share in \[0, 1\]"):
            bell(share)


@pytest.mark.parametrize("right", range(9))
def test_the_band_keeps_means_at_its_ends_and_inside(right):
    rewards = [1.0] * right + [0.0] * (8 - right)
    assert undecided(rewards) == (2 <= right <= 6)
    assert undecided(rewards, low=0.0, high=1.0)
