"""Worlds with more than one move: two-player games, exact measures of play on small ones, tools."""

from jaxevo.envs.calculator import Calculator, CallError, Reply, Tool, calculate
from jaxevo.envs.corpus import Corpus, Passage, load_corpus
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
from jaxevo.envs.search import Search

__all__ = [
    "Calculator",
    "CallError",
    "Corpus",
    "Game",
    "KuhnPoker",
    "KuhnState",
    "Passage",
    "Reply",
    "Search",
    "TicTacToe",
    "TicTacToeState",
    "Tool",
    "best_response_value",
    "calculate",
    "expected_value",
    "exploitability",
    "information_sets",
    "kuhn_equilibrium",
    "load_corpus",
    "parse_action",
    "random_action",
]
