"""A pool of worker processes for pure functions that may hang, crash or fill the memory.

A call from any thread runs on a worker's main thread, the only one in which a library may set an
alarm. A worker that is late, dies, or answers anything but one message of the right form is killed
with all that it started, and the next call starts another. Each call has a worker to itself while
it lasts, so answers cannot be mixed up.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from jaxevo.rewards.apart import worker

APART = Path(worker.__file__).parent  # functions for workers: f"{APART}/patterns.py:matches"
_CHUNK = 1 << 16


class WorkerError(Exception):
    """A function in a worker gave no value; one line says why."""


class Pool:
    """Up to `size` workers, started when they are needed.

    Args:
      size: workers at most; further calls wait for a free one.
      memory: bytes of address space that a worker may take; more is a `MemoryError` in it.
      answer: bytes of the longest answer.
      start: seconds that a worker may take to start and to import a function, beside the call's.
    """

    def __init__(
        self,
        size: int,
        *,
        memory: int = 2 << 30,
        answer: int = 1 << 20,
        start: float = 60.0,
    ):
        if size < 1:
            raise ValueError(f"a pool needs at least one worker, got size={size}.")
        self._memory, self._answer, self._start = memory, answer, start
        self._free = threading.BoundedSemaphore(size)
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._process = 0  # whose workers they are

    def call(self, function: str, *arguments: Any, seconds: float) -> Any:
        """`function(*arguments)` in a worker.

        Args:
          function: `path/to/file.py:function` or `package.module:function`.
          *arguments: JSON values, as is what it returns.
          seconds: how long it may take, above 0, once a worker has it.

        Raises:
          WorkerError: when it raised, was late, crashed, or answered with too much.
        """
        with self._free:
            one = self._take()
            try:
                if function not in one.loaded:
                    one.ask({"load": function}, seconds=self._start, limit=self._answer)
                    one.loaded.add(function)
                request = {"call": function, "arguments": arguments, "seconds": seconds}
                return one.ask(request, seconds=seconds, limit=self._answer)
            except BaseException as fault:
                if not isinstance(fault, _RaisedError):
                    one.kill()
                raise
            finally:
                if one.alive:
                    with self._lock:
                        self._idle.append(one)

    def close(self) -> None:
        """Ends the idle workers; a later call starts new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        if self._process != os.getpid():  # a fork, whose parent goes on with them
            return
        for one in idle:
            one.kill()

    def _take(self) -> _Worker:
        with self._lock:
            if self._process != os.getpid():  # at first, and after a fork
                self._process, self._idle = os.getpid(), []
                atexit.register(self.close)
            one = self._idle.pop() if self._idle else None
        if one is not None and not one.silent():  # it died, or speaks without being asked
            one.kill()
            one = None
        try:
            return one or _Worker(self._memory)
        except OSError as fault:
            reason = f"no worker could be started: {worker.one_line(fault)}"
            raise WorkerError(reason) from None


class _RaisedError(WorkerError):
    """The function itself raised, and its worker can go on."""


class _Worker:
    def __init__(self, memory: int):
        self.loaded: set[str] = set()
        self.alive = True
        self._asked = 0
        self._process = subprocess.Popen(
            [sys.executable, "-P", worker.__file__, str(memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)

    def silent(self) -> bool:
        """Whether it waits for a request: nothing to read, and not ended."""
        return not _ready(self._out, select.POLLIN, 0.0)

    def ask(self, request: dict[str, Any], *, seconds: float, limit: int) -> Any:
        """The value that it answers to one request."""
        deadline = time.monotonic() + seconds
        late = WorkerError(f"it took longer than {seconds:g} s and was stopped.")
        self._asked += 1
        body = json.dumps({"id": self._asked, **request}).encode()
        self._send(len(body).to_bytes(worker.HEADER, "big") + body, deadline, late)
        answer = _decoded(self._receive(limit, deadline, late), self._asked)
        if "value" in answer:
            return answer["value"]
        if answer.get("last", False):
            raise WorkerError(answer["error"])
        raise _RaisedError(answer["error"])

    def _send(self, message: bytes, deadline: float, late: WorkerError) -> None:
        rest = memoryview(message)
        while rest:
            if not _ready(self._in, select.POLLOUT, deadline - time.monotonic()):
                raise late
            try:
                rest = rest[os.write(self._in, rest[:_CHUNK]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise WorkerError(self._ending()) from None

    def _receive(self, limit: int, deadline: float, late: WorkerError) -> bytes:
        got = bytearray()
        length = worker.HEADER
        while len(got) < length:
            if not _ready(self._out, select.POLLIN, deadline - time.monotonic()):
                raise late
            try:
                chunk = os.read(self._out, _CHUNK)
            except BlockingIOError:
                continue
            if not chunk:
                raise WorkerError(self._ending())
            got += chunk
            if len(got) >= worker.HEADER:
                length = worker.HEADER + int.from_bytes(got[: worker.HEADER], "big")
            if length > worker.HEADER + limit:
                raise WorkerError(
                    f"it answered {length - worker.HEADER} bytes, but may answer {limit} at most."
                )
        if len(got) > length:
            raise WorkerError("it answered more than was asked.")
        return bytes(got[worker.HEADER :])

    def _ending(self) -> str:
        """How it ended, for one that has closed its side of a pipe."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        self.kill()
        status = self._process.returncode
        if status < 0:
            return f"its process was ended by signal {-status} ({signal.strsignal(-status)})."
        return f"its process ended with status {status}."

    def kill(self) -> None:
        """Ends it and what it started, and waits for it."""
        if not self.alive:
            return
        self.alive = False
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody is left
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def _ready(descriptor: int, event: int, seconds: float) -> bool:
    """Whether it can be read or written, or has ended, within so many seconds."""
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(max(0.0, seconds) * 1000))


def _decoded(body: bytes, number: int) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise WorkerError("it answered something that is no JSON.") from None
    if not isinstance(answer, dict) or answer.get("id") != number:
        raise WorkerError("it answered what was not asked.")
    return answer


POOL = Pool(min(4, os.cpu_count() or 1))  # what verifiers share
