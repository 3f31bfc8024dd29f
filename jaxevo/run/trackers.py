"""A run's metrics at Weights & Biases and MLflow, beside the run folder.

Both get the same numbers on the same axis, the round. Where they go is said by their own
environment variables (`WANDB_PROJECT`, `WANDB_MODE`, `MLFLOW_TRACKING_URI`,
`MLFLOW_EXPERIMENT_NAME`); without a project or an experiment it is "jaxevo". A continued run goes
on in the tracker's run, whose id stands in the run folder; rounds after its last checkpoint are
told again.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

IDS = "trackers.json"
PROJECT = "jaxevo"
LONGEST = 500  # characters of a parameter, MLflow's smallest limit


class Tracker(Protocol):
    """Where metrics go. `id` finds the same run again."""

    id: str

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """One round's finite numbers."""

    def summary(self, values: Mapping[str, float], *, step: int) -> None:
        """What the whole run came to, by the name of the number."""

    def close(self, *, failed: bool) -> None:
        """Sends what is left."""


def check_trackers(names: Sequence[str]) -> None:
    """Refuses trackers that are not installed.

    Raises:
      ValueError: naming the package and the extra to install.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"--log {name} needs a package that is not installed: pip install 'jaxevo[{name}]'."
            )


class Trackers:
    """All trackers of a run; they are opened by the first `config`."""

    def __init__(self, names: Sequence[str], folder: Path) -> None:
        self._names, self._folder = names, folder
        self._open: list[Tracker] = []
        self._round = 0

    def config(self, config: Mapping[str, Any]) -> None:
        """Opens the trackers with a run's configuration; later calls tell what it came to."""
        if not self._open:
            self._open = self._opened(config)
            return
        values = {name: x for name, x in flat(config) if isinstance(x, (int, float))}
        told = {n: x for n, x in values.items() if n.startswith(("evaluation/", "seconds/"))}
        for tracker in self._open:
            tracker.summary(told, step=self._round)

    def metrics(self, line: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl: its finite numbers."""
        self._round = line["round"]
        values = {
            name: float(x)
            for name, x in line.items()
            if name != "round" and isinstance(x, (int, float)) and math.isfinite(x)
        }
        for tracker in self._open:
            tracker.metrics(values, step=self._round)

    def close(self, *, failed: bool = False) -> None:
        """Closes them; a second call does nothing."""
        for tracker in self._open:
            tracker.close(failed=failed)
        self._open = []

    def _opened(self, config: Mapping[str, Any]) -> list[Tracker]:
        if not self._names:
            return []
        path = self._folder / IDS
        ids = json.loads(path.read_text()) if path.exists() else {}
        trackers = {name: _KINDS[name](self._folder, config, ids.get(name)) for name in self._names}
        ids |= {name: tracker.id for name, tracker in trackers.items()}
        path.write_text(json.dumps(ids) + "\n")
        return list(trackers.values())


class WandbTracker:
    """A run at Weights & Biases; `WANDB_MODE=offline` keeps it in the run folder."""

    def __init__(self, folder: Path, config: Mapping[str, Any], known: str | None) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.resolve().name,
            dir=str(folder),
            id=known,
            resume="allow",
            config=dict(config),
        )
        self.id = self._run.id
        self._run.define_metric("round")
        self._run.define_metric("*", step_metric="round")

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """One round's finite numbers."""
        self._run.log({"round": step, **values})

    def summary(self, values: Mapping[str, float], *, step: int) -> None:
        """Values beside those of the last round."""
        self._run.summary.update({"round": step, **values})

    def close(self, *, failed: bool) -> None:
        """Sends what is left."""
        self._run.finish(exit_code=int(failed))


class MlflowTracker:
    """A run at MLflow: the configuration as parameters, the summary as the last round's metrics."""

    def __init__(self, folder: Path, config: Mapping[str, Any], known: str | None) -> None:
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]

        self._client = MlflowClient()
        if known is not None:
            self.id = known
            self._client.update_run(known, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        number = self._client.create_experiment(name) if found is None else found.experiment_id
        run = self._client.create_run(number, run_name=folder.resolve().name)
        self.id = run.info.run_id
        for key, value in flat(config):
            self._client.log_param(self.id, allowed(key), str(value)[:LONGEST])

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """One round's finite numbers."""
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        now = int(time.time() * 1000)
        points = [Metric(allowed(name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self.id, metrics=points)

    def summary(self, values: Mapping[str, float], *, step: int) -> None:
        """Metrics of the last round."""
        self.metrics(values, step=step)

    def close(self, *, failed: bool) -> None:
        """Ends the run."""
        self._client.set_terminated(self.id, "FAILED" if failed else "FINISHED")


_KINDS: dict[str, type[WandbTracker] | type[MlflowTracker]] = {
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
}


def allowed(name: str) -> str:
    """A name that MLflow takes: letters, digits and `_-. :/`; others become `_`."""
    return re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of a nested mapping, names joined by slashes."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value
