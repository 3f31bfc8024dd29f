"""CEPO: contrastive evidence policy optimisation (arXiv 2605.19436)."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxevo.advantages import group_advantage
from jaxevo.collect.stages import annealed, linear_decay
from jaxevo.collect.waves import single_turn
from jaxevo.losses.credit import Correction, Truncation
from jaxevo.losses.evidence import contrasted
from jaxevo.losses.reduce import reducer
from jaxevo.losses.terms import policy_gradient
from jaxevo.objectives import parameter_sets, policy_objective
from jaxevo.optimizers import adamw
from jaxevo.teachers.answers import WrongAnswer, answer_given
from jaxevo.types import Recipe, View, bind


def cepo(
    *,
    learning_rate: float = 5e-6,
    warmup_updates: int = 5,
    weight_decay: float = 0.0,
    max_grad_norm: float = 1.0,
    mix: float = 0.5,
    mix_rounds: int | None = 25,
    evidence_clip: float = 0.2,
    negative: Literal["wrong", "policy"] = "wrong",
    fallback: Literal["grpo", "rlsd"] = "grpo",
    wrong_answer: WrongAnswer = "parsed",
    success: float = 0.5,
    context_tokens: int = 512,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    correction: Correction = "none",
    correction_cap: float = 2.0,
    truncation: Truncation = "correct",
    epochs: int = 1,
    minibatches: int = 2,
) -> Recipe:
    """GRPO that weighs a token by how much likelier a right answer makes it than a wrong one.

    The policy scores each attempt twice more, once told the task's answer and once a wrong one from
    a rejected row of the group: D_t = log P+(y_t) - log P-(y_t), A_t = A (1 - l + l w_t), w_t =
    clip(exp(sign(A) D_t), 1 - e, 1 + e), without gradient; l falls from `mix` to 0. Against GRPO:
    no advantage changes its sign, what merely fills keeps weight 1, and what an answer hangs on
    weighs 1 - l e to 1 + l e.

    Differs from the paper: the teachers have the weights of each update, not of the round's start;
    the wrong answer is the first that can be read, where the code takes that of the lowest reward
    even if it is none (`wrong_answer`); no cosine; text alone, so that no images are kept from the
    teachers; prefixes of attempts instead of answers are left out. With `control` the coin decides
    rewards, and the right answer is shown nevertheless.

    Args:
      learning_rate: AdamW step size per update.
      warmup_updates: updates of linear warm-up.
      weight_decay: decoupled weight decay per update, times the rate.
      max_grad_norm: longest gradient before clipping, in the global 2-norm.
      mix: share l, in [0, 1], of the weighted advantage in the first round.
      mix_rounds: rounds in which it falls to 0, and plain GRPO is left; none keeps it.
      evidence_clip: e, how far a token's weight may leave 1 (script: 0.2, README: 0.5).
      negative: what P+ is compared with: P-, or the policy without an answer (RLSD, arXiv
        2604.03128, whose l begins its fall in the first round).
      fallback: what becomes of groups in which nothing was rejected: grpo, or rlsd.
      wrong_answer: of which rejected row, parsed or lowest.
      success: least accuracy of a row that is not rejected.
      context_tokens: longest prompt with an answer in tokens; longer ones have no teacher.
      clip_low: how far the ratio may fall below 1 before its gradient stops.
      clip_high: how far the ratio may rise above 1 before its gradient stops.
      correction: importance weights between sampler and trainer, see grpo.
      correction_cap: the largest importance weight.
      truncation: what to do about cut probability mass when top-k, top-p or min-p is on.
      epochs: passes over each round's rows.
      minibatches: updates per epoch; groups stay whole.

    References:
      arXiv 2605.19436 and its official code.
    """
    if not 0 <= mix <= 1 or evidence_clip < 0 or mix * evidence_clip >= 1:
        raise ValueError(
            f"mix={mix} must lie in [0, 1] and evidence_clip={evidence_clip} be at least 0, their "
            "product below 1: a weight below 0 would turn an advantage round."
        )
    plain = policy_objective(
        advantage=bind(group_advantage),
        surrogate=bind(policy_gradient, clip_low=clip_low, clip_high=clip_high),
        reduce=reducer("token_mean"),
        optimizer=bind(
            adamw,
            learning_rate=learning_rate,
            warmup_updates=warmup_updates,
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
        ),
        correction=correction,
        correction_cap=correction_cap,
        truncation=truncation,
        epochs=epochs,
        minibatches=minibatches,
    )
    alone = negative == "policy"
    given = bind(
        answer_given,
        choose=wrong_answer,
        success=success,
        alone=alone or fallback == "rlsd",
        max_prompt_tokens=context_tokens,
    )
    names = ("right",) if alone else ("right", "wrong")
    objective = dataclasses.replace(
        plain,
        views=tuple(View(name, context=bind(given, which=name)) for name in names),
        credit=bind(
            contrasted,
            wrong=None if alone else "wrong",
            clip=evidence_clip,
            correction=correction,
            cap=correction_cap,
            truncation=truncation,
        ),
    )
    fading = bind(linear_decay, start=mix, hold=-1 if alone else 0, over=mix_rounds)
    wave = bind(annealed, wave=bind(single_turn), number="mix", schedule=fading)
    return Recipe("cepo", wave, (objective,), parameter_sets(objective))
