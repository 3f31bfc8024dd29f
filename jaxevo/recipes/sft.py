"""SFT: supervised learning of the answers that the problems come with."""

from __future__ import annotations

from jaxevo.collect.answers import Overlong, answers_sizes, given_answers
from jaxevo.losses.reduce import Reduction, reducer
from jaxevo.objectives import imitation_objective
from jaxevo.optimizers import adamw
from jaxevo.types import Recipe, bind


def sft(
    *,
    learning_rate: float = 1e-5,
    warmup_updates: int = 0,
    weight_decay: float = 0.0,
    max_grad_norm: float = 1.0,
    reduction: Reduction = "token_mean",
    norm_length: float | None = None,
    overlong: Overlong = "refuse",
    epochs: int = 1,
    minibatches: int = 1,
) -> Recipe:
    """Learns the answers that the problems come with, word for word; nothing is sampled.

    -log p of each token of the answer and of the token that ends the turn, given the prompt. A
    round takes the next P problems (--prompts); --samples has no effect.

    Differs from the paper: at the run's temperature, as all log-probs here (1 by default).

    Args:
      learning_rate: AdamW step size per update.
      warmup_updates: updates of linear warm-up.
      weight_decay: decoupled weight decay per update, times the rate.
      max_grad_norm: longest gradient before clipping, in the global 2-norm.
      reduction: how per-token losses become one number; token_mean is TRL's and verl's.
      norm_length: the constant of constant_norm, usually the longest answer in tokens.
      overlong: an answer of more than --max-new-tokens is an error, or cut to its first tokens.
      epochs: passes over each round's problems.
      minibatches: updates per pass.

    References:
      arXiv 2203.02155, section 3.5.
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
        learns=("forced",),
    )
    collect = bind(given_answers, overlong=overlong)
    return Recipe("sft", collect, (objective,), sizes=bind(answers_sizes, most=1))
