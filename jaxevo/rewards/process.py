"""Rewards of the steps of a process, inferred from where the process can end."""

from __future__ import annotations

import numpy as np

from jaxevo.types import Array


def infer_values(parent_M: Array, correct_M: Array) -> tuple[np.ndarray, np.ndarray]:
    """Values of the nodes of search trees, from those leaves that turned out to be correct.

    v_root = 0,   v = max(0, v_parent + (1 - v_parent) r / m)

    r is 1 where a correct leaf lies at or below a node, else -1. m counts the nodes from there to
    the nearest such leaf, both included: 1 at a correct leaf. A node without one takes the m of its
    nearest ancestor that has one. On the way to the only correct leaf, at depth D, v = depth / D; a
    step that leaves that way is worth less than where it started.

    Args:
      parent_M: each node's parent, which stands before it; -1 at a root. Any number of trees.
      correct_M: bool, leaves whose answer was verified to be right.

    Returns:
      v [M] float64 in [0, 1]; emit [M] bool, the nodes that have a value to learn: all but the
      roots, in trees with a correct leaf. v is 0 elsewhere.

    Raises:
      ValueError: for a parent that does not stand before its child.

    References: ReST-MCTS*, arXiv 2406.03816, official code.
    """
    parent_M, correct_M = np.asarray(parent_M, np.int64), np.asarray(correct_M, bool)
    late_M = parent_M >= np.arange(len(parent_M))
    if late_M.any():
        node = int(late_M.argmax())
        raise ValueError(
            f"node {node} has the parent {parent_M[node]}, but a parent must stand before its "
            "children. Number the nodes in the order in which they were made."
        )
    distance_M = np.where(correct_M, 1.0, np.inf)
    for node in range(len(parent_M) - 1, -1, -1):
        if parent_M[node] >= 0:
            parent = parent_M[node]
            distance_M[parent] = min(distance_M[parent], distance_M[node] + 1)
    sign_M = np.where(np.isfinite(distance_M), 1.0, -1.0)
    value_M = np.zeros(len(parent_M))
    for node, parent in enumerate(parent_M):
        if parent < 0:
            continue
        if sign_M[node] < 0:
            distance_M[node] = distance_M[parent]
        gain = (1 - value_M[parent]) * sign_M[node] / distance_M[node]
        value_M[node] = max(0.0, value_M[parent] + gain)
    return value_M, np.isfinite(distance_M) & (parent_M >= 0)
