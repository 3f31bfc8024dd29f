"""One-step-off-policy rounds: the next round's rows are gathered while this one's are learnt.

A round that was gathered ahead was sampled by the weights that began the round before; its segments
say so (`weights_version`), and importance weights correct for it. The round after a checkpoint is
gathered anew with the weights of the checkpoint, so that a run that is broken off and continued is
the same run, bit by bit.

Both halves share a device, which does one thing after the other: the next round's first wave goes
first, so that its verifiers wait while this round is learnt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp

from jaxevo.collect.lab import Lab
from jaxevo.run.build import Run
from jaxevo.step import gather
from jaxevo.types import Params, Recipe, Row, TrainState


@dataclasses.dataclass(frozen=True)
class Gathered:
    """A round's rows by objective, and the lab that gathered them."""

    lab: Lab
    experience: Mapping[str, Sequence[Row]]


def gather_round(run: Run, state: TrainState, memory: Any) -> Gathered:
    """The rows of round `state.counters["round"]`, sampled by its own weights."""
    return _gathered(run, _lab(run, state), state, memory)


def _lab(run: Run, state: TrainState, *, ahead: int = 0) -> Lab:
    """The instruments of this round, with weights of `ahead` rounds before."""
    index = state.counters["round"]
    return run.bench.lab(
        state.params,
        learner=run.learner,
        round_index=index,
        position=state.counters["position"],
        weights_version=index - ahead,
    )


def _gathered(run: Run, lab: Lab, state: TrainState, memory: Any) -> Gathered:
    with run.sampling_scope():
        return Gathered(lab, gather(run.recipe, lab, state, memory))


class Ahead:
    """Gathers the next round on a thread; a context manager that waits for it."""

    def __init__(self, run: Run):
        self._run = run
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._next: Future[Gathered] | None = None

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *raised: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def begin(self, state: TrainState, memory: Any, position: int, rollouts: int = 0) -> None:
        """Starts on the round after this one, unless there is none, or a checkpoint before it.

        Returns once its first wave has been drawn, or all of it has ended or failed.

        Args:
          state: before this round's updates. What they will change is copied; `collect` sees no
            optimizer state.
          memory: after this round's rows.
          position: the next problem.
          rollouts: of this round.
        """
        counters = {
            **state.counters,
            "round": state.counters["round"] + 1,
            "position": position,
            "rollouts": state.counters["rollouts"] + rollouts,
        }
        if self._run.options.saves_after(counters):
            return
        seen = TrainState(
            _kept(self._run.recipe, state.params),
            {},
            counters,
        )
        following = _lab(self._run, seen, ahead=1)
        self._next = self._pool.submit(_gathered, self._run, following, seen, memory)
        self._next.add_done_callback(lambda _: following.drawn.set())
        following.drawn.wait()

    def take(self) -> Gathered | None:
        """The round that was begun, once it is there; None where none was."""
        begun, self._next = self._next, None
        return None if begun is None else begun.result()


def _kept(recipe: Recipe, sets: Mapping[str, Params]) -> dict[str, Params]:
    """The sets as they are now: an update takes the buffers of those that it changes."""
    trained = {o.trains for o in recipe.objectives}
    changed = trained | {own.name for own in recipe.params if own.follows}
    return {
        name: jax.tree.map(jnp.copy, params) if name in changed else params
        for name, params in sets.items()
    }
