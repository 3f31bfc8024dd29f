"""Optional packages: imported when they are used, and named where they are missing."""

from __future__ import annotations

import importlib
from typing import Any


def optional(module: str, *, extra: str, why: str) -> Any:
    """An optional module.

    Raises:
      ValueError: when it is not installed, with the extra that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        package = module.partition(".")[0]
        if missing.name is None or missing.name.partition(".")[0] != package:
            raise  # it is there, and broken
        raise ValueError(f"{why} needs {package}: pip install 'jaxevo[{extra}]'.") from None
