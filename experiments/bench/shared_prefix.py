"""The gradient of one training step with common prefixes computed once, against plain rows.

SmolLM2-135M-Instruct, float32: Σ advantage · log-prob over the answers of groups of 8, forward and
backward, without an optimizer. Tokens are random, so that answers share nothing but their prompt.
Plain: each row by itself, none of it padding. Shared: one packed row for each group. Both take
turns; the first pair is dropped. `flops_ratio` counts products of the layers and the head, and of
attention those of slots with slots before them; `floor_seconds` is what they take at the rate of a
large matrix product, measured between the pairs.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from typing import Any

import numpy as np

from experiments.bench.record import summary
from jaxevo.provenance import load, provenance
from jaxevo.run.pages import use_huge_pages

SAMPLES = 8
# Prompt tokens, answer tokens, groups (as many as plain rows leave memory for), least ratio.
CASES = {"23+12": (23, 12, 8, 2.2), "256+64": (256, 64, 2, 2.6), "256+12": (256, 12, 4, 4.5)}
MOST_DIFFERENCE = 1e-3  # of gradients, relative to their norm: random tokens magnify rounding


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=5, help="timed pairs (default 5)")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    use_huge_pages()  # as a command does
    from jaxevo.models import hub

    result = provenance("shared-prefix")
    model = hub.load("smollm2-135m")
    cases = {name: _case(model, CASES[name], args.repeats) for name in args.cases}
    return result | {
        "options": {"repeats": args.repeats, "samples": SAMPLES},
        "cases": cases,
        "target": {
            "ratio_at_least": {name: CASES[name][3] for name in args.cases},
            "gradient_difference_at_most": MOST_DIFFERENCE,
        },
        "met": {
            name: case["ratio"] >= CASES[name][3] and case["gradient_difference"] <= MOST_DIFFERENCE
            for name, case in cases.items()
        },
    }


def _case(model: Any, case: tuple[int, int, int, float], repeats: int) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    from jaxevo.models.scorer import score
    from jaxevo.run.costs import matmul_rate

    prompt, answer, groups, _ = case

    @jax.jit
    def gradient(params: Any, batch: Any, advantage_N: Any) -> Any:
        def loss(params: Any) -> Any:
            now = score(
                params,
                batch.layouts["own"],
                batch.answers,
                batch.temperature,
                config=model.config,
                read=("logp",),
            )
            return -(now["text"].logp_NA * advantage_N[:, None]).mean()

        return jax.grad(loss)(params)

    rows = _rows(prompt, answer, groups, model.config.vocab_size)
    advantage_N = np.random.default_rng(1).normal(size=len(rows)).astype(np.float32)
    alone = [dataclasses.replace(row, group=row.uid) for row in rows]
    sides = {"shared": _batch(rows, answer), "plain": _batch(alone, answer)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    loads, rates, found = [], [], {}
    for _ in range(1 + repeats):
        loads.append(load())
        rates.append(matmul_rate())
        for name, batch in sides.items():
            start = time.perf_counter()
            found[name] = jax.block_until_ready(gradient(model.params, batch, advantage_N))
            seconds[name].append(time.perf_counter() - start)
    gap = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), found["shared"], found["plain"])
    norm = jax.tree.map(lambda a: jnp.sum(a**2), found["plain"])
    difference = float(jnp.sqrt(sum(jax.tree.leaves(gap)) / sum(jax.tree.leaves(norm))))
    ratios = [p / s for s, p in zip(seconds["shared"][1:], seconds["plain"][1:], strict=True)]
    flops = {name: _flops(model.config, batch) for name, batch in sides.items()}
    rate = statistics.median(rates[1:])
    return {
        "groups": groups,
        "slots": {name: list(b.layouts["own"].ids_BS.shape) for name, b in sides.items()},
        "seconds": {name: summary(values[1:]) for name, values in seconds.items()},
        "load_1min_by_pair": loads,
        "gradient_difference": difference,
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(r, 2) for r in ratios],
        "flops_ratio": round(flops["plain"] / flops["shared"], 2),
        "matmul_gflops_per_second": round(rate / 1e9, 1),
        "floor_seconds": {name: round(count / rate, 2) for name, count in flops.items()},
    }


def _rows(prompt: int, answer: int, groups: int, vocabulary: int) -> list[Any]:
    from jaxevo.types import Message, Row, Segment, Task

    generator = np.random.default_rng(0)
    task, rows = Task("bench/0", (Message("user", ""),), ""), []
    for group in range(groups):
        asked = generator.integers(vocabulary, size=prompt).astype(np.int32)
        for sample in range(SAMPLES):
            said = generator.integers(vocabulary, size=answer).astype(np.int32)
            segments = (
                Segment(asked, "prompt"),
                Segment(said, "policy", logp=np.zeros(answer, np.float32)),
            )
            rows.append(Row(group * SAMPLES + sample, task, group * SAMPLES, segments))
    return rows


def _batch(rows: list[Any], answer: int) -> Any:
    """One micro-batch on the device, in as many packed rows as there are groups."""
    import jax

    from jaxevo.collect.pack import Bucket, Shapes, stack
    from jaxevo.collect.table import tabulate

    table = tabulate(rows, answer_slots=answer)
    groups = len({row.group for row in rows})
    each = len(rows) // groups
    bucket = Bucket(groups, len(rows[0].prompt_ids) + each * (answer - 1), each * answer)
    shapes = Shapes(len(rows), answer, 1, ((("own", bucket),),))
    batch = jax.tree.map(lambda x_K: x_K[0], stack(table, range(len(rows)), shapes))
    return jax.device_put(batch)


def _flops(config: Any, batch: Any) -> float:
    """Products of forward and backward: layers, head, attention to slots that stand before."""
    from jaxevo.run.costs import head_update_flops, trunk_flops

    packed = batch.layouts["own"]
    B, S = packed.ids_BS.shape
    trunk = 3 * trunk_flops(config, B * S, B * S * S / 2)
    return trunk + head_update_flops(config, packed.read_BR.size)
