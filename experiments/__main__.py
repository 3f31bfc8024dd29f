"""Mechanism studies: `python -m experiments SLUG`, the recipe's name; `--help` for options."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

# A study compiles more than it computes, and half as long without fusion emitters.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

from experiments.study import main
from jaxevo.names import did_you_mean


def run() -> int:
    studies = sorted(p.parent.name for p in Path(__file__).parent.glob("*/claim.json"))
    names = [name.replace("_", "-") for name in studies]
    asked = sys.argv[1] if len(sys.argv) > 1 else "-h"
    if asked in ("-h", "--help"):
        print(f"{__doc__}\n\nStudies: {', '.join(names)}")
        return 0
    if asked not in names:
        print(f"no study {asked!r}. {did_you_mean(asked, names)}", file=sys.stderr)
        return 2
    study = importlib.import_module(f"experiments.{studies[names.index(asked)]}.study").STUDY
    return main(study, sys.argv[2:])


if __name__ == "__main__":
    raise SystemExit(run())
