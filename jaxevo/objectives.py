"""What objectives of one policy have in common: on its own answers by reward, and by imitation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from jaxevo.advantages import leave_one_out_advantage, no_advantage, zero_advantage
from jaxevo.losses.credit import Correction, Truncation, broadcast, refuse_uncorrectable
from jaxevo.losses.kl import Estimator
from jaxevo.losses.reduce import reducer, refuse_not_positive
from jaxevo.losses.terms import (
    distillation,
    entropy_bonus,
    imitation,
    reference_kl,
    refuse_unpaired,
    sampled_distillation,
)
from jaxevo.types import Bound, Minibatch, Objective, ParamSet, Source, Term, View, bind

Divergence: TypeAlias = Literal["reverse", "forward", "js", "sampled"]
Reads: TypeAlias = tuple[str, ...]


def policy_objective(
    *,
    advantage: Bound,
    surrogate: Bound,
    reduce: Bound,
    optimizer: Bound,
    kl_weight: float = 0.0,
    kl_estimator: Estimator = "k3",
    entropy_weight: float = 0.0,
    correction: Correction = "none",
    correction_cap: float = 2.0,
    correction_floor: float | None = None,
    drop_above: float | None = None,
    truncation: Truncation = "correct",
    epochs: int = 1,
    minibatches: int = 1,
) -> Objective:
    """One policy term; a KL to the frozen start weights and an entropy bonus if they have weights.

    Args:
      advantage, reduce, optimizer: as in `Objective`.
      surrogate: the policy's `Term.fn`, which is 0 where the advantage is.
      kl_weight: coefficient of the KL term; 0 drops it, and the reference set with it.
      kl_estimator: see `kl_penalty`.
      entropy_weight: coefficient of the entropy bonus in nats per token.
      correction, correction_cap, correction_floor, drop_above, truncation: see `broadcast`.
      epochs: passes over each round's rows. minibatches: updates per epoch; groups stay whole.
    """
    terms, views = (Term("policy", surrogate),), ()
    if kl_weight:
        terms += (Term("kl", bind(reference_kl, estimator=kl_estimator), kl_weight),)
        views = (View("reference", params="reference"),)
    if entropy_weight:
        terms += (Term("entropy", bind(entropy_bonus), entropy_weight),)
    return Objective(
        name="policy",
        advantage=advantage,
        credit=bind(
            broadcast,
            correction=correction,
            cap=correction_cap,
            floor=correction_floor,
            drop_above=drop_above,
            truncation=truncation,
        ),
        terms=terms,
        reduce=reduce,
        optimizer=optimizer,
        views=views,
        epochs=epochs,
        minibatch=Minibatch(by="groups", count=minibatches),
        # Rows of advantage 0 add nothing but tokens to divide by.
        idle=None if kl_weight or entropy_weight else bind(no_advantage),
        weighs_stale=correction != "none",
        check=bind(refuse_uncorrectable, correction=correction, truncation=truncation),
    )


def imitation_objective(
    *,
    reduce: Bound,
    optimizer: Bound,
    learns: tuple[Source, ...] = ("policy",),
    epochs: int = 1,
    minibatches: int = 1,
) -> Objective:
    """−log p of each token of these sources, whoever gave them and when.

    Args:
      reduce, optimizer, learns: as in `Objective`.
      epochs: passes over each round's rows. minibatches: updates per pass; groups stay whole.
    """
    return Objective(
        name="policy",
        advantage=bind(zero_advantage),
        credit=bind(broadcast),
        terms=(Term("imitation", bind(imitation)),),
        reduce=reduce,
        optimizer=optimizer,
        epochs=epochs,
        minibatch=Minibatch(by="groups", count=minibatches),
        learns=learns,
        weighs_stale=True,
    )


def preference_objective(
    name: str,
    fn: Bound,
    *,
    refers: bool,
    optimizer: Bound,
    epochs: int = 1,
    minibatches: int = 1,
) -> Objective:
    """Learns from the better and the worse row of each group by one term, `name`.

    Args:
      fn: a `Term.fn` that speaks once per pair, or per answer.
      refers: whether it reads the start weights (view `reference`).
      optimizer: as in `Objective`.
      epochs: passes over each round's pairs. minibatches: updates per pass; pairs stay whole.
    """
    return Objective(
        name="policy",
        advantage=bind(leave_one_out_advantage),
        credit=bind(broadcast),
        terms=(Term(name, fn),),
        reduce=reducer("token_mean"),  # a pair stands at one token
        optimizer=optimizer,
        read=("logp",),
        views=(View("reference", params="reference"),) if refers else (),
        epochs=epochs,
        minibatch=Minibatch(by="groups", count=minibatches),
        check=bind(refuse_unpaired),
        weighs_stale=True,  # a preference holds whoever answered
    )


def divergence(
    kind: Divergence,
    *,
    alpha: float = 0.5,
    top_k: int | None = None,
    tail: bool = True,
    cap: float | None = None,
) -> tuple[Bound, Reads]:
    """The `Term.fn` of a divergence to a teacher, and what it reads of both.

    Args:
      kind: of `distillation`, whose options the others are, or `sampled_distillation`.
      alpha, top_k, tail, cap: not read by sampled; alpha by js alone.

    Raises:
      ValueError: for a cap that is not above 0.
    """
    if kind == "sampled":
        return bind(sampled_distillation), ("logp",)
    if cap is not None:
        refuse_not_positive("cap", cap)
    how = {"alpha": alpha, "top_k": top_k, "tail": tail, "cap": cap}
    return bind(distillation, kind=kind, **how), ("hidden",)


def parameter_sets(
    *objectives: Objective, given: Sequence[ParamSet] = (), also: Sequence[str] = ()
) -> tuple[ParamSet, ...]:
    """The sets that objectives train and that their views read, in order.

    Those of them that are in `given` are taken from there: sets that follow others, say. also:
    further ones, of a judge or a critic, that waves alone read.
    """
    own = {param.name: param for param in given}
    names = dict.fromkeys(name for objective in objectives for name in objective.sets)
    names |= dict.fromkeys(also)
    return tuple(own.get(name, ParamSet(name)) for name in names)
