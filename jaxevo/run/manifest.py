"""What makes a checkpoint whole: the SHA-256 of each of its files, written down last.

A folder without a manifest is a save that was cut off. A flipped bit in an array file would be
restored as wrong weights without a word; here it is found before anything is restored.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import jaxevo
from jaxevo.run.logs import compact_json
from jaxevo.run.storage import Place, place_of, sizes_below, write_whole

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


def seal(folder: str | os.PathLike[str], *, score: float | None = None) -> Manifest:
    """Hashes all files of a checkpoint that has been written, and writes its manifest."""
    folder = place_of(folder)
    sizes = sizes_below(folder)
    files = {n: (sizes[n], _sha256(folder / n)) for n in sorted(sizes) if n != MANIFEST}
    body = {"format": FORMAT, "jaxevo": jaxevo.__version__, "score": score, "files": files}
    data = compact_json({**body, "sha256": _own_digest(body)}).encode()
    write_whole(folder / MANIFEST, data)
    return Manifest(score, files)


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """The manifest of a checkpoint; its files are not looked at.

    Raises:
      UnsealedError: there is none. DamagedError: it is not as it was written.
      NewerFormatError: a later version wrote it.
    """
    try:
        body = json.loads((place_of(folder) / MANIFEST).read_bytes())
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


def check_whole(folder: str | os.PathLike[str]) -> Manifest:
    """Compares every file with the manifest.

    Raises:
      UnsealedError, NewerFormatError: as `read_manifest`.
      DamagedError: naming the first file that is missing, cut or changed.
    """
    folder = place_of(folder)
    manifest, sizes = read_manifest(folder), sizes_below(folder)
    for name, (size, digest) in manifest.files.items():
        if name not in sizes:
            raise DamagedError(f"{name} is missing")
        if sizes[name] != size:
            raise DamagedError(f"{name} has {sizes[name]} bytes of {size}")
        if _sha256(folder / name) != digest:
            raise DamagedError(f"{name} has changed since it was written")
    return manifest


def _sha256(path: Place) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _own_digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(compact_json(body).encode()).hexdigest()
