"""AlphaGRPO: one advantage for what is thought and what is drawn (arXiv 2605.12495)."""

from __future__ import annotations

from jaxevo.advantages import group_advantage
from jaxevo.collect.acting import think_then_act, think_then_act_sizes
from jaxevo.envs.scene import scene_reward
from jaxevo.heads import with_flow_head
from jaxevo.losses.credit import broadcast, refuse_uncorrectable
from jaxevo.losses.reduce import reducer
from jaxevo.losses.terms import policy_gradient
from jaxevo.optimizers import adamw
from jaxevo.types import Objective, ParamSet, Recipe, Term, bind

STREAMS = ("text", "flow")


def alphagrpo(
    *,
    learning_rate: float = 5e-5,
    weight_decay: float = 1e-4,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    flow_clip: float = 1e-5,
    text_weight: float = 0.1,
    flow_weight: float = 1.0,
    steps: int = 16,
    window: tuple[int, int] = (10, 11),
    noise: float = 0.7,
    flow_rate: float = 1.0,
    epochs: int = 1,
) -> Recipe:
    """Thinks in words, then draws by a flow; one group advantage teaches both.

    A_i = (R_i - mean of the problem) / (std of the batch + 1e-4). Words: the clipped surrogate of
    s_i = exp(mean_t(l - l_old)). Drawing: that of r_j = exp(l_j - l_old_j) at each step j of the
    window, summed over j; l_j is the exact log-density of the Gaussian step (`jaxevo.flow`).

    Differs from the paper: the drawing is a point in the plane, judged exactly (`envs.scene`);
    l_j sums over its numbers instead of averaging; no guidance, no clipping of advantages, no
    second stage of reflection.

    Args:
      learning_rate: AdamW step size per update.
      weight_decay: decoupled weight decay per update, times the rate.
      clip_low: how far the sequence ratio may fall below 1 before its gradient stops.
      clip_high: how far the sequence ratio may rise above 1 before its gradient stops.
      flow_clip: how far a step's ratio may leave 1 before its gradient stops.
      text_weight: coefficient of the words' loss, 0 for none; the paper: 1 / steps learnt from.
      flow_weight: coefficient of the drawing's loss, 0 for none.
      steps: steps from noise to drawing.
      window: (how many steps in a row are random and learnt from, step before which they end).
      noise: noise level of those steps.
      flow_rate: factor on the learning rate of the velocity's layers, which begin untrained.
      epochs: passes over each round's rows.

    References:
      arXiv 2605.12495 and its official code.
    """
    words = bind(policy_gradient, clip_low=clip_low, clip_high=clip_high, level="sequence")
    drawing = bind(policy_gradient, clip_low=flow_clip, clip_high=flow_clip)
    per_row, per_step = reducer("seq_mean_token_mean"), reducer("seq_mean_token_sum")
    terms = (
        Term("text", words, text_weight, per_row),
        Term("flow", drawing, flow_weight, per_step, stream="flow"),
    )
    objective = Objective(
        name="policy",
        advantage=bind(group_advantage, scale="batch", epsilon=1e-4),
        credit=bind(broadcast, streams=STREAMS),
        terms=tuple(term for term in terms if term.weight),
        reduce=per_row,
        optimizer=bind(
            adamw,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            factors=(("flow", flow_rate),),
        ),
        epochs=epochs,
        check=bind(refuse_uncorrectable, streams=STREAMS),
    )
    chain = {"steps": steps, "window": window, "noise": noise}
    wave = bind(think_then_act, like=objective, judge=bind(scene_reward), **chain)
    params = (ParamSet("policy", init=bind(with_flow_head)),)
    return Recipe("alphagrpo", wave, (objective,), params, sizes=bind(think_then_act_sizes))
