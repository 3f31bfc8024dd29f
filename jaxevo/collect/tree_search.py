"""Value-guided search over the steps of solutions: trees of many problems, grown side by side.

A node is a conversation, an immutable row; an edge is one step, which a stop string ends. All new
nodes of a wave are sampled in one batch and scored in one batch.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from jaxevo.advantages import zero_advantage
from jaxevo.collect.lab import Lab, RolloutConfig
from jaxevo.collect.readings import probe_row, probe_values
from jaxevo.collect.table import by_group
from jaxevo.collect.trees import Trees, add_children, back_up, best_child, mixed, plant, select
from jaxevo.rewards import infer_values
from jaxevo.types import Objective, Row, Size, Sizes, Source, Task, TrainState, bind

Score: TypeAlias = Callable[[Sequence[Row]], np.ndarray]  # rows -> values [N]

SUCCESS = 0.5  # a row with a larger reward is right


@dataclasses.dataclass(frozen=True)
class Search:
    """How trees are grown.

    iterations: rounds of selection, expansion, simulation and back-propagation. branch: proposals
    of an expansion. roll_steps, roll_branch: longest roll-out in steps, and proposals of each.
    explore, unvisited: of `uct`. mix: share of a roll-out's best value. end_gate: a selected node
    of this value is not expanded any more. step_tokens: longest step. stop: what ends a step.
    until_gate: a tree stops growing at the first such node, as a search for one answer does.
    """

    iterations: int
    branch: int
    roll_steps: int
    explore: float
    unvisited: float
    mix: float
    end_gate: float
    step_tokens: int
    stop: tuple[str, ...]
    roll_branch: int = 1
    until_gate: bool = False

    def __post_init__(self) -> None:
        for name in ("iterations", "branch", "roll_branch", "step_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"a search needs {name} >= 1, got {getattr(self, name)}.")
        if not 0 <= self.mix <= 1:
            raise ValueError(f"a search needs mix in [0, 1], got {self.mix}.")
        if self.end_gate <= 0:
            raise ValueError(f"a search needs end_gate > 0, got {self.end_gate}: roots begin at 0.")
        if not self.stop:
            raise ValueError("a search needs strings that end a step; without, it has one step.")

    @property
    def nodes(self) -> int:
        """Most nodes of a tree below its root."""
        return self.iterations * self.branch


# ---------------------------------------------------------------------------- growing trees
def grow_trees(
    lab: Lab, tasks: Sequence[Task], *, how: Search, score: Score
) -> tuple[Trees, list[Row]]:
    """Searches all problems side by side, `how.iterations` times each.

    Per iteration and tree: walk to a leaf by `uct`; expand it by `how.branch` steps, each distinct
    one a child with its score; roll out from the best child, each time along the best proposal; mix
    what was seen into that child's value; back up. A leaf is ended, and only visited, when the
    policy ended the answer or a step, when there is no room for another step, or at the end gate.

    Args:
      lab: samples the steps and logs the rows, those of roll-outs too.
      tasks: one tree each.
      how: see `Search`.
      score: values in [0, 1] of conversations.

    Returns:
      the trees, and the conversation of every node.
    """
    trees = plant(len(tasks), branch=how.branch, capacity=len(tasks) * (1 + how.nodes))
    growth = _Growth(lab, how, score, trees, lab.asked(tasks))
    growing_P = np.ones(len(tasks), bool)
    for _ in range(how.iterations):
        chosen_P = select(trees, explore=how.explore, unvisited=how.unvisited)
        good_P = trees.value_M[chosen_P] >= how.end_gate
        trees.ended_M[chosen_P[growing_P & good_P]] = True
        open_N = chosen_P[growing_P & ~trees.ended_M[chosen_P]]
        if len(open_N):
            growth.expand(open_N)
            growth.simulate(best_child(trees, open_N))
        back_up(trees, chosen_P[growing_P])
        growing_P &= ~(good_P & how.until_gate)
    return trees, growth.rows


def propose(lab: Lab, rows: Sequence[Row], copies: int, how: Search) -> list[Row]:
    """`copies` conversations that go on from each of these by one step, in order."""
    forks = lab.fork(rows, copies)
    return lab.extend(forks, _nothing(forks), new_tokens=how.step_tokens, stop=how.stop)


def _nothing(rows: Sequence[Row]) -> list[tuple[Source, Sequence[int]]]:
    return [("policy", ())] * len(rows)


def can_go_on(lab: Lab, row: Row, how: Search) -> bool:
    """Whether the last step ended as a step does, and leaves room for another one."""
    room = lab.config.new_tokens - len(row.answer_ids)
    return row.info["finish"] == "stop" and room >= how.step_tokens


@dataclasses.dataclass
class _Growth:
    """Trees while they grow, and the conversation of each node."""

    lab: Lab
    how: Search
    score: Score
    trees: Trees
    rows: list[Row]

    def expand(self, node_N: np.ndarray) -> None:
        """Adds the distinct proposals below each node."""
        branch = self.how.branch
        proposals = propose(self.lab, [self.rows[node] for node in node_N], branch, self.how)
        new: dict[tuple[int, bytes], Row] = {}
        for parent, row in zip(np.repeat(node_N, branch), proposals, strict=True):
            new.setdefault((int(parent), row.segments[-1].ids.tobytes()), row)
        children = list(new.values())
        ended_N = np.array([not can_go_on(self.lab, row, self.how) for row in children])
        parent_N = np.array([parent for parent, _ in new])
        add_children(self.trees, parent_N, self.score(children), ended_N)
        self.rows += children

    def simulate(self, node_N: np.ndarray) -> None:
        """Greedy roll-outs of at most `roll_steps` steps move the nodes' values."""
        now, best = {int(node): self.rows[node] for node in node_N}, {}
        for _ in range(self.how.roll_steps):
            now = {n: row for n, row in now.items() if can_go_on(self.lab, row, self.how)}
            if not now:
                break
            steps = propose(self.lab, list(now.values()), self.how.roll_branch, self.how)
            value_NB = self.score(steps).reshape(len(now), -1)
            for n, node in enumerate(list(now)):
                b = int(value_NB[n].argmax())
                now[node] = steps[n * self.how.roll_branch + b]
                best[node] = max(best.get(node, 0.0), float(value_NB[n, b]))
        value_M, seen = self.trees.value_M, list(best)
        value_M[seen] = mixed(value_M[seen], np.array([best[n] for n in seen]), mix=self.how.mix)
        self.trees.visits_M[node_N] += 1


def ends(lab: Lab, trees: Trees, rows: Sequence[Row], how: Search) -> tuple[np.ndarray, list[Row]]:
    """The ended leaves and their verified conversations.

    Where the end gate ended a path, the policy completes it first, by at most a step's tokens.
    """
    leaf_L = np.flatnonzero(trees.ended_M[: trees.count])
    paths = {leaf: rows[leaf] for leaf in leaf_L.tolist()}
    open_paths = {leaf: row for leaf, row in paths.items() if can_go_on(lab, row, how)}
    if open_paths:
        forks = lab.fork(list(open_paths.values()))
        completed = lab.extend(forks, _nothing(forks), new_tokens=how.step_tokens, stop=())
        paths |= dict(zip(open_paths, completed, strict=True))
    return leaf_L, lab.verify(list(paths.values()))


# ---------------------------------------------------------------------------- values
def prefix_values(lab: Lab, rows: Sequence[Row], *, like: Objective) -> np.ndarray:
    """The value head's output at the end of each conversation, cut to [0, 1].

    Args:
      lab: of a training run.
      rows: of any number.
      like: the objective that trains the values; its set is read, under its shapes.
    """
    probes = [probe_row(row) for row in rows]
    reading = dataclasses.replace(like, advantage=bind(zero_advantage))
    said_N = lab.map(bind(probe_values, params=like.trains), probes, like=reading)
    return np.clip(np.asarray(said_N, np.float64), 0.0, 1.0)


# ---------------------------------------------------------------------------- a whole wave
def search_and_label(
    lab: Lab,
    state: TrainState,
    memory: Any,
    *,
    how: Search,
    value: Objective,
    least_value: float,
    paths: int,
    objective: str = "policy",
) -> dict[str, list[Row]]:
    """P searches; values of all steps, inferred from the ends, and the solutions that were right.

    Args:
      lab, state, memory: as for every `Recipe.collect`.
      how: see `Search`; the values of `value` guide it.
      value: the objective that learns the inferred values, as `numbers["value"]`: one row for each
        node of a tree that found a right answer, its prefix as prompt and a probe behind it.
      least_value: least value, as the search saw it, of a solution to learn from.
      paths: most solutions to learn from per problem, those of the largest values.
      objective: learns the solutions, as they were sampled.
    """
    del state, memory
    score = functools.partial(prefix_values, lab, like=value)
    trees, rows = grow_trees(lab, lab.tasks(), how=how, score=score)
    leaf_L, found = ends(lab, trees, rows, how)
    right_L = np.array([row.reward > SUCCESS for row in found], bool)
    correct_M = np.zeros(trees.count, bool)
    correct_M[leaf_L[right_L]] = True
    target_M, emit_M = infer_values(trees.parent_M[: trees.count], correct_M)
    nodes = np.flatnonzero(emit_M)
    probes = [probe_row(rows[node]) for node in nodes]
    targets = [
        dataclasses.replace(row, numbers={"value": float(target_M[node])})
        for node, row in zip(nodes, lab.fork(probes), strict=True)
    ]
    solved = [(float(trees.value_M[leaf_L[n]]), found[n]) for n in np.flatnonzero(right_L)]
    return {value.name: targets, objective: _best(solved, least_value, paths)}


def _best(solved: Sequence[tuple[float, Row]], least_value: float, paths: int) -> list[Row]:
    """Of each group the `paths` rows of the largest values that are at least `least_value`."""
    ranked = sorted(solved, key=lambda pair: -pair[0])
    groups = by_group(row for value, row in ranked if value >= least_value)
    return [row for group in groups.values() for row in group[:paths]]


def tree_search_sizes(
    rollout: RolloutConfig, prompt_tokens: int, tokenizer: Any, *, how: Search, paths: int
) -> Sizes:
    """Room for every node of P trees as one prefix tree each, and for the solutions."""
    del tokenizer
    P, R = rollout.prompts, rollout.new_tokens
    if how.step_tokens >= R:
        raise ValueError(
            f"step_tokens={how.step_tokens} leave no room for a second step in answers of "
            f"{R} tokens. Lower step_tokens or raise --max-new-tokens."
        )
    slots = prompt_tokens + R + how.nodes * how.step_tokens
    return Sizes(
        prompt_tokens + R - how.step_tokens,
        {
            "policy": Size(P * paths, answer=R, group=paths, slots=prompt_tokens + paths * (R - 1)),
            "value": Size(P * how.nodes, answer=1, group=how.nodes, slots=slots),
        },
    )
