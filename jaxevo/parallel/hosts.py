"""Several processes of one run: how they meet, and what is said when one does not come.

All on `jax.distributed`. A process is told of the others by variables: JAX_COORDINATOR_ADDRESS
(host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID; on TPU pods and under Slurm by its
surroundings, where JAXEVO_HOSTS=auto asks for that.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

HEARTBEAT = 30  # seconds without a sign of life after which the others are told that one has died
PATIENCE = 300.0  # seconds until a barrier that others do not reach dumps every thread's stack


def join_hosts() -> None:
    """Joins the other processes of the run, where the environment names some; call it first.

    Raises:
      ValueError: for variables that do not go together.
      RuntimeError: when the processes do not meet.
    """
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    automatic = os.environ.get("JAXEVO_HOSTS") == "auto"
    if jax.distributed.is_initialized() or not (address or automatic):
        return
    numbers = {}
    for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        value = os.environ.get(name)
        if value is not None and not value.isdecimal():
            raise ValueError(f"{name} is {value!r}, but must be a number.")
        numbers[name] = None if value is None else int(value)
    count, own = numbers["JAX_NUM_PROCESSES"], numbers["JAX_PROCESS_ID"]
    if not automatic and (count is None or own is None or not own < count):
        raise ValueError(
            f"JAX_COORDINATOR_ADDRESS is {address}, but JAX_NUM_PROCESSES is {count} and "
            f"JAX_PROCESS_ID {own}: give each process the same number and an id below it."
        )
    with watched(f"process {own} of {count} joining {address}"):
        jax.distributed.initialize(address, count, own, heartbeat_timeout_seconds=HEARTBEAT)


def host_names() -> list[str]:
    """Every process and its host, in order, once all have come here."""
    return exchange(f"{jax.process_index()}@{socket.gethostname()}")


def leave_others(fault: BaseException) -> NoReturn:
    """Ends this process at once, with one line: another has died, and none would answer."""
    reason = (str(fault).strip() or type(fault).__name__).splitlines()[0][:200]
    sys.stderr.write(
        f"jaxevo: process {jax.process_index()} on {socket.gethostname()} ends, as another does "
        f"not answer ({reason}). See what that one said; then give the same command on all again.\n"
    )
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def several() -> bool:
    """Whether other processes take part in the run."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this is the process that writes."""
    return jax.process_index() == 0


def exchange(own: Any) -> list[Any]:
    """The JSON value that each process hands in, in their order; all must come here."""
    return [json.loads(data) for data in exchange_bytes(json.dumps(own).encode())]


def exchange_bytes(own: bytes) -> list[bytes]:
    """The bytes that each process hands in, in their order; all must come here."""
    if not several():
        return [own]
    from jax.experimental import multihost_utils

    with watched("waiting for what the other processes found"):
        sizes = multihost_utils.process_allgather(np.array([len(own)], np.int32)).reshape(-1)
        padded = np.zeros(max(1, sizes.max()), np.uint8)
        padded[: len(own)] = np.frombuffer(own, np.uint8)
        found = multihost_utils.process_allgather(padded).reshape(len(sizes), -1)
    return [row[:size].tobytes() for row, size in zip(found, sizes, strict=True)]


def fetch(tree: Any) -> Any:
    """The arrays as numpy ones, whole on every process; all must come here."""
    if not several():
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    def whole(x: Any) -> Any:
        if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
            return multihost_utils.process_allgather(x, tiled=True)
        return jax.device_get(x)

    return jax.tree.map(whole, tree)


def local(tree: Any) -> Any:
    """The arrays whole on one device of this process; all processes must come here."""
    if not several():
        return tree

    def own(x: jax.Array) -> jax.Array:
        if x.is_fully_addressable:
            return x
        if not x.is_fully_replicated:
            mesh = x.sharding.mesh  # type: ignore[attr-defined]
            whole = NamedSharding(mesh, PartitionSpec())
            with jax.set_mesh(mesh):
                x = jax.jit(lambda x: x, out_shardings=whole)(x)
        return x.addressable_data(0)

    return jax.tree.map(own, tree)


@contextlib.contextmanager
def watched(what: str, *, seconds: float = PATIENCE) -> Iterator[None]:
    """Says so and dumps every thread's stack to stderr, again and again, when the block takes this
    long."""
    line = f"jaxevo: still {what} after {seconds:.0f} s on {socket.gethostname()}\n"
    late = threading.Timer(seconds, lambda: sys.stderr.write(line))
    late.daemon = True
    late.start()
    # Without Python, and so without its lock: a moment later, when the timer's thread has ended.
    faulthandler.dump_traceback_later(seconds + 0.3, repeat=True, file=sys.stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        late.cancel()
