"""PPO: a policy and a value model that says what was expected before each token (1707.06347)."""

from __future__ import annotations

from jaxevo.advantages import return_target, temporal_advantage
from jaxevo.collect.answers import valued_answers
from jaxevo.heads import with_value_head
from jaxevo.losses.credit import broadcast
from jaxevo.losses.reduce import Reduction, reducer, refuse_not_positive
from jaxevo.losses.terms import policy_gradient, value_regression
from jaxevo.objectives import parameter_sets, policy_objective
from jaxevo.optimizers import adamw
from jaxevo.types import Minibatch, Objective, ParamSet, Recipe, Term, bind


def ppo(
    *,
    learning_rate: float = 1e-6,
    value_learning_rate: float = 1e-5,
    max_grad_norm: float = 1.0,
    clip: float = 0.2,
    value_clip: float | None = 0.5,
    gamma: float = 1.0,
    gae_lambda: float = 0.95,
    whitened: bool = True,
    reduction: Reduction = "token_mean",
    norm_length: float | None = None,
    kl_weight: float = 0.0,
    entropy_weight: float = 0.0,
    epochs: int = 1,
    minibatches: int = 1,
) -> Recipe:
    """Prefers tokens after which more came than a value model expected, which learns what came.

    d_t = r_t + gamma V_t+1 - V_t, A_t = d_t + gamma lambda A_t+1; the reward stands at the last
    token. Policy: max(-A r, -A clip(r, 1 - clip, 1 + clip)), r = pi / pi_old; values:
    max((V - y)^2, (V_old + clip(V - V_old, +-value_clip) - y)^2), y = A + V_old.

    Differs from the paper: two models, each with its own optimizer; the value head starts at 0,
    untrained; the KL is a term of the loss, not a part of the reward, and is off by default.

    Args:
      learning_rate: of the policy, AdamW step size per update.
      value_learning_rate: of the value model, AdamW step size per update.
      max_grad_norm: longest gradient of either before clipping, in the global 2-norm.
      clip: how far the ratio may leave 1 before its gradient stops.
      value_clip: how far a value may leave the old one before its gradient stops, none for off.
      gamma: discount per token, in [0, 1].
      gae_lambda: in [0, 1]; 0 trusts the values, 1 what came (verl).
      whitened: whether the advantages of a round's tokens get mean 0 and variance 1.
      reduction: how per-token losses of either become one number.
      norm_length: the constant of constant_norm, usually the longest answer in tokens.
      kl_weight: coefficient of the k3 KL to the frozen start weights; 0 drops the set.
      entropy_weight: coefficient of the entropy bonus in nats per token.
      epochs: passes of either over each round's rows.
      minibatches: updates per pass; groups stay whole.

    References:
      arXiv 1707.06347, equations 7 and 9; arXiv 1506.02438, equation 16.
    """
    for name, share in (("gamma", gamma), ("gae_lambda", gae_lambda)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name}={share} must lie in [0, 1].")
    if value_clip is not None:
        refuse_not_positive("value_clip", value_clip)
    chain = {"gamma": gamma, "lam": gae_lambda}
    step = {"max_grad_norm": max_grad_norm}
    reduce = reducer(reduction, length=norm_length)
    policy = policy_objective(
        advantage=bind(temporal_advantage, whitened=whitened, **chain),
        surrogate=bind(policy_gradient, clip_low=clip, clip_high=clip),
        reduce=reduce,
        optimizer=bind(adamw, learning_rate=learning_rate, **step),
        kl_weight=kl_weight,
        entropy_weight=entropy_weight,
        epochs=epochs,
        minibatches=minibatches,
    )
    value = Objective(
        name="value",
        trains="value",
        advantage=bind(return_target, **chain),
        credit=bind(broadcast),
        terms=(Term("value", bind(value_regression, clip=value_clip)),),
        reduce=reduce,
        optimizer=bind(adamw, learning_rate=value_learning_rate, **step),
        read=("values",),
        epochs=epochs,
        minibatch=Minibatch(by="groups", count=minibatches),
    )
    params = (*parameter_sets(policy), ParamSet("value", init=bind(with_value_head)))
    return Recipe("ppo", bind(valued_answers, value=value), (value, policy), params=params)
