"""DPO: preferences between one's own answers, and IPO, SimPO and KTO (arXiv 2305.18290)."""

from __future__ import annotations

from typing import Literal

from jaxevo.collect.answers import answers_sizes, best_and_worst
from jaxevo.losses import preference as losses
from jaxevo.losses.reduce import refuse_not_positive
from jaxevo.losses.terms import answer_preference, pair_preference
from jaxevo.objectives import parameter_sets, preference_objective
from jaxevo.optimizers import adamw
from jaxevo.types import Recipe, bind


def dpo(
    *,
    loss: Literal["dpo", "ipo", "simpo", "kto"] = "dpo",
    beta: float | None = None,
    gamma: float | None = None,
    learning_rate: float = 1e-6,
    warmup_updates: int = 0,
    weight_decay: float = 0.0,
    max_grad_norm: float = 1.0,
    epochs: int = 1,
    minibatches: int = 1,
) -> Recipe:
    """Samples a group of answers per problem and prefers its best to its worst, which may not tie.

    With u = log pi / pi_ref of a whole answer, m = u_best - u_worst. dpo: -log s(beta m); ipo:
    (m - 1 / (2 beta))^2 and simpo: -log s(beta m - gamma), both of means over tokens, simpo without
    pi_ref; kto: 1 - s(beta (u - z)) of the best and 1 - s(beta (z - u)) of the worst.

    Differs from the paper: pairs are made by the verifier from the round's own answers; kto's z is
    the mean u of all of them, once a round, not of answers to other problems, once an update.

    Args:
      loss: of a pair, or for kto of either of its answers.
      beta: how closely the policy is tied to the reference, ipo's tau; none for 0.1, simpo's 2.
      gamma: simpo's margin to win by, none for 1.
      learning_rate: AdamW step size per update.
      warmup_updates: updates of linear warm-up.
      weight_decay: decoupled weight decay per update, times the rate.
      max_grad_norm: longest gradient before clipping, in the global 2-norm.
      epochs: passes over each round's pairs.
      minibatches: updates per pass; pairs stay whole.

    References:
      arXiv 2305.18290, equation 7; 2310.12036, 17; 2405.14734, 6; 2402.01306, 7.
    """
    if gamma is not None and loss != "simpo":
        raise ValueError(f'gamma={gamma} is the margin of loss="simpo", but loss is {loss!r}.')
    beta = (2.0 if loss == "simpo" else 0.1) if beta is None else beta
    refuse_not_positive("beta", beta)
    means = {"average": True}
    fn = {
        "dpo": bind(pair_preference, loss=bind(losses.direct_preference, beta=beta)),
        "ipo": bind(pair_preference, loss=bind(losses.identity_preference, tau=beta), **means),
        "simpo": bind(
            pair_preference,
            loss=bind(losses.simple_preference, beta=beta, gamma=1.0 if gamma is None else gamma),
            view=None,
            **means,
        ),
        "kto": bind(answer_preference, loss=bind(losses.prospect_preference, beta=beta)),
    }[loss]
    objective = preference_objective(
        loss,
        fn,
        refers=loss != "simpo",
        optimizer=bind(
            adamw,
            learning_rate=learning_rate,
            warmup_updates=warmup_updates,
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
        ),
        epochs=epochs,
        minibatches=minibatches,
    )
    return Recipe(
        "dpo",
        bind(best_and_worst, like=objective if loss == "kto" else None),
        (objective,),
        params=parameter_sets(objective),
        sizes=bind(answers_sizes, most=2, least=2),
    )
