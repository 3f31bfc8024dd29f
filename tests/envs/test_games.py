import functools
import itertools
from fractions import Fraction

import numpy as np
import pytest

from jaxevo.envs import (
    KuhnPoker,
    KuhnState,
    TicTacToe,
    TicTacToeState,
    parse_action,
    random_action,
)
from jaxevo.models.toy import ALPHABET

GAMES = (TicTacToe(), KuhnPoker())


@functools.cache
def states(game):
    """Every state that can be reached, in order of first meeting."""
    met, pending = {}, [state for _, state in game.deals()]
    while pending:
        state = pending.pop()
        if state not in met:
            met[state] = None
            pending.extend(game.step(state, action) for action in game.legal(state))
    return tuple(met)


def running(game):
    return [state for state in states(game) if game.outcome(state) is None]


def play(game, state, actions):
    for action in actions:
        state = game.step(state, action)
    return state


# ---------------------------------------------------------------------------- every game
@pytest.mark.parametrize("game", GAMES, ids=repr)
def test_a_play_ends_when_nothing_is_legal_and_what_one_wins_the_other_loses(game):
    assert sum(p for p, _ in game.deals()) == pytest.approx(1, abs=1e-15)  # rounding of six sixths
    for state in states(game):
        outcome = game.outcome(state)
        assert (outcome is None) == bool(game.legal(state))
        assert outcome is None or sum(outcome) == 0


@pytest.mark.parametrize("game", GAMES, ids=repr)
def test_seats_take_turns_and_seat_0_begins(game):
    pending = [(state, 0) for _, state in game.deals()]
    for _ in range(3):  # the first three moves; all of Kuhn poker
        for state, seat in pending:
            assert game.mover(state) == seat
        after = [(game.step(s, a), 1 - seat) for s, seat in pending for a in game.legal(s)]
        pending = [(state, seat) for state, seat in after if game.outcome(state) is None]


@pytest.mark.parametrize("game", GAMES, ids=repr)
def test_what_is_not_legal_is_refused(game):
    for state in running(game)[:200]:
        others = set(map(str, range(10))) | {"-", "+", "", " ", "04", "bet"}
        for action in others - set(game.legal(state)):
            with pytest.raises(ValueError, match="is no legal action of"):
                game.step(state, action)


@pytest.mark.parametrize("game", GAMES, ids=repr)
def test_a_finished_play_goes_no_further(game):
    over = next(state for state in states(game) if game.outcome(state) is not None)
    moves = [
        lambda: game.mover(over),
        lambda: game.step(over, "0"),
        lambda: game.observe(over, compact=True),
        lambda: game.observe(over, compact=False),
        lambda: random_action(game, over, np.random.default_rng(0)),
    ]
    for move in moves:
        with pytest.raises(ValueError, match="is over"):
            move()
    assert parse_action(game, over, "0") is None


@pytest.mark.parametrize("game", GAMES, ids=repr)
def test_compact_play_stays_in_the_alphabet_of_the_toy_model(game):
    for state in running(game):
        prompt = game.observe(state, compact=True)
        assert set(prompt) <= set(ALPHABET)
        assert prompt.endswith("=")
        assert prompt.count("=") == 1
        for action in game.legal(state):
            assert len(action) == 1
            assert action in ALPHABET


@pytest.mark.parametrize("game", GAMES, ids=repr)
def test_both_forms_of_observation_tell_the_same(game):
    """They make the same states equal, and equal states have the same actions and mover."""
    pairs, facts = set(), {}
    for state in running(game):
        seen, words = (game.observe(state, compact=compact) for compact in (True, False))
        pairs.add((seen, words))
        fact = (game.mover(state), game.legal(state))
        assert facts.setdefault(seen, fact) == fact
    assert len({seen for seen, _ in pairs}) == len({words for _, words in pairs}) == len(pairs)


def test_games_are_plain_values():
    assert TicTacToe() == TicTacToe() != KuhnPoker()
    assert hash(KuhnPoker()) == hash(KuhnPoker())
    assert [game.name for game in GAMES] == ["tic-tac-toe", "kuhn-poker"]
    assert list(map(repr, GAMES)) == ["TicTacToe()", "KuhnPoker()"]


# ---------------------------------------------------------------------------- tic-tac-toe
def test_uniform_random_tic_tac_toe_is_decided_as_counted_by_hand():
    game = TicTacToe()

    @functools.cache
    def chances(state):
        """The probabilities that seat 0 wins, that it loses, and of a draw."""
        outcome = game.outcome(state)
        if outcome is not None:
            return tuple(Fraction(outcome[0] == won) for won in (1, -1, 0))
        after = [chances(game.step(state, action)) for action in game.legal(state)]
        return tuple(sum(parts) / len(after) for parts in zip(*after, strict=True))

    (_, start) = game.deals()[0]
    assert chances(start) == (Fraction(737, 1260), Fraction(121, 420), Fraction(8, 63))


def test_tic_tac_toe_has_the_known_number_of_positions():
    ended = [TicTacToe().outcome(state) for state in states(TicTacToe())]
    counts = [ended.count(outcome) for outcome in (None, (1, -1), (-1, 1), (0, 0))]
    assert counts == [4520, 626, 316, 16]  # 5478 in all


def test_each_line_wins_for_either_seat_and_no_other_three_cells_do():
    lines = [(r, r + 1, r + 2) for r in (0, 3, 6)] + [(c, c + 3, c + 6) for c in range(3)]
    lines += [(0, 4, 8), (2, 4, 6)]
    for cells in itertools.combinations(range(9), 3):
        for seat, won in ("0", (1.0, -1.0)), ("1", (-1.0, 1.0)):
            board = "".join(seat if cell in cells else "." for cell in range(9))
            expected = won if cells in lines else None
            assert TicTacToe().outcome(TicTacToeState(board)) == expected


def test_tic_tac_toe_is_seen_with_the_movers_eyes():
    game, (_, start) = TicTacToe(), TicTacToe().deals()[0]
    assert game.observe(start, compact=True) == "---------="
    assert game.observe(play(game, start, "0"), compact=True) == "*--------="
    assert game.observe(play(game, start, "02"), compact=True) == "+-*------="
    assert game.observe(play(game, start, "024"), compact=True) == "*-+-*----="
    words = game.observe(play(game, start, "024"), compact=False)
    assert "\nO 1 X\n3 O 5\n6 7 8\n" in words
    assert words.endswith("You are X. Answer with the number of one empty cell.")
    assert "You are O." in game.observe(start, compact=False)


# ---------------------------------------------------------------------------- Kuhn poker
@pytest.mark.parametrize(
    ("history", "won"),  # by seat 0 with the lower card, and with the higher one
    [("--", (-1, 1)), ("+-", (1, 1)), ("++", (-2, 2)), ("-+-", (-1, -1)), ("-++", (-2, 2))],
)
def test_kuhn_poker_pays_what_was_put_in(history, won):
    game = KuhnPoker()
    for low, high in [(1, 2), (1, 3), (2, 3)]:
        for cards, seat0 in zip([(low, high), (high, low)], won, strict=True):
            assert game.outcome(play(game, KuhnState(cards), history)) == (seat0, -seat0)
    assert all(game.outcome(KuhnState((1, 2), history[:n])) is None for n in range(len(history)))


def test_kuhn_deals_two_different_cards_evenly():
    deals = KuhnPoker().deals()
    assert sorted(state.cards for _, state in deals) == [
        (1, 2),
        (1, 3),
        (2, 1),
        (2, 3),
        (3, 1),
        (3, 2),
    ]
    assert {p for p, _ in deals} == {1 / 6}
    assert {state.history for _, state in deals} == {""}


@pytest.mark.parametrize("compact", [True, False])
def test_a_card_in_the_other_hand_is_never_shown(compact):
    game = KuhnPoker()
    for history, seat in [("", 0), ("-", 1), ("+", 1), ("-+", 0)]:
        shown = {}
        for own, other in itertools.permutations((1, 2, 3), 2):
            cards = (own, other) if seat == 0 else (other, own)
            text = game.observe(KuhnState(cards, history), compact=compact)
            shown.setdefault(own, set()).add(text)
        texts = [text for seen in shown.values() for text in seen]
        assert len(texts) == len(set(texts)) == 3  # one for each own card, whatever the other is


def test_kuhn_poker_in_words():
    game = KuhnPoker()
    assert game.observe(KuhnState((2, 1), "-+"), compact=True) == "(2)-+="
    assert game.observe(KuhnState((2, 1), "+"), compact=True) == "(1)+="
    ends = {
        "": "Your card is the queen. You move first.\n\nAnswer with - to check or + to bet.",
        "-": "Your card is the king. Your opponent checked.\n\nAnswer with - to check or + to bet.",
        "+": "Your card is the king. Your opponent bet.\n\nAnswer with - to fold or + to call.",
        "-+": "Your card is the queen. You checked, and your opponent bet.\n\n"
        "Answer with - to fold or + to call.",
    }
    for history, end in ends.items():
        assert game.observe(KuhnState((2, 3), history), compact=False).endswith(end)


# ---------------------------------------------------------------------------- actions
def test_random_actions_are_even_and_follow_the_generator():
    game, (_, start) = TicTacToe(), TicTacToe().deals()[0]
    state = play(game, start, "480")  # six cells left

    def draws(seed):
        generator = np.random.default_rng(seed)
        return [random_action(game, state, generator) for _ in range(600)]

    assert draws(0) == draws(0) != draws(1)
    counts = {action: draws(0).count(action) for action in game.legal(state)}
    assert sum(counts.values()) == 600
    # Five standard deviations of a count with p = 1/6.
    assert all(abs(n - 100) < 5 * np.sqrt(600 * 5 / 36) for n in counts.values())


@pytest.mark.parametrize(
    ("text", "words", "compact"),
    [
        ("4", "4", "4"),
        (" \n4\t", "4", "4"),
        ("[4]", "4", None),
        ("[ 4 ]", "4", None),
        ("[[4]]", None, None),
        ("(4)", None, None),
        ("4]", None, None),
        ("[4] [5]", None, None),
        ("4.", None, None),
        ("44", None, None),
        ("04", None, None),
        ("I take 4", None, None),
        ("", None, None),
        ("  ", None, None),
        ("[]", None, None),
        ("[", None, None),
        ("0", None, None),  # taken
        ("9", None, None),
        ("４", None, None),  # a digit, but not of this alphabet
        (r"I take \boxed{4}.", "4", None),
        (r"\boxed{ 4 }", "4", None),
        (r"\boxed{4} or rather \boxed{5}", "5", None),
        (r"\boxed{4} or rather \boxed{0}", None, None),  # the last one counts, and it is taken
        (r"\boxed{4} or rather \boxed{", None, None),
        (r"\boxed{}", None, None),
        (r"\boxed{[4]}", None, None),
        (r"\boxed{\text{4}}", None, None),
    ],
)
def test_what_an_answer_names(text, words, compact):
    game = TicTacToe()
    state = game.step(game.deals()[0][1], "0")
    assert parse_action(game, state, text) == words
    assert parse_action(game, state, text, compact=True) == compact


def test_every_action_is_read_back():
    for game in GAMES:
        for state in running(game)[:200]:
            for action in game.legal(state):
                for text in (action, f" {action} ", f"[{action}]", f"so \\boxed{{{action}}}"):
                    assert parse_action(game, state, text) == action
                assert parse_action(game, state, action, compact=True) == action
