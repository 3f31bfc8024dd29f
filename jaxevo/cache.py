"""Where jaxevo keeps what it fetched or made once: models, the toy, compiled programs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """$JAXEVO_CACHE, else $XDG_CACHE_HOME/jaxevo, else ~/.cache/jaxevo."""
    own, shared = os.environ.get("JAXEVO_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own)
    return (Path(shared) if shared else Path.home() / ".cache") / "jaxevo"
