"""TRL's losses and their gradients on fixed random numbers, made by TRL's own methods.

Run by hand where trl and torch are: `python tests/parity/trl_losses.py --out FILE.npz`. A trainer
is built without its `__init__`, with the attributes that its loss reads; its model says what it is
told to. `test_trl_losses.py` compares with what is written here: `in/NAME` are the inputs,
`CASE/value` a loss, `CASE/NAME` its gradient with respect to an input.
"""

import argparse
import ast
import inspect
import math
import pathlib
import textwrap
import types
import warnings
from collections import defaultdict

import numpy as np
import torch
import trl
from accelerate import Accelerator
from trl import DPOTrainer, GRPOTrainer, KTOTrainer, RLOOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.sdpo.sdpo_trainer import DistillationLogits, SDPOTrainer

ROWS, PAIRS, TOKENS, WORDS = 6, 4, 8, 5
GRPO = {
    "loss_type": "grpo",
    "importance_sampling_level": "token",
    "epsilon_low": 0.2,
    "epsilon_high": 0.28,
    "top_entropy_quantile": 1.0,
    "beta": 0.0,
    "off_policy_mask_threshold": None,
    "max_completion_length": TOKENS,
    "current_gradient_accumulation_steps": 1,
    "aux_loss_enabled": False,
    "use_adaptive_entropy": False,
    "entropy_coef": 0.0,
    "use_vllm": False,
    "vllm_importance_sampling_correction": True,
    "vllm_importance_sampling_clip_min": None,
    "vllm_importance_sampling_clip_max": 1.5,
}
GRPO_ARGS = {
    "delta": None,
    "use_bias_correction_kl": False,
    "sapo_temperature_pos": 1.0,
    "sapo_temperature_neg": 1.05,
    "vespo_k_pos": 2.0,
    "vespo_lambda_pos": 3.0,
    "vespo_k_neg": 3.0,
    "vespo_lambda_neg": 2.0,
    "steps_per_generation": 1,
}
MODES = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
SEQUENCE = {"importance_sampling_level": "sequence", "epsilon_low": 0.05, "epsilon_high": 0.05}
GRPO_CASES = {  # name: what differs from the options above
    "grpo": {},
    "bnpo": {"loss_type": "bnpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "dapo": {"loss_type": "dapo"},
    "sequence": SEQUENCE,
    "luspo": {"loss_type": "luspo", **SEQUENCE},
    "delta": {"delta": 1.4},
    "top_entropy_quantile": {"top_entropy_quantile": 0.3},
    "beta": {"beta": 0.2},
    "use_bias_correction_kl": {"beta": 0.2, "use_bias_correction_kl": True},
    "entropy_coef": {"entropy_coef": 0.1},
    "off_policy_mask_threshold": {"off_policy_mask_threshold": 0.1},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.2},
    "sapo": {"loss_type": "sapo"},
    "vespo": {"loss_type": "vespo"},
    **{m: {"use_vllm": True, "vllm_importance_sampling_mode": m} for m in MODES},
    "clip_min": {
        "use_vllm": True,
        "vllm_importance_sampling_mode": "token_mask",
        "vllm_importance_sampling_clip_min": 0.8,
    },
}

SDPO = {
    "distillation_mode": "full_logits",
    "distillation_alpha": 1.0,
    "distillation_topk": 3,
    "distillation_add_tail": True,
    "distillation_is_clip": None,
}
SDPO_CASES = {
    "sdpo": {},
    "sdpo, alpha 0": {"distillation_alpha": 0.0},
    "sdpo, alpha 0.3": {"distillation_alpha": 0.3},
    "sdpo, topk": {"distillation_mode": "topk_logits"},
    "sdpo, topk, alpha 0.3": {"distillation_mode": "topk_logits", "distillation_alpha": 0.3},
    "sdpo, topk, no tail": {"distillation_mode": "topk_logits", "distillation_add_tail": False},
    "sdpo, sampled_token": {"distillation_mode": "sampled_token"},
    "sdpo, is_clip": {"distillation_is_clip": 1.2},
}


def inputs() -> dict[str, np.ndarray]:
    """Fixed random numbers; rows of every length from 0, one with a gap that a tool wrote."""
    rng = np.random.default_rng(20)
    logp = -rng.exponential(1.0, (ROWS, TOKENS))
    mask = np.arange(TOKENS) < np.array([8, 8, 5, 3, 1, 0])[:, None]
    mask[1, 3:5] = False
    pair = -rng.exponential(1.0, (2 * PAIRS, TOKENS))
    pair_mask = np.arange(TOKENS) < np.array([8, 5, 3, 7, 6, 8, 2, 7])[:, None]
    found = {
        "logp": logp,
        "old": logp + rng.normal(0, 0.3, logp.shape),
        "reference": logp + rng.normal(0, 0.5, logp.shape),
        "entropy": rng.exponential(1.0, logp.shape),
        "advantage": np.array([1.3, -0.7, -1.1, 0.9, -0.4, 0.6]),
        "pair_logp": pair,
        "pair_reference": pair + rng.normal(0, 0.6, pair.shape),
        "kl_logp": -rng.exponential(1.0, pair.shape),
        "logits": rng.normal(0, 1.5, (2 * PAIRS, TOKENS + 1, WORDS)),
    }
    found["behaviour"] = found["old"] + rng.normal(0, 0.6, logp.shape)
    found["kl_reference"] = found["kl_logp"] - 0.1 + rng.normal(0, 0.1, pair.shape)
    found = {name: x.astype(np.float32) for name, x in found.items()}
    words = rng.integers(0, WORDS, (2 * PAIRS, TOKENS + 1))
    good = np.array([1, 0, 0, 1, 0, 1, 0, 0], bool)
    found["student"] = rng.normal(0, 1.5, (ROWS, TOKENS, WORDS)).astype(np.float32)
    found["teacher"] = rng.normal(0, 1.5, (ROWS, TOKENS, WORDS)).astype(np.float32)
    found["drift"] = rng.normal(0, 0.3, (ROWS, TOKENS)).astype(np.float32)
    found["taught"] = np.array([1, 0, 1, 1, 1, 1], bool)
    found["said"] = rng.integers(0, WORDS, (ROWS, TOKENS))
    return {**found, "mask": mask, "pair_mask": pair_mask, "words": words, "good": good}


def without_init(trainer: type, **attributes):
    """A trainer with these attributes, and what every loss of TRL reads besides."""
    made = trainer.__new__(trainer)
    shared = {
        "model": torch.nn.Identity().train(),
        "accelerator": Accelerator(cpu=True),
        "_metrics": {"train": defaultdict(list)},
        "aux_loss_enabled": False,
        "precompute_ref_logps": False,
        "_total_train_tokens": 0,
        "_tp_size": 1,
    }
    vars(made).update(shared | attributes)
    return made


def graph(x: dict[str, np.ndarray], *names: str) -> dict[str, torch.Tensor]:
    """All inputs as tensors; the named ones get gradients."""
    tensors = {name: torch.tensor(array) for name, array in x.items()}
    for name in names:
        tensors[name].requires_grad_()
    return tensors


def outcome(loss: torch.Tensor, **leaves: torch.Tensor) -> dict[str, np.ndarray]:
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    found = {"value": loss.detach().numpy()}
    for name, gradient in zip(leaves, gradients, strict=True):
        if gradient is not None:
            found[name] = gradient.numpy()
    return found


# ---------------------------------------------------------------------------- GRPO
def grpo(x: dict[str, np.ndarray], changes: dict, cuts: int = 1) -> dict[str, np.ndarray]:
    """`GRPOTrainer._compute_loss`, over `cuts` micro-batches of one update."""
    t = graph(x, "logp", "entropy")
    args = types.SimpleNamespace(**{k: changes.get(k, v) for k, v in GRPO_ARGS.items()})
    options = GRPO | {k: v for k, v in changes.items() if k not in GRPO_ARGS}
    options["current_gradient_accumulation_steps"] = args.steps_per_generation = cuts
    options["_entropy_bonus_enabled"] = options["entropy_coef"] != 0.0
    total = torch.zeros(())
    for rows in torch.arange(ROWS).chunk(cuts):
        said = (t["logp"][rows], t["entropy"][rows], None)
        trainer = without_init(GRPOTrainer, args=args, **options)
        trainer._get_per_token_logps_and_entropies = lambda *a, said=said, **k: said
        ids, mask = torch.zeros(len(rows), TOKENS), t["mask"][rows].int()
        given = {
            "prompt_ids": ids[:, :1],
            "prompt_mask": torch.ones_like(ids[:, :1]),
            "completion_ids": ids,
            "completion_mask": torch.ones_like(mask),
            "tool_mask": mask,
            "advantages": t["advantage"][rows],
            "old_per_token_logps": t["old"][rows],
            "ref_per_token_logps": t["reference"][rows],
            "num_items_in_batch": t["mask"].sum(),
            "sampling_per_token_logps": t["behaviour"][rows],
        }
        if options["use_vllm"]:
            behaviour = t["behaviour"][rows]
            weights = sampler_weights(trainer, mask, given["old_per_token_logps"], behaviour)
            given["importance_sampling_ratio"] = weights
        total = total + trainer._compute_loss(None, given)
    return outcome(total, logp=t["logp"], entropy=t["entropy"])


def sampler_weights(trainer: GRPOTrainer, mask: torch.Tensor, old: torch.Tensor, behaviour):
    """The statements of `_generate_and_score_completions` that make the importance weights."""
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    test = "self.use_vllm and self.vllm_importance_sampling_correction"
    (block,) = (
        node
        for node in ast.walk(ast.parse(textwrap.dedent(source)))
        if isinstance(node, ast.If)
        and ast.unparse(node.test) == test
        and ast.unparse(node.body[0]).startswith("mask = ")
        and "invalid_mis_mask" in ast.unparse(node)
    )
    names = {
        "self": trainer,
        "torch": torch,
        "math": math,
        "completion_mask": torch.ones_like(mask),
        "tool_mask": mask,
        "old_per_token_logps": old,
        "sampling_per_token_logps": behaviour,
    }
    exec(compile(ast.Module([block], []), "trl", "exec"), names)
    return names["vllm_importance_sampling_ratio"]


def rloo(x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`RLOOTrainer._compute_loss`, on answers that have tokens."""
    t = graph(x, "logp")
    mask = t["mask"].int()
    said = (t["logp"][:-1], t["entropy"][:-1], None)
    trainer = without_init(RLOOTrainer, epsilon_low=0.2, epsilon_high=0.28)
    trainer._get_per_token_logps_and_entropies = lambda *a, **k: said
    ids = torch.zeros_like(mask)
    given = {
        "prompt_ids": ids[:-1, :1],
        "prompt_mask": torch.ones_like(ids[:-1, :1]),
        "completion_ids": ids[:-1],
        "completion_mask": mask[:-1],
        "advantages": t["advantage"][:-1],
        "old_logps": (t["old"] * mask).sum(1)[:-1],
    }
    return outcome(trainer._compute_loss(None, given), logp=t["logp"])


# ---------------------------------------------------------------------------- self-distillation
def sdpo(x: dict[str, np.ndarray], changes: dict) -> dict[str, np.ndarray]:
    """`SDPOTrainer._compute_self_distillation_loss`; old log-probs are those now plus `drift`."""
    t = graph(x, "student")
    trainer = without_init(SDPOTrainer, args=types.SimpleNamespace(**SDPO | changes))
    mask = t["mask"].float()
    logits = DistillationLogits(
        completion_ids=t["said"],
        completion_mask=mask,
        loss_mask=mask * t["taught"].float()[:, None],
        student_logits=t["student"],
        teacher_logits=t["teacher"],
    )
    now = torch.log_softmax(t["student"].detach(), -1).gather(-1, t["said"][..., None])[..., 0]
    given = {"old_per_token_logps": now + t["drift"]}
    loss = trainer._compute_self_distillation_loss(trainer.model, given, logits)
    return outcome(loss, student=t["student"])


# ---------------------------------------------------------------------------- preferences
def speaks(logp: torch.Tensor, mask: torch.Tensor, kl: torch.Tensor | None = None):
    """A model that says these log-probs; those of `kl` to the ids 1."""

    def model(input_ids, **kwargs):
        said = kl if input_ids[0, 0] == 1 else logp
        nothing = torch.zeros_like(said)
        return types.SimpleNamespace(
            log_probs=torch.where(mask, said, 0.0),
            entropy=nothing,
            mean_logits=nothing,
            is_top1=mask,
        )

    return model


def with_prompt(mask: torch.Tensor) -> torch.Tensor:
    """The mask of whole sequences, whose prompt is one token."""
    return torch.cat([torch.zeros_like(mask[:, :1]), mask], 1)


def dpo(x: dict[str, np.ndarray], loss_type: str, beta: float) -> dict[str, np.ndarray]:
    t = graph(x, "pair_logp")
    whole = with_prompt(t["pair_mask"])
    trainer = without_init(
        DPOTrainer,
        args=types.SimpleNamespace(gradient_checkpointing_kwargs=None),
        ref_model=speaks(t["pair_reference"], t["pair_mask"]),
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        loss_types=[loss_type],
        loss_weights=[1.0],
        beta=beta,
        use_weighting=False,
    )
    trainer.model.is_gradient_checkpointing = False
    given = {
        "input_ids": torch.zeros_like(whole, dtype=torch.long),
        "attention_mask": torch.ones_like(whole),
        "completion_mask": whole.int(),
    }
    loss = trainer._compute_loss(speaks(t["pair_logp"], t["pair_mask"]), given, False)
    return outcome(loss, pair_logp=t["pair_logp"])


def kto(x: dict[str, np.ndarray], good: float, bad: float) -> dict[str, np.ndarray]:
    t = graph(x, "pair_logp")
    mask, whole = t["pair_mask"], with_prompt(t["pair_mask"])
    ids = torch.zeros_like(whole, dtype=torch.long)
    trainer = without_init(
        KTOTrainer,
        args=types.SimpleNamespace(gradient_checkpointing_kwargs=None),
        ref_model=speaks(t["pair_reference"], mask, t["kl_reference"]),
        calculate_KL=True,
        loss_type="kto",
        beta=0.1,
        desirable_weight=good,
        undesirable_weight=bad,
    )
    trainer.model.is_gradient_checkpointing = False
    given = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(whole),
        "completion_mask": whole.int(),
        "KL_input_ids": ids + 1,
        "KL_attention_mask": torch.ones_like(whole),
        "KL_completion_mask": whole.int(),
        "label": t["good"],
    }
    loss = trainer._compute_loss(speaks(t["pair_logp"], mask, t["kl_logp"]), given, False)
    return outcome(loss, pair_logp=t["pair_logp"])


def simpo(x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    t = graph(x, "logits")
    trainer = without_init(
        CPOTrainer, alpha=0.0, loss_type="simpo", beta=2.0, simpo_gamma=1.0, label_smoothing=0.0
    )
    labels = t["words"].masked_fill(~with_prompt(t["pair_mask"]), -100)
    logp = trainer.get_batch_logps(t["logits"], labels, average_log_prob=True)
    losses, _, _ = trainer.cpo_loss(logp[:PAIRS], logp[PAIRS:])
    return outcome(losses.mean(), logits=t["logits"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, required=True)
    out = parser.parse_args().out
    warnings.simplefilter("ignore")  # about a clip that PyTorch calls by an old name, and the like
    x = inputs()
    found = {name: grpo(x, changes) for name, changes in GRPO_CASES.items()}
    found["dapo, 2 micro-batches"] = grpo(x, {"loss_type": "dapo"}, cuts=2)
    found["rloo"] = rloo(x)
    found |= {name: sdpo(x, changes) for name, changes in SDPO_CASES.items()}
    found["sigmoid"] = dpo(x, "sigmoid", 0.1)
    found["ipo"] = dpo(x, "ipo", 0.5)
    found["kto"] = kto(x, 1.0, 1.0)
    found["kto, weights"] = kto(x, 1.5, 0.75)
    found["simpo"] = simpo(x)
    arrays = {f"in/{name}": array for name, array in x.items()}
    for case, parts in found.items():
        arrays |= {f"{case}/{name}": array for name, array in parts.items()}
    np.savez_compressed(out, **arrays, versions=np.array([trl.__version__, torch.__version__]))


if __name__ == "__main__":
    main()
