"""Self-distillation from feedback aligned with the attempt's own steps (arXiv 2606.11173)."""

from __future__ import annotations

from typing import Literal

from jaxevo.advantages import untaught, zero_advantage
from jaxevo.collect.answers import answers_sizes
from jaxevo.collect.critique import (
    closest_solution,
    critiqued,
    first_solution,
    model_critique,
)
from jaxevo.losses.credit import Correction, Truncation, distilled, refuse_uncorrectable
from jaxevo.losses.reduce import reducer
from jaxevo.objectives import Divergence, divergence, parameter_sets
from jaxevo.optimizers import adamw
from jaxevo.teachers import Weights, critique, teacher
from jaxevo.types import Minibatch, Objective, Recipe, Term, bind


def feedback_alignment(
    *,
    critic: Literal["model", "closest", "solution"] = "model",
    critic_tokens: int = 1024,
    learning_rate: float = 5e-6,
    warmup_updates: int = 0,
    weight_decay: float = 0.0,
    max_grad_norm: float = 1.0,
    kind: Divergence = "forward",
    alpha: float = 0.5,
    distill_top_k: int | None = None,
    tail: bool = True,
    token_cap: float | None = None,
    teacher_weights: Weights = "frozen",
    teacher_rate: float = 0.05,
    sync_rounds: int = 50,
    context_tokens: int = 1024,
    correction: Correction = "none",
    correction_cap: float = 2.0,
    truncation: Truncation = "correct",
    minibatches: int = 1,
) -> Recipe:
    """A critic corrects each attempt step by step; the teacher scores the attempt after reading it.

    Attempts are written in tagged steps, `<step 1>...</step 1>` and so on, then `<answer>`; the
    critic, the start weights, sees problem, solution and attempt, copies steps that are right word
    for word and changes others. The teacher q, the start weights with that critique in the prompt,
    and the policy p give D(p_t, q_t) at each token; attempts whose steps cannot be read are left
    out. Against GRPO: one attempt per problem teaches, and what it teaches stands in the steps that
    were wrong (metrics teacher_gap/changed and teacher_gap/copied: mean |log q - log p|).

    Differs from the paper: its critic is a stronger model and its teacher thinks before it answers;
    here both are the start weights, without thoughts. Its temperature is 1.1 and it learns rank-64
    adapters: --temperature 1.1 --lora-rank 64 --lora-alpha 128.

    Args:
      critic: a model writes the critique, greedily; closest takes that worked solution of the
        task's (`solutions_of`) which has most of the attempt's steps; solution takes the first
        one whatever the attempt, which is no feedback but OPSD's reference solution.
      critic_tokens: longest prompt of the model as critic, in tokens.
      learning_rate: AdamW step size per update.
      warmup_updates: updates of linear warm-up.
      weight_decay: decoupled weight decay per update, times the rate.
      max_grad_norm: longest gradient before clipping, in the global 2-norm.
      kind: divergence, see sdpo; sampled has another gradient where the critic read the attempt.
      alpha: weight of the teacher in the js mixture, in (0, 1); other kinds ignore it.
      distill_top_k: support of the divergence, the policy's k likeliest tokens; none for all.
      tail: keep the rest of the mass as one bucket instead of renormalising.
      token_cap: largest divergence of a token in nats, above which it teaches nothing.
      teacher_weights: the frozen start weights, or one of sdpo's other teachers.
      teacher_rate: EMA rate per round; of a trust_region the live logits' share.
      sync_rounds: rounds between two copies of a synced teacher.
      context_tokens: longest teacher prompt in tokens; longer critiques are cut in the middle.
      correction: importance weights between sampler and trainer, see grpo.
      correction_cap: the largest importance weight.
      truncation: what to do about cut probability mass when top-k, top-p or min-p is on.
      minibatches: updates per round; from the second on a token counts min(p / p_old, 2) times.

    References:
      arXiv 2606.11173; OPSD, arXiv 2601.18734.
    """
    distill, read = divergence(kind, alpha=alpha, top_k=distill_top_k, tail=tail, cap=token_cap)
    sharp = teacher_weights != "trust_region"  # mixed logits give no log-probs
    guide = teacher(
        teacher_weights,
        context=bind(critique, max_prompt_tokens=context_tokens),
        read=tuple(dict.fromkeys((*read, "logp"))) if sharp else read,
        rate=teacher_rate,
        sync_rounds=sync_rounds,
    )
    weights = {"correction": correction, "truncation": truncation}
    objective = Objective(
        name="policy",
        advantage=bind(zero_advantage),
        credit=bind(distilled, cap=correction_cap, **weights),
        terms=(Term("distill", distill),),
        reduce=reducer("token_mean"),
        optimizer=bind(
            adamw,
            learning_rate=learning_rate,
            warmup_updates=warmup_updates,
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
        ),
        read=tuple(dict.fromkeys(("logp", "entropy", *read))),
        views=(guide.view,),
        minibatch=Minibatch(by="groups", count=minibatches),
        idle=bind(untaught),
        weighs_stale=correction != "none",
        check=bind(refuse_uncorrectable, **weights),
    )
    writes = critic == "model"
    says = {
        "model": bind(model_critique, prompt_tokens=critic_tokens, params="reference"),
        "closest": bind(closest_solution),
        "solution": bind(first_solution),
    }[critic]
    also = ("reference",) if writes else ()  # the start weights
    return Recipe(
        "feedback-alignment",
        bind(critiqued, critic=says),
        (objective,),
        params=parameter_sets(objective, given=guide.params, also=also),
        sizes=bind(answers_sizes, asked_tokens=critic_tokens) if writes else None,
    )
