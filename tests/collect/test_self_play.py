"""Games by the policy: who sees what, who gets what, and what the baselines remember."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jaxevo.collect.self_play import deal, longest, move_baselines, no_baselines, play, self_play
from jaxevo.envs.games import KuhnPoker, KuhnState, TicTacToe
from jaxevo.recipes.spiral import spiral
from jaxevo.run.build import build_run
from jaxevo.run.options import RunOptions

KUHN = KuhnPoker()
OPTIONS = RunOptions(model="tiny", prompts=6, samples=4, max_new_tokens=1, eval_problems=0)


@pytest.fixture(scope="module")
def gambler(tiny_model):
    """The tiny model, many of whose answers are + or -: one of their logits is above all others."""
    plus, minus = tiny_model.tokenizer.encode("+-")
    column = 0.8 * jnp.sign(tiny_model.params["head"][:, plus])
    head = jnp.zeros_like(tiny_model.params["head"])
    head = head.at[:, plus].set(column).at[:, minus].set(-column)
    return dataclasses.replace(tiny_model, params={**tiny_model.params, "head": head})


@pytest.fixture(scope="module")
def run(gambler):
    return build_run(spiral(norm_length=1.0), OPTIONS, model=gambler)


def new_lab(run, round_index=0):
    return run.bench.lab(run.state.params, learner=run.learner, round_index=round_index)


def by_episode(rows):
    games = {}
    for row in rows:
        games.setdefault(row.episode, []).append(row)
    return games


def test_plays_follow_the_rules_and_pay_what_the_game_pays(run):
    lab = new_lab(run)
    starts = deal((KUHN,), 30, lab.generator("deals"))
    rows = play(lab, starts, [("policy", "policy")] * 30)
    games = by_episode(rows)
    ends = set()
    assert list(games) == list(range(30))
    for (_, state), turns in zip(starts, games.values(), strict=True):
        assert [row.turn for row in turns] == list(range(len(turns)))
        for row in turns:
            assert row.task.messages[0].content == KUHN.observe(state, compact=True)
            assert row.role == f"seat{KUHN.mover(state)}"
            action = lab.answer_text(row)
            assert row.info["invalid"] == (action not in ("+", "-"))
            if not row.info["invalid"]:
                state = KUHN.step(state, action)
        invalid = turns[-1].info["invalid"]
        outcome = KUHN.outcome(state)
        ends.add((invalid, outcome))
        if invalid:
            loser = turns[-1].info["seat"]
            outcome = tuple(-1.5 if seat == loser else 0.5 for seat in (0, 1))
        assert not any(row.info["invalid"] for row in turns[:-1])
        for row in turns:
            assert tuple(row.info["outcome"]) == outcome
            assert row.reward == outcome[row.info["seat"]]
            assert lab.sampled[row.uid] == row
    assert len(ends) >= 3, "too few ways to end for a test"


def test_a_prompt_shows_nothing_but_the_observation(run):
    lab = new_lab(run)
    rows = play(lab, [(KUHN, KuhnState((2, 3)))] * 8, [("policy", "policy")] * 8)
    for row in rows:
        assert lab.tokenizer.decode(row.prompt_ids.tolist()).endswith(row.task.messages[0].content)
        card = "2" if row.info["seat"] == 0 else "3"
        assert row.task.messages[0].content.startswith(f"({card})")
        assert [s.source for s in row.segments] == ["prompt", "policy"]


def test_the_same_round_is_played_again_the_same_way(run):
    def texts(round_index):
        lab = new_lab(run, round_index)
        out = self_play(lab, run.state, run.memory, games=(KUHN,), decay=0.9)
        return [(r.task.uid, r.answer_ids.tolist(), r.reward) for r in out["games"]]

    assert texts(0) == texts(0)
    assert texts(0) != texts(1)


def test_each_role_meets_the_baseline_before_its_game_and_memory_keeps_the_last(gambler):
    decay, memory = 0.9, no_baselines(games=2)
    games, b = (KUHN, TicTacToe()), {}
    run = build_run(spiral(games=("kuhn", "tic-tac-toe")), OPTIONS, model=gambler)
    for round_index in range(2):
        out = self_play(new_lab(run, round_index), run.state, memory, games=games, decay=decay)
        wanted = {}
        for episode, turns in by_episode(out["games"]).items():
            for seat in (0, 1):
                key = (episode % 2, seat)
                wanted[episode, seat] = b.get(key, 0.0)
                b[key] = decay * b.get(key, 0.0) + (1 - decay) * turns[0].info["outcome"][seat]
        trained = {row.uid: row for row in out["policy"]}
        for row in out["games"]:
            baseline = wanted[row.episode, row.info["seat"]]
            assert (row.uid in trained) == (row.reward != baseline)
            if row.uid in trained:
                assert trained[row.uid].numbers["baseline"] == pytest.approx(baseline, abs=1e-12)
        memory = move_baselines(memory, out, games=2, decay=decay)
    np.testing.assert_allclose(memory.mean_R, [b[0, 0], b[0, 1], b[1, 0], b[1, 1]], atol=1e-12)
    assert np.abs(memory.mean_R).max() > 0


def test_an_opponent_takes_either_seat_and_is_not_learnt_from(gambler):
    run = build_run(spiral(opponent="start", norm_length=1.0), OPTIONS, model=gambler)
    out = run.recipe.collect(new_lab(run), run.state, run.memory)
    seats = {row.episode: tuple(row.info["seats"]) for row in out["games"]}
    assert set(seats.values()) == {("policy", "opponent"), ("opponent", "policy")}
    assert {row.info["params"] for row in out["games"]} == {"policy", "opponent"}
    assert {row.info["params"] for row in out["policy"]} == {"policy"}
    for row in out["games"]:
        assert row.info["params"] == row.info["seats"][row.info["seat"]]


def test_deals_have_the_chances_of_the_game():
    starts = deal((KUHN, TicTacToe()), 1200, np.random.default_rng(0))
    assert [game.name for game, _ in starts[:3]] == ["kuhn-poker", "tic-tac-toe", "kuhn-poker"]
    cards = [state.cards for _, state in starts[::2]]
    counts = {pair: cards.count(pair) for pair in set(cards)}
    assert len(counts) == 6
    assert all(70 < count < 130 for count in counts.values())  # 100 ± 3 standard deviations


def test_the_longest_prompt_and_play_come_from_the_whole_tree(tiny_model):
    assert longest(KUHN, tiny_model.tokenizer) == (len("(2)-+="), 3)
    assert longest(TicTacToe(), tiny_model.tokenizer) == (10, 9)
