"""Every recipe at its defaults on a real model: two rounds from the command line, hours in all."""

import json
import subprocess
import sys

import pytest

from jaxevo.recipes import recipe_names
from jaxevo.run.logs import read_jsonl

# conversations with a tool compile for many minutes where nothing is cached
pytestmark = [pytest.mark.soak, pytest.mark.smollm2, pytest.mark.timeout(1800)]
SIZES = "--prompts 4 --samples 4 --max-new-tokens 24 --rounds 2 --eval-problems 0"
MORE = {  # options without which a recipe cannot start, or has nothing to do
    "dapo": "--minibatches 2",
    "dr-grpo": "--norm-length 24",
    "feedback-alignment": "--task steps4 --max-new-tokens 96",
    # warm enough to differ, cold enough to write tags
    "pi-play": "--task hops --examiner-rounds 1 --student-rounds 1 --max-new-tokens 96 "
    "--variants 2 --attempts 2 --turns 3 --temperature 0.5",
    "rest-mcts": "--step-tokens 12",
    "sd-zero": "--revision-rounds 1 --context-tokens 128",
    "sft": "--task svamp",
    "ttcs": "--synthesizer-rounds 1 --solver-rounds 1 --references 4 --variants 8 --votes 4",
}

SIGNALS = {  # what a method's own metrics and the rollout viewer's columns tell of it
    "cepo": {"context/right", "context/wrong", "tally/mix", "evidence"},
    "delta": {"tally/coefficient_spread", "coefficient"},
    "feedback-alignment": {"tally/steps_read", "tally/critiqued", "changed", "distill"},
    "igrpo": {"tally/draft_right", "tally/best_draft_right", "tally/refined_right"},
    "pi-play": {"tally/valid", "tally/undecided", "tally/pool", "context/teacher", "distill"},
    "sage": {"tally/hint_level", "tally/hinted", "tally/resolved_0"},
    "sd-zero": {"tally/revision_right", "revise", "distill_reverse", "context/teacher"},
    "sdpo": {"context/teacher", "distill"},
    "srpo-routing": {"context/teacher", "distill", "keep", "policy"},
    "t-reg": {"context/better", "context/worse", "token_reward", "aligned"},
    "trace": {"tally/annotated", "tally/span_share", "span"},
}


@pytest.mark.parametrize("name", recipe_names())
def test_two_rounds(name, tmp_path, record_property):
    out = tmp_path / "run"
    options = ["--model", "smollm2-135m", *SIZES.split(), *MORE.get(name, "").split()]
    command = [sys.executable, "-m", "jaxevo.run.cli", "train", name, *options, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    metrics = read_jsonl(out / "metrics.jsonl")
    assert [m["round"] for m in metrics] == [0, 1]
    assert all("nonfinite" not in m for m in metrics)
    # float32 on both sides: what the trainer says of a token is what its sampler said
    mismatch = max(m.get("logp_mismatch", 0.0) for m in metrics)
    assert mismatch < 2e-3
    assert (out / "report.html").stat().st_size > 10_000
    rollouts = read_jsonl(out / "rollouts.jsonl")
    told = [m.keys() for m in metrics] + [r["signals"].keys() for r in rollouts]
    assert SIGNALS.get(name, set()) <= set().union(*told)
    config = json.loads((out / "config.json").read_text())
    record_property("seconds", config["seconds"])
    record_property("updates", metrics[-1]["updates"])
    record_property("logp_mismatch", mismatch)
