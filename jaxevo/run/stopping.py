"""Ends a run at the end of a round when the system or the user asks: saved, with status 0."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopping:
    """While its block runs, the first SIGTERM or Ctrl-C is a request; the second acts at once.

    asked: the signal's name once one has come, else None.

    Outside the main thread, which alone gets signals, nothing changes.
    """

    def __init__(self) -> None:
        self.asked: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, *raised: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        self.asked = signal.Signals(number).name
        for own, handler in self._before.items():
            signal.signal(own, handler)
        # Not `print`: a handler may interrupt one.
        line = f"jaxevo: {self.asked}: the run stops after this round, saved; again: at once.\n"
        os.write(2, line.encode())
