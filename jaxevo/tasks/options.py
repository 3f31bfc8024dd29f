"""What stands behind the ? of a task's name, and what all sources do with it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from urllib.parse import parse_qsl

from jaxevo.names import did_you_mean
from jaxevo.rewards.named import Verify, verifier
from jaxevo.types import TaskSource

WEIGHT = "weight."
SCORING = ("verifier", f"{WEIGHT}NAME")  # options of every source that is no mixture


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of one task by name, as texts. Errors name the task as it was written."""

    task: str
    values: Mapping[str, str]

    def text(self, name: str) -> str | None:
        """An option's text, None where it is not given."""
        value = self.values.get(name)
        if value is not None and not value.strip():
            raise self.fault(f"option {name!r} is empty.")
        return value

    def number(self, name: str, default: float, *, needs: str) -> float:
        """A finite number."""
        value = self.values.get(name)
        try:
            number = default if value is None else float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise self.fault(f"{name}={value!r} is not a number {needs}.")
        return number

    def whole(self, name: str, default: int, *, least: int) -> int:
        """A whole number."""
        value = self.values.get(name)
        if value is None:
            return default
        if not (value.isascii() and value.isdecimal() and len(value) < 10) or int(value) < least:
            raise self.fault(f"{name}={value!r} is not a whole number of at least {least}.")
        return int(value)

    def verifier(self, name: str) -> Verify:
        """A verifier that every task may have."""
        try:
            return verifier(name)
        except ValueError as fault:
            raise self.fault(str(fault)) from None

    def fault(self, text: str) -> ValueError:
        """An error about these options."""
        return ValueError(f"task {self.task!r}: {text}")


def read_options(task: str, known: Iterable[str], *, free: bool = False) -> tuple[str, Options]:
    """A task's name without its options, and these.

    As in a web address, options are name=value, joined by &; `%20` or `+` is a space, `%26` is `&`.

    Args:
      task: `NAME` or `NAME?option=value&option=value`.
      known: the options that there are; `weight.NAME` stands for all that begin with `weight.`.
      free: whether there are others as well.

    Raises:
      ValueError: for what cannot be read, an unknown option and one that is given twice.
    """
    head, mark, query = task.partition("?")
    try:
        pairs = parse_qsl(query, strict_parsing=True, keep_blank_values=True) if mark else []
    except ValueError:
        raise ValueError(
            f"task {task!r}: options after ? are written name=value and joined by &."
        ) from None
    known, values = list(known), dict[str, str]()
    weighs = f"{WEIGHT}NAME" in known
    for key, value in pairs:
        if not (free or key in known or (weighs and key.startswith(WEIGHT))):
            said = did_you_mean(key, known) if known else "It takes none."
            raise ValueError(f"task {task!r}: no option {key!r}. {said}")
        if key in values:
            raise ValueError(f"task {task!r}: option {key!r} is given twice.")
        values[key] = value
    return head, Options(task, values)


def scored(source: TaskSource, options: Options) -> TaskSource:
    """The source with another first verifier and further weighed ones, as `SCORING` asks for.

    `verifier=NAME` gives the reward in place of the source's own first one. `weight.NAME=0.1` adds
    a tenth of NAME's score to the reward.

    Raises:
      ValueError: for an unknown verifier, a weight that is 0 or no number, and one of the verifier
        that gives the reward already.
    """
    verifiers, weights = dict(source.verifiers), dict(source.weights)
    called = options.text("verifier")
    if called is not None:
        others = {n: v for n, v in list(verifiers.items())[1:] if n != called}
        verifiers = {called: _named(called, verifiers, options), **others}
    for key in (key for key in options.values if key.startswith(WEIGHT)):
        name = key.removeprefix(WEIGHT)
        verifiers[name] = _named(name, verifiers, options)
        weights[name] = options.number(key, 0.0, needs="other than 0")
        if weights[name] == 0.0:
            raise options.fault(f"{key}=0 changes nothing; leave it out.")
        if name == next(iter(verifiers)):
            raise options.fault(f"{name} gives the reward already; {key} cannot be added to it.")
    return dataclasses.replace(source, verifiers=verifiers, weights=weights)


def _named(name: str, own: Mapping[str, Verify], options: Options) -> Verify:
    return own[name] if name in own else options.verifier(name)
