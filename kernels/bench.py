"""What the kernels cost, in bytes, FLOPs and seconds: `python -m jaxevo.kernels.bench --json FILE`.

All sections but one are the same on every machine: `memory` is what the TPU compiler says (it needs
the extra `aot`); `hbm` and `sums_on_tpu` set HBM traffic against products; `products` counts matrix
products; `vmem` adds up blocks. `cpu` is a clock: give it idle cores.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxevo.kernels import (
    LogProbs,
    _by_rows,
    fused_logprob,
    fused_logprob_sum,
    token_kl,
    token_kl_sum,
    traffic,
)
from jaxevo.kernels import _pallas_tpu as tpu
from jaxevo.kernels.aot import Case, compile_ahead, program
from jaxevo.kernels.fused_logprob.shapes import HEADS
from jaxevo.provenance import PACKAGES, load, provenance

Rows = list[dict[str, Any]]

SLOTS, VOCABULARY, WIDTHS = 8192, 151936, (1024, 2048, 4096)
OPS = (("fused_logprob", "-"), ("token_kl", "reverse"), ("token_kl", "forward"), ("token_kl", "js"))
BFLOAT16 = 2  # bytes
CPU = {"slots": 1024, "vocabulary": 49152, "width": 576}
TARGET = {
    "share_of_plain_at_most": 0.05,
    "ratio_at_most": 0.8,
    "products": {
        "chunked": {"fused_logprob": 4, "token_kl": 6},
        "sum": {"fused_logprob": 3, "token_kl": 4},
        "pallas_tpu": {"fused_logprob": 5, "token_kl": 8},
    },
    "times_plain_at_most": {"fused_logprob": 1.45, "token_kl": 1.65, "sum": 1.1},
}


def _case(op: str, kind: str, **changes: Any) -> Case:
    base = Case(op, "pallas_tpu", SLOTS, max(WIDTHS), VOCABULARY, kind=kind)
    return base._replace(**changes)


# ---------------------------------------------------------------------------- deterministic
def memory() -> Rows:
    """Temporary HBM bytes on v5p, gradients included, and their share of the plain version's."""
    ways = ("reference", "chunked", "pallas_tpu", "sum")
    cases = [_case(op, kind, implementation=way) for op, kind in OPS for way in ways]
    found = [c.temporary_bytes for c in compile_ahead(cases)]
    plain = {c[:1] + c[5:6]: b for c, b in zip(cases, found, strict=True) if c[1] == "reference"}
    return [
        {
            "op": case.op,
            "kind": case.kind,
            "implementation": case.implementation,
            "temporary_bytes": held,
            "share_of_plain": round(held / plain[case[:1] + case[5:6]], 4),
        }
        for case, held in zip(cases, found, strict=True)
    ]


def hbm() -> Rows:
    """Modelled milliseconds of HBM traffic and of products, with gradients, on three chips.

    Beside the kernels, with both gradients in one (`together`), stands the variant with a kernel
    for each gradient (`apart`): its logits are computed once more, and no sum lives in HBM.
    """
    rows = []
    for chip in tpu.CHIPS:
        for width in WIDTHS:
            for op, kind in OPS:
                with tpu.made_for(chip):
                    fn, shapes = program(_case(op, kind, width=width))
                    kernels, info = traffic.count(fn, *shapes), tpu.this_chip()
                for variant, each in (
                    ("together", kernels),
                    ("apart", [*kernels[:-1], *_apart(kernels[-1], op, width)]),
                ):
                    rows.append(
                        {"chip": chip, "width": width, "op": op, "kind": kind, "variant": variant}
                        | _modelled([kernel.seconds(info) for kernel in each])
                    )
    return rows


def _modelled(seconds: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Of all kernels: the larger of both times counts for each, as copies run beside products."""
    moving, computing = (sum(column) for column in zip(*seconds, strict=True))
    return {
        "hbm_ms": round(1e3 * moving, 2),
        "products_ms": round(1e3 * computing, 2),
        "ratio": round(moving / computing, 3),
        "modelled_ms": round(1e3 * sum(map(max, seconds)), 2),
    }


def _apart(together: traffic.Kernel, op: str, width: int) -> list[traffic.Kernel]:
    """One kernel for ∂/∂hidden and one for ∂/∂head, with as long a block staying in each."""
    models = 1 if op == "fused_logprob" else 2
    cores, per_core, _ = together.grid
    stays = math.ceil(VOCABULARY / (cores * per_core))
    flops = 2 * SLOTS * VOCABULARY * width * (models + 1)

    def kernel(long: int, other: int) -> traffic.Kernel:
        """`long` rows are cut into blocks that stay; all of the other side streams by for each."""
        read = models * (long + math.ceil(long / stays) * other)
        return traffic.Kernel((), BFLOAT16 * width * (read + long), flops, 0)

    return [kernel(SLOTS, VOCABULARY), kernel(VOCABULARY, SLOTS)]


def sums_on_tpu() -> Rows:
    """Of the weighted sums, in XLA: HBM bytes that no fusion can save, against products.

    For every block of rows the heads are read for logits and for ∂/∂hidden, ∂/∂head is read and
    written in float32, and the logits of each model are written and read once.
    """
    rows = []
    for chip in tpu.CHIPS:
        with tpu.made_for(chip):
            info = tpu.this_chip()
        for width in WIDTHS:
            for op, models in (("fused_logprob_sum", 1), ("token_kl_sum", 2)):
                block = _by_rows.default_rows(SLOTS, models * VOCABULARY)
                heads = BFLOAT16 * (models + 1) + 2 * 4
                moved = heads * VOCABULARY * width + 2 * 4 * models * block * VOCABULARY
                flops = 2 * block * width * VOCABULARY * (models + 2)
                seconds = traffic.Kernel((), moved, flops, 0).seconds(info)
                ratio = round(seconds[0] / seconds[1], 2)
                rows.append({"chip": chip, "width": width, "op": op, "rows": block, "ratio": ratio})
    return rows


def products() -> Rows:
    """Matrix products of 2 M D V FLOPs, gradients included, whole blocks counted."""
    rows, one = [], 2 * SLOTS * max(WIDTHS) * VOCABULARY
    for op, kind in OPS:
        for way in ("reference", "chunked", "sum", "pallas_tpu"):
            with tpu.made_for("v5p"):
                fn, shapes = program(_case(op, kind, implementation=way))
                if way == "pallas_tpu":
                    flops = sum(kernel.flops for kernel in traffic.count(fn, *shapes))
                else:
                    flops = traffic.product_flops(fn, *shapes)
            rows.append({"op": op, "kind": kind, "way": way, "products": round(flops / one, 2)})
    return rows


def vmem() -> Rows:
    """Bytes of the fullest kernel of each op, two buffers of every block, and the chip's limit."""
    rows = []
    for chip in tpu.CHIPS:
        for name, head in HEADS.items():
            for op, kind in OPS:
                for dtype in ("bfloat16", "float32"):
                    with tpu.made_for(chip):
                        case = _case(op, kind, dtype=dtype, **head._asdict())
                        fn, shapes = program(case)
                        held = max(k.vmem_bytes for k in traffic.count(fn, *shapes))
                        limit = tpu.this_chip().vmem_capacity_bytes
                    rows.append(
                        {"chip": chip, "head": name, "op": op, "kind": kind, "dtype": dtype}
                        | {"bytes": held, "limit": limit}
                    )
    return rows


# ---------------------------------------------------------------------------- the clock
def cpu(repeats: int = 7) -> Rows:
    """Seconds of value and gradients in float32, medians of turns, and times the plain version."""
    M, V, D = CPU["slots"], CPU["vocabulary"], CPU["width"]
    keys = jax.random.split(jax.random.key(0), 4)
    hidden, other = (jax.random.normal(key, (M, D)) for key in keys[:2])
    head, other_head = (jax.random.normal(key, (V, D)) / D**0.5 for key in keys[2:])
    targets, weights = jnp.arange(M) * 7 % V, jnp.linspace(-1.0, 1.0, M)

    def logp(implementation: str | None, hidden: Any, head: Any) -> Any:
        out = fused_logprob(hidden, head.T, targets, implementation=implementation)  # type: ignore
        return jnp.sum(weights * (out.logp_M + 0.1 * out.entropy_M))

    def logp_sum(_: str | None, hidden: Any, head: Any) -> Any:
        each = LogProbs(weights, 0.1 * weights, jnp.zeros(M))
        return fused_logprob_sum(hidden, head.T, targets, each)

    def kl(implementation: str | None, hidden: Any, head: Any) -> Any:
        models = hidden, other, head.T, other_head.T
        return jnp.sum(weights * token_kl(*models, implementation=implementation))  # type: ignore

    def kl_sum(_: str | None, hidden: Any, head: Any) -> Any:
        return token_kl_sum(hidden, other, head.T, other_head.T, weights)

    rows = []
    for op, per_slot, summed in (
        ("fused_logprob", logp, logp_sum),
        ("token_kl", kl, kl_sum),
    ):
        ways = {
            "plain": (per_slot, "reference"),
            "chunked": (per_slot, None),
            "sum": (summed, None),
        }
        seconds = _turns(
            {
                way: jax.jit(jax.value_and_grad(_bound(fn, implementation), argnums=(0, 1)))
                for way, (fn, implementation) in ways.items()
            },
            (hidden, head),
            repeats,
        )
        plain = seconds["plain"]
        for way, each in seconds.items():
            ratio = statistics.median(s / p for s, p in zip(each, plain, strict=True))
            rows.append(
                {
                    "op": op,
                    "way": way,
                    "seconds": round(statistics.median(each), 3),
                    "all": [round(s, 3) for s in each],
                    "times_plain": round(ratio, 3),
                }
            )
    return rows


def _bound(fn: Callable[..., Any], implementation: str | None) -> Callable[..., Any]:
    return lambda hidden, head: fn(implementation, hidden, head)


def _turns(
    programs: dict[str, Callable[..., Any]], args: Sequence[Any], repeats: int
) -> dict[str, list[float]]:
    """Seconds of each program, one after the other in every turn, after a turn that is not kept.

    Raises:
      RuntimeError: where their values differ by more than rounding.
    """
    values = {name: float(jax.block_until_ready(fn(*args))[0]) for name, fn in programs.items()}
    if not np.allclose(list(values.values()), values["plain"], rtol=1e-3):
        raise RuntimeError(f"the programs disagree: {values}.")
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, fn in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(fn(*args))
            seconds[name].append(time.perf_counter() - start)
    return seconds


# ---------------------------------------------------------------------------- command line
def met(sections: dict[str, Rows]) -> dict[str, bool]:
    """Which targets are reached, of the sections that were run."""
    most, found = TARGET["products"], {}
    checks: dict[str, Callable[[dict[str, Any]], bool]] = {
        "memory": lambda r: (
            r["implementation"] in ("reference", "sum")
            or r["share_of_plain"] <= TARGET["share_of_plain_at_most"]
        ),
        "hbm": lambda r: r["variant"] == "apart" or r["ratio"] <= TARGET["ratio_at_most"],
        "products": lambda r: (
            r["way"] == "reference"
            or (r["kind"] == "js" and r["way"] != "sum")
            or r["products"] < most[r["way"]][r["op"]] + 0.5
        ),
        "vmem": lambda r: r["bytes"] <= r["limit"],
        "cpu": lambda r: (
            r["way"] == "plain"
            or r["times_plain"]
            <= TARGET["times_plain_at_most"]["sum" if r["way"] == "sum" else r["op"]]
        ),
    }
    for name, check in checks.items():
        if name in sections:
            found[name] = all(map(check, sections[name]))
    return found


def table(result: dict[str, Any]) -> str:
    """The README's lines of a result with all sections, as Markdown."""
    sections = result["sections"]

    def cells(name: str, op: str, column: str, form: str, **where: Any) -> str:
        kind = {"kind": "reverse"} if op == "token_kl" and name != "cpu" else {}
        wanted = {"op": op, **kind, **where}
        found = [r[column] for r in sections[name] if wanted.items() <= r.items()]
        return " / ".join(form.format(x) for x in found)

    def row(what: str, target: str, *parts: tuple[str, str, str, dict[str, Any]]) -> str:
        ops = [
            " / ".join(
                cells(name, op, column, form, **where) for name, column, form, where in parts
            )
            for op in ("fused_logprob", "token_kl")
        ]
        return f"| {what} | {ops[0]} | {ops[1]} | {target} |"

    share = ("memory", "share_of_plain", "{:.1%}")
    number = ("products", "products", "{:.0f}")
    wide = {"width": max(WIDTHS), "variant": "together"}
    return "\n".join(
        [
            "| with gradients | `fused_logprob` | `token_kl`, reverse | target |",
            "|---|---|---|---|",
            row(
                "temporary bytes on a v5p over the plain version's, `pallas_tpu` / `chunked`",
                "at most 5 %",
                (*share, {"implementation": "pallas_tpu"}),
                (*share, {"implementation": "chunked"}),
            ),
            row(
                "HBM time over product time (modelled), v5e / v5p / v6e",
                "at most 0.8",
                ("hbm", "ratio", "{:.2f}", wide),
            ),
            row(
                "matrix products, plain / `chunked` / sum / `pallas_tpu`",
                "4, 3, 5 and 6, 4, 8",
                *((*number, {"way": way}) for way in ("reference", "chunked", "sum", "pallas_tpu")),
            ),
            row(
                "seconds on 2 CPU cores over the plain version's, `chunked`",
                "at most 1.45 and 1.65",
                ("cpu", "times_plain", "{:.2f}", {"way": "chunked"}),
            ),
            row(
                "the same, weighted sum",
                "at most 1.1",
                ("cpu", "times_plain", "{:.2f}", {"way": "sum"}),
            ),
            "| share of a GPU's matrix rate | not measured: no card at hand | not measured | "
            "at least 60 % and 50 % |",
        ]
    )


SECTIONS: dict[str, Callable[[], Rows]] = {
    "memory": memory,
    "hbm": hbm,
    "sums_on_tpu": sums_on_tpu,
    "products": products,
    "vmem": vmem,
    "cpu": cpu,
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; writes versions, targets, verdicts and all sections that were run."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxevo.kernels.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here as well")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    args = parser.parse_args(argv)
    packages = (*PACKAGES, "libtpu") if "memory" in args.only else PACKAGES
    result: dict[str, Any] = provenance("kernels", packages)
    result |= {"shape": {"slots": SLOTS, "vocabulary": VOCABULARY, "cpu": CPU}, "target": TARGET}
    sections: dict[str, Rows] = {}
    for name in args.only:
        sections[name] = SECTIONS[name]()
        print(name, *map(json.dumps, sections[name]), sep="\n", flush=True)
    result |= {"met": met(sections), "load_1min_after": load(), "sections": sections}
    print(json.dumps(result["met"]))
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
