"""CISPO: clipped importance weights (arXiv 2506.13585)."""

from __future__ import annotations

from jaxevo.advantages import group_advantage
from jaxevo.collect.waves import single_turn
from jaxevo.losses import weighted_reinforce
from jaxevo.losses.credit import Correction, Truncation
from jaxevo.losses.reduce import reducer
from jaxevo.losses.terms import surrogate
from jaxevo.objectives import parameter_sets, policy_objective
from jaxevo.optimizers import adamw
from jaxevo.types import Recipe, bind


def cispo(
    *,
    learning_rate: float = 1e-6,
    least: float = 0.0,
    most: float = 5.0,
    correction: Correction = "none",
    correction_cap: float = 2.0,
    truncation: Truncation = "correct",
    epochs: int = 1,
    minibatches: int = 4,
) -> Recipe:
    """GRPO that clips the weight of a token instead of taking its gradient away.

    loss = -sg(clip(r, least, most)) A l, token mean over the batch;
    A_i = (R_i - mean_G R) / (std_G R + 1e-6).

    Differs from the paper: std with ddof 1; the paper does not tell its bound, 5 is TRL's.

    Args:
      learning_rate: AdamW step size per update.
      least: smallest weight of a token (verl: 0.8; the paper bounds from above alone).
      most: largest weight of a token, itself and not its distance from 1 (verl: 1.2; TRL: 5).
      correction: importance weights between sampler and trainer, per token or sequence, cut at the
        cap (TIS) or, with mask, 0 above it (MIS). --off-policy needs one.
      correction_cap: the largest importance weight.
      truncation: what to do about cut probability mass when top-k, top-p or min-p is on.
      epochs: passes over each round's rows.
      minibatches: updates per epoch; groups stay whole.

    References:
      arXiv 2506.13585, equations 4 and 5.
    """
    objective = policy_objective(
        advantage=bind(group_advantage),
        surrogate=bind(surrogate, loss=bind(weighted_reinforce, least=least, most=most)),
        reduce=reducer("token_mean"),
        optimizer=bind(adamw, learning_rate=learning_rate),
        correction=correction,
        correction_cap=correction_cap,
        truncation=truncation,
        epochs=epochs,
        minibatches=minibatches,
    )
    return Recipe("cispo", bind(single_turn), (objective,), parameter_sets(objective))
