"""SD-Zero: self-revision turns binary rewards into dense supervision (arXiv 2604.12002)."""

from __future__ import annotations

from typing import Literal

from jaxevo.advantages import untaught, zero_advantage
from jaxevo.collect.revise import revision_sizes, revisions
from jaxevo.collect.stages import first_then
from jaxevo.collect.waves import single_turn
from jaxevo.losses.credit import broadcast, distilled, refuse_uncorrectable
from jaxevo.losses.reduce import reducer
from jaxevo.losses.terms import imitation
from jaxevo.objectives import divergence
from jaxevo.optimizers import adamw
from jaxevo.teachers import copy, during, own_attempt
from jaxevo.types import Minibatch, Objective, ParamSet, Recipe, Term, View, bind


def sd_zero(
    *,
    revision_rounds: int = 5,
    revisions_each: int = 3,
    most: int = 3,
    right_share: float = 0.5,
    revision_learning_rate: float = 5e-6,
    revision_epochs: int = 3,
    revision_minibatches: int = 1,
    learning_rate: float = 5e-6,
    warmup_updates: int = 20,
    weight_decay: float = 0.0,
    max_grad_norm: float = 1.0,
    kind: Literal["reverse", "forward", "mixed"] = "reverse",
    distill_top_k: int | None = 64,
    sync_rounds: int = 0,
    success: float = 0.5,
    context_tokens: int = 1024,
    minibatches: int = 1,
) -> Recipe:
    """Learns to revise its attempts, then learns from itself as the reviser, token by token.

    First rounds: each attempt y is revised in the same turn, behind a phrase P_r that tells whether
    it was right; of revisions that are right it learns -log p of the whole turn [y, P_r, y_rev] and
    once more of y_rev alone. Then the teacher, the policy as it was after that, reads [x, y, P_r]
    and scores y again: KL(p || q) at each token of y, against p without y and P_r. Against GRPO: a
    right or wrong answer becomes a target for every token, from one attempt per problem.

    Differs from the paper: the first stage learns in rounds, each from the weights of the round
    before, where the paper samples all its traces from the start weights; the weight decay of the
    first stage (1e-4) and cosine are not there by default; mixed (half forward, half reverse, as
    the official code) takes the policy's likeliest tokens and a tail, not the teacher's.

    Args:
      revision_rounds: rounds of the first stage; 0 leaves it out.
      revisions_each: revisions of an attempt.
      most: revisions of a problem that are learnt at most.
      right_share: largest share of learnt revisions whose attempt was right already.
      revision_learning_rate: AdamW step size per update of the first stage.
      revision_epochs: passes over each round's revisions.
      revision_minibatches: updates per pass; a problem's revisions stay together.
      learning_rate: AdamW step size per update of the second stage.
      warmup_updates: updates of linear warm-up, of the second stage.
      weight_decay: decoupled weight decay per update, times the rate (code: 0.01).
      max_grad_norm: longest gradient before clipping, in the global 2-norm.
      kind: divergence between policy p and teacher q.
      distill_top_k: support of the divergence, the policy's k likeliest tokens, with the rest as
        one bucket; none for all.
      sync_rounds: rounds of the second stage after which the teacher becomes the policy again; 0
        for never (the paper: about 400 updates).
      success: least accuracy of an attempt that is right.
      context_tokens: longest teacher prompt in tokens; longer attempts are cut in the middle.
      minibatches: updates per round of the second stage; groups stay whole.

    References:
      arXiv 2604.12002 and its official code.
    """
    rates = {"weight_decay": weight_decay, "max_grad_norm": max_grad_norm}
    revise = Objective(
        name="revise",
        advantage=bind(zero_advantage),
        credit=bind(broadcast),
        terms=(
            Term("generate", bind(imitation)),
            Term("revise", bind(imitation, only="revision")),
        ),
        reduce=reducer("token_mean"),
        optimizer=bind(adamw, learning_rate=revision_learning_rate, **rates),
        epochs=revision_epochs,
        minibatch=Minibatch(by="groups", count=revision_minibatches),
        learns=("policy", "forced"),
    )
    kinds = ("forward", "reverse") if kind == "mixed" else (kind,)
    terms = tuple(
        Term(f"distill_{own}", divergence(own, top_k=distill_top_k)[0], 1.0 / len(kinds))
        for own in kinds
    )
    context = bind(own_attempt, success=success, max_prompt_tokens=context_tokens)
    distill = Objective(
        name="policy",
        advantage=bind(zero_advantage),
        credit=bind(distilled),
        terms=terms,
        reduce=reducer("token_mean"),
        optimizer=bind(adamw, learning_rate=learning_rate, warmup_updates=warmup_updates, **rates),
        read=("logp", "entropy", "hidden"),
        views=(View("teacher", params="teacher", context=context, read=("logp", "hidden")),),
        minibatch=Minibatch(by="groups", count=minibatches),
        idle=bind(untaught),
        check=bind(refuse_uncorrectable),
    )
    wave = {"copies": revisions_each, "most": most}
    first = bind(revisions, right_share=right_share, success=success, **wave)
    due = bind(during, rounds=revision_rounds, then_every=sync_rounds)
    teacher = ParamSet("teacher", follows="policy", rule=bind(copy), when=due)
    return Recipe(
        "sd-zero",
        bind(first_then, rounds=revision_rounds, first=first, then=bind(single_turn)),
        (revise, distill),
        params=(ParamSet("policy"), teacher),
        sizes=bind(revision_sizes, **wave),
    )
