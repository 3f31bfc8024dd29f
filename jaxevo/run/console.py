"""What a run says while it works: one line a round, and on a terminal a bar that lives below them.

Without a terminal (a log file, a pipe) the same numbers come as plain lines, without ANSI codes.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

RECENT = 10  # rounds whose mean duration gives the remaining time
COLUMNS = {  # metric -> (heading, format)
    "reward": ("reward", "{:.3f}"),
    "loss": ("loss", "{:+.4f}"),
    "length": ("length", "{:.1f}"),
    "tokens_per_second": ("tokens/s", "{:,.0f}"),
}


class Progress:
    """Reports rounds and times phases; a context manager.

    Args:
      total: rounds of the whole run, at most.
      rollouts: sampled rows after which it ends as well, 0 for any number.
      stream: where to write; stdout.

    >>> with Progress(1, stream=sys.stdout) as progress:  # doctest: +SKIP
    ...     with progress.phase("compile"):
    ...         compile_everything()
    ...     progress.update({"round": 0, "reward": 0.5, "loss": 0.1})
    round 0  reward 0.500  loss +0.1000  length -  tokens/s -  eta 0:00:00
    seconds: compile 18.0
    """

    def __init__(self, total: int, *, rollouts: int = 0, stream: TextIO | None = None) -> None:
        self.total = self._most = total
        self._rollouts = rollouts
        self.done = 0
        self._stream = sys.stdout if stream is None else stream
        self._seconds: dict[str, float] = {}
        self._finished: list[float] = []  # when the recent rounds ended
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if self._stream.isatty():
            self._bar = _live_bar(self._stream)
            self._task = self._bar.add_task("", total=self.total, completed=self.done, eta="-")
            self._bar.start()
        return self

    def __exit__(self, *raised: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._seconds and raised[0] is None:
            self.say(f"seconds: {', '.join(f'{n} {s:.1f}' for n, s in self._seconds.items())}")

    def resume(self, done: int) -> None:
        """Counts rounds that an earlier process has done."""
        self.done = done
        if self._bar is not None:
            self._bar.update(self._task, completed=done)

    def update(self, metrics: Mapping[str, Any]) -> None:
        """Reports one finished round; missing and non-finite numbers show as they are."""
        self.done += 1
        self._finished = [*self._finished[-RECENT:], time.perf_counter()]
        self.total = self._expected(metrics)
        eta = self._eta()
        wide = 0 if self._bar is None else 8  # aligns the numbers of successive lines
        cells = [f"{head} {_cell(metrics, key):>{wide}}" for key, (head, _) in COLUMNS.items()]
        index = f"{metrics['round']:>{len(str(self.total)) if wide else 0}}"
        if self._bar is None:
            self.say("  ".join([f"round {index}", *cells, f"eta {eta}"]))
            return
        self.say("  ".join([f"round {index}", *cells]))
        self._bar.update(self._task, completed=self.done, total=self.total, eta=eta)

    def say(self, text: str) -> None:
        """Writes one line, above the bar where there is one."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=True, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times what runs inside; phases of one name add up."""
        start = time.perf_counter()
        if self._bar is not None:
            self._bar.update(self._task, description=name)
        try:
            yield
        finally:
            self._seconds[name] = self.seconds().get(name, 0.0) + time.perf_counter() - start
            if self._bar is not None:
                self._bar.update(self._task, description="")

    def seconds(self) -> dict[str, float]:
        """Seconds spent in each phase, in the order in which they first ended."""
        return dict(self._seconds)

    def _expected(self, metrics: Mapping[str, Any]) -> int:
        """Rounds in all, if they go on to sample as many rows as so far."""
        sampled = metrics.get("rollouts", 0)
        if not self._rollouts or not sampled:
            return self._most
        left = max(0, self._rollouts - sampled)
        return min(self._most, self.done + math.ceil(left * self.done / sampled))

    def _eta(self) -> str:
        left = self.total - self.done
        spans = len(self._finished) - 1
        if left > 0 and spans == 0:  # the first round alone would count what came before it
            return "-"
        return _clock(left * (self._finished[-1] - self._finished[0]) / max(1, spans))


def _live_bar(stream: TextIO) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    return Bar(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rounds"),
        TimeElapsedColumn(),
        TextColumn("eta {task.fields[eta]}"),
        TextColumn("{task.description}"),
        console=Console(file=stream),
    )


def _cell(metrics: Mapping[str, Any], key: str) -> str:
    value = metrics.get(key)
    return "-" if value is None else COLUMNS[key][1].format(float(value))


def _clock(seconds: float) -> str:
    whole = math.ceil(max(0.0, seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
