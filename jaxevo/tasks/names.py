"""Task sources by the names that a command line gives them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxevo.names import did_you_mean
from jaxevo.tasks.arithmetic import arithmetic
from jaxevo.tasks.countdown import countdown
from jaxevo.tasks.files import READERS, file_source, records_source
from jaxevo.tasks.gym import OPTIONS as GYM_OPTIONS
from jaxevo.tasks.gym import gym_source
from jaxevo.tasks.hops import hops
from jaxevo.tasks.hub import hub_records
from jaxevo.tasks.mixture import mixture
from jaxevo.tasks.options import SCORING, WEIGHT, Options, read_options, scored
from jaxevo.tasks.prepared import tfds_records
from jaxevo.tasks.puzzles import puzzle
from jaxevo.tasks.records import Columns
from jaxevo.tasks.sets import GROUPS, SETS, shipped
from jaxevo.tasks.steps import steps
from jaxevo.types import TaskSource

MIX = "mix:"
COLUMNS = ("prompt", "answer", "system", "prompt_template", "limit")
_WEIGHED = re.compile(r"(?:([^*,?/]*)\*)?(.*)")
_OTHER_FILES = (".json", ".csv", ".tsv", ".txt", ".arrow", ".jsonl.zst")


PROCEDURAL: Mapping[str, tuple[Callable[..., TaskSource], str]] = {  # source, and what it asks
    "add1": (arithmetic, "sums of two numbers from 2 to 9"),
    "add2": (arithmetic, "sums of two-digit numbers"),
    "add2-shots": (arithmetic, "the same after two worked turns"),
    "add3": (arithmetic, "sums of three numbers from 2 to 9"),
    "sub1": (arithmetic, "differences of one-digit numbers"),
    "sub2": (arithmetic, "differences of two-digit numbers"),
    "mul1": (arithmetic, "products of numbers from 2 to 9"),
    "steps4": (steps, "sums of four numbers from 2 to 9 in tagged steps, after two worked turns"),
    "hops": (hops, "where two steps lead in a graph that only a search tool knows"),
    "letter-count": (puzzle, "how often a letter occurs in a word, after three worked turns"),
    "max3": (puzzle, "the largest of three two-digit numbers, after two worked turns"),
    "sort3": (puzzle, "three digits in order, after two worked turns"),
    "countdown": (countdown, "a target from three numbers with + - * /"),
    "countdown4": (countdown, "the same from four numbers"),
}


class Kind(NamedTuple):
    """A kind of source: the options that it takes, and how it is loaded: (head, options, seed)."""

    options: tuple[str, ...]
    load: Callable[[str, Options, int], TaskSource]
    free: bool = False


def load_task(name: str, *, seed: int = 0) -> TaskSource:
    """The task source that a name on the command line stands for.

    - `add1`, `countdown`, `max3`, ...: procedural (`jaxevo tasks` lists them).
    - `gsm8k`, `mbpp`, `bbh`, ...: shipped data sets. Options: system, limit.
    - `FILE.jsonl`, `FILE.jsonl.gz`, `FILE.parquet`: a problem a line or row. Options: prompt,
      answer (columns), system, prompt_template (a text with {column} fields), held_out (a share),
      held_out_file, limit.
    - `hf:ORGANISATION/NAME` or `hf:FOLDER`: a set of the Hugging Face hub. Options: those of files
      but held_out_file, and split, held_out_split, config.
    - `tfds:NAME`: a prepared set of tensorflow-datasets. Options: as hf with data_dir for config.
    - `rg:NAME`: a set of reasoning-gym. Options: size, held_out, system, and the set's own.
    - `mix:3*PART,PART`: a mixture; the first part gets three problems for each of the second. Parts
      have options of their own; a comma in one is written %2C.

    Options follow a `?`, as `data.jsonl?prompt=question&answer=target`; `%20` or `+` is a space,
    `%26` is `&`. All but mixtures take `verifier=NAME` (`jaxevo.rewards.named`), which
    then gives the reward, and `weight.NAME=0.1`, which adds a tenth of that one's score to it.

    Args:
      name: as above.
      seed: >= 0; orders the training problems.

    Raises:
      ValueError: for an unknown name or option, and for data that cannot be used; one line.
    """
    if name.startswith(MIX):
        return _mixture(name, seed)
    head = name.partition("?")[0]
    kind = _kind(head, name)
    _, options = read_options(name, (*kind.options, *SCORING), free=kind.free)
    return scored(kind.load(head, options, seed), options)


def task_names() -> list[str]:
    """The names that need nothing else: procedural tasks and shipped sets."""
    return [*PROCEDURAL, *SETS, *GROUPS]


def _kind(head: str, name: str) -> Kind:
    scheme, colon, _ = head.partition(":")
    if colon and scheme in _SCHEMES:
        return _SCHEMES[scheme]
    if head.endswith(tuple(READERS)):
        return _FILE
    if head in PROCEDURAL:
        return Kind((), _procedural)
    if head in SETS:
        return Kind(("system", "limit"), _shipped)
    if head in GROUPS:
        return Kind(("system", "limit"), _group)
    for suffix in _OTHER_FILES:
        if head.endswith(suffix):
            raise ValueError(
                f"task {name!r}: a {suffix} file is not read. Write it as .jsonl, one JSON object "
                "a line, or as .parquet."
            )
    raise ValueError(
        f"no task {name!r}. {did_you_mean(head, task_names())} Or give the path of a .jsonl, "
        ".jsonl.gz or .parquet file, hf:, tfds:, rg: or mix:."
    )


# ---------------------------------------------------------------------------- each kind
def _procedural(head: str, options: Options, seed: int) -> TaskSource:
    del options
    make, _ = PROCEDURAL[head]
    return make(head, seed=seed)


def _shipped(head: str, options: Options, seed: int) -> TaskSource:
    limit = options.whole("limit", 0, least=1)
    return shipped(head, system=options.text("system"), limit=limit, seed=seed)


def _group(head: str, options: Options, seed: int) -> TaskSource:
    parts = [scored(_shipped(part, options, seed), options) for part in GROUPS[head]]
    return dataclasses.replace(mixture(parts, [1] * len(parts), seed=seed), name=head)


def _from_file(head: str, options: Options, seed: int) -> TaskSource:
    own = options.text("held_out_file")
    if own is not None and "held_out" in options.values:
        raise options.fault("held_out and held_out_file exclude each other.")
    return file_source(head, _columns(options), held_out_file=own, **_common(options), seed=seed)


def _from_hub(head: str, options: Options, seed: int) -> TaskSource:
    name, config = head.partition(":")[2], options.text("config")
    records = hub_records(name, splits=_splits(options), config=config)
    label = f"hf:{Path(name).name}" + (f"/{config}" if config else "")
    return records_source(label, records, _columns(options), **_common(options), seed=seed)


def _from_tfds(head: str, options: Options, seed: int) -> TaskSource:
    name, place = head.partition(":")[2], options.text("data_dir")
    records = tfds_records(name, splits=_splits(options), data_dir=place)
    return records_source(head, records, _columns(options), **_common(options), seed=seed)


def _from_gym(head: str, options: Options, seed: int) -> TaskSource:
    own = {
        key: _json(value)
        for key, value in options.values.items()
        if key not in (*GYM_OPTIONS, "verifier") and not key.startswith(WEIGHT)
    }
    return gym_source(
        head.partition(":")[2],
        size=options.whole("size", 500, least=1),
        held_out=options.whole("held_out", 64, least=0),
        system=options.text("system"),
        config=own,
        seed=seed,
    )


def _json(value: str) -> Any:
    """An option's value as JSON has it: 3, true, [1, 2]; else the text itself."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def _columns(options: Options) -> Columns:
    template = options.text("prompt_template")
    if template is not None and "prompt" in options.values:
        raise options.fault("prompt and prompt_template exclude each other.")
    try:
        return Columns(
            prompt=options.text("prompt") or "prompt",
            answer=options.text("answer") or "answer",
            system=options.text("system"),
            template=template,
        )
    except ValueError as fault:
        raise options.fault(str(fault)) from None


def _common(options: Options) -> dict[str, Any]:
    share = options.number("held_out", 0.1, needs="in [0, 1)")
    if not 0.0 <= share < 1.0:
        raise options.fault(f"held_out={share} is not a number in [0, 1).")
    called = options.text("verifier")
    return {
        "held_out": share,
        "limit": options.whole("limit", 0, least=1),
        "verifiers": None if called is None else {called: options.verifier(called)},
    }


def _splits(options: Options) -> dict[str, str]:
    splits = {"train": options.text("split") or "train"}
    apart = options.text("held_out_split")
    if apart is None:
        return splits
    if "held_out" in options.values:
        raise options.fault("held_out and held_out_split exclude each other.")
    if apart == splits["train"]:
        raise options.fault(f"held_out_split is {apart!r}, which is what is trained on.")
    return {**splits, "held out": apart}


_FILE = Kind((*COLUMNS, "held_out", "held_out_file"), _from_file)
_SPLITS = (*COLUMNS, "held_out", "split", "held_out_split")
_SCHEMES: Mapping[str, Kind] = {
    "hf": Kind((*_SPLITS, "config"), _from_hub),
    "tfds": Kind((*_SPLITS, "data_dir"), _from_tfds),
    "rg": Kind(GYM_OPTIONS, _from_gym, free=True),
}


# ---------------------------------------------------------------------------- mixtures
def _mixture(name: str, seed: int) -> TaskSource:
    parts, weights = list[TaskSource](), list[int]()
    written = name.removeprefix(MIX).split(",")
    for place, part in enumerate(written, start=1):
        match = _WEIGHED.fullmatch(part)
        assert match is not None
        weight, head = match.groups()
        if not head:
            raise ValueError(
                f"task {name!r}: part {place} is empty. A mixture is written mix:3*add1,sub1."
            )
        if weight is not None and not re.fullmatch(r"[1-9][0-9]{0,3}", weight):
            raise ValueError(
                f"task {name!r}: the weight {weight!r} of part {place} is not a whole number from "
                "1 to 9999."
            )
        if head.startswith(MIX):
            raise ValueError(f"task {name!r}: part {place} is a mixture itself; name its parts.")
        try:
            parts.append(load_task(head, seed=seed))
        except ValueError as fault:
            raise ValueError(f"part {place} of {name!r}: {fault}") from None
        weights.append(int(weight or 1))
    try:
        return mixture(parts, weights, seed=seed)
    except ValueError as fault:
        raise ValueError(f"task {name!r}: {fault}") from None
