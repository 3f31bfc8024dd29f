"""Two-player zero-sum games as plain values: who moves, what is legal, what the mover may know.

A game holds no play; a play is a chain of immutable states. All chance is in the deal at the start,
so that small games can be walked and solved exactly (`jaxevo.envs.exploit`).

References: arXiv:2506.24119 trains on these two games. Its public Kuhn poker never moves the chips
of a bet or call; here they count, as in Kuhn (1950).
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, Protocol, TypeAlias

import numpy as np

State: TypeAlias = Any  # each game has its own: a frozen, hashable value

_BOXED = "\\boxed{"
_LINES = (
    (0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6),
)  # fmt: skip
_EMPTY = "."
_TIC_TAC_TOE_RULES = (
    "Tic-tac-toe: two players, O and X, take turns to mark an empty cell of a board of three rows. "
    "Whoever has three marks in a row, column or diagonal wins. "
    "A full board without such a line is a draw."
)
_CARDS = {1: "jack", 2: "queen", 3: "king"}
_KUHN_RULES = (
    "Kuhn poker: two players put one chip each into the pot and get one card each from a jack, "
    "a queen and a king, of which the king is the highest. "
    "A player may check, or bet one more chip; against a bet a player may fold, which gives away "
    "the pot, or call with one more chip. "
    "After two checks or a call the higher card wins the pot."
)
_KUHN_HISTORY = {
    "": "You move first.",
    "-": "Your opponent checked.",
    "+": "Your opponent bet.",
    "-+": "You checked, and your opponent bet.",
}
_KUHN_LEGAL = ("-", "+")


class Game(Protocol):
    """A two-player zero-sum game: a frozen dataclass, whose states are frozen, hashable values."""

    @property
    def name(self) -> str:
        """A short name."""
        ...

    def deals(self) -> tuple[tuple[float, State], ...]:
        """Every possible start with its probability; they sum to 1."""
        ...

    def mover(self, state: State) -> int:
        """The seat to move, 0 or 1; ValueError when the game is over."""
        ...

    def legal(self, state: State) -> tuple[str, ...]:
        """The legal actions as text, in a fixed order; none when the game is over."""
        ...

    def step(self, state: State, action: str) -> State:
        """The state after the mover's action; ValueError for an illegal one."""
        ...

    def outcome(self, state: State) -> tuple[float, float] | None:
        """What seats 0 and 1 have won, which sums to 0; None while the game runs."""
        ...

    def observe(self, state: State, *, compact: bool) -> str:
        """What the mover may know, as a prompt; ValueError when the game is over.

        compact: a few characters that end in "=" and name the mover's information set, for
        character-level models; else rules and state in plain words.
        """
        ...


@dataclasses.dataclass(frozen=True)
class TicTacToeState:
    """Nine cells in rows: "0" or "1" for the seat that marked it, "." for an empty one."""

    cells: str


@dataclasses.dataclass(frozen=True)
class TicTacToe:
    """Tic-tac-toe: three in a row win +1, a full board is a draw; seat 0 (O) moves first.

    Actions are the digits of empty cells, "0" to "8" in rows. A compact observation shows the
    cells with the mover's eyes: "-" empty, "+" own, "*" the other's.

    >>> game = TicTacToe()
    >>> state = game.step(game.deals()[0][1], "4")
    >>> game.observe(state, compact=True), game.legal(state)
    ('----*----=', ('0', '1', '2', '3', '5', '6', '7', '8'))
    """

    name: str = dataclasses.field(default="tic-tac-toe", init=False, repr=False)

    def deals(self) -> tuple[tuple[float, TicTacToeState], ...]:
        return ((1.0, TicTacToeState(9 * _EMPTY)),)

    def mover(self, state: TicTacToeState) -> int:
        _refuse_finished(self, state)
        return (9 - state.cells.count(_EMPTY)) % 2

    def legal(self, state: TicTacToeState) -> tuple[str, ...]:
        if self.outcome(state) is not None:
            return ()
        return tuple(str(cell) for cell, mark in enumerate(state.cells) if mark == _EMPTY)

    def step(self, state: TicTacToeState, action: str) -> TicTacToeState:
        _refuse_illegal(self, state, action)
        cell, seat = int(action), self.mover(state)
        return TicTacToeState(f"{state.cells[:cell]}{seat}{state.cells[cell + 1 :]}")

    def outcome(self, state: TicTacToeState) -> tuple[float, float] | None:
        for a, b, c in _LINES:
            if state.cells[a] == state.cells[b] == state.cells[c] != _EMPTY:
                return (1.0, -1.0) if state.cells[a] == "0" else (-1.0, 1.0)
        return None if _EMPTY in state.cells else (0.0, 0.0)

    def observe(self, state: TicTacToeState, *, compact: bool) -> str:
        own = self.mover(state)
        if compact:
            seen = {_EMPTY: "-", str(own): "+", str(1 - own): "*"}
            return "".join(seen[mark] for mark in state.cells) + "="
        shown = {_EMPTY: None, "0": "O", "1": "X"}
        cells = [shown[mark] or str(cell) for cell, mark in enumerate(state.cells)]
        board = "\n".join(" ".join(cells[row : row + 3]) for row in (0, 3, 6))
        return (
            f"{_TIC_TAC_TOE_RULES}\n\nThe board, where an empty cell shows its number:\n{board}\n\n"
            f"You are {'OX'[own]}. Answer with the number of one empty cell."
        )


@dataclasses.dataclass(frozen=True)
class KuhnState:
    """The cards of seats 0 and 1 (1 jack, 2 queen, 3 king) and the actions so far."""

    cards: tuple[int, int]
    history: str = ""


@dataclasses.dataclass(frozen=True)
class KuhnPoker:
    """Kuhn poker, one hand: three cards, an ante of one chip each, one bet of one chip.

    Action "-" passes (checks, or folds to a bet), "+" bets or calls. Seat 0 moves first; the hand
    ends after --, +-, ++, -+- or -++. A fold wins the other seat +1, a showdown after two checks
    is worth 1, after a call 2. A compact observation is the mover's card and the history.

    >>> game = KuhnPoker()
    >>> game.observe(KuhnState((2, 3), "-+"), compact=True)
    '(2)-+='
    >>> game.outcome(KuhnState((2, 3), "-++"))
    (-2.0, 2.0)

    References: Kuhn (1950), A simplified two-person poker.
    """

    name: str = dataclasses.field(default="kuhn-poker", init=False, repr=False)

    def deals(self) -> tuple[tuple[float, KuhnState], ...]:
        pairs = list(itertools.permutations(_CARDS, 2))
        return tuple((1 / len(pairs), KuhnState((first, second))) for first, second in pairs)

    def mover(self, state: KuhnState) -> int:
        _refuse_finished(self, state)
        return len(state.history) % 2

    def legal(self, state: KuhnState) -> tuple[str, ...]:
        return _KUHN_LEGAL if self.outcome(state) is None else ()

    def step(self, state: KuhnState, action: str) -> KuhnState:
        _refuse_illegal(self, state, action)
        return dataclasses.replace(state, history=state.history + action)

    def outcome(self, state: KuhnState) -> tuple[float, float] | None:
        if state.history in _KUHN_HISTORY:
            return None
        if state.history.endswith("+-"):  # a fold by the seat that moved last
            won = 1.0 if len(state.history) % 2 == 0 else -1.0
        else:
            stake = 2.0 if state.history.endswith("++") else 1.0
            won = stake if state.cards[0] > state.cards[1] else -stake
        return won, -won

    def observe(self, state: KuhnState, *, compact: bool) -> str:
        card = state.cards[self.mover(state)]
        if compact:
            return f"({card}){state.history}="
        choice = "- to fold or + to call" if "+" in state.history else "- to check or + to bet"
        return (
            f"{_KUHN_RULES}\n\nYour card is the {_CARDS[card]}. {_KUHN_HISTORY[state.history]}\n\n"
            f"Answer with {choice}."
        )


def random_action(game: Game, state: State, generator: np.random.Generator) -> str:
    """A legal action, all equally likely; one draw from `generator`.

    Raises:
      ValueError: when the game is over.
    """
    _refuse_finished(game, state)
    legal = game.legal(state)
    return legal[int(generator.integers(len(legal)))]


def parse_action(game: Game, state: State, text: str, *, compact: bool = False) -> str | None:
    r"""The legal action that an answer names, or None where it names none.

    White space around an action never counts. An answer to a compact observation is the action and
    nothing else. An answer in words is read from its last `\boxed{...}` alone; without any, it is
    the action, with or without one pair of square brackets, and nothing else.

    Args:
      game, state: whose legal actions are meant.
      text: the mover's answer, of any length and content.
      compact: whether the observation was compact.

    >>> game, (_, state) = TicTacToe(), TicTacToe().deals()[0]
    >>> parse_action(game, state, r"Not \boxed{0}, better \boxed{ 4 }.")
    '4'
    >>> parse_action(game, state, "[4]"), parse_action(game, state, "[4]", compact=True)
    ('4', None)
    """
    action = text.strip()
    if not compact:
        _, boxed, rest = action.rpartition(_BOXED)
        if boxed:
            action, closed, _ = rest.partition("}")
            if not closed:
                return None
        elif action.startswith("[") and action.endswith("]"):
            action = action[1:-1]
        action = action.strip()
    return action if action in game.legal(state) else None


def _refuse_finished(game: Game, state: State) -> None:
    if game.outcome(state) is not None:
        raise ValueError(f"this play of {game.name} is over: {state}. Start one from deals().")


def _refuse_illegal(game: Game, state: State, action: str) -> None:
    _refuse_finished(game, state)
    legal = game.legal(state)
    if action not in legal:
        raise ValueError(
            f"{action!r} is no legal action of {game.name} in {state}; "
            f"take one of {', '.join(legal)}."
        )
