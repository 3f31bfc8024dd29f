"""Numbers that are not finite: caught before they reach weights or checkpoints, counted, named.

An update whose loss or gradient is not finite is refused whole (`step.update`). Here stands what
the metrics and the run's own lines say of it, so that the cause need not be searched for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxevo.types import Params, Row

SHOWN = 5  # rows that a line names


def round_faults(
    rows: Iterable[Row],
    reports: Mapping[str, Sequence[Mapping[str, Any]]],
    sets: Mapping[str, Params],
) -> dict[str, Any]:
    """What was not finite in a round; empty where all was.

    Args:
      rows: what was sampled and learnt.
      reports: per objective, one report per update.
      sets: parameter sets after the updates; looked at where an update was refused.

    Returns:
      nonfinite/reward/<part>: rows; nonfinite/logp: sampled tokens; nonfinite/loss and
      nonfinite/gradient: updates (of an objective that is not called "policy" with its name and a
      slash before); nonfinite/weights/<set>: weights. `faults`: a line for each of them.
    """
    found: dict[str, Any] = {}
    lines: list[str] = []
    parts: dict[str, list[int]] = {}
    tokens: dict[int, int] = {}
    for row in rows:
        for name, value in row.rewards.items():
            if not np.isfinite(value):
                parts.setdefault(name, []).append(row.uid)
        said = [s.logp for s in row.answer if s.source == "policy" and s.logp is not None]
        if bad := sum(int(np.sum(~np.isfinite(logp))) for logp in said):
            tokens[row.uid] = bad
    for name, uids in sorted(parts.items()):
        found[f"nonfinite/reward/{name}"] = len(uids)
        lines.append(f"{len(uids)} rewards of {name!r} are not finite ({_named(uids)})")
    if tokens:
        found["nonfinite/logp"] = sum(tokens.values())
        lines.append(
            f"{sum(tokens.values())} log-probs of sampled tokens are not finite ({_named(tokens)})"
        )
    refused = 0
    for name, updates in reports.items():
        prefix = "" if name == "policy" else f"{name}/"
        bad = [r for r in updates if not bool(r["finite"])]
        refused += len(bad)
        losses = sum(not np.isfinite(float(r["loss"])) for r in bad)
        for what, count in (("loss", losses), ("gradient", len(bad) - losses)):
            if count:
                found[f"{prefix}nonfinite/{what}"] = count
                lines.append(
                    f"{count} of {len(updates)} updates of {name!r} refused: "
                    f"the {what} is not finite"
                )
    if refused:
        broken = nonfinite_weights(sets)
        found |= {f"nonfinite/weights/{name}": count for name, count in broken.items()}
        lines += [f"{count} weights of {name!r} are not finite" for name, count in broken.items()]
    return {**found, "faults": lines} if lines else {}


def nonfinite_weights(sets: Mapping[str, Params]) -> dict[str, int]:
    """How many weights are not finite, by parameter set; empty where all are."""
    counts = {n: sum(map(int, jax.device_get(_counts(params)))) for n, params in sets.items()}
    return {name: count for name, count in counts.items() if count}


@jax.jit
def _counts(params: Params) -> list[jax.Array]:
    """Of each leaf."""
    return [jnp.sum(~jnp.isfinite(x), dtype=jnp.int32) for x in jax.tree.leaves(params)]


def _named(uids: Iterable[int]) -> str:
    known = [str(uid) for uid in uids]
    more = ", ..." if len(known) > SHOWN else ""
    return f"row{'s' * (len(known) > 1)} {', '.join(known[:SHOWN])}{more}"
