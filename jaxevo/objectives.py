"""What objectives of one policy on its own answers have in common."""

from __future__ import annotations

from jaxevo.advantages import no_advantage
from jaxevo.losses.credit import Correction, Truncation, broadcast, refuse_uncorrectable
from jaxevo.losses.kl import Estimator
from jaxevo.losses.terms import reference_kl
from jaxevo.types import Bound, Minibatch, Objective, ParamSet, Term, View, bind


def policy_objective(
    *,
    advantage: Bound,
    surrogate: Bound,
    reduce: Bound,
    optimizer: Bound,
    kl_weight: float = 0.0,
    kl_estimator: Estimator = "k3",
    correction: Correction = "none",
    correction_cap: float = 2.0,
    truncation: Truncation = "correct",
    epochs: int = 1,
    minibatches: int = 1,
) -> Objective:
    """One policy term, and a KL to the frozen start weights where it has a weight.

    Args:
      advantage, reduce, optimizer: as in `Objective`.
      surrogate: the policy's `Term.fn`, which is 0 where the advantage is.
      kl_weight: coefficient of the KL term; 0 drops it, and the reference set with it.
      kl_estimator: see `kl_penalty`.
      correction, correction_cap, truncation: see `broadcast`.
      epochs: passes over each round's rows. minibatches: updates per epoch; groups stay whole.
    """
    terms, views = (Term("policy", surrogate),), ()
    if kl_weight:
        terms += (Term("kl", bind(reference_kl, estimator=kl_estimator), kl_weight),)
        views = (View("reference", params="reference"),)
    return Objective(
        name="policy",
        advantage=advantage,
        credit=bind(broadcast, correction=correction, cap=correction_cap, truncation=truncation),
        terms=terms,
        reduce=reduce,
        optimizer=optimizer,
        views=views,
        epochs=epochs,
        minibatch=Minibatch(by="groups", count=minibatches),
        idle=None if kl_weight else bind(no_advantage),
        weighs_stale=correction != "none",
        check=bind(refuse_uncorrectable, correction=correction, truncation=truncation),
    )


def parameter_sets(*objectives: Objective) -> tuple[ParamSet, ...]:
    """The sets that objectives train and that their views read, in order."""
    names = [name for o in objectives for name in (o.trains, *(v.params for v in o.views))]
    return tuple(ParamSet(name) for name in dict.fromkeys(names))
