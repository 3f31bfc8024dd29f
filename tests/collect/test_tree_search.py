"""Tree search by the policy: what grows, what is spent, and what the two objectives get."""

import dataclasses
import functools
import heapq

import numpy as np
import pytest

from jaxevo.collect.pack import FitError, lay_out, stack
from jaxevo.collect.table import prepare
from jaxevo.collect.tree_search import (
    Search,
    ends,
    grow_trees,
    prefix_values,
    search_and_label,
    tree_search_sizes,
)
from jaxevo.recipes.rest_mcts import rest_mcts
from jaxevo.rewards import infer_values
from jaxevo.run.build import build_run
from jaxevo.run.metrics import round_metrics
from jaxevo.run.options import RunOptions
from jaxevo.step import with_old
from jaxevo.types import OWN

pytestmark = pytest.mark.slow  # they compile a model

HOW = Search(
    iterations=5, branch=3, roll_steps=1, roll_branch=2, explore=0.4, unvisited=0.8, mix=0.5,
    end_gate=2.0, step_tokens=3, stop=("=", "+", "1", "2", "3", "4", "5"),
)  # fmt: skip
OPTIONS = RunOptions(
    model="tiny", prompts=4, samples=2, max_new_tokens=8, eval_problems=0, control="random"
)


@pytest.fixture(scope="module")
def run(tiny_model):
    recipe = rest_mcts(
        iterations=HOW.iterations, step_tokens=HOW.step_tokens, step_end=HOW.stop, least_value=0.0
    )
    return build_run(recipe, OPTIONS, model=tiny_model)


@pytest.fixture(scope="module")
def greedy_bench(run):
    sampling = dataclasses.replace(run.bench.rollout.sampling, temperature=0.0)
    rollout = dataclasses.replace(run.bench.rollout, sampling=sampling)
    return dataclasses.replace(run.bench, rollout=rollout)


def new_lab(run, bench=None):
    return (bench or run.bench).lab(run.state.params, learner=run.learner)


def by_ids(rows):
    """Numbers in [0, 1) that depend on the tokens alone."""
    return np.array([hash(tuple(row.answer_ids.tolist())) % 997 / 997 for row in rows])


def deeper_is_better(rows):
    return np.array([len(row.segments) for row in rows]) / 10 + by_ids(rows) / 20


def wave_of(row):
    return (row.uid >> 32) % 2**10


@pytest.fixture(scope="module")
def grown(run):
    lab = new_lab(run)
    return lab, *grow_trees(lab, lab.tasks(), how=HOW, score=by_ids)


def test_every_node_is_its_parents_conversation_and_one_step_more(grown, run):
    lab, trees, rows = grown
    assert len(rows) == trees.count > 4 + 4 * HOW.branch
    assert len({row.uid for row in rows}) == len(rows)
    for node in range(4, trees.count):
        row, before = rows[node], rows[trees.parent_M[node]]
        assert row.segments[:-1] == before.segments
        assert row.parent == before.uid
        assert row.group == before.group
        step = lab.tokenizer.text(row.segments[-1].ids)
        assert not set(step[:-1]) & set("=+12345"), "a step goes on behind its end"
        assert len(row.segments[-1].ids) <= HOW.step_tokens
        assert len(row.answer_ids) <= OPTIONS.max_new_tokens
        assert lab.sampled[row.uid] == row
        room = OPTIONS.max_new_tokens - len(row.answer_ids) >= HOW.step_tokens
        assert trees.ended_M[node] == (row.info["finish"] != "stop" or not room)
        assert trees.leaf[node] or not trees.ended_M[node]
    for children in trees.children_MB[: trees.count]:
        steps = [rows[c].segments[-1].ids.tobytes() for c in children if c >= 0]
        assert len(set(steps)) == len(steps)
    assert (trees.visits_M[:4] == HOW.iterations).all()


def test_problems_share_waves_and_only_what_is_sampled_is_counted(grown):
    lab, _, rows = grown
    steps = [row for row in lab.sampled.values() if len(row.segments) > 1]
    waves = {wave_of(row) for row in steps}
    assert len(waves) <= HOW.iterations * (1 + HOW.roll_steps)
    assert len({row.group for row in steps if wave_of(row) == min(waves)}) == 4
    tokens = round_metrics(list(lab.sampled.values()), {}, 0)["tokens"]
    assert tokens == sum(len(row.segments[-1].ids) for row in lab.sampled.values())
    assert tokens < sum(row.sampled_tokens for row in lab.sampled.values())
    assert len(lab.sampled) > len(rows) - 4, "roll-outs are logged too"


def test_a_value_is_the_score_mixed_with_the_best_of_the_roll_out(run):
    how = dataclasses.replace(HOW, iterations=1)
    lab = new_lab(run)
    trees, rows = grow_trees(lab, lab.tasks(), how=how, score=by_ids)
    rolled = [row for row in lab.sampled.values() if wave_of(row) > wave_of(rows[-1])]
    assert rolled
    for root in range(4):
        children = [c for c in trees.children_MB[root] if c >= 0]
        score = by_ids([rows[c] for c in children])
        best = children[int(score.argmax())]
        seen = by_ids([row for row in rolled if row.parent == rows[best].uid])
        if len(seen):
            score[score.argmax()] = 0.5 * score.max() + 0.5 * seen.max()
        np.testing.assert_allclose(trees.value_M[children], score)
        assert trees.value_M[root] == trees.value_M[best]
        assert trees.visits_M[children].sum() == trees.visits_M[best] == 1


def test_one_branch_is_decoding_a_chain(run, greedy_bench):
    stop = tuple("0123456789+-*=[]()? ")
    how = dataclasses.replace(HOW, branch=1, roll_steps=0, iterations=8, stop=stop)
    lab = new_lab(run, greedy_bench)
    tasks = lab.tasks()
    trees, rows = grow_trees(lab, tasks, how=how, score=by_ids)
    whole = new_lab(run, greedy_bench).sample(tasks, samples=1)
    lengths = []
    for root, row in enumerate(whole):
        node = root
        while not trees.leaf[node]:
            node = trees.children_MB[node, 0]
        assert trees.ended_M[node]
        lengths.append(len(rows[node].answer_ids))
        assert rows[node].answer_ids.tolist() == row.answer_ids.tolist()[: lengths[-1]]
    assert max(lengths) > 4
    assert round_metrics(list(lab.sampled.values()), {}, 0)["tokens"] == sum(
        len(rows[n].segments[-1].ids) for n in range(4, trees.count)
    )


def test_equal_proposals_are_one_child(run, greedy_bench):
    lab = new_lab(run, greedy_bench)
    how = dataclasses.replace(HOW, iterations=2, roll_steps=0)
    trees, _ = grow_trees(lab, lab.tasks(), how=how, score=by_ids)
    assert (trees.children_MB[:4] >= 0).sum(1).tolist() == [1] * 4


def test_without_bonus_and_roll_outs_the_search_is_best_first(run):
    how = dataclasses.replace(HOW, explore=0.0, unvisited=0.0, mix=0.0, roll_steps=0)
    lab = new_lab(run)
    trees, rows = grow_trees(lab, lab.tasks(), how=how, score=deeper_is_better)
    for root in range(4):
        queue, expanded = [(0.0, root)], set()
        for _ in range(how.iterations):
            node = queue[0][1]
            if trees.ended_M[node]:
                break
            heapq.heappop(queue)
            expanded.add(node)
            for child in (c for c in trees.children_MB[node] if c >= 0):
                heapq.heappush(queue, (-deeper_is_better([rows[child]])[0], child))
        own = {n for n in range(trees.count) if rows[n].group == rows[root].group}
        assert expanded == {n for n in own if not trees.leaf[n]}


def test_the_end_gate_ends_a_path_and_the_policy_completes_it(run):
    how = dataclasses.replace(HOW, end_gate=0.9, iterations=2, roll_steps=0)
    lab = new_lab(run)
    trees, rows = grow_trees(lab, lab.tasks(), how=how, score=lambda rows: np.ones(len(rows)))
    assert (trees.parent_M[4 : trees.count] < 4).all(), "what is at the gate was expanded"
    sampled = len(lab.sampled)
    leaf_L, found = ends(lab, trees, rows, how)
    np.testing.assert_array_equal(leaf_L, np.flatnonzero(trees.ended_M[: trees.count]))
    completed = [
        (rows[leaf], row) for leaf, row in zip(leaf_L, found, strict=True) if row != rows[leaf]
    ]
    gated = [leaf for leaf in leaf_L if rows[leaf].info["finish"] == "stop"]
    longer = [(old, new) for old, new in completed if len(new.segments) > len(old.segments)]
    assert len(longer) == len(gated) == len(lab.sampled) - sampled > 0
    for old, new in longer:
        assert new.parent == old.uid
        assert new.segments[:-1] == old.segments
        assert new.info["finish"] != "stop"
    assert all(set(row.rewards) == {"coin"} for row in found)


def test_an_end_gate_out_of_reach_lets_the_search_go_on(run):
    how = dataclasses.replace(HOW, iterations=2, roll_steps=0)
    lab = new_lab(run)
    trees, _ = grow_trees(lab, lab.tasks(), how=how, score=lambda rows: np.ones(len(rows)))
    assert (trees.parent_M[4 : trees.count] >= 4).any()


def test_a_search_for_one_answer_stops_each_tree_at_the_gate(run):
    how = dataclasses.replace(HOW, end_gate=0.9, iterations=6, roll_steps=0)
    lab = new_lab(run)
    tasks = lab.tasks()
    easy = [task.uid for task in tasks[:2]]

    def score(rows):
        return np.array([1.0 if row.task.uid in easy else 0.5 for row in rows])

    trees, rows = grow_trees(lab, tasks, how=dataclasses.replace(how, until_gate=True), score=score)
    sizes = [sum(row.group == root.group for row in rows) - 1 for root in rows[:4]]
    assert max(sizes[:2]) <= how.branch < min(sizes[2:])
    np.testing.assert_array_equal(trees.visits_M[:4], [2, 2, 6, 6])
    every, _ = grow_trees(new_lab(run), tasks, how=how, score=score)
    np.testing.assert_array_equal(every.visits_M[:4], 6)


# ---------------------------------------------------------------------------- values and labels
@pytest.fixture(scope="module")
def labelled(run):
    lab = new_lab(run)
    collect = functools.partial(run.recipe.collect, lab, run.state, run.memory)
    return lab, collect()


def test_prefixes_carry_inferred_values_under_names_of_their_own(run, labelled):
    lab, experience = labelled
    rows = experience["value"]
    assert rows
    assert not {row.uid for row in rows} & lab.sampled.keys()
    assert len({row.uid for row in rows}) == len(rows)
    whole = {row.uid: row for row in lab.sampled.values()}
    found = {}
    for row in rows:
        kinds = [s.source for s in row.segments]
        assert kinds == ["prompt"] * (len(kinds) - 1) + ["probe"]
        node = whole[row.parent]
        assert row.prompt_ids.tolist() == [*node.prompt_ids, *node.answer_ids]
        found[node.uid] = row.numbers["value"]
    # The same values from the logged rows: parents by uid, right ends by their reward.
    nodes = sorted(found)
    roots = sorted({whole[uid].group for uid in nodes})
    index = {uid: n for n, uid in enumerate([*roots, *nodes])}
    parent_M = [-1] * len(roots) + [index[whole[uid].parent] for uid in nodes]
    correct_M = [False] * len(roots) + [whole[uid].reward > 0.5 for uid in nodes]
    value_M, emit_M = infer_values(parent_M, correct_M)
    assert emit_M[len(roots) :].all()
    np.testing.assert_allclose(value_M[len(roots) :], [found[uid] for uid in nodes])
    assert len(set(found.values())) > 3


def test_prefixes_of_one_problem_are_packed_as_a_tree(run, labelled):
    _, experience = labelled
    objective, rows = run.recipe.objectives[0], experience["value"]
    shapes = run.learner.shapes["value"]
    table = prepare(rows, objective, shapes.answer, run.bench.model.tokenizer)
    bucket = dict(shapes.ladder[-1])[OWN]
    packed = lay_out(table, range(len(rows)), OWN, shapes, bucket)
    prefixes = {
        (row.group, tuple(row.prompt_ids[: n + 1].tolist()))
        for row in rows
        for n in range(len(row.prompt_ids))
    }
    used = int((packed.until_BS > 0).sum())
    assert used == len(prefixes)
    assert used < 0.6 * sum(len(row.prompt_ids) for row in rows)


def test_the_policy_learns_right_solutions_and_not_too_many_of_a_problem(run, labelled):
    lab, experience = labelled
    rows = experience["policy"]
    assert rows
    assert all(row.reward == 1.0 and lab.sampled[row.uid] == row for row in rows)
    options = dict(run.recipe.collect.options)
    most = max(sum(row.group == one.group for row in rows) for one in rows)
    assert 1 < most <= 4
    for changes, wanted in (({"paths": 1}, 1), ({"least_value": 0.01}, 0)):
        again = search_and_label(new_lab(run), run.state, run.memory, **{**options, **changes})
        groups = [row.group for row in again["policy"]]
        assert max((groups.count(g) for g in groups), default=0) == wanted


def test_old_log_probs_are_read_in_parts_where_the_solutions_do_not_fit_together(run, labelled):
    _, experience = labelled
    rows, objective = experience["policy"], run.recipe.objectives[1]
    shapes = run.learner.shapes["policy"]
    ((view, bucket),) = shapes.ladder[-1]
    longest = max(len(row.prompt_ids) + len(row.answer_ids) for row in rows)
    small = dataclasses.replace(bucket, rows=1, slots=longest)
    narrow = dataclasses.replace(shapes, ladder=(((view, small),),))
    learner = dataclasses.replace(run.learner, shapes={"policy": narrow})
    table = prepare(rows, objective, narrow.answer, run.bench.model.tokenizer)
    with pytest.raises(FitError):
        stack(table, range(len(rows)), narrow)
    old_NA = with_old(table, objective, learner, run.state).batch.old["text"]
    for row, old_A in zip(rows, old_NA, strict=True):
        sampled = np.concatenate([s.logp for s in row.answer])
        np.testing.assert_allclose(old_A[: len(sampled)], sampled, atol=1e-4)


def test_values_are_read_at_the_end_of_each_prefix_and_cut(run, grown):
    _, _, rows = grown
    rows = rows[4:]
    objective = run.recipe.objectives[0]
    params = run.state.params["value"]
    generator = np.random.default_rng(0)
    weight = generator.normal(size=params["value"]["weight"].shape).astype(np.float32)
    value = {**params, "value": {"weight": weight, "bias": np.float32(0.5)}}
    lab = run.bench.lab({**run.state.params, "value": value}, learner=run.learner)
    together = prefix_values(lab, rows, like=objective)
    alone = [prefix_values(lab, [row], like=objective)[0] for row in rows[:6]]
    np.testing.assert_allclose(together[:6], alone, atol=1e-5)
    assert together.min() == 0.0
    assert together.max() == 1.0
    other = dataclasses.replace(objective, trains="policy")
    with pytest.raises(ValueError, match="no value head"):
        prefix_values(lab, rows, like=other)


def test_searches_that_cannot_be_are_refused(run):
    for name, bad, says in (
        ("branch", 0, "branch >= 1"), ("mix", 1.5, r"mix in \[0, 1\]"),
        ("end_gate", 0.0, "end_gate > 0"), ("stop", (), "strings that end a step"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=says):
            dataclasses.replace(HOW, **{name: bad})
    how = dataclasses.replace(HOW, step_tokens=8)
    with pytest.raises(ValueError, match="no room for a second step in answers of 8 tokens"):
        tree_search_sizes(run.bench.rollout, 4, None, how=how, paths=1)
