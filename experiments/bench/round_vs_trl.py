"""One GRPO round of jaxevo against one of TRL's GRPOTrainer, on the same two cores.

Both sides: SmolLM2-135M-Instruct from the same folder, the same prompt token ids (one-digit sums in
ChatML without a system turn: 23 tokens, or more where worked sums stand before them), 8 prompts x 8
samples, at most 12 new tokens, temperature 1, a reward read off the text, float32, full fine-tune,
one AdamW update (rate 5e-6, clip 1.0, no KL, constant rate). A round is sampling, rewards and
update; every row is computed, also where its group's rewards are equal and a run would leave it
out. Both processes live side by side and take turns, the other one waiting: the speed of a shared
machine drifts by tens of percent within minutes. A turn is a few rounds one after the other, as
training has them: memory that lay idle for long costs whoever touches it next (a virtual machine's
host takes free pages back). The ratio is the median over pairs of turns of the ratio of their
median rounds; each side's first round, before the first turn, is dropped.

TRL runs without gradient checkpointing, logging and saving. Before, its micro-batch (64x1, 16x4,
8x8 rows x accumulation steps) and threads (2, 1) are tried once, and the fastest kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.bench.record import GB, ROUND, Paced, ours, say, summary
from jaxevo.provenance import ROOT, load, provenance

ROWS = ROUND["prompts"] * ROUND["samples"]
SCRIPT = Path(__file__).parent / "peers" / "trl_round.py"
REQUIREMENTS = ("torch==2.13.0", "trl", "datasets")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=4, help="timed pairs of turns (default 4)")
    parser.add_argument("--turn", type=int, default=3, help="rounds of a turn (default 3)")
    parser.add_argument(
        "--trl-python", type=Path, help="interpreter that has TRL (default: made in .venvs/trl)"
    )
    parser.add_argument(
        "--trl-rows", type=int, choices=(64, 16, 8), help="micro-batch rows (default: try all)"
    )
    parser.add_argument(
        "--trl-threads", type=int, choices=(2, 1), help="torch threads (default: try both)"
    )
    parser.add_argument(
        "--question-tokens", type=int, default=0, help="of every prompt, with worked sums (256)"
    )
    parser.add_argument(
        "--target", type=float, default=4.0, help="least times faster than TRL (default 4)"
    )


def measure(args: argparse.Namespace) -> dict[str, Any]:
    python = args.trl_python.absolute() if args.trl_python else trl_environment()
    result, sizes = provenance("round-vs-trl"), {**ROUND, "question_tokens": args.question_tokens}
    setting, tried = {"rows": args.trl_rows, "threads": args.trl_threads}, []
    if None in setting.values():
        tried = _try(python, args, sizes)
        best = _fastest(tried)
        setting = {name: best[name] for name in setting}
    turns = [1] + [args.turn] * args.repeats
    prompts = _prompts(sum(turns), sizes)
    mine = ours(sum(turns), options=sizes, paced=True)
    theirs = _trl(python, prompts, paced=True, **setting)
    loads = []
    for rounds in turns:
        loads.append(load())
        for side in (mine, theirs):
            for _ in range(rounds):
                side.round()
    sides = {"ours": mine.result(), "trl": theirs.result()}
    for name, side in sides.items():
        say(name, side)
    our, their = (_by_turn(side["rounds"][1:], args.turn) for side in sides.values())
    ratios = [theirs / ours for ours, theirs in zip(our, their, strict=True)]
    ratio = statistics.median(ratios)
    result["versions"]["trl environment"] = sides["trl"]["versions"]
    return result | {
        "options": {**sizes, "repeats": args.repeats, "turn": args.turn},
        "load_1min_by_turn": loads,
        "ours": _side(sides["ours"])
        | {
            "floor": sides["ours"]["floor"],
            "padding_share": round(
                statistics.mean(r["padding_share"] for r in sides["ours"]["rounds"]), 3
            ),
        },
        "trl": _side(sides["trl"]) | {"setting": setting, "tried": tried},
        "ratio": round(ratio, 2),
        "ratios": [round(r, 2) for r in ratios],
        "target": {"ratio_at_least": args.target},
        "met": ratio >= args.target,
    }


def _by_turn(rounds: Sequence[Mapping[str, Any]], turn: int) -> list[float]:
    """Seconds of the median round of each turn."""
    seconds = [one["seconds"] for one in rounds]
    return [statistics.median(seconds[i : i + turn]) for i in range(0, len(seconds), turn)]


def _try(
    python: Path, args: argparse.Namespace, options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One timed round of every TRL setting: all micro-batches, then the best one's threads.

    A setting that fails, as one that asks for more memory than there is, is recorded as such.
    """
    prompts = _prompts(2, options)
    sizes = [args.trl_rows] if args.trl_rows else [64, 16, 8]
    threads = [args.trl_threads] if args.trl_threads else [2, 1]

    def trial(rows: int, thread_count: int) -> dict[str, Any]:
        name, setting = f"TRL, {rows} rows", {"rows": rows, "threads": thread_count}
        try:
            out = _trl(python, prompts, **setting).result()
        except RuntimeError as fault:
            print(f"{name}: left out, {fault}", file=sys.stderr)
            return {**setting, "seconds": None}
        say(f"{name}, {thread_count} threads", out)
        return {**setting, "seconds": round(out["rounds"][1]["seconds"], 2)}

    tried = [trial(rows, threads[0]) for rows in sizes]
    fastest = _fastest(tried)["rows"]
    return tried + [trial(fastest, count) for count in threads[1:]]


def _fastest(tried: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Of the settings that came to an end.

    Raises:
      RuntimeError: for none.
    """
    ended = [trial for trial in tried if trial["seconds"] is not None]
    if not ended:
        raise RuntimeError("TRL failed under every setting; what it said stands above.")
    return min(ended, key=lambda trial: trial["seconds"])


def _prompts(rounds: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """Where the model lies, and the prompts of so many rounds, without doing them."""
    return ours(rounds, options=options, prompts_only=True).result()


def _trl(
    python: Path, prompts: dict[str, Any], *, rows: int, threads: int, paced: bool = False
) -> Paced:
    """TRL on these prompts, as many rounds as they are for."""
    job = {
        **ROUND,
        "rounds": len(prompts["prompts"]) // ROUND["prompts"],
        "rows": rows,
        "accumulation": ROWS // rows,
        "threads": threads,
        "paced": paced,
        "model_dir": prompts["model_dir"],
        "problems": prompts["prompts"],
    }
    # Our root holds a folder `kernels`, which transformers would take for a package it knows.
    env = {"PYTHONPATH": None, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    return Paced([str(python), str(SCRIPT), "--job", json.dumps(job)], env)


def _side(process: dict[str, Any]) -> dict[str, Any]:
    """One side's timed rounds; the first one is warm-up."""
    rounds = process["rounds"][1:]
    timed = [name for name in rounds[0] if name.startswith("seconds")]
    return {
        **{name: summary([r[name] for r in rounds]) for name in timed},
        "mean_answer_tokens": round(statistics.mean(r["length"] for r in rounds), 2),
        "mean_reward": round(statistics.mean(r["reward"] for r in rounds), 3),
        "peak_rss_gb": round(process["peak_rss_bytes"] / GB, 2),
    }


def trl_environment() -> Path:
    """The interpreter of `.venvs/trl`, with the newest TRL; made on first use."""
    folder = ROOT / ".venvs" / "trl"
    python, done = folder / "bin" / "python", folder / "complete"
    if not done.is_file():
        print(f"making {folder} (torch and TRL: about 1 GB on CPU)", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        for wanted in (REQUIREMENTS[:1], REQUIREMENTS[1:]):
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], check=True)
        done.touch()
    return python
