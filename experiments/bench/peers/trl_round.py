"""GRPO rounds of TRL's GRPOTrainer; runs in an environment of its own, which has no jaxevo.

`trl_round.py --job JSON --out FILE`: the job's keys are those that `experiments.bench.round_vs_trl`
writes. Prompts are handed as rendered text: as chat turns, the model's template would add a system
turn. That TRL then sees the very same token ids is checked.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def run(job: dict[str, Any]) -> dict[str, Any]:
    import torch

    torch.set_num_threads(job["threads"])
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(job["model_dir"])
    problems = job["problems"]
    seen = tokenizer(text=[p["text"] for p in problems])["input_ids"]  # as the trainer does
    if seen != [p["ids"] for p in problems]:
        raise ValueError("TRL's token ids of the prompts differ from the ids handed.")
    log = RoundLog(paced=job["paced"])
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=job["model_dir"],
            processing_class=tokenizer,
            reward_funcs=log.reward,
            args=settings(job, folder),
            train_dataset=Dataset.from_list(
                [{"prompt": p["text"], "answer": p["answer"]} for p in problems]
            ),
            callbacks=[log.callback()],
        )
        trainer.train()
    weights = {p.dtype for p in trainer.model.parameters()}
    if weights != {torch.float32} or torch.get_num_threads() != job["threads"]:
        raise ValueError(f"expected float32 and {job['threads']} threads, got {weights}.")
    packages = ("trl", "torch", "transformers", "accelerate", "datasets", "numpy")
    return {
        "rounds": log.rounds(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def settings(job: dict[str, Any], folder: str) -> Any:
    """Everything that costs time and is not the round is off."""
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        model_init_kwargs={"dtype": "float32"},
        gradient_checkpointing=False,
        per_device_train_batch_size=job["rows"],
        gradient_accumulation_steps=job["accumulation"],
        num_generations=job["samples"],
        max_completion_length=job["max_new_tokens"],
        temperature=1.0,
        shuffle_dataset=False,
        max_steps=job["rounds"],
        learning_rate=job["learning_rate"],
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        beta=0.0,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


class RoundLog:
    """Times rounds from the end of one optimizer step to the end of the next.

    A step's own begin event comes after its samples were drawn, so it would miss them. A paced
    log says after each step that it is over, and waits for a line: the wait is not counted.
    """

    def __init__(self, *, paced: bool) -> None:
        self.paced = paced
        # Wall-clock, and processor time of all threads.
        self.starts: list[tuple[float, float]] = []
        self.ends: list[tuple[float, float]] = []
        self.lengths: list[float] = []
        self.rewards: list[float] = []

    def reward(
        self, completions: list[str], completion_ids: list, answer: list[str], **_: Any
    ) -> list[float]:
        """1 for an answer whose last integer is right."""
        last = [(re.findall(r"[0-9]+", text) or [""])[-1] for text in completions]
        scores = [float(own == right) for own, right in zip(last, answer, strict=True)]
        self.lengths.append(sum(map(len, completion_ids)) / len(completion_ids))
        self.rewards.append(sum(scores) / len(scores))
        return scores

    def callback(self) -> Any:
        from transformers import TrainerCallback

        log = self

        class Clock(TrainerCallback):
            def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
                log.begin()

            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                log.ends.append((time.perf_counter(), time.process_time()))
                log.begin()

        return Clock()

    def begin(self) -> None:
        """Starts the clock of the next round."""
        if self.paced:
            print("@ready", flush=True)
            sys.stdin.readline()
        self.starts.append((time.perf_counter(), time.process_time()))

    def rounds(self) -> list[dict[str, float]]:
        spans = zip(self.starts, self.ends, self.lengths, self.rewards, strict=False)
        return [
            {
                "seconds": end[0] - start[0],
                "seconds_cpu": end[1] - start[1],
                "length": n,
                "reward": r,
            }
            for start, end, n, r in spans
        ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=json.loads, required=True, help="what to run, as JSON")
    parser.add_argument("--out", type=Path, required=True, help="where the result goes")
    args = parser.parse_args()
    args.out.write_text(json.dumps(run(args.job)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
