"""Ready-made `collect` functions: how rows of one round come about."""

from __future__ import annotations

from typing import Any

from jaxevo.collect.lab import Lab
from jaxevo.types import Row, TrainState


def single_turn(
    lab: Lab, state: TrainState, memory: Any, *, objective: str = "policy"
) -> dict[str, list[Row]]:
    """P problems, G answers each, verified: the experience of one objective."""
    del state, memory
    return {objective: lab.verify(lab.sample(lab.tasks()))}
