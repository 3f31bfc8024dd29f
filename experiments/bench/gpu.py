"""The fused heads on a GPU: right against float64 first, then TFLOP/s beside XLA and PyTorch.

Forward and backward in bfloat16. FLOPs are those of the products that the mathematics needs, never
recomputation: 6 M D V of `fused_logprob`, 8 M D V of `token_kl`. They stand against the card's own
rate for a large product. PyTorch's compiled version is measured where torch with CUDA is installed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxevo.provenance import provenance

SHAPES = ((2048, 4096, 131072), (8192, 2048, 131072))  # slots, width, vocabulary
CHECKED = (64, 128, 1000)
SQUARE = 8192
NEEDED = {"fused_logprob": 6, "token_kl": 8}  # M D V
TARGET = {"fused_logprob": 0.6, "token_kl": 0.5}  # of the card's rate


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=20, help="timed calls of each (default 20)")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    import jax
    from jax.extend.backend import get_backend

    device = jax.devices()[0]
    if device.platform != "gpu":
        raise SystemExit(f"this bench needs a GPU, but JAX finds {device.device_kind}.")
    result = provenance("gpu")
    deviation = check()
    rate = product_rate(SQUARE, args.repeats)
    rows = [row for shape in SHAPES for row in shape_rows(shape, args.repeats)]
    for row in rows:
        row["share_of_rate"] = round(row["tflops"] / rate, 3)
    ours = [row for row in rows if row["way"] == "jaxevo"]
    return result | {
        "device": device.device_kind,
        "driver": get_backend().platform_version,
        "deviation_from_float64": deviation,
        "product_tflops": round(rate, 1),
        "rows": rows,
        "target": {"share_of_rate_at_least": TARGET},
        "met": all(row["share_of_rate"] >= TARGET[row["op"]] for row in ours),
    }


# ---------------------------------------------------------------------------- ours
def arrays(shape: Sequence[int], dtype: Any = None) -> dict[str, Any]:
    """Inputs of both ops; heads as rows [V, D]."""
    import jax
    import jax.numpy as jnp

    M, D, V = shape
    keys = jax.random.split(jax.random.key(0), 6)
    dtype = dtype or jnp.bfloat16
    return {
        "hidden": jax.random.normal(keys[0], (M, D), dtype),
        "head": jax.random.normal(keys[1], (V, D), dtype) / D**0.5,
        "other": jax.random.normal(keys[2], (M, D), dtype),
        "other_head": jax.random.normal(keys[3], (V, D), dtype) / D**0.5,
        "targets": jax.random.randint(keys[4], (M,), 0, V),
        "weights": jax.random.normal(keys[5], (M,), jnp.float32),
    }


def program(op: str, implementation: str | None, given: dict[str, Any]) -> Callable[[], Any]:
    """A call that returns Σ weight · value and its gradients."""
    import jax
    import jax.numpy as jnp

    from jaxevo.kernels import fused_logprob, token_kl

    how: dict[str, Any] = {"implementation": implementation}

    def loss(hidden: Any, head: Any, given: dict[str, Any]) -> Any:
        if op == "fused_logprob":
            out = fused_logprob(hidden, head.T, given["targets"], **how)
            return jnp.sum(given["weights"] * (out.logp_M + out.entropy_M))
        models = hidden, given["other"], head.T, given["other_head"].T
        return jnp.sum(given["weights"] * token_kl(*models, **how))

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    return lambda: jax.block_until_ready(run(given["hidden"], given["head"], given))


def check() -> dict[str, float]:
    """Largest deviation of the values' sum and of the gradients, over the largest number in each.

    Raises:
      RuntimeError: above what bfloat16 gradients allow (2⁻⁷).
    """
    given = arrays(CHECKED)
    exact = {name: np.asarray(x, np.float64) for name, x in given.items()}
    worst = {}
    for op in NEEDED:
        value, (dhidden, dhead) = program(op, None, given)()
        pairs = zip((value, dhidden, dhead), in_float64(op, exact), strict=True)
        worst[op] = max(
            float(np.abs(np.asarray(got, np.float64) - want).max() / np.abs(want).max())
            for got, want in pairs
        )
        if not worst[op] < 2.0**-7:
            raise RuntimeError(f"{op} deviates by {worst[op]:.2g} from float64.")
    return worst


def in_float64(op: str, given: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """Σ weight · value, and its gradients by hidden states and head."""
    x, weight = given["hidden"] @ given["head"].T, given["weights"][:, None]
    logp = x - np.logaddexp.reduce(x, axis=1, keepdims=True)
    p = np.exp(logp)
    if op == "fused_logprob":
        taken = np.eye(x.shape[1])[given["targets"].astype(int)]
        entropy = -(p * logp).sum(1, keepdims=True)
        value = (taken * logp).sum(1, keepdims=True) + entropy
        d = taken - p - p * (logp + entropy)
    else:
        y = given["other"] @ given["other_head"].T
        relative = logp - (y - np.logaddexp.reduce(y, axis=1, keepdims=True))
        value = (p * relative).sum(1, keepdims=True)
        d = p * (relative - value)
    d = weight * d
    return (weight * value).sum(), d @ given["head"], d.T @ given["hidden"]


# ---------------------------------------------------------------------------- the clock
def shape_rows(shape: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """TFLOP/s of what `implementation=None` picks, of plain XLA and of PyTorch."""
    given, rows = arrays(shape), []
    for op, needed in NEEDED.items():
        ways = {"jaxevo": program(op, None, given), "plain XLA": program(op, "reference", given)}
        compiled = torch_program(op, given)
        if compiled is not None:
            ways["PyTorch compiled"] = compiled
        for way, run in ways.items():
            seconds = timed(run, repeats)
            tflops = needed * np.prod(np.array(shape, np.float64)) / seconds / 1e12
            told = {"op": op, "shape": list(shape), "way": way}
            rows.append(told | {"seconds": round(seconds, 5), "tflops": round(tflops, 1)})
    return rows


def product_rate(side: int, repeats: int) -> float:
    """TFLOP/s of a bfloat16 product of two square matrices."""
    import jax
    import jax.numpy as jnp

    a = jax.random.normal(jax.random.key(0), (side, side), jnp.bfloat16)
    run = jax.jit(lambda a: a @ a)
    return 2 * side**3 / timed(lambda: jax.block_until_ready(run(a)), repeats) / 1e12


def timed(run: Callable[[], Any], repeats: int) -> float:
    """Median seconds after three calls that do not count."""
    for _ in range(3):
        run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def torch_program(op: str, given: dict[str, Any]) -> Callable[[], Any] | None:
    """The same in PyTorch, compiled; None without torch and CUDA."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    as_torch = {n: torch.from_numpy(np.asarray(x, np.float32)).cuda() for n, x in given.items()}
    for name in ("hidden", "head", "other", "other_head"):
        as_torch[name] = as_torch[name].to(torch.bfloat16)
    hidden, head = (as_torch[name].requires_grad_() for name in ("hidden", "head"))
    targets = as_torch["targets"].long()[:, None]

    @torch.compile
    def loss() -> Any:
        logp = torch.log_softmax((hidden @ head.T).float(), dim=1)
        if op == "fused_logprob":
            value = logp.gather(1, targets)[:, 0] - (logp.exp() * logp).sum(1)
        else:
            logits = (as_torch["other"] @ as_torch["other_head"].T).float()
            value = (logp.exp() * (logp - torch.log_softmax(logits, dim=1))).sum(1)
        return (as_torch["weights"] * value).sum()

    def run() -> None:
        hidden.grad = head.grad = None
        loss().backward()
        torch.cuda.synchronize()

    return run
