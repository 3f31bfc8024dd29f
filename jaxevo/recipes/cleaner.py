"""CLEANER: tool use learnt from self-purified conversations (arXiv 2601.15141)."""

from __future__ import annotations

from jaxevo.advantages import group_advantage
from jaxevo.collect.tool_loop import Rollback, tool_rollouts, tool_sizes
from jaxevo.envs.calculator import Calculator
from jaxevo.losses.credit import Truncation, broadcast, refuse_uncorrectable
from jaxevo.losses.reduce import reducer
from jaxevo.losses.terms import policy_gradient
from jaxevo.optimizers import adamw
from jaxevo.types import Minibatch, Objective, Recipe, Term, bind


def cleaner(
    *,
    rollback: float = 1.0,
    retries: int = 3,
    similar: float = 0.5,
    turns: int = 16,
    overlong: float = 0.2,
    learning_rate: float = 2e-6,
    warmup_updates: int = 20,
    max_grad_norm: float = 1.0,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float = 10.0,
    truncation: Truncation = "correct",
    minibatches: int = 4,
) -> Recipe:
    """Answers with a calculator; a failed call is overwritten by the policy's own later correction.

    A failed call c after the reasoning r is tried again with the error in sight, (r', c'). With s
    the similarity of the two calls' texts, the turn becomes (r, c') where s >= `similar`, else
    (r', c'); error and failure vanish, and c' is executed. So the trained conversation never shows
    a failure that the policy can mend by itself.

    R = 1 if right, else -1, plus min(0, -(length - (limit - buffer)) / buffer);
    A_i = (R_i - mean_G R) / (std_G R + 1e-6) at every token of the policy, token mean of the
    clipped surrogate. What an edit moved has no sampler log-prob: the old log-probs are always the
    trainer's, and there is no importance correction.

    Differs from the paper: the tool is a calculator instead of a Python interpreter, and its reply
    stands in the same turn; `--max-new-tokens` bounds the whole conversation.

    Args:
      rollback: share of the conversations in which failed calls are made good, in [0, 1].
      retries: tries of a call after the first one.
      similar: least similarity in [0, 1] of two calls of which the old reasoning is kept.
      turns: most turns of the policy in one conversation.
      overlong: share of the longest answer that is its buffer: 4096 of 20480 tokens; 0 for off.
      learning_rate: AdamW step size per update.
      warmup_updates: updates of linear warm-up.
      max_grad_norm: longest gradient before clipping, in the global 2-norm.
      clip_low: how far the ratio may fall below 1 before its gradient stops.
      clip_high: how far the ratio may rise above 1 before its gradient stops.
      dual_clip: bound on the ratio for negative advantages.
      truncation: what to do about cut probability mass when top-k, top-p or min-p is on; that of
        edited conversations cannot be corrected, only ignored.
      minibatches: updates per round; groups stay whole.

    References:
      arXiv 2601.15141 and its official code.
    """
    surrogate = bind(policy_gradient, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip)
    objective = Objective(
        name="policy",
        advantage=bind(group_advantage),
        credit=bind(broadcast, truncation=truncation),
        terms=(Term("policy", surrogate),),
        reduce=reducer("token_mean"),
        optimizer=bind(
            adamw,
            learning_rate=learning_rate,
            warmup_updates=warmup_updates,
            max_grad_norm=max_grad_norm,
        ),
        minibatch=Minibatch(by="groups", count=minibatches),
        check=bind(refuse_uncorrectable, truncation=truncation),
    )
    tool = Calculator()
    good = Rollback(chance=rollback, retries=retries, similar=similar)
    collect = bind(tool_rollouts, tool=tool, turns=turns, rollback=good, overlong=overlong)
    return Recipe("cleaner", collect, (objective,), sizes=bind(tool_sizes, tool=tool))
