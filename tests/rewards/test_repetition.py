import collections
import math

import numpy as np
import pytest

from jaxevo.rewards.repetition import average_linkage, bleu, repeated, shared_grams


def reference_bleu(reference, text):
    """From the formula, with lists: BP times the geometric mean of clipped precisions."""
    precisions = []
    for n in (1, 2, 3, 4):
        told = [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]
        known = [tuple(reference[i : i + n]) for i in range(len(reference) - n + 1)]
        matched = sum(min(told.count(g), known.count(g)) for g in set(told))
        precisions.append((matched or 0.1) / max(len(told), 1))
        if n == 1 and not matched:
            return 0.0
    brevity = 1.0 if len(text) > len(reference) else math.exp(1 - len(reference) / len(text))
    return brevity * math.prod(precisions) ** 0.25


def test_bleu_by_hand():
    # 3/4 words, 1/3 pairs, no triple of 2 and no four of 1: (3/4 · 1/3 · 0.1/2 · 0.1/1)^(1/4)
    assert bleu("7+8=", "7+9=") == pytest.approx((3 / 4 / 3 * 0.05 * 0.1) ** 0.25, rel=1e-12)
    assert bleu("7+8=", "7+8=") == pytest.approx(1.0, abs=1e-12)
    assert bleu("abcdefgh", "abcd") == pytest.approx(math.exp(-1), rel=1e-12)  # brevity alone
    assert bleu("abcd", "efgh") == 0.0
    assert bleu("abcd", "") == bleu("", "abcd") == 0.0
    assert bleu(["a"], ["a"]) == pytest.approx(0.1**0.75, rel=1e-12)  # too short for pairs


def test_bleu_of_random_texts():
    rng = np.random.default_rng(0)
    for _ in range(200):
        one, other = ("".join(rng.choice(list("abc"), rng.integers(1, 9))) for _ in range(2))
        assert bleu(one, other) == pytest.approx(reference_bleu(one, other), rel=1e-12)


def reference_clusters(distance, cut):
    clusters = [[n] for n in range(len(distance))]
    while len(clusters) > 1:
        means = {
            (i, j): np.mean([distance[a, b] for a in clusters[i] for b in clusters[j]])
            for j in range(len(clusters))
            for i in range(j)
        }
        (i, j), least = min(means.items(), key=lambda item: item[1])
        if least >= cut:
            break
        clusters[i] += clusters.pop(j)
    return {frozenset(cluster) for cluster in clusters}


def as_sets(labels):
    found = collections.defaultdict(set)
    for point, label in enumerate(labels):
        found[label].add(point)
    return {frozenset(points) for points in found.values()}


@pytest.mark.parametrize("seed", range(8))
def test_average_linkage_is_that_of_all_pairs(seed):
    distance = np.random.default_rng(seed).random((12, 12))
    distance = np.triu(distance, 1) + np.triu(distance, 1).T
    for cut in (0.0, 0.2, 0.4, 0.6, 2.0):
        found = as_sets(average_linkage(distance, cut=cut))
        assert found == reference_clusters(distance, cut)


def test_a_point_of_a_size_is_that_many_points():
    position = np.array([0.0, 0.3, 0.7, 2.0, 2.1])
    size = np.array([3, 1, 2, 1, 4])
    many = np.repeat(np.arange(5), size)
    near = np.abs(position[:, None] - position)
    for cut in (0.35, 0.5, 0.65):
        label = average_linkage(near, cut=cut, size_U=size)
        assert as_sets(label[many]) == as_sets(average_linkage(near[many][:, many], cut=cut))


def test_a_distance_at_the_cut_is_not_merged():
    distance = np.array([[0, 0.5], [0.5, 0]])
    assert average_linkage(distance, cut=0.5).tolist() == [0, 1]
    assert average_linkage(distance, cut=0.5 + 1e-9).tolist() == [0, 0]


def test_shares_of_a_batch():
    np.testing.assert_array_equal(repeated(["7+8="] * 6), np.ones(6))  # all the same
    texts = ["7+8=", "6*9=", "7+8=", "", "4-1=", "7+8=", ""]
    np.testing.assert_allclose(repeated(texts), np.array([3, 1, 3, 2, 1, 3, 2]) / 7, rtol=1e-12)
    assert repeated([]).shape == (0,)
    near = [f"the sum of two {kind} numbers".split() for kind in ("odd", "even")]
    # 5/6 words, 3/5 pairs, 2/4 triples, 1/3 fours
    assert bleu(*near) == pytest.approx((5 / 6 * 3 / 5 * 2 / 4 / 3) ** 0.25, rel=1e-12)
    assert repeated(near).tolist() == [1, 1]
    assert repeated(near, cut=0.4).tolist() == [0.5, 0.5]


def test_texts_too_short_for_bleu_still_repeat():
    np.testing.assert_array_equal(repeated([["a"], ["a"], ["b"]]), np.array([2, 2, 1]) / 3)


def test_shared_grams_by_hand():
    # pairs of abab: ab, ba, ab; bab has ba and ab once each
    assert shared_grams("abab", "bab", order=2) == pytest.approx(2 / 3, rel=1e-12)
    assert shared_grams("abab", "xababx") == 1.0
    assert shared_grams("15", "156") == shared_grams("15", "15") == 1.0  # too short for four
    assert shared_grams("15", "51") == shared_grams("", "15") == shared_grams("15", "") == 0.0
    words = ["take", "the", "ten", "over"]
    assert shared_grams([*words, "now"], ["we", *words]) == 0.5
