"""The sampler against transformers' `generate`, useful tokens per second on the same two cores.

Both sides: SmolLM2-135M-Instruct from the same folder, the same prompt token ids, 8 prompts x 8
samples = 64 rows, temperature 1, no truncation; nothing ends an answer but its length. Case `even`:
prompts of 256 tokens, 64 new tokens for every row. Case `spread`: lengths from 8 to 128, mixed; a
batch of `generate` goes on until its last row has ended, and only the tokens asked for count.

Both processes live side by side and take turns, wave by wave, the other one waiting. The ratio is
the median over pairs of neighbouring waves; each side's first wave is dropped. Before,
transformers' dtype (float32, bfloat16) and threads (2, 1) are tried once, and the fastest kept.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
from pathlib import Path
from typing import Any

from experiments.bench.record import GB, Paced, ours, say, summary
from experiments.bench.round_vs_trl import trl_environment
from jaxevo.provenance import load, provenance

SCRIPT = Path(__file__).parent / "peers" / "hf_generate.py"
SIZES = {"groups": 8, "samples": 8, "prompt_tokens": 256}
CASES = {
    "even": {**SIZES, "shortest": 64, "longest": 64},
    "spread": {**SIZES, "shortest": 8, "longest": 128},
}
TARGETS = {"even": 2.5, "spread": 3.5}
SETTINGS = [("float32", 2), ("bfloat16", 2), ("float32", 1)]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=3, help="timed pairs of waves (default 3)")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument(
        "--hf-python", type=Path, help="interpreter that has transformers (default: .venvs/trl)"
    )
    parser.add_argument(
        "--hf-setting", nargs=2, metavar=("DTYPE", "THREADS"), help="default: try all"
    )


def measure(args: argparse.Namespace) -> dict[str, Any]:
    python = args.hf_python.absolute() if args.hf_python else trl_environment()
    result = provenance("sampler-vs-hf")
    setting, tried = args.hf_setting, []
    if setting is None:
        tried = _try(python)
        best = min(tried, key=lambda trial: trial["seconds"])
        setting = (best["dtype"], best["threads"])
    dtype, threads = setting[0], int(setting[1])
    cases = {n: _case(n, python, args.repeats, dtype, threads) for n in args.cases}
    return result | {
        "options": {"repeats": args.repeats, "cases": {n: CASES[n] for n in args.cases}},
        "hf_setting": {"dtype": dtype, "threads": threads, "tried": tried},
        "cases": cases,
        "target": {"ratio_at_least": {n: TARGETS[n] for n in args.cases}},
        "met": {n: case["ratio"] >= TARGETS[n] for n, case in cases.items()},
    }


def _case(name: str, python: Path, repeats: int, dtype: str, threads: int) -> dict[str, Any]:
    case, waves = CASES[name], 1 + repeats
    drawn = functools.partial(ours, waves, options=case, module="sampler_worker")
    told, mine = drawn(prompts_only=True).result(), drawn(paced=True)
    theirs = _hf(python, told, case, waves, dtype=dtype, threads=threads, paced=True)
    loads = []
    for _ in range(waves):
        loads.append(load())
        mine.round()
        theirs.round()
    sides = {"ours": mine.result(), "hf": theirs.result()}
    for side, found in sides.items():
        say(f"{name}, {side}", found)
    useful = sum(told["lengths"])
    seconds = {side: [r["seconds"] for r in found["rounds"][1:]] for side, found in sides.items()}
    ratios = [their / our for our, their in zip(seconds["ours"], seconds["hf"], strict=True)]
    return {
        **{
            side: {
                "seconds": summary(seconds[side]),
                "useful_tokens_per_second": round(useful / statistics.median(seconds[side]), 1),
                "peak_rss_gb": round(found["peak_rss_bytes"] / GB, 2),
            }
            for side, found in sides.items()
        },
        "versions": sides["hf"]["versions"],
        "load_1min_by_pair": loads,
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(r, 2) for r in ratios],
    }


def _try(python: Path) -> list[dict[str, Any]]:
    """One timed wave of every setting of transformers, with 16 new tokens."""
    case = {**CASES["even"], "shortest": 16, "longest": 16}
    told = ours(1, options=case, module="sampler_worker", prompts_only=True).result()
    tried = []
    for dtype, threads in SETTINGS:
        out = _hf(python, told, case, 2, dtype=dtype, threads=threads).result()
        say(f"transformers, {dtype}, {threads} threads", out)
        seconds = round(out["rounds"][1]["seconds"], 2)
        tried.append({"dtype": dtype, "threads": threads, "seconds": seconds})
    return tried


def _hf(
    python: Path,
    told: dict[str, Any],
    case: dict[str, Any],
    waves: int,
    *,
    dtype: str,
    threads: int,
    paced: bool = False,
) -> Paced:
    """transformers on the prompts of our side."""
    job = {
        "model_dir": told["model_dir"],
        "prompts": told["prompts"],
        "samples": case["samples"],
        "longest": case["longest"],
        "waves": waves,
        "dtype": dtype,
        "threads": threads,
        "paced": paced,
    }
    # Our root holds a folder `kernels`, which transformers would take for a package it knows.
    env = {"PYTHONPATH": None, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    return Paced([str(python), str(SCRIPT), "--job", json.dumps(job)], env)
