"""A round on several processes: each samples and verifies its share, and all know everything.

`collect` runs on every process, with the same rows in the same order: what it decides never hangs
on what one process alone knows. A row's tokens hang on its uid and positions only, so that they are
the same whoever samples it; a verdict is one process's word, which the others take.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxevo.parallel.hosts import exchange, exchange_bytes, local
from jaxevo.parallel.mesh import Placement
from jaxevo.sampling.sampler import Sampler, publish
from jaxevo.types import Array, Params, Row, Samples, Verdict


def own_share(count: int) -> range:
    """Which of so many things are this process's."""
    return range(jax.process_index(), count, jax.process_count())


def published_here(params: Params, *, placement: Placement, dtype: Any = None) -> Params:
    """`publish` of a parameter set that lies on all processes, for the devices of this one."""
    return publish(placement.for_sampling(local(params)), dtype=dtype)


@dataclasses.dataclass(frozen=True)
class SharedSampler:
    """`Sampler`, each process for its own prompts; all get all samples."""

    sampler: Sampler

    def __call__(
        self,
        params: Params,
        prompts: Sequence[np.ndarray],
        *,
        uids: Sequence[int],
        samples: int,
        new_tokens: int,
        limit_N: Array | None = None,
        sampling: Any,
        ended: Callable[[Samples, int], None] | None = None,
        **how: Any,
    ) -> Samples:
        """As `Sampler.__call__`; `ended` is called for all rows at the end."""
        N, mine = len(prompts) * samples, own_share(len(prompts))
        rows = [p * samples + g for p in mine for g in range(samples)]
        limits = np.broadcast_to(new_tokens if limit_N is None else np.asarray(limit_N), N)
        own: dict[str, np.ndarray] = {}
        if rows:
            each = [sampling[n] for n in rows] if isinstance(sampling, Sequence) else sampling
            out = self.sampler(
                params,
                [prompts[p] for p in mine],
                uids=[uids[n] for n in rows],
                samples=samples,
                new_tokens=new_tokens,
                limit_N=limits[rows],
                sampling=each,
                **how,
            )
            own = {name: np.asarray(x) for name, x in vars(out).items()}
        parts = [_unpacked(data) for data in exchange_bytes(_packed(own))]
        whole = _put_together(parts, N, samples)
        for n in range(N if ended is not None else 0):
            assert ended is not None
            ended(whole, n)
        return whole


def share_verdicts(
    judge: Callable[[Row], Mapping[str, Verdict]], rows: Sequence[Row]
) -> list[Mapping[str, Verdict]]:
    """The verdicts on each row, by whoever's row it is."""
    own = [
        {name: [v.status, v.score, v.feedback] for name, v in judge(rows[n]).items()}
        for n in own_share(len(rows))
    ]
    said = exchange(own)
    count = len(said)
    return [
        {name: Verdict(*told) for name, told in said[n % count][n // count].items()}
        for n in range(len(rows))
    ]


def _packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(x) for name, x in arrays.items()})


def _unpacked(data: bytes) -> dict[str, np.ndarray]:
    from safetensors.numpy import load

    return load(data)


def _put_together(parts: Sequence[Mapping[str, np.ndarray]], N: int, samples: int) -> Samples:
    """All rows in order; process i has the prompts i, i + n, ..."""
    (first, *_) = (part for part in parts if part)
    whole = {name: np.zeros((N, *x.shape[1:]), x.dtype) for name, x in first.items()}
    for i, part in enumerate(parts):
        prompts = range(i, N // samples, len(parts))
        rows = [p * samples + g for p in prompts for g in range(samples)]
        for name, x in part.items():
            whole[name][rows] = x
    return Samples(**whole)
