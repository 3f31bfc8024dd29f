import itertools
import math

import numpy as np
import pytest

from jaxevo.run.statistics import (
    bootstrap_interval,
    majority_at_k,
    mean_interval,
    paired_bootstrap,
    pass_at_k,
    sign_flip_p,
    student_quantile,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [(8, 2, 1, 0.25), (8, 2, 4, 0.785714), (8, 2, 8, 1.0), (8, 0, 8, 0.0), (4, 1, 2, 0.5)],
)
def test_pass_at_k_worked_numbers(n, c, k, expected):
    assert float(pass_at_k(n, c, k)) == pytest.approx(expected, abs=5e-7)  # six digits are given


def test_pass_at_k_is_the_mean_over_subsets():
    for n, c in ((5, 0), (5, 2), (6, 5), (6, 6)):
        flags = [1] * c + [0] * (n - c)
        for k in range(1, n + 1):
            subsets = [max(s) for s in itertools.combinations(flags, k)]
            # products of at most six float64 ratios
            assert float(pass_at_k(n, c, k)) == pytest.approx(np.mean(subsets), abs=1e-14)


def test_pass_at_k_of_many_problems_and_large_counts():
    n, c = np.array([[8], [1000]]), np.array([0, 2, 8])
    found = pass_at_k(n, c, 4)
    assert found.shape == (2, 3)
    for (i, j), value in np.ndenumerate(found):
        exact = 1 - math.comb(int(n[i, 0] - c[j]), 4) / math.comb(int(n[i, 0]), 4)
        assert value == pytest.approx(exact, abs=1e-12)
    tiny = float(pass_at_k(10_000, 1, 5_000))  # C(n, k) itself overflows a float
    assert tiny == pytest.approx(0.5, abs=1e-11)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 0), (4, 1, 5)])
def test_pass_at_k_ranges(n, c, k):
    with pytest.raises(ValueError, match="pass_at_k needs 0 <= c <= n and 1 <= k <= n"):
        pass_at_k(n, c, k)


def brute_force_majority(answers, correct, k):
    flags, wins = dict(zip(answers, correct, strict=True)), []
    for order in itertools.permutations(answers, k):
        votes = [a for a in order if a is not None]
        first_seen_best = max(votes, key=votes.count, default=None)  # max keeps the first
        wins.append(first_seen_best is not None and flags[first_seen_best])
    return np.mean(wins)


@pytest.mark.parametrize(
    ("answers", "right"),
    [
        ("AAAB", "A"),
        ("AAAB", "B"),
        ("ABCDE", "A"),
        ("AABBC", "A"),
        ("AABBCC", "AB"),
        ("AAABBC", "C"),
        ("AAB___", "A"),
        ("AB____", "B"),
        ("______", ""),
    ],
)
def test_majority_at_k_equals_all_orders(answers, right):
    answers = [None if a == "_" else a for a in answers]
    correct = [a is not None and a in right for a in answers]
    for k in range(1, len(answers) + 1):
        expected = brute_force_majority(answers, correct, k)
        # an exact fraction against a mean of up to 720 ones and zeros
        assert majority_at_k(answers, correct, k) == pytest.approx(expected, abs=1e-12)


def test_majority_at_k_worked_numbers():
    answers, correct = list("AAAB"), [True, True, True, False]
    # k = 2: 3 of 6 pairs are AA, 3 are a tie that A wins half the time
    values = [majority_at_k(answers, correct, k) for k in (1, 2, 3, 4)]
    assert values == [0.75, 0.75, 1.0, 1.0]


def test_majority_at_k_of_many_answers():
    answers = [str(i) for i in range(64)]
    correct = [i == 3 for i in range(64)]
    for k in (1, 16, 64):  # all differ: every vote is a tie
        assert majority_at_k(answers, correct, k) == pytest.approx(1 / 64, abs=1e-15)
    answers, correct = ["a"] * 33 + ["b"] * 31, [True] * 33 + [False] * 31
    assert majority_at_k(answers, correct, 64) == 1.0
    odd = majority_at_k(answers, correct, 31)
    hypergeometric = sum(math.comb(33, m) * math.comb(31, 31 - m) for m in range(16, 32))
    assert odd == pytest.approx(hypergeometric / math.comb(64, 31), abs=1e-15)


def test_majority_at_k_faults():
    with pytest.raises(ValueError, match="answer 'A' is called both right and wrong"):
        majority_at_k(["A", "A"], [True, False], 1)
    for k, flags in ((0, [True]), (2, [True]), (1, [])):
        with pytest.raises(ValueError, match="as many flags as answers"):
            majority_at_k(["A"], flags, k)


def test_wilson_worked_numbers():
    mean, low, high = wilson_interval(8, 10)
    assert (mean, low, high) == pytest.approx((0.8, 0.490162, 0.943318), abs=1e-6)
    # 0 of n: the upper end is z^2 / (n + z^2), with z^2 = 3.841459
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.0, 3.841459 / 13.841459), abs=1e-7)
    assert wilson_interval(10, 10) == pytest.approx((1.0, 10 / 13.841459, 1.0), abs=1e-7)
    assert wilson_interval(0, 5).low == 0.0
    assert wilson_interval(5, 5).high == 1.0


def test_wilson_inverts_the_score_test_and_narrows_with_trials():
    for successes, trials, level, z in ((3, 17, 0.9, 1.644854), (60, 64, 0.99, 2.575829)):
        share, low, high = wilson_interval(successes, trials, level)
        for end in (low, high):
            distance = abs(share - end) / math.sqrt(end * (1 - end) / trials)
            assert distance == pytest.approx(z, abs=1e-5)  # z has six digits
    widths = [np.ptp(wilson_interval(n // 2, n)[1:]) for n in (10, 100, 1000)]
    assert widths[0] > widths[1] > widths[2]


def test_wilson_faults():
    for successes, trials in ((-1, 4), (5, 4), (0, 0)):
        with pytest.raises(ValueError, match="wilson_interval needs"):
            wilson_interval(successes, trials)
    for level in (0.0, 1.0, 95.0, math.nan):
        with pytest.raises(ValueError, match=r"confidence level lies in \(0, 1\)"):
            wilson_interval(1, 2, level)


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [(1, 12.706205), (2, 4.302653), (3, 3.182446), (4, 2.776445), (10, 2.228139), (60, 2.000298)],
)
def test_student_quantiles_of_the_tables(degrees, expected):
    assert student_quantile(0.975, degrees) == pytest.approx(expected, abs=1e-6)


def test_mean_interval_worked_numbers():
    # Problem means 0.5, 1.0, 0.0: mean 0.5, s = 0.5, standard error 0.288675, t(2) = 4.302653.
    interval = mean_interval([[1, 0, 1, 0], [1, 1], [0]])
    assert interval.mean == 0.5
    assert interval.high - 0.5 == pytest.approx(0.288675 * 4.302653, abs=3e-6)
    assert interval.low + interval.high == pytest.approx(1.0, abs=1e-12)
    narrow = mean_interval([[1, 0, 1, 0], [1, 1], [0]], 0.5)
    assert narrow.high - 0.5 == pytest.approx(0.288675 * 0.816497, abs=3e-6)


def test_repeating_samples_of_a_problem_adds_no_certainty():
    values = [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]
    assert mean_interval([v * 50 for v in values]) == mean_interval(values)


def test_mean_interval_covers_its_level():
    # 400 experiments of 6 problems whose own rates differ; 95 % +- 4 standard deviations of 1.1 %.
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        rates = rng.normal(0.4, 0.2, size=6)
        values = rates[:, None] + rng.normal(0, 0.1, size=(6, 8))
        interval = mean_interval(list(values))
        hits += interval.low <= 0.4 <= interval.high
    assert abs(hits / 400 - 0.95) < 0.044


def test_mean_interval_edges():
    assert mean_interval([[1.0, 0.0]]) == (0.5, -math.inf, math.inf)
    assert mean_interval([[1.0]] * 5) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="got no problem"):
        mean_interval([])
    for bad in ([], [math.nan], [math.inf]):
        with pytest.raises(ValueError, match="problem 1 has"):
            mean_interval([[1.0], bad])


def test_bootstrap_interval_is_that_of_all_resamples():
    # All 4^4 resamples of four values, each as likely; 10,000 draws move a quantile by a step.
    values = [0.0, 0.25, 1.0, 1.0]
    means = np.sort([np.mean(c) for c in itertools.product(values, repeat=4)])
    interval = bootstrap_interval(values)
    assert interval.mean == 0.5625
    for end, share in ((interval.low, 0.025), (interval.high, 0.975)):
        assert means[int((share - 0.006) * 256)] <= end <= means[int((share + 0.006) * 256)]
    narrow = bootstrap_interval(values, 0.5)
    assert interval.low < narrow.low < narrow.high < interval.high


def test_bootstrap_interval_is_near_the_normal_one_for_many_problems_and_seeded():
    value_P = np.random.default_rng(1).random(5000)
    interval = bootstrap_interval(value_P)
    half = 1.959964 * value_P.std() / math.sqrt(5000)
    # the quantiles of 10,000 resamples have a standard error of 2.7 % of the normal's half width
    assert interval.high - interval.mean == pytest.approx(half, rel=0.08)
    assert interval.mean - interval.low == pytest.approx(half, rel=0.08)
    assert bootstrap_interval(value_P) == interval
    assert bootstrap_interval(value_P, seed=1) != interval
    assert bootstrap_interval([0.5] * 3) == (0.5, 0.5, 0.5)


def test_sign_flips_of_few_differences_are_exact():
    assert sign_flip_p([1.0, 1.0, 1.0]) == 0.25  # 2 of 8
    assert sign_flip_p([0.0, 0.0]) == 1.0
    assert sign_flip_p([3.0, 1.0, 0.0]) == 0.5  # |±3 ±1| >= 4 for 2 of 4
    assert sign_flip_p([0.1] * 5 + [-0.2] * 2) == pytest.approx(
        np.mean(
            [
                abs(np.dot(s, [1, 1, 1, 1, 1, 2, 2])) >= 1
                for s in itertools.product((-1, 1), repeat=7)
            ]
        )
    )


def test_sign_flips_of_many_differences_agree_with_the_binomial_test():
    # 15 of 20 problems changed for the better: p = 2 P(X >= 15) = 0.041389
    exact = 2 * sum(math.comb(20, j) for j in range(15, 21)) / 2**20
    found = sign_flip_p([1.0] * 15 + [-1.0] * 5 + [0.0] * 9)
    assert found == pytest.approx(exact, abs=0.008)  # four standard errors of 10,000 draws
    assert sign_flip_p([1.0] * 30) == 1 / 10_001


def test_resampling_faults():
    for fn in (bootstrap_interval, sign_flip_p):
        for bad in ([], [math.nan], [[1.0]]):
            with pytest.raises(ValueError, match=f"{fn.__name__} needs one finite value"):
                fn(bad)


def test_paired_bootstrap_draws_seeds_and_problems():
    rng = np.random.default_rng(0)
    seeds, problems = rng.normal(size=(12, 1)), rng.normal(size=(1, 40))
    found = paired_bootstrap(0.3 + 0.5 * seeds + 0.2 * problems)
    values = 0.3 + 0.5 * seeds[:, 0], 0.2 * problems[0]
    assert found.mean == pytest.approx(sum(v.mean() for v in values))
    # Of additive parts the resampled means are sums of those of either; variances n-divided.
    spread = math.sqrt(sum(v.var() / len(v) for v in values))
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(spread, rel=0.06)
    alone = paired_bootstrap(values[1][None])
    assert (alone.high - alone.low) / (2 * 1.96) == pytest.approx(
        values[1].std() / 40**0.5, rel=0.05
    )
    assert paired_bootstrap([[0.25, 0.25], [0.25, 0.25]]) == (0.25, 0.25, 0.25)
    for bad in ([], [[]], [0.0, 1.0], [[0.0, np.nan]]):
        with pytest.raises(ValueError, match="a finite value per seed and problem"):
            paired_bootstrap(bad)
