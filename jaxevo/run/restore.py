"""Weights of a finished run, for evaluation and sampling."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from jaxevo.models import hub


def is_run(path: str) -> bool:
    """Whether this is a run folder: one whose config.json names a recipe."""
    config = Path(path) / "config.json"
    return config.is_file() and "recipe" in json.loads(config.read_text("utf-8"))


def load_policy(model: str, run: str = "", *, name: str = "policy") -> hub.LoadedModel:
    """A model as loaded, or with one parameter set of a run's last checkpoint.

    Args:
      model: model name or folder; a run names its own model, which wins.
      run: run folder, empty for none.
      name: which parameter set of the run.

    Raises:
      FileNotFoundError: no such run, or one without a checkpoint.
    """
    if not run:
        return hub.load(model)
    config = Path(run) / "config.json"
    if not config.exists():
        raise FileNotFoundError(f"{run} is no run folder: it has no config.json.")
    loaded = hub.load(json.loads(config.read_text())["options"]["model"])
    from jaxevo.run.checkpoint import Checkpoints

    with Checkpoints(Path(run) / "checkpoints") as checkpoints:
        params = checkpoints.restore_params(name, like=loaded.params)
    return dataclasses.replace(loaded, params=params)
