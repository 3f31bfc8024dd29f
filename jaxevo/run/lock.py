"""One writer per run folder: two would write each other's rounds into the same files."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

LOCK = ".lock"


class BusyError(ValueError):
    """Another process writes the run folder."""


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Holds the folder, made when missing, for this process until the block ends or it dies.

    The lock is the system's (flock) and needs no cleaning up after a crash.

    Raises:
      BusyError: naming the process that holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
            raise BusyError(
                f"{folder} is being written by {holder}. Wait for it, stop it, or give --out "
                "another folder."
            ) from None
        os.truncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)
