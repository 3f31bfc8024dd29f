"""TensorBoard event files, written as they come: no thread that could die and hold up a run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Board:
    """One event file of a run.

    Args:
      folder: made when missing; TensorBoard reads all files in it.
      purge_step: rounds from this one on, in earlier files, are hidden; None for none.
    """

    def __init__(self, folder: Path, *, purge_step: int | None = None):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2 as events
        from tensorboardX.proto import summary_pb2 as summaries

        event_pb2: Any = events  # their classes are made when they are imported
        summary_pb2: Any = summaries
        folder.mkdir(parents=True, exist_ok=True)
        # Files are named by the second; two of the same second would be one.
        part = len(list(folder.glob("*")))
        self._file: Any = EventsWriter(str(folder / "events"), f".{part:04d}")
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        if purge_step is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._file.write_event(
                self._event(wall_time=time.time(), step=purge_step, session_log=start)
            )

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        """Writes scalars of one step."""
        values = [self._summary.Value(tag=n, simple_value=float(x)) for n, x in numbers.items()]
        summary = self._summary(value=values)
        self._file.write_event(self._event(wall_time=time.time(), step=step, summary=summary))

    def flush(self) -> None:
        """Hands everything to the system."""
        self._file.flush()

    def close(self) -> None:
        """Flushes, and closes the file."""
        self._file.close()
