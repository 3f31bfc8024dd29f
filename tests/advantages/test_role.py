import numpy as np
import pytest

from jaxevo.advantages.role import role_baselines


def test_three_games_by_hand():
    returns_ER = [(1, -1), (1, -1), (-1, 1)]
    before_ER, after_R = role_baselines(returns_ER, np.zeros(2), decay=0.95)
    np.testing.assert_allclose(
        returns_ER - before_ER, [(1, -1), (0.95, -0.95), (-1.0975, 1.0975)], rtol=1e-12
    )
    np.testing.assert_allclose(after_R, (0.042625, -0.042625), rtol=1e-12)


def test_a_constant_reward_loses_its_advantage_by_the_decay_per_game():
    before_ER, _ = role_baselines(np.ones((20, 1)), np.zeros(1), decay=0.95)
    np.testing.assert_allclose(1 - before_ER[:, 0], 0.95 ** np.arange(20), rtol=1e-12)


def test_rounds_continue_where_the_last_one_ended():
    returns_ER = np.random.default_rng(0).choice([-1.5, -1, 0, 0.5, 1], (30, 2))
    whole, last = role_baselines(returns_ER, np.zeros(2), decay=0.9)
    first, middle = role_baselines(returns_ER[:11], np.zeros(2), decay=0.9)
    rest, end = role_baselines(returns_ER[11:], middle, decay=0.9)
    np.testing.assert_array_equal(np.concatenate((first, rest)), whole)
    np.testing.assert_array_equal(end, last)


def test_a_role_that_was_not_played_keeps_its_baseline():
    returns_ER = np.array([(1, np.nan), (np.nan, 3), (1, np.nan)])
    before_ER, after_R = role_baselines(returns_ER, np.zeros(2), decay=0.5)
    np.testing.assert_array_equal(before_ER, [(0, 0), (0.5, 0), (0.5, 1.5)])
    np.testing.assert_array_equal(after_R, (0.75, 1.5))


def test_a_decay_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"decay in \[0, 1\], got 1.5"):
        role_baselines(np.ones((1, 2)), np.zeros(2), decay=1.5)
