"""Data sets of the Hugging Face hub, or folders of the same form, as Parquet files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from jaxevo.names import did_you_mean
from jaxevo.tasks.extras import optional
from jaxevo.tasks.parquet import parquet_records
from jaxevo.tasks.records import Record

CONVERTED = "refs/convert/parquet"  # the branch on which the hub keeps every public set as Parquet
DEFAULT = "default"

# main/train/0000.parquet, as the hub converts; main/train-00000-of-00001.parquet, as sets are
# uploaded; `data` is no configuration, but where sets without one put their files.
_FOLDERS = re.compile(r"(?:(?P<config>[^/]+)/)?(?P<split>[^/]+)/[0-9]+\.parquet")
_NAMES = re.compile(
    r"(?:(?P<config>[^/]+)/)?(?P<split>\w+?)(?:-[0-9]+-of-[0-9]+(?:-\w+)?)?\.parquet"
)


def hub_records(
    name: str, *, splits: Mapping[str, str], config: str | None = None
) -> dict[str, Iterator[Record]]:
    """The records of splits of a data set.

    Args:
      name: `ORG/NAME` on the hub, or a folder that holds Parquet files as a set of the hub does.
      splits: what to call the records -> the split that they are from.
      config: the set's configuration, None if it has only one.

    Raises:
      ValueError: for a set that cannot be had, and an unknown configuration or split, with those
        that there are.
    """
    paths, fetch = _local(name) if name and Path(name).is_dir() else _remote(name)
    found = parquet_files(paths)
    if not found:
        raise ValueError(f"hf:{name} has no Parquet files that are named after a split.")
    configs = sorted({config for config, _ in found})
    if config is None and len(configs) > 1:
        raise ValueError(
            f"hf:{name} has several configurations; add config=. Choose from {', '.join(configs)}."
        )
    chosen = configs[0] if config is None else config
    if chosen not in configs:
        raise ValueError(f"hf:{name} has no config {chosen!r}. {did_you_mean(chosen, configs)}")
    own = sorted(split for config, split in found if config == chosen)
    for split in splits.values():
        if split not in own:
            raise ValueError(f"hf:{name} has no split {split!r}. {did_you_mean(split, own)}")
    return {
        called: _joined([fetch(path) for path in found[chosen, split]])
        for called, split in splits.items()
    }


def parquet_files(paths: Sequence[str]) -> dict[tuple[str, str], list[str]]:
    """The files of each (configuration, split), in order.

    >>> parquet_files(["main/test/0000.parquet", "data/train-00000-of-00001.parquet", "README.md"])
    {('main', 'test'): ['main/test/0000.parquet'], \
('default', 'train'): ['data/train-00000-of-00001.parquet']}
    """
    found: dict[tuple[str, str], list[str]] = {}
    for path in sorted(paths, key=lambda path: (not _FOLDERS.fullmatch(path), path)):
        match = _FOLDERS.fullmatch(path) or _NAMES.fullmatch(path)
        if match is not None:
            config = match["config"] or DEFAULT
            key = DEFAULT if config == "data" else config, match["split"]
            found.setdefault(key, []).append(path)
    return found


def _local(name: str) -> tuple[list[str], Callable[[str], Path]]:
    folder = Path(name)
    paths = [str(path.relative_to(folder)) for path in folder.rglob("*.parquet")]
    return paths, lambda path: folder / path


def _remote(name: str) -> tuple[list[str], Callable[[str], Path]]:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(
            f"hf:{name} is neither a folder here nor an id of the hub such as hf:organisation/name."
        )
    hub = optional("huggingface_hub", extra="train", why=f"hf:{name}")

    def asked(call: Callable[..., object], *args: str) -> object:
        try:
            return call(name, *args, repo_type="dataset", revision=CONVERTED)
        except Exception as error:  # the hub client raises many kinds, all meaning: not to be had
            fault = str(error).strip().splitlines()[0]
            raise ValueError(
                f"hf:{name} is no folder here, and the Hugging Face hub did not give it: {fault}"
            ) from None

    paths = asked(hub.HfApi().list_repo_files)
    assert isinstance(paths, list)
    return paths, lambda path: Path(str(asked(hub.hf_hub_download, path)))


def _joined(paths: Sequence[Path]) -> Iterator[Record]:
    """The records of several files, numbered through."""
    number = 0
    for path in paths:
        for record in parquet_records(path):
            number += 1
            yield record._replace(number=number)
