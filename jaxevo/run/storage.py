"""Folders of this machine or of a Google Cloud bucket (`gs://`), under one set of names."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from pathlib import Path
from typing import TypeAlias

from etils import epath

from jaxevo.run.logs import replace_file

Place: TypeAlias = epath.Path
BUCKET = "gs://"


def place_of(folder: str | os.PathLike[str]) -> Place:
    """The folder as a path that does not hang on where this process stands.

    Raises:
      ValueError: another scheme, a name that no bucket has, or gs:// without its package.
    """
    name = os.fspath(folder)
    if "://" not in name:
        return epath.Path(Path(name).absolute())
    bucket, _, path = name.removeprefix(BUCKET).partition("/")
    if not name.startswith(BUCKET) or len(bucket) < 3 or not path.strip("/"):
        raise ValueError(f"{name} is neither a folder nor gs://BUCKET/PATH.")
    if importlib.util.find_spec("gcsfs") is None:
        raise ValueError(
            f"{name} needs a package that is not installed: pip install 'jaxevo[gcs]'."
        )
    _set_up_gcsfs()
    return epath.Path(name)


def _set_up_gcsfs() -> None:
    """What it must know before it is first used."""
    import fsspec.config

    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks for buckets' types
    # Listings must be fresh: Orbax writes past them.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False


def in_bucket(place: Place) -> bool:
    """Whether it is no folder of this machine."""
    return os.fspath(place).startswith(BUCKET)


def listed(folder: Place) -> list[Place]:
    """What is in a folder, nothing where there is none, by name.

    Of a bucket it is never asked whether something exists: a lost connection would say no.
    """
    with contextlib.suppress(FileNotFoundError):
        return sorted(folder.iterdir(), key=lambda path: path.name)
    return []


def sizes_below(folder: Place) -> dict[str, int]:
    """Bytes of every file below a folder, by its path there."""
    sizes: dict[str, int] = {}
    for path in folder.iterdir():
        if path.is_dir():
            inside = sizes_below(path)
            sizes |= {f"{path.name}/{name}": size for name, size in inside.items()}
        else:
            sizes[path.name] = path.stat().length
    return sizes


def move(folder: Place, to: Place) -> None:
    """Renames a folder; in a bucket, where that is not done, its objects are copied."""
    if not in_bucket(folder):
        folder.rename(to)
        return
    for name in sizes_below(folder):
        (to / name).write_bytes((folder / name).read_bytes())
    folder.rmtree()


def write_whole(path: Place, data: bytes) -> None:
    """Writes a file whole or not at all; it is kept when this returns."""
    if in_bucket(path):  # an object appears when all of it is there
        path.write_bytes(data)
    else:
        replace_file(Path(path), data, durable=True)
