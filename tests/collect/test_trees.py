"""The rules of a tree search: worked numbers, and trees side by side as if each were alone."""

import numpy as np
import pytest

from jaxevo.collect.trees import add_children, back_up, best_child, mixed, plant, select, uct

RULE = {"explore": 0.4, "unvisited": 0.8}


def test_worked_numbers():
    assert uct(0.5, 2, 4, explore=0.4, unvisited=0.8) == pytest.approx(0.97096, abs=5e-6)
    assert uct(0.5, 0, 4, explore=0.4, unvisited=0.8) == pytest.approx(1.3)
    assert uct(0.75, 2, 5, explore=2**-0.5, unvisited=0.0) == pytest.approx(1.6471, abs=5e-5)
    assert mixed(0.6, 0.9, mix=0.5) == pytest.approx(0.75)
    trees = plant(1, branch=3, capacity=4)
    children = add_children(trees, [0, 0, 0], [0.75, 0.4, 0.2], [False] * 3)
    trees.visits_M[children[0]] = 1
    back_up(trees, [0])
    assert trees.value_M[0] == pytest.approx(0.75)
    assert trees.visits_M[0] == 1


def test_a_parent_is_worth_the_visited_mean_of_its_children_all_the_way_up():
    trees = plant(1, branch=2, capacity=7)
    a, b = add_children(trees, [0, 0], [0.2, 0.6], [False, False])
    c, d = add_children(trees, [a, a], [1.0, 0.0], [False, False])
    trees.visits_M[[b, c, d]] = [2, 3, 1]
    back_up(trees, [a])
    assert trees.value_M[a] == pytest.approx(0.75)
    assert trees.visits_M[[0, a, b]].tolist() == [1, 1, 2]
    assert trees.value_M[0] == pytest.approx((0.75 * 1 + 0.6 * 2) / 3)


def test_selection_prefers_new_nodes_then_value_and_then_what_was_seldom_visited():
    trees = plant(1, branch=3, capacity=4)
    x, y, z = add_children(trees, [0, 0, 0], [0.5, 0.9, 0.1], [False] * 3)
    trees.visits_M[[0, y]] = [1, 1]
    assert select(trees, **RULE) == [x]  # 0.5 + 0.8 against 0.9 + 0.4 sqrt(2 ln 1 / 1)
    trees.visits_M[[0, x, y, z]] = [9, 1, 7, 1]
    score = trees.value_M[[x, y, z]] + 0.4 * np.sqrt(2 * np.log(9) / trees.visits_M[[x, y, z]])
    assert select(trees, **RULE) == [[x, y, z][score.argmax()]] == [x]
    assert select(trees, explore=0.0, unvisited=0.0) == [y]
    assert best_child(trees, [0, x]).tolist() == [y, -1]


def grow(trees, rounds, value_of):
    """A search over numbered nodes, the value of the nth child of a node being value_of."""
    for _ in range(rounds):
        chosen = select(trees, **RULE)
        for node in chosen:
            width = trees.children_MB.shape[1]
            values = [value_of(trees, node, n) for n in range(width)]
            add_children(trees, [node] * width, values, [False] * width)
        trees.visits_M[best_child(trees, chosen)] += 1
        back_up(trees, chosen)


def named_value(trees, node, nth):
    """A number in [0, 1) that depends on the path alone, not on how nodes are numbered."""
    path = [nth]
    while trees.parent_M[node] >= 0:
        siblings = trees.children_MB[trees.parent_M[node]]
        path.append(int(np.flatnonzero(siblings == node)[0]))
        node = trees.parent_M[node]
    return hash(tuple(path)) % 997 / 997


def test_trees_side_by_side_grow_as_if_alone():
    alone, beside = plant(1, branch=2, capacity=41), plant(3, branch=2, capacity=123)
    grow(alone, 20, named_value)
    grow(beside, 20, named_value)

    def shape(trees, node):
        own = (round(trees.value_M[node], 9), int(trees.visits_M[node]))
        return own, [shape(trees, c) for c in trees.children_MB[node] if c >= 0]

    assert [shape(beside, root) for root in range(3)] == [shape(alone, 0)] * 3
    assert alone.visits_M[0] == 20
    inner = np.flatnonzero(~alone.leaf)
    visits_MB = alone.visits_M[alone.children_MB[inner]]
    mean = (alone.value_M[alone.children_MB[inner]] * visits_MB).sum(1) / visits_MB.sum(1)
    np.testing.assert_allclose(alone.value_M[inner], mean)


def test_what_does_not_fit_is_named():
    trees = plant(1, branch=1, capacity=2)
    with pytest.raises(ValueError, match="2 nodes do not fit into trees with 1 of 2 nodes in use"):
        add_children(trees, [0, 0], [0.0, 0.0], [False, False])
    trees = plant(1, branch=1, capacity=3)
    with pytest.raises(ValueError, match="node 0 has 1 children, and room for no more"):
        add_children(trees, [0, 0], [0.0, 0.0], [False, False])
