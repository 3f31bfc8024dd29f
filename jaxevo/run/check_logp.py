"""`jaxevo check-logp MODEL`: does the trainer see the log-probs that the sampler saw?

Samples answers over temperature x truncation x prompt padding, scores them again through the packed
layout (whole groups sharing their prompt, and rows each alone), and prints the largest difference
of every combination and where it stands. Ratios of 1 at equal weights rest on this number.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxevo.collect.lab import RolloutConfig
from jaxevo.collect.pack import Bucket, Shapes, stack
from jaxevo.collect.table import tabulate
from jaxevo.models.scorer import score
from jaxevo.models.tokenizer import Template
from jaxevo.types import OWN, Batch, Bound, Params, Row, bind

TRUNCATIONS = {
    "none": {},
    "top-k": {"top_k": 20},
    "top-p": {"top_p": 0.9},
    "min-p": {"min_p": 0.05},
}
PADDINGS = (0, 9)


@dataclasses.dataclass(frozen=True)
class Difference:
    """The largest |trainer - sampler| log-prob of one combination, and where it stands."""

    temperature: float
    truncation: str
    padding: int
    packing: str
    largest: float
    mean: float
    where: str


def check_logp(
    model: str,
    *,
    run: str = "",
    task: str = "add1",
    prompts: int = 4,
    samples: int = 4,
    max_new_tokens: int = 12,
    temperatures: tuple[float, ...] = (0.3, 0.6, 1.0, 1.5),
    template: Template = "chatml",
    seed: int = 0,
    bound: float = 1e-4,
    json_out: str = "",
) -> int:
    """Compares sampler and trainer log-probs; fails where they differ by more than the bound.

    Args:
      model: model to check.
      run: run folder whose last checkpoint's policy is checked instead of the model as loaded.
      task: task whose prompts are used.
      prompts: problems per combination.
      samples: answers per problem.
      max_new_tokens: longest answer, in tokens.
      temperatures: sampling temperatures, above 0.
      template: prompt form.
      seed: seed of the sampler.
      bound: largest difference allowed at temperature 1 and above, in nats; bound / temperature
        below.
      json_out: file for the result as JSON; empty for none.
    """
    from jaxevo.run.build import build_bench
    from jaxevo.run.restore import load_policy
    from jaxevo.sampling.sampler import Sampling

    loaded = load_policy(model, run)
    found: list[Difference] = []
    for temperature in temperatures:
        for name, options in TRUNCATIONS.items():
            sampling = Sampling(temperature=temperature, **options)
            bench = build_bench(
                model=loaded,
                task=task,
                rollout=RolloutConfig(prompts, samples, max_new_tokens, sampling),
                seed=seed,
                problems=prompts,
                template=template,
            )
            for padding in PADDINGS:
                wider = dataclasses.replace(
                    bench.sampler, prompt_slots=bench.sampler.prompt_slots + padding
                )
                lab = dataclasses.replace(bench, sampler=wider).lab({"policy": loaded.params})
                rows = lab.sample(lab.tasks())
                for packing in ("shared", "alone"):
                    found.append(
                        _compare(loaded, rows, name, padding, packing, bench.sampler.prompt_slots)
                    )
                    print(_line(found[-1]), flush=True)
    worst = max(found, key=lambda d: d.largest * min(1.0, d.temperature))
    allowed = bound / min(1.0, worst.temperature)
    fine = worst.largest <= allowed
    print(f"worst: {_line(worst)}, at {worst.where}")
    print(f"{'ok' if fine else 'FAILED'}: {worst.largest:.2e} against {allowed:.2e} allowed")
    if json_out:
        rows_out = [dataclasses.asdict(d) for d in found]
        Path(json_out).write_text(json.dumps({"model": model, "found": rows_out}, indent=2) + "\n")
    return 0 if fine else 1


def _line(d: Difference) -> str:
    return (
        f"temperature {d.temperature:<4} truncation {d.truncation:<6} padding {d.padding:<2} "
        f"packing {d.packing:<7} max |difference| {d.largest:.2e}  mean {d.mean:.2e}"
    )


def _compare(
    loaded: Any, rows: list[Row], truncation: str, padding: int, packing: str, prompt_slots: int
) -> Difference:
    answer = max(len(row.answer_ids) for row in rows)
    if packing == "alone":  # a group of its own has nothing to share
        rows = [dataclasses.replace(row, group=row.uid) for row in rows]
    N, A = len(rows), -(-answer // 4) * 4  # few programs are compiled
    groups = len({row.group for row in rows})
    each = N // groups
    bucket = Bucket(groups, prompt_slots + each * (A - 1), reads=each * A)
    shapes = Shapes(N, A, 1, (((OWN, bucket),),))
    batch = jax.tree.map(lambda x: x[0], stack(tabulate(rows, answer_slots=A), range(N), shapes))
    forward = bind(score, config=loaded.config)
    logp_NA = np.asarray(_logp(loaded.params, batch, forward=forward))
    largest, where, differences = 0.0, "", []
    for n, row in enumerate(rows):
        seen = np.concatenate([s.logp for s in row.answer if s.logp is not None])
        gap = np.abs(logp_NA[n, : len(seen)] - seen)
        differences.append(gap)
        if len(gap) and gap.max() >= largest:
            largest, t = float(gap.max()), int(gap.argmax())
            where = f"{row.task.uid} sample {row.uid & 0x3FFF} token {t} (id {row.answer_ids[t]})"
    mean = float(np.concatenate(differences).mean())
    return Difference(rows[0].temperature, truncation, padding, packing, largest, mean, where)


@functools.partial(jax.jit, static_argnames=("forward",))
def _logp(params: Params, batch: Batch, *, forward: Bound) -> jax.Array:
    packed, temperature = batch.layouts[OWN], batch.temperature
    return forward(params, packed, batch.answers, temperature, read=("logp",))["text"].logp_NA
