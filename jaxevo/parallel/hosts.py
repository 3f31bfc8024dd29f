"""Several processes of one run: how they meet, and what is said when one does not come.

All on `jax.distributed`. A process is told of the others by variables: JAX_COORDINATOR_ADDRESS
(host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID; on TPU pods and under Slurm by its
surroundings, where JAXEVO_HOSTS=auto asks for that.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import socket
import sys
from collections.abc import Iterator

import jax
import numpy as np

NAME_BYTES = 64
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
        jax.distributed.initialize(address, count, own)


def host_names() -> list[str]:
    """Every process and its host, in order, once all have come here."""
    from jax.experimental import multihost_utils

    own = f"{jax.process_index()}@{socket.gethostname()}".encode()[:NAME_BYTES]
    padded = np.frombuffer(own.ljust(NAME_BYTES), np.uint8)
    with watched("waiting for every process to tell its name"):
        found = multihost_utils.process_allgather(padded)
    return [bytes(row).decode(errors="replace").strip() for row in np.atleast_2d(found)]


@contextlib.contextmanager
def watched(what: str, *, seconds: float = PATIENCE) -> Iterator[None]:
    """Dumps every thread's stack to stderr, again and again, while the block takes this long."""
    said = f"jaxevo: still {what} after {seconds:.0f} s on {socket.gethostname()}\n"
    faulthandler.dump_traceback_later(seconds, repeat=True, file=sys.stderr)
    try:
        yield
    except BaseException:
        sys.stderr.write(said.replace("still ", "failed "))
        raise
    finally:
        faulthandler.cancel_dump_traceback_later()
