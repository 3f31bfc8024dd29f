"""Weights of a finished run, for evaluation and sampling."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

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
    config = Path(subject) / "config.json"
    is_run = config.is_file() and "options" in json.loads(config.read_text())
    return load_policy("", subject, name=name) if is_run else load_policy(subject)


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
