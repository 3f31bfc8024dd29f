"""Weights of a finished run, for evaluation and sampling."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxevo.base import joined
from jaxevo.models import hub
from jaxevo.models.lora import LoRA, init_adapters, with_adapters
from jaxevo.run.options import checkpoint_folder
from jaxevo.run.report import read_config


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
    return read_config(Path(folder)).get("options", {})


def load_policy(model: str, run: str = "", *, name: str = "policy") -> hub.LoadedModel:
    """A model as loaded, or with one parameter set of a run's last checkpoint.

    A run of adapters gives them beside the weights of its model (`lora.merged` makes one of both).

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
    options = run_options(run)
    loaded = hub.load(options["model"])
    lora = lora_of(options)
    own = loaded.params if lora is None else init_adapters(jax.random.key(0), loaded.config, lora)
    from jaxevo.run.checkpoint import Checkpoints

    folder = checkpoint_folder(run, options.get("checkpoint_dir", ""))
    with Checkpoints(folder, writes=False, say=_warn) as checkpoints:
        params = checkpoints.restore_params(name, like=own)
    if lora is None:
        return dataclasses.replace(loaded, params=params)
    return dataclasses.replace(
        loaded, config=with_adapters(loaded.config, lora), params=joined(loaded.params, params)
    )


def lora_of(options: Mapping[str, Any]) -> LoRA | None:
    """The adapters that a run's options ask for."""
    if not options.get("lora_rank"):
        return None
    return LoRA(options["lora_rank"], options["lora_alpha"], tuple(options["lora_targets"]))


def _warn(line: str) -> None:
    print(f"jaxevo: {line}", file=sys.stderr)
