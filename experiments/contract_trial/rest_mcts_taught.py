"""A value model that can rank: `python -m experiments.contract_trial.rest_mcts_taught`.

In the studies before (`rest_mcts.py`, `rest_mcts_repeated.py`) 700 updates on labelled solutions
left the value model of some seeds without an idea of its task, so that their search was led astray,
and an iteration could unteach it what it knew. Here the start is trained until it ranks prefixes of
problems set apart well enough, however many updates that takes, and it goes on learning from
labelled solutions beside those that its searches find, as the paper's does. The coin's arm has the
same labels, so that what they teach by themselves is seen.

A seed takes five to ten minutes on one core; with `--keep DIR` the series may be broken off.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from experiments.contract_trial.rest_mcts import RECIPE, RUN, VALUE_WARM, run_seed
from experiments.contract_trial.rest_mcts_repeated import CUT, MORE, differences
from experiments.contract_trial.rest_mcts_repeated import STUDY as SECOND
from experiments.study import main, pairs, repeated
from jaxevo.recipes.rest_mcts import rest_mcts

TAUGHT: dict[str, Any] = {**VALUE_WARM, "updates": 4000, "enough": 0.85}
KEPT_LABELS = 256  # solutions per iteration
TRIED: list[dict[str, Any]] = [
    {"enough": 0.8, "kept_labels": 128, "seeds": [10],
     "seen": "at the start search 0.72, Best-of-N 0.62; accuracy 0.21, 0.64, 0.81 (by coin 0.42, "
     "0.51); value error 0.0370 to 0.0343 to 0.0354 (by coin 0.0412, 0.0421); rank correlation "
     "0.79 to 0.81"},
    {"enough": 0.85, "kept_labels": 256, "seeds": [11],
     "seen": "chosen. At the start search 0.60, Best-of-N 0.43; accuracy 0.13 to 0.61 to 0.83 (by "
     "coin 0.38, 0.52); value error 0.0315 to 0.0287 to 0.0295 (by coin 0.0362, 0.0343); rank "
     "correlation 0.83 to 0.85"},
]  # fmt: skip


def more_differences(runs: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Those of the second study, and how far the value error lies below the coin's."""
    both = [(own["curve"], coin["curve"]) for own, coin in pairs(runs, "verified", "coin")]
    return {
        **differences(runs),
        "value error is less than by coin": [
            1.0 - own[1]["value_mse"] / coin[1]["value_mse"] for own, coin in both
        ],
    }


STUDY = repeated(
    SECOND,
    name="rest_mcts_taught",
    claim="With a value model whose start ranks prefixes with a correlation of 0.85 and that goes "
    "on learning from labelled solutions, on average over seeds: tree search solves more problems "
    "than Best-of-N with as many sampled tokens, by over 0.05; after two iterations of "
    "self-training the policy is more accurate than with verdicts by coin, by over 0.04; after the "
    "first the value model ranks prefixes better, and its relative error is less, than before and "
    "than by coin.",
    target=SECOND.target,
    differences=more_differences,
    settings={**SECOND.settings, "value_warm": TAUGHT, "kept_labels": KEPT_LABELS},
    run=functools.partial(
        run_seed,
        settings={**RUN, **MORE},
        recipe=rest_mcts(**{**RECIPE, **CUT}),
        value_warm=TAUGHT,
        kept_labels=KEPT_LABELS,
    ),
    tried=TRIED,
    seeds=tuple(range(30, 38)),
)

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
