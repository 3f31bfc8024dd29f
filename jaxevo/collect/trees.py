"""Search trees of many problems side by side, as host arrays, and the rules that walk them.

What a node stands for (a conversation) and where values come from is the caller's affair.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxevo.types import Array


@dataclasses.dataclass
class Trees:
    """The nodes of all trees in one table; a parent stands before its children, -1 is no node.

    The first P nodes are the roots. children_MB: up to B children in the order in which they came;
    a node without any is a leaf. value_M: what is expected of a node, in [0, 1]. visits_M: how
    often a search passed. ended_M: leaves that are never expanded. Rows from `count` on are empty.
    """

    roots: int
    count: int
    parent_M: np.ndarray
    children_MB: np.ndarray
    value_M: np.ndarray
    visits_M: np.ndarray
    ended_M: np.ndarray

    @property
    def leaf(self) -> np.ndarray:
        return self.children_MB[:, 0] < 0


def plant(roots: int, *, branch: int, capacity: int) -> Trees:
    """Trees of one node each, with value 0 and no visit.

    Args:
      roots: P, the number of trees.
      branch: B, most children of a node.
      capacity: M, most nodes of all trees together, the roots included.
    """
    return Trees(
        roots=roots,
        count=roots,
        parent_M=np.full(capacity, -1),
        children_MB=np.full((capacity, branch), -1),
        value_M=np.zeros(capacity),
        visits_M=np.zeros(capacity, np.int64),
        ended_M=np.zeros(capacity, bool),
    )


def add_children(trees: Trees, parent_N: Array, value_N: Array, ended_N: Array) -> np.ndarray:
    """Adds N nodes below their parents, in order; returns their numbers.

    Raises:
      ValueError: when the table is full, or a parent has no room for another child.
    """
    new_N = np.arange(trees.count, trees.count + len(parent_N))
    if trees.count + len(new_N) > len(trees.parent_M):
        raise ValueError(
            f"{len(new_N)} nodes do not fit into trees with {trees.count} of {len(trees.parent_M)} "
            "nodes in use. Plant them with a larger capacity."
        )
    trees.parent_M[new_N], trees.value_M[new_N] = parent_N, value_N
    trees.ended_M[new_N] = ended_N
    for node, parent in zip(new_N, parent_N, strict=True):
        free_B = trees.children_MB[parent] < 0
        if not free_B.any():
            raise ValueError(f"node {parent} has {len(free_B)} children, and room for no more.")
        trees.children_MB[parent, free_B.argmax()] = node
    trees.count += len(new_N)
    return new_N


def uct(
    value: Array, visits: Array, parent_visits: Array, *, explore: float, unvisited: float
) -> np.ndarray:
    """V + c sqrt(2 ln N / n), and V + `unvisited` for a node that was never visited.

    Args:
      value: V, what is expected of a child.
      visits: n, how often a search passed it.
      parent_visits: N, of its parent, at least 1 where a child has been visited.
      explore: c, how much a rarely visited child is preferred.
      unvisited: what stands for the bonus at n = 0.
    """
    visits, parent_visits = np.asarray(visits), np.maximum(parent_visits, 1)
    bonus = explore * np.sqrt(2 * np.log(parent_visits) / np.maximum(visits, 1))
    return np.asarray(value) + np.where(visits > 0, bonus, unvisited)


def mixed(value: Array, best: Array, *, mix: float) -> np.ndarray:
    """(1 - mix) V + mix v_max: a value and the best one seen in a roll-out from there."""
    return (1 - mix) * np.asarray(value) + mix * np.asarray(best)


def select(trees: Trees, *, explore: float, unvisited: float) -> np.ndarray:
    """Walks every tree from its root to a leaf, to the child of the largest `uct` (the first of
    equals); returns the leaf of each tree, [P]."""
    node_P = np.arange(trees.roots)
    while not trees.leaf[node_P].all():
        child_PB = trees.children_MB[node_P]
        score_PB = uct(
            trees.value_M[child_PB],
            trees.visits_M[child_PB],
            trees.visits_M[node_P][:, None],
            explore=explore,
            unvisited=unvisited,
        )
        best_P = np.where(child_PB < 0, -np.inf, score_PB).argmax(1)
        down_P = child_PB[np.arange(len(node_P)), best_P]
        node_P = np.where(trees.leaf[node_P], node_P, down_P)
    return node_P


def best_child(trees: Trees, node_N: Array) -> np.ndarray:
    """The child of the largest value of each node (the first of equals); -1 for a leaf."""
    child_NB = trees.children_MB[node_N]
    value_NB = np.where(child_NB < 0, -np.inf, trees.value_M[child_NB])
    return child_NB[np.arange(len(child_NB)), value_NB.argmax(1)]


def back_up(trees: Trees, node_P: Array) -> None:
    """One visit more from these nodes, one of each tree, up to their roots; a node with visited
    children is worth their mean, weighted by visits: V = sum V_c n_c / sum n_c."""
    node_P = np.asarray(node_P)
    while len(node_P):
        trees.visits_M[node_P] += 1
        child_PB = trees.children_MB[node_P]
        visits_PB = np.where(child_PB < 0, 0, trees.visits_M[child_PB])
        total_P = visits_PB.sum(1)
        mean_P = (trees.value_M[child_PB] * visits_PB).sum(1) / np.maximum(total_P, 1)
        trees.value_M[node_P] = np.where(total_P > 0, mean_P, trees.value_M[node_P])
        node_P = trees.parent_M[node_P]
        node_P = node_P[node_P >= 0]
