"""Waves of transformers' `generate`; runs in an environment of its own, which has no jaxevo.

`hf_generate.py --job JSON --out FILE`: the job's keys are those that
`experiments.bench.sampler_vs_hf` writes. Every row is decoded to the longest asked length, since a
batch of `generate` goes on until its last row has ended.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any


def run(job: dict[str, Any]) -> dict[str, Any]:
    import torch

    torch.set_num_threads(job["threads"])
    from transformers import AutoModelForCausalLM, GenerationConfig

    dtype = getattr(torch, job["dtype"])
    model = AutoModelForCausalLM.from_pretrained(job["model_dir"], dtype=dtype).eval()
    rows = [ids for ids in job["prompts"] for _ in range(job["samples"])]
    ids = torch.tensor(rows)
    how = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=job["longest"],
        eos_token_id=None,
        pad_token_id=0,
    )
    measured = []
    for index in range(job["waves"]):
        if job["paced"]:
            print("@ready", flush=True)
            sys.stdin.readline()
        torch.manual_seed(index)
        start = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=how)
        measured.append({"seconds": time.perf_counter() - start})
        if out.shape[1] != ids.shape[1] + job["longest"]:
            raise ValueError(f"expected {job['longest']} new tokens, got {tuple(out.shape)}.")
    return {
        "rounds": measured,
        "versions": {n: importlib.metadata.version(n) for n in ("torch", "transformers", "numpy")},
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=json.loads, required=True, help="what to run, as JSON")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.write_text(json.dumps(run(args.job)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
