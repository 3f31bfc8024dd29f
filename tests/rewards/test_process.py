"""Step values from the ends of trees: worked numbers, a slow version, what must always hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxevo.rewards import infer_values

CHAIN = [-1, 0, 1, 2]


def test_a_chain_to_a_right_end_rises_evenly():
    value_M, emit_M = infer_values(CHAIN, [0, 0, 0, 1])
    np.testing.assert_allclose(value_M, [0, 1 / 3, 2 / 3, 1], atol=1e-12)
    np.testing.assert_array_equal(emit_M, [False, True, True, True])


def test_wrong_siblings_of_a_chain():
    parent_M = [*CHAIN, 1, 0, 4]  # siblings at depths 2 and 1, and a step after the first
    value_M, emit_M = infer_values(parent_M, [0, 0, 0, 1, 0, 0, 0])
    # 1/3 - (2/3)/3; max(0, -1/4); and from 1/9 on, still with the m = 3 of the node they left.
    np.testing.assert_allclose(value_M[4:], [1 / 9, 0, 0], atol=1e-12)
    assert emit_M[1:].all()


def test_a_tree_without_a_right_end_teaches_nothing():
    value_M, emit_M = infer_values([-1, -1, 0, 1, 2, 3], [0, 0, 0, 0, 1, 0])  # two trees
    np.testing.assert_allclose(value_M, [0, 0, 0.5, 0, 1, 0])
    np.testing.assert_array_equal(emit_M, [0, 0, 1, 0, 1, 0])


def test_a_parent_stands_before_its_child():
    with pytest.raises(ValueError, match="node 0 has the parent 1, but a parent must stand before"):
        infer_values([1, -1], [False, True])


# ---------------------------------------------------------------------------- any tree
@st.composite
def forests(draw):
    parent_M = [-1]
    for node in range(1, draw(st.integers(2, 14))):
        parent_M.append(draw(st.integers(-1, node - 1)))
    leaves = set(range(len(parent_M))) - set(parent_M)
    return parent_M, [n in leaves and draw(st.booleans()) for n in range(len(parent_M))]


def slow_values(parent_M, correct_M):
    """By definition: all distances to all right ends, then each value from the root's by itself."""
    count = len(parent_M)

    def path(node):
        return [node] if parent_M[node] < 0 else [*path(parent_M[node]), node]

    def reach(node):
        ends = [path(end) for end in range(count) if correct_M[end]]
        return min((len(p) - p.index(node) for p in ends if node in p), default=None)

    values = []
    for node in range(count):
        v, m = 0.0, reach(path(node)[0])
        for step in path(node)[1:]:
            known = reach(step)
            m = m if known is None else known
            if m is not None:
                v = max(0.0, v + (1 - v) * (1 if known is not None else -1) / m)
        values.append(v)
    return values


@settings(max_examples=200, deadline=None)
@given(forests())
def test_values_are_those_of_a_slow_version_and_keep_their_order(forest):
    parent_M, correct_M = forest
    value_M, emit_M = infer_values(parent_M, correct_M)
    np.testing.assert_allclose(value_M, slow_values(parent_M, correct_M), atol=1e-12)
    assert ((value_M >= 0) & (value_M <= 1)).all()
    reached = {n for n, c in enumerate(correct_M) if c}
    for node in reversed(range(len(parent_M))):
        if node in reached and parent_M[node] >= 0:
            reached.add(parent_M[node])
            assert value_M[node] >= value_M[parent_M[node]]
        elif parent_M[node] >= 0:
            assert value_M[node] <= value_M[parent_M[node]]
    np.testing.assert_allclose(value_M[np.array(correct_M, bool) & emit_M], 1.0, atol=1e-12)
