"""Worlds with more than one move: two-player games, exact measures of play on small ones, tools."""

from jaxevo.envs.calculator import Calculator, CallError, Reply, Tool, calculate
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
    "Calculator",
    "CallError",
    "Game",
    "KuhnPoker",
    "KuhnState",
    "Reply",
    "TicTacToe",
    "TicTacToeState",
    "Tool",
    "best_response_value",
    "calculate",
    "expected_value",
    "exploitability",
    "information_sets",
    "kuhn_equilibrium",
    "parse_action",
    "random_action",
]
