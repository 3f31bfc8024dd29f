"""SAPO: soft adaptive policy optimisation (arXiv 2511.20347)."""

from __future__ import annotations

from jaxevo.advantages import group_advantage
from jaxevo.collect.waves import single_turn
from jaxevo.losses import soft_clipped_surrogate
from jaxevo.losses.credit import Correction, Truncation
from jaxevo.losses.reduce import reducer
from jaxevo.losses.terms import surrogate
from jaxevo.objectives import parameter_sets, policy_objective
from jaxevo.optimizers import adamw
from jaxevo.types import Recipe, bind


def sapo(
    *,
    learning_rate: float = 1e-6,
    sharp_positive: float = 1.0,
    sharp_negative: float = 1.05,
    correction: Correction = "none",
    correction_cap: float = 2.0,
    truncation: Truncation = "correct",
    epochs: int = 1,
    minibatches: int = 4,
) -> Recipe:
    """GRPO whose clip is a smooth gate: the gradient fades as the ratio leaves 1.

    loss = -A (4 / tau) sigmoid(tau (r - 1)), averaged over the tokens of an answer, then over
    answers; tau by the sign of A; A_i = (R_i - mean_G R) / (std_G R + 1e-6).

    Differs from the paper: std with ddof 1.

    Args:
      learning_rate: AdamW step size per update.
      sharp_positive: how fast the gradient fades away from ratio 1 where A > 0.
      sharp_negative: the same elsewhere.
      correction: importance weights between sampler and trainer, per token or sequence, cut at the
        cap (TIS) or, with mask, 0 above it (MIS). --off-policy needs one.
      correction_cap: the largest importance weight.
      truncation: what to do about cut probability mass when top-k, top-p or min-p is on.
      epochs: passes over each round's rows.
      minibatches: updates per epoch; groups stay whole.

    References:
      arXiv 2511.20347.
    """
    objective = policy_objective(
        advantage=bind(group_advantage),
        surrogate=bind(
            surrogate,
            loss=bind(
                soft_clipped_surrogate,
                sharp_positive=sharp_positive,
                sharp_negative=sharp_negative,
            ),
        ),
        reduce=reducer("seq_mean_token_mean"),
        optimizer=bind(adamw, learning_rate=learning_rate),
        correction=correction,
        correction_cap=correction_cap,
        truncation=truncation,
        epochs=epochs,
        minibatches=minibatches,
    )
    return Recipe("sapo", bind(single_turn), (objective,), parameter_sets(objective))
