"""RFT: supervised learning of one's own answers that were right (arXiv 2308.01825)."""

from __future__ import annotations

from jaxevo.collect.answers import answers_sizes, right_answers
from jaxevo.losses.reduce import Reduction, reducer
from jaxevo.objectives import imitation_objective
from jaxevo.optimizers import adamw
from jaxevo.types import Recipe, bind


def rft(
    *,
    most: int = 4,
    distinct: bool = True,
    least_reward: float = 1.0,
    learning_rate: float = 1e-5,
    warmup_updates: int = 0,
    weight_decay: float = 0.0,
    max_grad_norm: float = 1.0,
    reduction: Reduction = "token_mean",
    norm_length: float | None = None,
    epochs: int = 1,
    minibatches: int = 1,
) -> Recipe:
    """Samples a group of answers per problem and learns those that the verifier passed.

    -log p of each token of the kept answers. A round without a right answer makes no update.

    Differs from the paper: each round samples from the weights of the round before, not from one
    supervised model; answers are distinct by text, not by their list of equations.

    Args:
      most: answers of a problem that are learnt at most, the first sampled; 0 for all.
      distinct: whether of answers of equal text only the first is learnt.
      least_reward: least reward of an answer that is learnt; a verifier that passes gives 1.
      learning_rate: AdamW step size per update.
      warmup_updates: updates of linear warm-up.
      weight_decay: decoupled weight decay per update, times the rate.
      max_grad_norm: longest gradient before clipping, in the global 2-norm.
      reduction: how per-token losses become one number.
      norm_length: the constant of constant_norm, usually the longest answer in tokens.
      epochs: passes over each round's answers.
      minibatches: updates per pass; a problem's answers stay together.

    References:
      arXiv 2308.01825. The same loop over rounds: STaR, arXiv 2203.14465.
    """
    objective = imitation_objective(
        reduce=reducer(reduction, length=norm_length),
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
    collect = bind(right_answers, most=most, distinct=distinct, least_reward=least_reward)
    return Recipe("rft", collect, (objective,), sizes=bind(answers_sizes, most=most))
