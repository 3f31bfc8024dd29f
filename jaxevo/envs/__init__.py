"""Worlds with more than one move: two-player games, and exact measures of play on small ones."""

from jaxevo.envs.exploit import (
    best_response_value,
    expected_value,
    exploitability,
    information_sets,
    kuhn_equilibrium,
)
from jaxevo.envs.games import (
    Game,
    KuhnPoker,
    KuhnState,
    TicTacToe,
    TicTacToeState,
    parse_action,
    random_action,
)

__all__ = [
    "Game",
    "KuhnPoker",
    "KuhnState",
    "TicTacToe",
    "TicTacToeState",
    "best_response_value",
    "expected_value",
    "exploitability",
    "information_sets",
    "kuhn_equilibrium",
    "parse_action",
    "random_action",
]
