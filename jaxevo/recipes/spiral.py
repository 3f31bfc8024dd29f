"""SPIRAL: self-play on zero-sum games with role-conditioned advantages (arXiv 2506.24119)."""

from __future__ import annotations

from typing import Literal

from jaxevo.advantages import baseline_advantage
from jaxevo.collect.self_play import move_baselines, no_baselines, self_play, self_play_sizes
from jaxevo.envs.games import KuhnPoker, TicTacToe
from jaxevo.losses.credit import broadcast, refuse_uncorrectable
from jaxevo.losses.reduce import reducer
from jaxevo.losses.terms import policy_gradient, reference_kl
from jaxevo.optimizers import adamw
from jaxevo.teachers.follow import copy, every
from jaxevo.types import Objective, ParamSet, Recipe, Term, View, bind

GAMES = {"kuhn": KuhnPoker(), "tic-tac-toe": TicTacToe()}


def spiral(
    *,
    games: tuple[Literal["kuhn", "tic-tac-toe"], ...] = ("kuhn",),
    opponent: Literal["self", "snapshot", "start"] = "self",
    snapshot_rounds: int = 10,
    learning_rate: float = 1e-6,
    max_grad_norm: float = 1.0,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    kl_weight: float = 0.0,
    epochs: int = 2,
    norm_length: float = 4096.0,
    decay: float = 0.95,
) -> Recipe:
    """Plays P x G games a round against itself; each turn is a row, each role has a baseline.

    A = R - b of the game and role, at every token of every turn of that seat;
    b <- decay b + (1 - decay) R after each game, in the order of the games. Rows with A = 0 are
    dropped. An answer that is no legal action ends its game at -1.5, and gives the other seat 0.5.

    Differs from the paper: Kuhn poker moves the chips of bets and calls (outcomes up to 2), one
    hand is a game, and one table of baselines serves all games of a round.

    Args:
      games: which games; a round plays them in turns.
      opponent: whom the policy plays: itself in both seats, a snapshot, or its start weights.
      snapshot_rounds: rounds between two snapshots.
      learning_rate: AdamW step size per update.
      max_grad_norm: longest gradient before clipping, in the global 2-norm.
      clip_low: how far the ratio may fall below 1 before its gradient stops.
      clip_high: how far the ratio may rise above 1 before its gradient stops.
      kl_weight: coefficient of the KL (k3) to the frozen start weights, none in the paper.
      epochs: passes over each round's rows.
      norm_length: tokens by which the sum over an answer is divided.
      decay: share of the old baseline, in [0, 1].

    References:
      arXiv 2506.24119 and its official code.
    """
    terms = [Term("policy", bind(policy_gradient, clip_low=clip_low, clip_high=clip_high))]
    params, views = [ParamSet("policy")], ()
    if kl_weight:
        params, views = [*params, ParamSet("reference")], (View("reference", params="reference"),)
        terms.append(Term("kl", bind(reference_kl), kl_weight))
    objective = Objective(
        name="policy",
        advantage=bind(baseline_advantage),
        credit=bind(broadcast),
        terms=tuple(terms),
        reduce=reducer("constant_norm", length=norm_length),
        optimizer=bind(adamw, learning_rate=learning_rate, max_grad_norm=max_grad_norm),
        views=views,
        epochs=epochs,
        check=bind(refuse_uncorrectable),
    )
    if opponent == "snapshot":
        when = bind(every, rounds=snapshot_rounds)
        params.append(ParamSet("opponent", follows="policy", rule=bind(copy), when=when))
    elif opponent == "start":
        params.append(ParamSet("opponent"))
    chosen = tuple(GAMES[name] for name in games)
    seat = "" if opponent == "self" else "opponent"
    return Recipe(
        "spiral",
        bind(self_play, games=chosen, decay=decay, opponent=seat),
        (objective,),
        params=tuple(params),
        memory=bind(no_baselines, games=len(chosen)),
        grow=bind(move_baselines, games=len(chosen), decay=decay),
        sizes=bind(self_play_sizes, games=chosen),
    )
