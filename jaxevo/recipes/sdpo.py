"""SDPO: self-distillation policy optimisation (arXiv 2601.20802)."""

from __future__ import annotations

from typing import Literal

from jaxevo.advantages import group_advantage, untaught, zero_advantage
from jaxevo.collect.waves import single_turn
from jaxevo.losses.credit import Correction, Truncation, distilled, refuse_uncorrectable
from jaxevo.losses.reduce import reducer
from jaxevo.losses.terms import entropy_bonus, policy_gradient, reference_kl
from jaxevo.objectives import Divergence, divergence, parameter_sets
from jaxevo.optimizers import adamw
from jaxevo.teachers import Weights, reprompt, teacher
from jaxevo.types import Minibatch, Objective, Recipe, Term, View, bind


def sdpo(
    *,
    learning_rate: float = 1e-5,
    warmup_updates: int = 10,
    weight_decay: float = 0.0,
    max_grad_norm: float = 1.0,
    kind: Divergence = "js",
    alpha: float = 0.5,
    distill_top_k: int | None = 100,
    tail: bool = True,
    teacher_weights: Weights = "ema",
    teacher_rate: float = 0.05,
    sync_rounds: int = 50,
    solution: bool = True,
    feedback: Literal["without_solution", "always", "never"] = "without_solution",
    success: float = 0.5,
    context_tokens: int = 256,
    ratio_cap: float = 2.0,
    correction: Correction = "none",
    correction_cap: float = 2.0,
    truncation: Truncation = "correct",
    policy_weight: float = 0.0,
    kl_weight: float = 0.0,
    entropy_weight: float = 0.0,
    minibatches: int = 1,
) -> Recipe:
    """Pulls the policy towards itself as it would answer knowing a solution or feedback.

    The teacher re-scores each attempt with a successful sibling's answer, or the feedback on the
    attempt, in its prompt; the policy learns D(p_t, q_t) over the vocabulary at every token of rows
    that have such a context: reverse KL(p || q), forward KL(q || p), or js:
    (1-a) KL(p || m) + a KL(q || m), m = (1-a) p + a q; or the sampled token's share of the reverse
    one, sg(log p - log q) log p. Against GRPO: a group that fails as a whole teaches too, and every
    token has a target of its own.

    Differs from the paper: one global token mean instead of means per micro-batch; long contexts
    are cut in the middle of the privileged text, never at the closing instruction; feedback is
    used by default where no sibling succeeded (the paper's scalar tasks have none).

    Args:
      learning_rate: AdamW step size per update.
      warmup_updates: updates of linear warm-up.
      weight_decay: decoupled weight decay per update, times the rate.
      max_grad_norm: longest gradient before clipping, in the global 2-norm.
      kind: divergence between policy p and teacher q; sampled needs no vocabulary, and is biased
        where the teacher has read the attempt.
      alpha: weight of the teacher in the js mixture, in (0, 1); other kinds ignore it. js has about
        a quarter of the others' gradients.
      distill_top_k: support of the divergence, the policy's k likeliest tokens; none for all.
      tail: keep the rest of the mass as one bucket instead of renormalising.
      teacher_weights: ema of the policy, frozen start weights, the live policy, synced from time to
        time, or a trust_region: start and live logits mixed.
      teacher_rate: EMA rate per round, 0 freezes the teacher, 1 copies the policy; of a
        trust_region the live logits' share.
      sync_rounds: rounds between two copies of a synced teacher.
      solution: show the first successful sibling's answer to the teacher.
      feedback: when to show the verifier's text on the row's own attempt.
      success: least reward of a sibling that counts as a solution.
      context_tokens: longest teacher prompt in tokens.
      ratio_cap: bound on p / p_old, by which the divergence is multiplied.
      correction: importance weights between sampler and trainer, see grpo; for all terms.
      correction_cap: the largest importance weight.
      truncation: what to do about cut probability mass when top-k, top-p or min-p is on.
      policy_weight: share w of the GRPO term: w * L_policy + (1 - w) * L_distill.
      kl_weight: coefficient of the KL to the start weights, on all rows.
      entropy_weight: coefficient of the entropy bonus in nats per token, on all rows.
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
    distill, read = divergence(kind, alpha=alpha, top_k=distill_top_k, tail=tail)
    guide = teacher(
        teacher_weights, context=context, read=read, rate=teacher_rate, sync_rounds=sync_rounds
    )
    terms, views = [Term("distill", distill, 1.0 - policy_weight)], [guide.view]
    if policy_weight:
        terms.append(Term("policy", bind(policy_gradient), policy_weight))
    if kl_weight:
        terms.append(Term("kl", bind(reference_kl), kl_weight))
        views.append(View("reference", params="reference"))
    if entropy_weight:
        terms.append(Term("entropy", bind(entropy_bonus), entropy_weight))
    weights = {"correction": correction, "truncation": truncation}
    objective = Objective(
        name="policy",
        advantage=bind(group_advantage, scale="none") if policy_weight else bind(zero_advantage),
        credit=bind(distilled, ratio_cap=ratio_cap, cap=correction_cap, **weights),
        terms=tuple(terms),
        reduce=reducer("token_mean"),
        optimizer=bind(
            adamw,
            learning_rate=learning_rate,
            warmup_updates=warmup_updates,
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
        ),
        read=tuple(dict.fromkeys(("logp", "entropy", *read))),
        views=tuple(views),
        minibatch=Minibatch(by="groups", count=minibatches),
        idle=None if kl_weight or entropy_weight else bind(untaught),
        weighs_stale=correction != "none",
        check=bind(refuse_uncorrectable, **weights),
    )
    sets = parameter_sets(objective, given=guide.params)
    return Recipe("sdpo", bind(single_turn), (objective,), params=sets)
