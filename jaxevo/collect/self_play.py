"""Two-player games by the policy: many games side by side, one row per turn.

Each turn is a fresh prompt that shows what its mover may know, never what the other seat wrote. An
answer that names no legal action ends its game, to the mover's cost.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from jaxevo.advantages import role_baselines
from jaxevo.collect.lab import Lab, RolloutConfig
from jaxevo.envs.games import Game, State, parse_action
from jaxevo.types import Message, Row, Size, Sizes, Task, TrainState

Seats: TypeAlias = tuple[str, str]  # who plays: names of parameter sets

INVALID = (-1.5, 0.5)  # for the mover and for the other seat (arXiv 2506.24119)


@dataclasses.dataclass
class _Table:
    """One game in progress."""

    game: Game
    state: State
    seats: Seats
    rows: list[Row]
    outcome: tuple[float, float] | None = None


def deal(games: Sequence[Game], count: int, generator: np.random.Generator) -> list[Any]:
    """`count` pairs of a game, in turns, and a start that is drawn with its probability."""
    starts = []
    for index in range(count):
        game = games[index % len(games)]
        chances, states = zip(*game.deals(), strict=True)
        starts.append((game, states[generator.choice(len(states), p=chances)]))
    return starts


def play(
    lab: Lab,
    starts: Sequence[tuple[Game, State]],
    seats: Sequence[Seats],
    *,
    invalid: tuple[float, float] = INVALID,
) -> list[Row]:
    """Plays all games to their ends, turn by turn; all movers of a turn answer together.

    Args:
      lab: samples the answers and logs the rows.
      starts: games and states to begin with.
      seats: for each game the parameter sets that play seats 0 and 1.
      invalid: what the mover and the other seat get for an answer that names no legal action.

    Returns:
      the rows of the first game in the order of its turns, then of the next. A row's reward is its
      seat's outcome; group and episode are the game's number. In `info` stand seat, params (who
      moved), invalid, and the game's seats and outcome.
    """
    tables = [
        _Table(game, state, who, []) for (game, state), who in zip(starts, seats, strict=True)
    ]
    while running := [table for table in tables if table.outcome is None]:
        for params in sorted({_mover(table) for table in running}):
            moving = [table for table in running if _mover(table) == params]
            rows = lab.sample([_task(lab, table) for table in moving], samples=1, params=params)
            for table, row in zip(moving, rows, strict=True):
                _move(table, row, lab, invalid)
    return lab.record([row for n, table in enumerate(tables) for row in _finished(table, n)])


def _mover(table: _Table) -> str:
    return table.seats[table.game.mover(table.state)]


def _task(lab: Lab, table: _Table) -> Task:
    seen = table.game.observe(table.state, compact=not lab.tokenizer.chat)
    return Task(f"{table.game.name}/{seen}", (Message("user", seen),), "")


def _move(table: _Table, row: Row, lab: Lab, invalid: tuple[float, float]) -> None:
    """Lets the row's answer change the table."""
    seat = table.game.mover(table.state)
    compact = not lab.tokenizer.chat
    action = parse_action(table.game, table.state, lab.answer_text(row), compact=compact)
    info = {**row.info, "seat": seat, "params": table.seats[seat], "invalid": action is None}
    table.rows.append(dataclasses.replace(row, turn=len(table.rows), role=f"seat{seat}", info=info))
    if action is None:
        own, other = invalid
        table.outcome = (own, other) if seat == 0 else (other, own)
    else:
        table.state = table.game.step(table.state, action)
        table.outcome = table.game.outcome(table.state)


def _finished(table: _Table, number: int) -> Iterator[Row]:
    assert table.outcome is not None
    whole = {"seats": list(table.seats), "outcome": list(table.outcome)}
    for row in table.rows:
        yield dataclasses.replace(
            row,
            group=number,
            episode=number,
            rewards={"outcome": table.outcome[row.info["seat"]]},
            info={**row.info, **whole},
        )


# ---------------------------------------------------------------------------- a whole wave
@dataclasses.dataclass(frozen=True)
class Baselines:
    """Moving averages of what the policy gets in both roles of each game, [2 * games]."""

    mean_R: np.ndarray


def no_baselines(*, games: int) -> Baselines:
    """Nothing expected of any role."""
    return Baselines(np.zeros(2 * games))


def self_play(
    lab: Lab,
    state: TrainState,
    memory: Baselines,
    *,
    games: tuple[Game, ...],
    decay: float,
    opponent: str = "",
    objective: str = "policy",
) -> dict[str, list[Row]]:
    """P x G games, which the policy plays against itself, or against another parameter set.

    Args:
      lab, state, memory: as for every `Recipe.collect`.
      games: which games; episode e plays number e modulo their count.
      decay: of the baselines (`role_baselines`).
      opponent: the other seat's parameter set, empty for the policy itself; seats alternate.
      objective: whose rows these are.

    Returns:
      the policy's rows with their baseline in `numbers`, without those that got just that; and
      all rows under "games", for `move_baselines`.
    """
    del state
    count = lab.config.prompts * lab.config.samples
    starts = deal(games, count, lab.generator("deals"))
    other = opponent or "policy"
    sides: tuple[Seats, Seats] = (("policy", other), (other, "policy"))
    seats = [sides[n // len(games) % 2] for n in range(count)]
    rows = play(lab, starts, seats)
    before_ER, _ = role_baselines(_returns(rows, len(games)), memory.mean_R, decay=decay)
    chosen = []
    for row in rows:
        baseline = float(before_ER[row.episode, _role(row, len(games), row.info["seat"])])
        if row.info["params"] == "policy" and row.reward != baseline:
            chosen.append(dataclasses.replace(row, numbers={"baseline": baseline}))
    return {objective: chosen, "games": rows}


def move_baselines(
    memory: Baselines, experience: Mapping[str, Sequence[Row]], *, games: int, decay: float
) -> Baselines:
    """The baselines after a round's games, in their order."""
    returns_ER = _returns(experience["games"], games)
    return Baselines(role_baselines(returns_ER, memory.mean_R, decay=decay)[1])


def _returns(rows: Sequence[Row], games: int) -> np.ndarray:
    """What the policy got in each role of each episode's game, NaN where it did not play it."""
    episodes = {row.episode: row for row in rows}
    returns_ER = np.full((len(episodes), 2 * games), np.nan)
    for row in episodes.values():
        for seat, params in enumerate(row.info["seats"]):
            if params == "policy":
                returns_ER[row.episode, _role(row, games, seat)] = row.info["outcome"][seat]
    return returns_ER


def _role(row: Row, games: int, seat: int) -> int:
    return 2 * (row.episode % games) + seat


def self_play_sizes(
    rollout: RolloutConfig, prompt_tokens: int, tokenizer: Any, *, games: tuple[Game, ...]
) -> Sizes:
    """Room for every turn of every game; one row is one turn."""
    del prompt_tokens
    prompts, turns = zip(*(longest(game, tokenizer) for game in games), strict=True)
    rows = rollout.prompts * rollout.samples * max(turns)
    slots = max(prompts) + rollout.new_tokens - 1
    size = Size(rows, answer=rollout.new_tokens, group=1, slots=slots)
    return Sizes(max(prompts), {"policy": size})


def longest(game: Game, tokenizer: Any) -> tuple[int, int]:
    """Tokens of a game's longest prompt, and turns of its longest play, from the whole tree."""
    prompts, turns = set(), 0
    for state, turn in _states(game):
        if game.outcome(state) is None:
            prompts.add(game.observe(state, compact=not tokenizer.chat))
            turns = max(turns, turn + 1)
    return max(len(tokenizer.render((Message("user", seen),))) for seen in prompts), turns


def _states(game: Game) -> Iterator[tuple[State, int]]:
    """Every state that can be reached, once, with the turns before it."""
    found = {state for _, state in game.deals()}
    turn = 0
    while found:
        yield from ((state, turn) for state in found)
        found = {game.step(s, action) for s in found for action in game.legal(s)}
        turn += 1
