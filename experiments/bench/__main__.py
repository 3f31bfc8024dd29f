"""Command line of the benchmarks."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.bench import (
    cold_start,
    conversations,
    distillation,
    gpu,
    in_loop,
    round_vs_trl,
    rounds_ahead,
    sampler_vs_hf,
    shared_prefix,
)
from experiments.bench.record import use_cores

BENCHES = {
    "round-vs-trl": round_vs_trl,
    "sampler-vs-hf": sampler_vs_hf,
    "shared-prefix": shared_prefix,
    "in-loop": in_loop,
    "rounds-ahead": rounds_ahead,
    "conversations": conversations,
    "distillation": distillation,
    "cold-start": cold_start,
    "gpu": gpu,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench", description=__doc__, allow_abbrev=False
    )
    names = parser.add_subparsers(dest="name", metavar="NAME", required=True)
    for name, bench in BENCHES.items():
        text = bench.__doc__ or ""
        sub = names.add_parser(
            name,
            help=text.split("\n")[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument("--json", type=Path, metavar="FILE", help="write the result here as well")
        bench.add_options(sub)
    args = parser.parse_args(argv)
    use_cores(2)
    text = json.dumps(BENCHES[args.name].measure(args), indent=2)
    print(text)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
