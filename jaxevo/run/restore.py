"""Weights of a finished run, for evaluation and sampling."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from jaxevo.models import hub


def load_subject(subject: str, *, name: str = "policy") -> hub.LoadedModel:
    """A parameter set of a run folder's last checkpoint, or the model of that name or folder.

    A run's folder is told from a model's by its config.json, which holds the options of the run.

    Raises:
      FileNotFoundError: for a path into an existing folder where nothing is.
    """
    path = Path(subject)
    if len(path.parts) > 1 and path.parent.is_dir() and not path.exists():
        raise FileNotFoundError(f"{subject} does not exist; give a run folder or a model.")
    return load_policy("", subject, name=name) if run_options(subject) else load_policy(subject)


def run_options(folder: str) -> dict[str, Any]:
    """The options of a run's folder; none for a model's, and where nothing is."""
    config = Path(folder) / "config.json"
    return json.loads(config.read_text("utf-8")).get("options", {}) if config.is_file() else {}


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
    if not (Path(run) / "config.json").exists():
        raise FileNotFoundError(f"{run} is no run folder: it has no config.json.")
    loaded = hub.load(run_options(run)["model"])
    from jaxevo.run.checkpoint import Checkpoints

    with Checkpoints(Path(run) / "checkpoints") as checkpoints:
        params = checkpoints.restore_params(name, like=loaded.params)
    return dataclasses.replace(loaded, params=params)
