"""T-REG: preferences with token-level reward regularization (arXiv 2412.02685)."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from jaxevo.collect.answers import answers_sizes, best_and_worst
from jaxevo.losses.contrast import contrast_rewarded
from jaxevo.losses.preference import direct_preference, simple_preference
from jaxevo.losses.reduce import refuse_not_positive
from jaxevo.losses.terms import pair_preference, token_reward_alignment
from jaxevo.objectives import parameter_sets, preference_objective
from jaxevo.optimizers import adamw
from jaxevo.teachers.rewrites import rewrite
from jaxevo.types import Recipe, Term, View, bind


def t_reg(
    *,
    loss: Literal["dpo", "simpo"] = "dpo",
    beta: float | None = None,
    gamma: float | None = None,
    reward_weight: float = 0.25,
    logp_floor: float | None = -20.0,
    learning_rate: float = 5e-7,
    warmup_updates: int = 0,
    weight_decay: float = 0.0,
    max_grad_norm: float = 1.0,
    context_tokens: int = 1024,
    epochs: int = 1,
    minibatches: int = 1,
) -> Recipe:
    """DPO or SimPO whose tokens are pushed more where the start weights think well of them.

    The start weights read an answer y behind two instructions, to rewrite it better or worse; a
    token's reward is r = s(log p_better - log p_worse) - 1/2, s the logistic function. To a pair's
    loss comes -a w beta sum r log pi over both answers, w = s(gamma - beta m) without gradient, m
    as in dpo: the winner's tokens are pushed up 1 + a r times as much as by DPO, the loser's down
    1 - a r times. Against GRPO: pairs, and credit by token without a model of rewards.

    Differs from the paper: pairs are made by the verifier from the round's own answers; log-probs
    are at the sampling temperature, 1 if none is set; r is read anew in each update.

    Args:
      loss: of a pair; sums of log-probs against the reference, or means over tokens without.
      beta: how closely the policy is tied to the reference; none for 0.1, simpo's 2.
      gamma: simpo's margin to win by, none for 1.
      reward_weight: a, searched in 0.1, 0.25 and 0.5; 0 is dpo; below 2 no push turns round.
      logp_floor: log-probs below count as this in the added sum, without gradient; none for off.
      learning_rate: AdamW step size per update.
      warmup_updates: updates of linear warm-up.
      weight_decay: decoupled weight decay per update, times the rate.
      max_grad_norm: longest gradient before clipping, in the global 2-norm.
      context_tokens: longest prompt with an answer and an instruction; answers lose their middle.
      epochs: passes over each round's pairs.
      minibatches: updates per pass; pairs stay whole.

    References:
      arXiv 2412.02685; DPO 2305.18290, SimPO 2405.14734.
    """
    if not 0 <= reward_weight < 2:
        raise ValueError(
            f"reward_weight={reward_weight} must lie in [0, 2): above, a token of -1/2 in a winner "
            "would be pushed down."
        )
    simple = loss == "simpo"
    if gamma is not None and not simple:
        raise ValueError(f'gamma={gamma} is the margin of loss="simpo", but loss is {loss!r}.')
    beta = (2.0 if simple else 0.1) if beta is None else beta
    gamma = (1.0 if simple else 0.0) if gamma is None else gamma
    refuse_not_positive("beta", beta)
    scored: dict[str, Any] = {"average": simple, "view": None if simple else "reference"}
    margin_loss = (
        bind(simple_preference, beta=beta, gamma=gamma)
        if simple
        else bind(direct_preference, beta=beta)
    )
    plain = preference_objective(
        loss,
        bind(pair_preference, loss=margin_loss, **scored),
        refers=not simple,
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
    how = {"beta": beta, "gamma": gamma, "floor": logp_floor, **scored}
    instructed = tuple(
        View(
            name,
            context=bind(rewrite, instruction=name, max_prompt_tokens=context_tokens),
            params="reference",
        )
        for name in ("better", "worse")
    )
    objective = dataclasses.replace(
        plain,
        credit=bind(contrast_rewarded),
        terms=(*plain.terms, Term("aligned", bind(token_reward_alignment, **how), reward_weight)),
        views=(*plain.views, *instructed),
    )
    return Recipe(
        "t-reg",
        bind(best_and_worst, like=None),
        (objective,),
        params=parameter_sets(objective),
        sizes=bind(answers_sizes, most=2, least=2),
    )
