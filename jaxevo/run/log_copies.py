"""The log files of a run beside its checkpoints in a bucket, for when this machine is lost.

Each save adds what has been written since the one before, as an object of its own that is named by
its first byte: `run-logs/metrics.jsonl/000000000004096`, where the checkpoints are in `run`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jaxevo.run.checkpoint import SaveError, first_line
from jaxevo.run.storage import Place, listed, write_whole


class LogCopies:
    """Copies of the log files of `folder`, which begin with nothing or go on.

    checkpoints: where those of the run are. Among them nothing else can be: Orbax takes it for the
    rest of a save, and deletes it.
    """

    def __init__(self, checkpoints: Place, folder: Path):
        self._place, self._folder = checkpoints.parent / f"{checkpoints.name}-logs", folder
        self._sent: dict[str, int] = {}

    def clear(self) -> None:
        """Forgets what a run without a whole checkpoint has left."""
        self._place.rmtree(missing_ok=True)
        self._sent = {}

    def send(self, offsets: Mapping[str, int]) -> None:
        """Adds what the files hold beyond the last call, up to `offsets`.

        Raises:
          SaveError: when the bucket does not take it.
        """
        for name, end in offsets.items():
            start = self._sent.get(name, 0)
            with (self._folder / name).open("rb") as file:
                file.seek(start)
                data = file.read(end - start)
            try:
                if data:
                    write_whole(self._place / name / f"{start:015d}", data)
            except Exception as fault:
                raise SaveError(
                    f"{name} could not be copied to {self._place} ({first_line(fault)}). Mend "
                    "that, and the same command continues from the last checkpoint."
                ) from fault
            self._sent[name] = end

    def bring_back(self, offsets: Mapping[str, int]) -> list[str]:
        """Gives files that end before their offsets what they lack; what lies behind is forgotten.

        Returns:
          the names of the files that lacked something.
        """
        brought = []
        for place in listed(self._place):
            if place.name not in offsets:
                self._cut(place.name, 0)
        for name, end in offsets.items():
            path = self._folder / name
            have = path.stat().st_size if path.exists() else 0
            if have < end:
                whole = b"".join(part.read_bytes() for part in listed(self._place / name))
                with path.open("ab") as file:
                    file.write(whole[have:end])
                brought.append(name)
            self._cut(name, end)
        return brought

    def _cut(self, name: str, end: int) -> None:
        """Drops parts from `end` on; one that reaches beyond is written anew by the next call."""
        self._sent[name] = 0
        for part in listed(self._place / name):
            start, size = int(part.name), part.stat().length
            if start >= end:
                part.unlink()
            else:
                self._sent[name] = start + size if start + size <= end else start
