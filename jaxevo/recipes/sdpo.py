"""SDPO: self-distillation policy optimisation (arXiv 2601.20802)."""

from __future__ import annotations

from typing import Literal

from jaxevo.advantages import group_advantage, zero_advantage
from jaxevo.collect.waves import single_turn
from jaxevo.losses.credit import broadcast, refuse_uncorrectable
from jaxevo.losses.reduce import reducer
from jaxevo.losses.terms import distillation, policy_gradient
from jaxevo.optimizers import adamw
from jaxevo.teachers.contexts import reprompt
from jaxevo.teachers.follow import ema
from jaxevo.types import Minibatch, Objective, ParamSet, Recipe, Term, View, bind


def sdpo(
    *,
    learning_rate: float = 1e-5,
    warmup_updates: int = 10,
    weight_decay: float = 0.0,
    max_grad_norm: float = 1.0,
    kind: Literal["reverse", "forward", "js"] = "js",
    alpha: float = 0.5,
    distill_top_k: int | None = 100,
    tail: bool = True,
    teacher_rate: float = 0.05,
    solution: bool = True,
    feedback: Literal["without_solution", "always", "never"] = "without_solution",
    success: float = 0.5,
    context_tokens: int = 256,
    policy_weight: float = 0.0,
    minibatches: int = 1,
) -> Recipe:
    """Pulls the policy towards itself as it would answer knowing a solution or feedback.

    The teacher is an exponential moving average of the policy. It re-scores each attempt with a
    successful sibling's answer, or the feedback on the attempt, in its prompt; the policy learns
    D(p_t, q_t) over the vocabulary at every token of rows that have such a context:
    reverse KL(p || q), forward KL(q || p), or js: (1-a) KL(p || m) + a KL(q || m),
    m = (1-a) p + a q.

    Differs from the paper: one global token mean instead of means per micro-batch; long contexts
    are cut in the middle of the privileged text, never at the closing instruction; feedback is
    used by default where no sibling succeeded (the paper's scalar tasks have none).

    Args:
      learning_rate: AdamW step size per update.
      warmup_updates: updates of linear warm-up.
      weight_decay: decoupled weight decay per update, times the rate.
      max_grad_norm: longest gradient before clipping, in the global 2-norm.
      kind: divergence between policy p and teacher q.
      alpha: weight of the teacher in the js mixture, in (0, 1); other kinds ignore it.
      distill_top_k: support of the divergence, the policy's k likeliest tokens; none for all.
      tail: keep the rest of the mass as one bucket instead of renormalising.
      teacher_rate: EMA rate per round; 0 freezes the teacher, 1 copies the policy.
      solution: show the first successful sibling's answer to the teacher.
      feedback: when to show the verifier's text on the row's own attempt.
      success: least reward of a sibling that counts as a solution.
      context_tokens: longest teacher prompt in tokens.
      policy_weight: share w of the GRPO term: w * L_policy + (1 - w) * L_distill.
      minibatches: updates per round; groups stay whole.

    References:
      arXiv 2601.20802 and its official code.
    """
    context = bind(
        reprompt,
        use_solution=solution,
        use_feedback=feedback,
        success=success,
        max_prompt_tokens=context_tokens,
    )
    divergence = bind(distillation, kind=kind, alpha=alpha, top_k=distill_top_k, tail=tail)
    terms = [Term("distill", divergence, 1.0 - policy_weight)]
    if policy_weight:
        terms.append(Term("policy", bind(policy_gradient), policy_weight))
    objective = Objective(
        name="policy",
        advantage=bind(group_advantage, scale="none") if policy_weight else bind(zero_advantage),
        credit=bind(broadcast),
        terms=tuple(terms),
        reduce=reducer("token_mean"),
        optimizer=bind(
            adamw,
            learning_rate=learning_rate,
            warmup_updates=warmup_updates,
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
        ),
        read=("logp", "entropy", "hidden"),
        views=(View("teacher", params="teacher", context=context, read=("hidden",)),),
        minibatch=Minibatch(by="groups", count=minibatches),
        check=bind(refuse_uncorrectable),
    )
    teacher = ParamSet("teacher", follows="policy", rule=bind(ema, rate=teacher_rate))
    return Recipe("sdpo", bind(single_turn), (objective,), params=(ParamSet("policy"), teacher))
