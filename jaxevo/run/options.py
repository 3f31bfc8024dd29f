"""What a run is: every option of `jaxevo train`, with its unit and range."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any, Literal

from jaxevo.collect.lab import RolloutConfig
from jaxevo.models.lora import TARGETS, LoRA
from jaxevo.sampling.sampler import Sampling


def option(default: Any, text: str) -> Any:
    """A dataclass field with its help text."""
    return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Options of a training run that belong to no recipe."""

    model: str = option("smollm2-135m", "model: smollm2-135m, toy, a Hugging Face folder or id")
    task: str = option("add1", "task: a name that `jaxevo tasks` lists, a file, or a mixture")
    rounds: int = option(20, "rounds of collect and update, at least 1")
    max_rollouts: int = option(
        0, "sampled rows of any role, with which a run ends after the round, 0 for no limit"
    )
    out: str = option("runs/train", "run folder; an existing run is continued")
    seed: int = option(0, "seed of every random choice, at least 0")
    prompts: int = option(8, "problems per round, at least 1")
    samples: int = option(8, "answers per problem, at least 1")
    max_new_tokens: int = option(16, "longest answer, in tokens")
    temperature: float = option(1.0, "sampling temperature, above 0")
    top_k: int = option(0, "keep the k likeliest tokens, 0 for all")
    top_p: float = option(1.0, "keep the smallest set with this mass, in (0, 1]")
    min_p: float = option(0.0, "keep tokens with this share of the largest probability, in [0, 1]")
    stop: tuple[str, ...] = option((), "strings that end an answer")
    off_policy: int = option(
        0,
        "rounds that sampling is ahead of updates: 1 samples the next one meanwhile",
    )
    prompt_tokens: int = option(0, "longest prompt, in tokens; 0 looks at the run's problems")
    template: Literal["chatml", "model", "plain"] = option(
        "chatml", "prompt form: bare ChatML turns, the model's own template, or plain text"
    )
    control: Literal["none", "random"] = option("none", "control arm: random rewards by coin")
    micro_batches: int = option(1, "gradient accumulation steps per update, at least 1")
    lora_rank: int = option(
        0, "rank of low-rank adapters that learn in the weights' place, 0: none"
    )
    lora_alpha: float = option(32.0, "adapters' products are multiplied by this over the rank")
    lora_targets: tuple[Literal["q", "k", "v", "o", "gate", "up", "down"], ...] = option(
        TARGETS, "matrices of a layer that get adapters"
    )
    moments: Literal["full", "factored"] = option(
        "full", "what the optimizer keeps: 8 bytes a weight, or factored, about 2"
    )
    compute: Literal["float32", "bfloat16"] = option(
        "float32", "dtype of products, forward and backward and in the sampler; weights are float32"
    )
    remat: Literal["none", "dots", "layers"] = option(
        "none", "computed again in the backward pass: nothing, all but products, or whole layers"
    )
    eval_problems: int = option(16, "held-out problems per evaluation, 0 for no evaluation")
    eval_samples: int = option(4, "answers per held-out problem and evaluation")
    eval_every: int = option(0, "rounds between evaluations, 0 for before and after only")
    checkpoint_every: int = option(20, "rounds between checkpoints, 0 for the last round only")
    checkpoint_dir: str = option(
        "", "folder or gs://BUCKET/PATH for checkpoints; by default checkpoints/ in the run folder"
    )
    keep: int = option(2, "newest checkpoints to keep")
    keep_best: int = option(0, "checkpoints with the highest --best-by to keep besides")
    best_by: str = option("reward", "metric of metrics.jsonl that --keep-best ranks by")
    log: tuple[Literal["wandb", "mlflow"], ...] = option(
        (), "trackers that get the metrics beside the run folder: wandb, mlflow"
    )
    devices: int = option(1, "devices of the run, 0 for all; they share a round's rows")
    fsdp: int = option(
        1, "devices of them that weights are split over by width (they share rows too)"
    )
    tensor: int = option(1, "devices of them that weights are split over by heads and vocabulary")

    def __post_init__(self) -> None:
        least = {
            "rounds": 1, "seed": 0, "prompts": 1, "samples": 1, "max_new_tokens": 1,
            "max_rollouts": 0, "prompt_tokens": 0, "micro_batches": 1,
            "eval_problems": 0, "eval_samples": 1,
            "eval_every": 0, "checkpoint_every": 0, "keep": 1, "keep_best": 0, "devices": 0,
            "off_policy": 0, "lora_rank": 0, "fsdp": 1, "tensor": 1,
        }  # fmt: skip
        for name, low in least.items():
            value = getattr(self, name)
            if value < low:
                raise ValueError(f"--{_flag(name)} is {value}, but must be at least {low}.")
        if self.off_policy > 1:
            raise ValueError(f"--off-policy is {self.off_policy}, but must be 0 or 1.")
        if self.off_policy and self.checkpoint_every == 1:
            raise ValueError(
                "--off-policy 1 has no effect with --checkpoint-every 1, as the round after a "
                "checkpoint samples with its weights. Save more rarely."
            )
        if self.temperature <= 0:
            raise ValueError(
                f"--temperature is {self.temperature}, but training needs a value above 0: "
                "greedy answers have no log-probs to learn from."
            )
        self.sampling()
        self.lora()

    def lora(self) -> LoRA | None:
        """The adapters of the run, None for a run that learns whole weights."""
        if not self.lora_rank:
            return None
        return LoRA(self.lora_rank, self.lora_alpha, self.lora_targets)

    def ends_after(self, counters: Mapping[str, int]) -> bool:
        """Whether a run of these counters has done all its rounds, or sampled all its rows."""
        rollouts = counters.get("rollouts", 0)  # older checkpoints do not say
        return counters["round"] >= self.rounds or 0 < self.max_rollouts <= rollouts

    def saves_after(self, counters: Mapping[str, int]) -> bool:
        """Whether a checkpoint is written by a run of these counters."""
        every = self.checkpoint_every
        due = every > 0 and counters["round"] % every == 0
        return due or self.ends_after(counters)

    def sampling(self) -> Sampling:
        """How the run draws tokens."""
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p, self.stop)

    def rollout(self) -> RolloutConfig:
        """The sizes of a round."""
        return RolloutConfig(
            prompts=self.prompts,
            samples=self.samples,
            new_tokens=self.max_new_tokens,
            sampling=self.sampling(),
        )


def checkpoint_folder(out: str | os.PathLike[str], checkpoint_dir: str) -> str:
    """Where the checkpoints of a run folder are, given `--checkpoint-dir`."""
    return checkpoint_dir or os.path.join(out, "checkpoints")


def run_folder(recipe: str, task: str, seed: int) -> str:
    """Where a run goes that was not told: tasks that are no plain names get a hash of theirs."""
    label = re.sub(r"[^\w.-]+", "-", task).strip("-")[:60]
    if label != task:
        label = f"{label}-{hashlib.blake2b(task.encode(), digest_size=4).hexdigest()}"
    return f"runs/{recipe}-{label}-{seed}"


def _flag(name: str) -> str:
    return name.replace("_", "-")
