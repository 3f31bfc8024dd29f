"""How much a batch of texts repeats itself: BLEU distances, clusters, and each text's share."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from jaxevo.types import Array

ORDERS = (1, 2, 3, 4)  # n-grams of BLEU-4
SMALLEST = 0.1  # what method 1 counts for n-grams without a match


def bleu(reference: Sequence[str], text: Sequence[str]) -> float:
    """BLEU-4 of one text against one reference, in [0, 1].

    BP · Πₙ pₙ^(1/4), n = 1..4, pₙ the clipped share of the text's n-grams that the reference has,
    BP = min(1, exp(1 − |reference| / |text|)). Where no n-gram matches its count is 0.1 (smoothing
    method 1); where no word matches the whole is 0.

    References:
      Chen and Cherry 2014, A systematic comparison of smoothing techniques for sentence-level
      BLEU; `nltk.translate.bleu_score.sentence_bleu`.
    """
    if not set(reference) & set(text):
        return 0.0
    logs = 0.0
    for order in ORDERS:
        told, known = _grams(text, order), _grams(reference, order)
        matches = (told & known).total() or SMALLEST
        logs += math.log(matches / max(told.total(), 1)) / len(ORDERS)
    return math.exp(logs + min(0.0, 1.0 - len(reference) / len(text)))


def shared_grams(text: Sequence[str], source: Sequence[str], *, order: int = 4) -> float:
    """Share of a text's n-grams that a source has, counted as often as both do, in [0, 1].

    Of a text that is shorter than n words or characters, of what there is; 0 for an empty one.
    """
    if not text:
        return 0.0
    own, others = (_grams(side, min(order, len(text))) for side in (text, source))
    return (own & others).total() / own.total()


def _grams(text: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(text[start:] for start in range(order)), strict=False))


def average_linkage(distance_UU: Array, *, cut: float, size_U: Array | None = None) -> np.ndarray:
    """Agglomerative clusters: merges the two nearest while their mean distance is below `cut`.

    Args:
      distance_UU: symmetric, >= 0.
      cut: the distance at which clusters are no longer merged.
      size_U: how many equal points each one stands for; None for one.

    Returns:
      labels [U], the cluster of each point, named by its first one.
    """
    distance_UU = np.array(distance_UU, np.float64)
    size_U = np.ones(len(distance_UU)) if size_U is None else np.array(size_U, np.float64)
    label_U = np.arange(len(distance_UU))
    np.fill_diagonal(distance_UU, np.inf)
    while distance_UU.size and distance_UU.min() < cut:
        kept, gone = sorted(divmod(int(distance_UU.argmin()), len(distance_UU)))
        sizes = size_U[[kept, gone]]
        merged_U = sizes @ distance_UU[[kept, gone]] / sizes.sum()
        distance_UU[kept], distance_UU[:, kept] = merged_U, merged_U
        distance_UU[gone], distance_UU[:, gone] = np.inf, np.inf
        distance_UU[kept, kept] = np.inf
        size_U[kept] = sizes.sum()
        label_U[label_U == gone] = kept
    return label_U


def repeated(texts: Sequence[Sequence[str]], *, cut: float = 0.5) -> np.ndarray:
    """Size of each text's cluster over the size of the batch, [N] in (0, 1].

    Clusters are those of average linkage under the distance 1 − BLEU; equal texts have distance 0.
    BLEU is not symmetric: of two texts the one seen first is measured against the other.

    Args:
      texts: each a sequence of words, or of characters.
      cut: as in `average_linkage`.

    References:
      arXiv 2508.05004 and 2601.22628. Their distance of equal texts under four words is not 0.
    """
    keys = [tuple(text) for text in texts]
    counts = Counter(keys)
    unique = list(counts)
    distance_UU = np.zeros((len(unique), len(unique)))
    for later in range(len(unique)):
        for first in range(later):
            distance_UU[first, later] = 1.0 - bleu(unique[later], unique[first])
    distance_UU += distance_UU.T
    size_U = np.array([counts[key] for key in unique])
    label_U = average_linkage(distance_UU, cut=cut, size_U=size_U)
    total = np.bincount(label_U, size_U)
    share = dict(zip(unique, total[label_U] / max(len(keys), 1), strict=True))
    return np.array([share[key] for key in keys])
