"""What makes a checkpoint whole: the SHA-256 of each of its files, written down last.

A folder without a manifest is a save that was cut off. A flipped bit in an array file would be
restored as wrong weights without a word; here it is found before anything is restored.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jaxevo
from jaxevo.run.logs import compact_json, replace_file

MANIFEST = "manifest.json"
FORMAT = 1  # of what a checkpoint holds; larger ones are refused, not guessed


class UnsealedError(ValueError):
    """A checkpoint without a manifest."""


class DamagedError(ValueError):
    """A checkpoint whose files are not those that were written."""


class NewerFormatError(ValueError):
    """A checkpoint that a later jaxevo has written."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What is known of a whole checkpoint.

    score: what it is ranked by among the best, larger is better; None where it has none.
    files: path below the checkpoint -> (bytes, SHA-256 in hexadecimal).
    """

    score: float | None
    files: Mapping[str, tuple[int, str]]


def seal(folder: Path, *, score: float | None = None) -> Manifest:
    """Hashes all files of a checkpoint that has been written, and writes its manifest."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    files = {str(p.relative_to(folder)): (p.stat().st_size, _sha256(p)) for p in paths}
    body = {"format": FORMAT, "jaxevo": jaxevo.__version__, "score": score, "files": files}
    data = compact_json({**body, "sha256": _own_digest(body)}).encode()
    replace_file(folder / MANIFEST, data, durable=True)
    return Manifest(score, files)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint; its files are not looked at.

    Raises:
      UnsealedError: there is none. DamagedError: it is not as it was written.
      NewerFormatError: a later version wrote it.
    """
    path = folder / MANIFEST
    try:
        body = json.loads(path.read_bytes())
        digest = body.pop("sha256")
    except FileNotFoundError:
        raise UnsealedError("its save was cut off: it has no manifest") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise DamagedError(f"{MANIFEST} cannot be read") from None
    if digest != _own_digest(body):
        raise DamagedError(f"{MANIFEST} has changed since it was written")
    if body["format"] > FORMAT:
        raise NewerFormatError(
            f"{folder} has format {body['format']}, written by jaxevo {body['jaxevo']}; this is "
            f"jaxevo {jaxevo.__version__} and reads format {FORMAT}. Update jaxevo."
        )
    return Manifest(body["score"], {name: tuple(entry) for name, entry in body["files"].items()})


def check_whole(folder: Path) -> Manifest:
    """Compares every file with the manifest.

    Raises:
      UnsealedError, NewerFormatError: as `read_manifest`.
      DamagedError: naming the first file that is missing, cut or changed.
    """
    manifest = read_manifest(folder)
    for name, (size, digest) in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise DamagedError(f"{name} is missing")
        if path.stat().st_size != size:
            raise DamagedError(f"{name} has {path.stat().st_size} bytes of {size}")
        if _sha256(path) != digest:
            raise DamagedError(f"{name} has changed since it was written")
    return manifest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _own_digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(compact_json(body).encode()).hexdigest()
