"""What its card says of SAGE, on a random model."""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest
from cases import Case

from jaxevo.advantages import group_relative, undecided_chance
from jaxevo.collect.hints import HintLevels, needs_references, next_level, remember_levels
from jaxevo.collect.table import by_group
from jaxevo.collect.waves import single_turn
from jaxevo.recipes.grpo import grpo
from jaxevo.recipes.sage import sage
from jaxevo.rewards import random_reward
from jaxevo.run.metrics import round_metrics
from jaxevo.tasks import load_task
from jaxevo.tasks.hints import read_hints
from jaxevo.types import Row, Task, row_uid

P = 4
SIZES = {"prompts": P, "samples": 2}  # a quarter of the groups fails under the coin
LIMITS = {"context_tokens": 16, "writer_tokens": 16}


# ---------------------------------------------------------------------------- numbers
@pytest.mark.parametrize(
    ("chance", "want"), [(0.01, 0.077255), (0.05, 0.336580), (0.5, 0.992188), (0.0, 0.0)]
)
def test_how_often_a_group_of_eight_teaches(chance, want):
    assert undecided_chance(chance, 8) == pytest.approx(want, abs=5e-7)
    assert undecided_chance(1 - chance, 8) == pytest.approx(undecided_chance(chance, 8), abs=1e-12)


def test_a_group_teaches_where_its_advantages_are_not_zero():
    """Over all outcomes of a group."""
    chance, samples, found = 0.3, 4, 0.0
    for drawn in itertools.product((0.0, 1.0), repeat=samples):
        weight = chance ** sum(drawn) * (1 - chance) ** (samples - sum(drawn))
        teaches = np.asarray(group_relative(np.array(drawn), np.zeros(samples, int))).any()
        found += weight * teaches
    assert undecided_chance(chance, samples) == pytest.approx(found, abs=1e-12)


def test_three_levels_of_even_chances():
    """A group that fails is asked again: u (1 + q + q²), q the chance that all of it fails."""
    u, q = undecided_chance(0.5, 8), 0.5**8
    assert u * (1 + q + q**2) == pytest.approx(0.996078, abs=5e-7)


def test_hints_of_one_problem_must_not_be_mixed():
    """u is concave: of two hints the mean chance teaches more often than either at random."""
    one, other = undecided_chance(np.array([0.1, 0.7]), 8)
    assert undecided_chance(0.4, 8) > (one + other) / 2


def test_one_success_in_four():
    reward, group = np.array([1.0, 0, 0, 0]), np.zeros(4, int)
    found = np.asarray(group_relative(reward, group, ddof=0))
    np.testing.assert_allclose(found, [1.732047, *[-0.577349] * 3], atol=5e-7)
    exact = np.asarray(group_relative(reward, group, ddof=0, epsilon=0.0))
    assert np.mean(exact**2) == pytest.approx(1.0, abs=1e-6)
    sample = np.asarray(group_relative(reward, group, epsilon=0.0))
    assert np.mean(sample**2) == pytest.approx(3 / 4, abs=1e-6)


@pytest.mark.parametrize(
    ("level", "rate", "want"),
    [(1, 0.05, 2), (2, 0.2, 2), (2, 0.5, 1), (0, 0.5, 0), (3, 0.0, 3), (1, 0.1, 2), (1, 0.35, 1)],
)
def test_levels_follow_the_share_of_right_answers(level, rate, want):
    assert next_level(level, rate, raise_below=0.1, lower_above=0.35) == want
    assert next_level(1, 0.05, raise_below=0.01, lower_above=0.35) == 1
    assert next_level(1, 0.2, raise_below=0.1, lower_above=0.15) == 0
    assert next_level(1, 0.0, raise_below=0.1, lower_above=0.35, levels=1) == 1


def test_options():
    with pytest.raises(ValueError, match="levels=4, but there are hints of the levels 1 to 3"):
        sage(levels=4)
    with pytest.raises(ValueError, match="attempts=0 must be at least 1"):
        sage(attempts=0)
    with pytest.raises(ValueError, match="task 'ifeval' has none"):
        needs_references(load_task("ifeval"))
    needs_references(load_task("mix:add1,gsm8k"))
    other = {
        "levels": 2, "attempts": 1, "success": 0.9, "context_tokens": 9, "writer_tokens": 9,
        "learning_rate": 1e-3, "warmup_updates": 5, "weight_decay": 0.1, "max_grad_norm": 2.0,
        "clip_low": 0.1, "clip_high": 0.2, "scale": "none", "reduction": "seq_mean_token_mean",
        "kl_weight": 0.1, "entropy_weight": 0.1, "correction": "token", "correction_cap": 3.0,
        "truncation": "ignore", "epochs": 2, "minibatches": 1, "light": True,
    }  # fmt: skip
    recipes = [sage(), *(sage(**{name: value}) for name, value in other.items())]
    light = [sage(light=True, **{n: 0.2}) for n in ("raise_below", "lower_above")]
    assert len({repr(recipe) for recipe in (*recipes, *light)}) == len(recipes) + 2


# ---------------------------------------------------------------------------- memory
def visited(uid, rewards, level, hints):
    task, info = Task(uid, (), "15"), {"hint_level": level, "hints": hints}
    group = hash(uid)
    return [
        Row(n, task, group, (), rewards={"correct": r}, info=info) for n, r in enumerate(rewards)
    ]


def test_what_is_remembered():
    first = {"policy": [*visited("a", [0, 1], 0, None), *visited("b", [0, 0], 2, ["1", "", "15"])]}
    memory = remember_levels(HintLevels(), first)
    assert memory == HintLevels({"a": 0, "b": 2}, {"a": 0.5, "b": 0.0}, {"b": ["1", "", "15"]})
    later = remember_levels(memory, {"policy": visited("b", [1, 0.6], 0, None)}, success=0.7)
    assert later.levels == {"a": 0, "b": 0}
    assert later.rates == {"a": 0.5, "b": 0.5}
    assert later.hints == memory.hints
    assert HintLevels(**json.loads(json.dumps(dataclasses.asdict(later)))) == later


# ---------------------------------------------------------------------------- on a model
@pytest.fixture(scope="module")
def run(start):
    return start(Case("sage", lambda: sage(minibatches=1, **LIMITS), run=SIZES))


def collect(run, recipe=None, *, round_index=0, memory=None):
    """The lab of a round, and the rows that are learnt."""
    lab = run.bench.lab(run.state.params, round_index=round_index)
    recipe = recipe or run.recipe
    return lab, recipe.collect(lab, run.state, memory)["policy"]


@pytest.fixture(scope="module")
def index(run):
    """A round in which one problem fails, fails with its first hint, and is mixed with its second:
    the coin is tossed for rows by their names, before anybody has drawn them."""

    def tossed(index, wave, problem):
        uids = (row_uid(index, wave, problem, sample) for sample in range(2))
        return sum(random_reward(run.options.seed, uid).score for uid in uids)

    def fits(index):
        first = sorted(tossed(index, 0, problem) for problem in range(P))
        return first[0] == 0 < first[1] and [tossed(index, wave, 0) for wave in (2, 3)] == [0, 1]

    return next(filter(fits, range(1000)))


@pytest.fixture(scope="module")
def collected(run, index):
    return collect(run, round_index=index)


def prompts(lab, rows):
    return {lab.tokenizer.text(row.prompt_ids.tolist()) for row in rows}


def questions(lab):
    tasks = [lab.source.train(n) for n in range(P)]
    return [(task.messages[0].content, task.answer) for task in tasks]


def hints_of(lab):
    """What was read for each prompt of the writer, at the first generation that could be read."""
    found, count = {}, 0
    for row in (row for row in lab.sampled.values() if row.role == "hint"):
        (prompt,) = prompts(lab, [row])
        assert found.get(prompt) is None, "written again although it was read"
        found[prompt], count = read_hints(lab.answer_text(row), chat=False), count + 1
    return found, count


@pytest.mark.slow
def test_failed_problems_alone_are_asked_again(collected):
    lab, rows = collected
    groups = list(by_group(r for r in lab.sampled.values() if r.role == "policy").values())
    first, later = groups[:P], groups[P:]
    failed = [p for p, group in enumerate(first) if not any(row.reward for row in group)]
    assert 0 < len(failed) < P
    hints, _ = hints_of(lab)
    asked = questions(lab)
    assert set(hints) == {f"[{asked[p][1]}]{asked[p][0]}" for p in failed}
    kept = list(by_group(rows).values())
    assert len(kept) == P
    for p, group in enumerate(kept):
        if p not in failed:
            assert [row.uid for row in group] == [row.uid for row in first[p]]
            assert {row.info["tally"]["hint_level"] for row in group} == {0}
            continue
        question, answer = asked[p]
        written = hints[f"[{answer}]{question}"] or ("", "", "")
        tries = [g for g in later if g[0].task.uid == group[0].task.uid]
        shown = [f"{hint}?{question}" for hint in written if hint]
        assert [prompts(lab, one) for one in tries] == [{s} for s in shown[: len(tries)]]
        solved = [any(row.reward for row in one) for one in tries]
        assert not any(solved[:-1])
        assert solved[-1] or len(tries) == 3
        assert [row.uid for row in group] == [row.uid for row in tries[-1]]
        assert {row.info["tally"]["hint_level"] for row in group} == {len(tries)}


@pytest.mark.slow
def test_what_is_counted(collected):
    lab, rows = collected
    metrics = round_metrics(list(lab.sampled.values()), {}, 0)
    levels = [row.info["tally"]["hint_level"] for row in rows]
    assert metrics["tally/hint_level"] == pytest.approx(np.mean(levels))
    assert metrics["tally/hinted"] == pytest.approx(np.mean([level > 0 for level in levels]))
    first = [row for row in lab.sampled.values() if "right_0" in row.info["tally"]]
    assert metrics["tally/right_0"] == pytest.approx(np.mean([row.reward for row in first]))
    solved = [any(r.reward for r in group) for group in by_group(first).values()]
    assert metrics["tally/resolved_0"] == pytest.approx(np.mean(solved))
    hints, count = hints_of(lab)
    unread = count - sum(found is not None for found in hints.values())
    assert metrics["tally/hint_unread"] == pytest.approx(unread / count)
    missing = [found is None for found in hints.values()]
    assert metrics["tally/hint_missing"] == pytest.approx(np.mean(missing))
    assert 0.0 <= metrics["tally/hint_reveals"] <= 1.0


@pytest.mark.slow
def test_where_all_problems_are_solved_the_batch_is_grpos(run):
    def solved(index):
        lab = run.bench.lab(run.state.params, round_index=index)
        rows = single_turn(lab, run.state, None)["policy"]
        groups = by_group(rows).values()
        return rows if all(any(row.reward for row in group) for group in groups) else None

    index, plain = next((n, rows) for n in range(40) if (rows := solved(n)))
    lab, rows = collect(run, round_index=index)
    assert len(lab.sampled) == len(rows) == 2 * P
    for one, other in zip(rows, plain, strict=True):
        assert (one.uid, one.group, one.rewards) == (other.uid, other.group, other.rewards)
        for own, like in zip(one.segments, other.segments, strict=True):
            np.testing.assert_array_equal(own.ids, like.ids)


def largest(gradient):
    return max(float(abs(x).max()) for x in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_a_failed_group_teaches_nothing_before_and_something_with_a_hint(run, collected, graded):
    lab, rows = collected
    kept = [group for group in by_group(rows).values() if len({r.reward for r in group}) > 1]
    hinted = [row for group in kept for row in group if row.info["tally"]["hinted"]]
    uids = {row.task.uid for row in hinted}
    sampled = [row for row in lab.sampled.values() if row.role == "policy"]
    failed = [r for r in sampled if "right_0" in r.info["tally"] and r.task.uid in uids]
    assert len(failed) == len(hinted) > 0
    (plain,) = grpo().objectives
    value, gradient, _ = graded(run, failed, run.state.params, plain)
    assert (value, largest(gradient)) == (0.0, 0.0)
    _, gradient, _ = graded(run, hinted, run.state.params, plain)
    assert largest(gradient) > 1e-3


@pytest.mark.slow
def test_ratios_are_those_of_the_hinted_prompt(run, collected, graded):
    lab, rows = collected
    hinted = [row for row in rows if row.info["tally"]["hinted"]]
    _, _, signals = graded(run, hinted, run.state.params)
    task = {lab.source.train(n).uid: lab.source.train(n) for n in range(P)}
    bare = []
    for row in hinted:
        ids = np.array(lab.tokenizer.render(task[row.task.uid].messages), np.int32)
        prompt = dataclasses.replace(row.segments[0], ids=ids)
        bare.append(dataclasses.replace(row, segments=(prompt, *row.answer)))
    _, _, otherwise = graded(run, bare, run.state.params)
    for n, row in enumerate(hinted):
        (answer,) = row.answer
        count = len(answer.ids)
        np.testing.assert_allclose(signals["logp"][n, :count], answer.logp, atol=1e-4)
        assert np.abs(otherwise["logp"][n, :count] - answer.logp).max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("change", ["levels", "success", "context_tokens", "writer_tokens"])
def test_every_option_changes_what_is_asked(run, index, change):
    value = {"levels": 1, "success": 1.5, "context_tokens": 5, "writer_tokens": 6}[change]
    lab, rows = collect(run, sage(**{**LIMITS, change: value}), round_index=index)
    tallies = [row.info["tally"] for row in rows]
    levels = {t["hint_level"] for t in tallies}
    if change == "levels":
        assert levels == {0, 1}
    elif change == "success":  # nothing is right
        assert all("hint_missing" in t for t in tallies)
        assert levels <= {0, 3}
        assert sum(t["hint_level"] == 3 for t in tallies) > P
    else:
        assert levels == {0}
        assert [row.uid for row in rows] == list(lab.sampled)[: 2 * P]
        assert {t["hint_missing"] for t in tallies if "hint_missing" in t} == {True}


@pytest.mark.slow
def test_hints_that_cannot_be_read_are_written_again(run):
    def written(attempts, index):
        how = sage(success=1.5, levels=1, attempts=attempts, **LIMITS)
        lab, _ = collect(run, how, round_index=index)
        return [row.info["tally"] for row in lab.sampled.values() if row.role == "hint"]

    index, tallies = next((n, t) for n in range(40) if len(t := written(3, n)) > P)
    assert sum(tally["hint_unread"] for tally in tallies) >= len(tallies) - P
    assert len(written(1, index)) == P


# ---------------------------------------------------------------------------- by memory
@pytest.fixture(scope="module")
def uids(run):
    lab = run.bench.lab(run.state.params)
    return [lab.source.train(n).uid for n in range(P)]


@pytest.fixture(scope="module")
def past(uids):
    """Three problems were seen; the first and third are to have hints of levels 1 and 2."""
    levels = dict(zip(uids, (0, 1, 2), strict=False))
    rates = dict(zip(uids, (0.0, 0.5, 0.2), strict=False))
    return HintLevels(levels, rates, {uids[0]: ["9", "98", "987"]})


@pytest.mark.slow
def test_light_asks_once_at_the_level_that_the_last_visit_calls_for(run, uids, past):
    lab, rows = collect(run, sage(light=True, **LIMITS), memory=past)
    hints, _ = hints_of(lab)
    asked = questions(lab)
    assert list(hints) == [f"[{asked[p][1]}]{asked[p][0]}" for p in (0, 2)]
    groups = list(by_group(rows).values())
    assert sum(row.role == "policy" for row in lab.sampled.values()) == len(rows) == 2 * P
    for p, group in enumerate(groups):
        question, answer = asked[p]
        written = hints.get(f"[{answer}]{question}")
        level = {0: 1, 2: 2}.get(p, 0) if written else 0
        told = f"{written[level - 1]}?{question}" if level else question
        assert prompts(lab, group) == {told}
        assert {row.info["hint_level"] for row in group} == {level}
        assert {tuple(row.info["hints"] or ()) for row in group} == {written or ()}
        assert all(("hint_missing" in r.info["tally"]) == (p in (0, 2)) for r in group)
    memory = remember_levels(past, {"policy": rows})
    assert memory.levels == dict(zip(uids, (1, 0, 2, 0), strict=True))
    assert memory.rates[uids[1]] == np.mean([row.reward for row in groups[1]])


@pytest.mark.slow
def test_light_shows_the_last_hints_where_none_can_be_read(run, uids, past):
    lab, rows = collect(run, sage(light=True, context_tokens=16, writer_tokens=6), memory=past)
    groups, asked = list(by_group(rows).values()), questions(lab)
    assert prompts(lab, groups[0]) == {f"9?{asked[0][0]}"}
    for p in range(1, P):
        assert prompts(lab, groups[p]) == {asked[p][0]}
    memory = remember_levels(past, {"policy": rows})
    assert [memory.levels[uid] for uid in uids] == [1, 0, 0, 0]
    assert memory.hints == past.hints
    lab, rows = collect(run, sage(light=True, context_tokens=5, writer_tokens=16), memory=past)
    assert {row.info["hint_level"] for row in rows} == {0}


@pytest.mark.slow
def test_the_first_visits_of_light_are_grpos(run):
    lab, rows = collect(run, sage(light=True, **LIMITS), memory=HintLevels())
    plain = single_turn(run.bench.lab(run.state.params), run.state, None)["policy"]
    assert len(lab.sampled) == 2 * P
    for one, other in zip(rows, plain, strict=True):
        assert (one.uid, one.rewards) == (other.uid, other.rewards)
        np.testing.assert_array_equal(one.answer_ids, other.answer_ids)


@pytest.mark.slow
def test_light_goes_on_from_what_it_remembers(run):
    """The same problems again and again: those that fail get hints, and give them back."""
    recipe, memory, seen = sage(light=True, **LIMITS), HintLevels(), []
    for index in range(16):
        _, rows = collect(run, recipe, round_index=index, memory=memory)
        before, memory = memory, recipe.grow(memory, {"policy": rows})
        seen.append({row.task.uid: row.info["hint_level"] for row in rows})
        for uid, level in seen[-1].items():
            if index:
                up, down = before.rates[uid] <= 0.1, before.rates[uid] > 0.35
                want = min(max(before.levels[uid] + up - down, 0), 3)
                assert level == (want if uid in memory.hints else 0)
    assert set(seen[0].values()) == {0}
    assert max(level for levels in seen for level in levels.values()) > 1
