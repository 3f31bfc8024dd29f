"""One row per recipe: its factory, and the options under which the shared drive runs it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxevo.recipes.alphagrpo import alphagrpo
from jaxevo.recipes.cepo import cepo
from jaxevo.recipes.cispo import cispo
from jaxevo.recipes.cleaner import cleaner
from jaxevo.recipes.dapo import dapo
from jaxevo.recipes.delta import delta
from jaxevo.recipes.dpo import dpo
from jaxevo.recipes.dr_grpo import dr_grpo
from jaxevo.recipes.feedback_alignment import feedback_alignment
from jaxevo.recipes.grpo import grpo
from jaxevo.recipes.gspo import gspo
from jaxevo.recipes.igrpo import igrpo
from jaxevo.recipes.passk import passk
from jaxevo.recipes.pi_play import pi_play
from jaxevo.recipes.ppo import ppo
from jaxevo.recipes.reinforce_pp import reinforce_pp
from jaxevo.recipes.rest_mcts import rest_mcts
from jaxevo.recipes.rft import rft
from jaxevo.recipes.rloo import rloo
from jaxevo.recipes.sage import sage
from jaxevo.recipes.sapo import sapo
from jaxevo.recipes.sd_zero import sd_zero
from jaxevo.recipes.sdpo import sdpo
from jaxevo.recipes.sft import sft
from jaxevo.recipes.spiral import spiral
from jaxevo.recipes.srpo_routing import srpo_routing
from jaxevo.recipes.t_reg import t_reg
from jaxevo.recipes.trace import trace
from jaxevo.recipes.ttcs import ttcs
from jaxevo.types import Recipe


@dataclasses.dataclass(frozen=True)
class Case:
    """A recipe under test: `make` binds its options, `run` changes those of the drive.

    updates: how many updates its three rounds make, over all objectives. brief: another case has
    the same layout and terms of the same kind, so that it is driven for traces, resume and
    log-probs alone.
    """

    name: str
    make: Callable[[], Recipe]
    updates: int = 3
    run: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    brief: bool = False


CASES = (
    Case("grpo", lambda: grpo(learning_rate=1e-3)),
    Case("grpo-full", lambda: grpo(
        learning_rate=1e-3, kl_weight=0.05, entropy_weight=0.01, correction="token", minibatches=2,
        correction_floor=0.1, drop_above=1.0, epochs=2, dual_clip=3.0,
        reduction="seq_mean_token_mean",
    ), updates=12),
    Case("grpo-curriculum", lambda: grpo(learning_rate=1e-3, curriculum=0.01),
         run={"task": "mix:add1,sub1,mul1"}, brief=True),
    Case("grpo-judged", lambda: grpo(learning_rate=1e-3, judge_weight=0.5, judge_tokens=16),
         brief=True),
    Case("grpo-lora", lambda: grpo(learning_rate=1e-2, kl_weight=0.05),
         run={"lora_rank": 2, "lora_alpha": 8.0}, brief=True),
    Case("sdpo-lora", lambda: sdpo(
        learning_rate=1e-2, warmup_updates=0, context_tokens=24, distill_top_k=5,
    ),
         run={"lora_rank": 2, "lora_targets": ("q", "v")}, brief=True),
    Case("ppo-lora", lambda: ppo(learning_rate=1e-2), updates=6, run={"lora_rank": 2}, brief=True),
    Case("sdpo", lambda: sdpo(
        learning_rate=1e-3, warmup_updates=0, context_tokens=24, distill_top_k=5, policy_weight=0.3,
    )),
    Case("srpo-routing", lambda: srpo_routing(
        learning_rate=1e-3, warmup_updates=0, context_tokens=24, distill_top_k=5,
    )),
    Case("cepo", lambda: cepo(
        learning_rate=1e-3, warmup_updates=0, context_tokens=16, mix_rounds=2, minibatches=2,
    ), updates=6, brief=True),
    Case("trace", lambda: trace(
        learning_rate=1e-3, context_tokens=16, hold_rounds=1, decay_rounds=1, coverage=0.5,
        annotator_tokens=16,
    ), brief=True),
    Case("sd-zero", lambda: sd_zero(
        revision_rounds=1, revision_learning_rate=1e-3, revision_epochs=2, learning_rate=1e-3,
        warmup_updates=0, context_tokens=24, distill_top_k=5,
    ), updates=4),
    Case("feedback-alignment", lambda: feedback_alignment(
        critic="closest", learning_rate=1e-3, context_tokens=32,
    ), run={"task": "steps4", "max_new_tokens": 12}, brief=True),
    Case("spiral", lambda: spiral(
        learning_rate=1e-3, norm_length=4.0, games=("kuhn", "tic-tac-toe"), opponent="snapshot",
        snapshot_rounds=2, kl_weight=0.05,
    ), updates=6),
    Case("alphagrpo", lambda: alphagrpo(
        learning_rate=1e-3, steps=6, window=(3, 5), flow_clip=0.2,
        epochs=2,
    ), updates=6),
    Case("ttcs", lambda: ttcs(
        learning_rate=1e-3, synthesizer_rounds=1, solver_rounds=1, minibatches=(2, 2),
        references=4, variants=16, votes=3, written=8, question_tokens=9, oversample=2,
    ), updates=6, run={"max_new_tokens": 8}),
    Case("pi-play", lambda: pi_play(
        learning_rate=1e-3, examiner_rounds=1, student_rounds=1, variants=8, attempts=3, turns=3,
        grounded=False, question_tokens=16, context_tokens=24, minibatches=(2, 2),
    ), updates=6, run={"task": "hops", "max_new_tokens": 16}),
    Case("cleaner", lambda: cleaner(learning_rate=1e-3, warmup_updates=0, minibatches=2),
         updates=6, run={"max_new_tokens": 24}),
    Case("rest-mcts", lambda: rest_mcts(
        learning_rate=1e-3, value_learning_rate=1e-3, iterations=5, step_tokens=3, roll_steps=1,
        step_end=("=", "+", "1", "2", "3", "4", "5"), least_value=0.0,
    ), updates=9, run={"max_new_tokens": 6}),
    Case("dr-grpo", lambda: dr_grpo(learning_rate=1e-3, norm_length=4.0), brief=True),
    Case("dapo", lambda: dapo(
        learning_rate=1e-3, warmup_updates=0, minibatches=2, extra_waves=2, overlong=0.5,
        entropy_share=0.5,
    ), updates=6),
    Case("igrpo", lambda: igrpo(learning_rate=1e-3, drafts=2), brief=True),
    Case("delta", lambda: delta(
        learning_rate=1e-3, minibatches=2, overlong=0.5,
    ), updates=6, brief=True),
    Case("sage", lambda: sage(learning_rate=1e-3, context_tokens=16, writer_tokens=16),
         updates=6, run={"prompts": 8, "samples": 2}, brief=True),
    Case("sage-light", lambda: sage(
        learning_rate=1e-3, context_tokens=16, writer_tokens=16, light=True, minibatches=1,
    ), run={"prompts": 24, "samples": 2}, brief=True),
    Case("gspo", lambda: gspo(learning_rate=1e-3, minibatches=2), updates=6, brief=True),
    Case("cispo", lambda: cispo(learning_rate=1e-3, minibatches=2), updates=6, brief=True),
    Case("sapo", lambda: sapo(learning_rate=1e-3, minibatches=2), updates=6, brief=True),
    Case("rloo", lambda: rloo(
        learning_rate=1e-3, kl_weight=0.05, ratio="answer", minibatches=2,
    ), updates=6, brief=True),
    Case("reinforce-pp", lambda: reinforce_pp(learning_rate=1e-3, baseline="group"), brief=True),
    Case("passk", lambda: passk(learning_rate=1e-3), run={"prompts": 8, "samples": 2}, brief=True),
    Case("sft", lambda: sft(learning_rate=1e-3, minibatches=2), updates=6),
    Case("rft", lambda: rft(learning_rate=1e-3, most=2, epochs=2), updates=6, brief=True),
    Case("ppo", lambda: ppo(
        learning_rate=1e-3, value_learning_rate=1e-2, minibatches=2, kl_weight=0.05,
    ), updates=12),
    Case("dpo", lambda: dpo(learning_rate=1e-3, minibatches=2), updates=6),
    Case("dpo-kto", lambda: dpo(loss="kto", learning_rate=1e-3, epochs=2), updates=6, brief=True),
    Case("t-reg", lambda: t_reg(
        learning_rate=1e-3, context_tokens=16, minibatches=2,
    ), updates=6, brief=True),
)  # fmt: skip
