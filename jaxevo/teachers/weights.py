"""Whose weights a teacher has: a view of the answers, and the parameter sets that it needs."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from jaxevo.teachers.follow import copy, ema, every
from jaxevo.types import Bound, ParamSet, View, bind

Weights = Literal["ema", "frozen", "live", "synced", "trust_region"]


class Teacher(NamedTuple):
    """A view for an `Objective`, and sets for its `Recipe`, the policy not among them."""

    view: View
    params: tuple[ParamSet, ...]


def teacher(
    weights: Weights,
    *,
    context: Bound | None,
    read: tuple[str, ...] = ("hidden",),
    rate: float = 0.05,
    sync_rounds: int = 50,
    name: str = "teacher",
) -> Teacher:
    """The policy under another context, with weights that are more or less its own.

    | weights | the teacher's weights or logits |
    |---|---|
    | ema | θ_T ← (1 − rate) θ_T + rate θ after each round, from the start weights on |
    | frozen | the start weights |
    | live | the policy's, at each update |
    | synced | the start weights, and after each `sync_rounds`-th round the policy's |
    | trust_region | logits (1 − rate) · logits(start weights) + rate · logits(policy) |

    Args:
      weights: a row of the table.
      context: under which it reads the answers, see `View.context`; None for their own prompts.
      read: what is computed of it, see `View`; of a trust region `hidden` alone.
      rate: of ema in [0, 1], of a trust region in (0, 1); others do not read it.
      sync_rounds: of synced, at least 1.
      name: of the view, and of the set of ema and synced; start weights are `reference`.

    Raises:
      ValueError: for unknown weights, or an option outside of its range.

    References:
      arXiv 2601.20802 (SDPO: ema, trust region), 2604.12002 (SD-Zero: frozen, synced).
    """
    if weights not in get_args(Weights):
        raise ValueError(f"teacher={weights!r}; choose one of {', '.join(get_args(Weights))}.")
    if weights == "ema" and not 0.0 <= rate <= 1.0:
        raise ValueError(f"an ema teacher needs a rate in [0, 1], got {rate}.")
    if sync_rounds < 1:
        raise ValueError(f"a synced teacher needs sync_rounds of at least 1, got {sync_rounds}.")
    if weights == "trust_region" and (more := [what for what in read if what != "hidden"]):
        raise ValueError(
            f"teacher={weights!r} mixes logits inside of a divergence over the vocabulary, but "
            f"{' and '.join(more)} of its own would be needed. Choose another teacher, a kind that "
            "is no sampled one, and no weights by its entropy (beta 0)."
        )
    start, follows = ParamSet("reference"), "policy"
    sets: dict[str, tuple[ParamSet, ...]] = {
        "ema": (ParamSet(name, follows=follows, rule=bind(ema, rate=rate)),),
        "frozen": (start,),
        "live": (),
        "synced": (ParamSet(name, follows, rule=bind(copy), when=bind(every, rounds=sync_rounds)),),
        "trust_region": (start,),
    }
    params = sets[weights]
    own = params[0].name if params else follows
    blend = (follows, rate) if weights == "trust_region" else None
    return Teacher(View(name, own, context, read, blend), params)
