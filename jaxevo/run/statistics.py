"""Estimates with honest error bars, for evaluation reports."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from statistics import NormalDist
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """An estimate and its two-sided confidence interval."""

    mean: float
    low: float
    high: float


def pass_at_k(n: int | np.ndarray, c: int | np.ndarray, k: int) -> np.ndarray:
    """Chance that at least one of k samples is right, unbiased, from c right ones of n.

    pass@k = 1 − C(n−c, k) / C(n, k) = 1 − Π_{j<k} (n − c − j) / (n − j); 1 where n − c < k.

    Args:
      n: samples per problem, integers of any shape.
      c: right ones among them, 0 <= c <= n, of a shape that broadcasts with n.
      k: 1 <= k <= n.

    Returns:
      float64 array of the broadcast shape; its mean over problems is the reported number.

    Raises:
      ValueError: for counts outside their ranges.

    References:
      arXiv 2107.03374, eq. 1.
    """
    n, c = np.broadcast_arrays(np.asarray(n, np.int64), np.asarray(c, np.int64))
    if k < 1 or (n < k).any() or (c < 0).any() or (c > n).any():
        raise ValueError(f"pass_at_k needs 0 <= c <= n and 1 <= k <= n, got n={n}, c={c}, k={k}.")
    none_right = np.ones(n.shape)
    for j in range(k):
        none_right *= np.maximum(n - c - j, 0) / (n - j)
    return 1.0 - none_right


def majority_at_k(answers: Sequence[str | None], correct: Sequence[bool], k: int) -> float:
    """Chance that the most frequent answer of k of the n samples is right: exact, no bootstrap.

    The expectation over k samples drawn in random order without replacement. A tie goes to the
    answer seen first, which in random order is each of the tied answers with equal chance; so

      maj@k = Σ_{m,T,R} (R/T) · #{k-subsets whose top count m is reached by T answers, R of them
      right} / C(n, k).

    Args:
      answers: the n answers of one problem in a normal form; None casts no vote (no answer was
        found), and k samples without a vote are wrong.
      correct: whether each is right; the same answer must have the same flag.
      k: 1 <= k <= n.

    Returns:
      A probability; at k = 1 the share of right answers.

    Raises:
      ValueError: for lengths that differ, k outside its range, or an answer with both flags.
    """
    n = len(answers)
    if len(correct) != n or not 1 <= k <= n:
        raise ValueError(
            f"majority_at_k needs as many flags as answers and 1 <= k <= n, got {n} answers, "
            f"{len(correct)} flags and k={k}."
        )
    flags: dict[str, bool] = {}
    for answer, flag in zip(answers, correct, strict=True):
        if answer is not None and flags.setdefault(answer, bool(flag)) != bool(flag):
            raise ValueError(f"answer {answer!r} is called both right and wrong.")
    counts = Counter(answer for answer in answers if answer is not None)
    classes = [(count, flags[answer]) for answer, count in counts.items()]
    silent = n - sum(counts.values())
    won = sum(
        (_won_with_top_count(classes, silent, k=k, top=m) for m in range(1, k + 1)), Fraction(0)
    )
    return float(won / math.comb(n, k))


def _won_with_top_count(
    classes: Sequence[tuple[int, bool]], silent: int, *, k: int, top: int
) -> Fraction:
    # (samples drawn, answers at the top count, right ones among these) -> number of subsets
    ways: dict[tuple[int, int, int], int] = {
        (drawn, 0, 0): math.comb(silent, drawn) for drawn in range(min(silent, k) + 1)
    }
    for count, right in classes:
        grown: dict[tuple[int, int, int], int] = {}
        for (drawn, tied, good), number in ways.items():
            for taken in range(min(count, top, k - drawn) + 1):
                at_top = taken == top
                key = (drawn + taken, tied + at_top, good + (at_top and right))
                grown[key] = grown.get(key, 0) + number * math.comb(count, taken)
        ways = grown
    return sum(
        (
            Fraction(good * number, tied)
            for (d, tied, good), number in ways.items()
            if d == k and good
        ),
        Fraction(0),
    )


def wilson_interval(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share; holds its level near 0 and 1 too, within [0, 1].

    (p̂ + z²/2n ± z √(p̂(1 − p̂)/n + z²/4n²)) / (1 + z²/n), with z the normal quantile. It takes
    trials to be independent; for several samples per problem use `mean_interval`.

    Raises:
      ValueError: unless 0 <= successes <= trials, trials >= 1 and 0 < level < 1.
    """
    _check_level(level)
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(
            f"wilson_interval needs 0 <= successes <= trials and trials >= 1, got {successes} of "
            f"{trials}."
        )
    z, share = NormalDist().inv_cdf((1.0 + level) / 2.0), successes / trials
    middle = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1.0 - share) / trials + z * z / (4 * trials * trials))
    scale = 1.0 + z * z / trials
    low = 0.0 if successes == 0 else (middle - half) / scale
    high = 1.0 if successes == trials else (middle + half) / scale
    return Interval(share, low, high)


def mean_interval(
    values_by_problem: Sequence[Sequence[float] | np.ndarray], level: float = 0.95
) -> Interval:
    """Mean over problems, with an interval that knows that samples of a problem are alike.

    Each problem counts once, by its own mean x̄_p: mean = Σ x̄_p / P, standard error
    s / √P with s² = Σ (x̄_p − mean)² / (P − 1), times Student's quantile with P − 1 degrees of
    freedom. The interval is not cut at 0 and 1. The same serves for seeds: one value per seed.

    Args:
      values_by_problem: P sequences of finite numbers, at least one each; lengths may differ.
      level: in (0, 1).

    Returns:
      The interval; from -inf to inf for a single problem, which tells nothing of the spread.

    Raises:
      ValueError: for no problem, a problem without values, or values that are not finite.
    """
    _check_level(level)
    rows = [np.asarray(values, np.float64).reshape(-1) for values in values_by_problem]
    bad = [p for p, row in enumerate(rows) if not row.size or not np.isfinite(row).all()]
    if not rows or bad:
        what = f"problem {bad[0]} has {rows[bad[0]].tolist()}" if bad else "got no problem"
        raise ValueError(f"mean_interval needs finite values for each problem: {what}.")
    means = np.array([row.mean() for row in rows])
    mean = float(means.mean())
    if len(means) == 1:
        return Interval(mean, -math.inf, math.inf)
    half = student_quantile((1.0 + level) / 2.0, len(means) - 1)
    half *= float(means.std(ddof=1)) / math.sqrt(len(means))
    return Interval(mean, mean - half, mean + half)


RESAMPLES = 10_000  # the ends of a 95 % interval are then quantiles of 250 resamples each side


def bootstrap_interval(
    value_P: Sequence[float] | np.ndarray, level: float = 0.95, *, seed: int = 0
) -> Interval:
    """Mean over problems with the bootstrap's percentile interval.

    P values are drawn with replacement from the P values, 10,000 times; low and high are the
    (1 ± level)/2 quantiles of the means. It stays within the range of the values, so shares stay in
    [0, 1]. Where all values are equal it has no width, which says nothing of other problems. For a
    handful of values, such as seeds, `mean_interval` is the honest one.

    Args:
      value_P: one finite number per problem, e.g. its mean over samples; or, for two models on the
        same problems, the difference of theirs.
      level: in (0, 1).
      seed: of the resampling.

    Raises:
      ValueError: for no value, or values that are not finite.

    References: Efron 1979; Efron and Tibshirani 1993, section 13.3.
    """
    _check_level(level)
    value_P = _finite(value_P, "bootstrap_interval")
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [value_P[rng.integers(0, value_P.size, size)].mean(axis=1) for size in _chunks(value_P)]
    )
    low, high = np.quantile(means, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    mean = float(value_P.mean())
    return Interval(mean, min(float(low), mean), max(float(high), mean))  # rounding of equal values


def paired_bootstrap(
    difference_SP: Sequence[Sequence[float]] | np.ndarray, level: float = 0.95, *, seed: int = 0
) -> Interval:
    """Mean difference of two sides on the same seeds and problems, with a bootstrap's interval.

    Seeds and problems are both drawn with replacement, 10,000 times, and a resample's mean is over
    all pairs of them; low and high are the (1 ± level)/2 quantiles. Of a single seed it says
    nothing of others, and of a handful little: it is then too narrow.

    Args:
      difference_SP: one side less the other, finite, by seed and problem.
      level: in (0, 1).
      seed: of the resampling.

    Raises:
      ValueError: for no value, or values that are not finite.

    References: Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1 (2007).
    """
    _check_level(level)
    value_SP = np.asarray(difference_SP, np.float64)
    if value_SP.ndim != 2 or not value_SP.size or not np.isfinite(value_SP).all():
        raise ValueError(
            f"paired_bootstrap needs a finite value per seed and problem, got shape "
            f"{value_SP.shape}."
        )
    (S, P), rng = value_SP.shape, np.random.default_rng(seed)
    weight_RS = rng.multinomial(S, np.full(S, 1.0 / S), RESAMPLES) / S
    weight_RP = rng.multinomial(P, np.full(P, 1.0 / P), RESAMPLES) / P
    means = np.einsum("rs,sp,rp->r", weight_RS, value_SP, weight_RP, optimize=True)
    low, high = np.quantile(means, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    mean = float(value_SP.mean())
    return Interval(mean, min(float(low), mean), max(float(high), mean))


EXACT_BELOW = 14  # values up to which all signs are tried: 2¹³ of them


def sign_flip_p(difference_P: Sequence[float] | np.ndarray, *, seed: int = 0) -> float:
    """Two-sided p-value of paired differences: how often random signs give as large a mean.

    p = #{s ∈ {−1, 1}^P : |Σ s_p d_p| >= |Σ d_p|} / 2^P over all signs of up to 13 differences that
    are not zero; of more, (1 + #) / (1 + R) over R = 10,000 random signs.

    Args:
      difference_P: one finite number per problem, first model minus second.
      seed: of the random signs.

    Raises:
      ValueError: for no value, or values that are not finite.
    """
    differs = _finite(difference_P, "sign_flip_p")
    differs = differs[differs != 0.0]
    size = differs.size
    least = abs(differs.sum()) * (1.0 - 1e-12)  # sums in another order round differently
    if size < EXACT_BELOW:
        signs = 1 - 2 * (np.arange(2**size)[:, None] >> np.arange(size) & 1)
        return float(np.mean(np.abs(signs @ differs) >= least))
    rng = np.random.default_rng(seed)
    drawn = (2 * rng.integers(0, 2, shape) - 1 for shape in _chunks(differs))
    as_large = sum(int(np.sum(np.abs(sign @ differs) >= least)) for sign in drawn)
    return (1 + as_large) / (1 + RESAMPLES)


def _chunks(value_P: np.ndarray) -> list[tuple[int, int]]:
    """Shapes [resamples, P] of together RESAMPLES rows, of at most about 2²² entries each."""
    rows = max(1, min(RESAMPLES, 2**22 // max(1, value_P.size)))
    return [(min(rows, RESAMPLES - at), value_P.size) for at in range(0, RESAMPLES, rows)]


def _finite(values: Sequence[float] | np.ndarray, name: str) -> np.ndarray:
    value_P = np.asarray(values, np.float64)
    if value_P.ndim != 1 or not value_P.size or not np.isfinite(value_P).all():
        raise ValueError(
            f"{name} needs one finite value per problem, got shape {value_P.shape} with "
            f"{int(np.sum(~np.isfinite(value_P)))} values that are not finite."
        )
    return value_P


def student_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t at a probability in [0.5, 1), for 1, 2, ... degrees of freedom.

    Bisection on the exact distribution function (Abramowitz and Stegun 26.7.3 and 26.7.4).
    """
    low, high = 0.0, 1.0
    while _student_cdf(high, degrees) < probability:
        low, high = high, 2.0 * high
    for _ in range(100):
        middle = (low + high) / 2.0
        if _student_cdf(middle, degrees) < probability:
            low = middle
        else:
            high = middle
    return high


def _student_cdf(t: float, degrees: int) -> float:
    angle = math.atan2(t, math.sqrt(degrees))
    cosine2, odd = math.cos(angle) ** 2, degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0 if degrees == 1 else term
    for j in range(2 + odd, degrees, 2):
        term *= cosine2 * (j - 1) / j
        total += term
    inside = 2.0 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return (1.0 + inside) / 2.0


def _check_level(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise ValueError(f"a confidence level lies in (0, 1), got {level}.")
