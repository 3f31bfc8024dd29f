"""`jaxevo tasks`: what can be asked, and how it is asked."""

from __future__ import annotations

import itertools
from typing import NamedTuple

from jaxevo.tasks import load_task
from jaxevo.tasks.names import PROCEDURAL
from jaxevo.tasks.sets import GROUPS, SETS
from jaxevo.types import Task, TaskSource

SHOWN = 3  # problems
FORMS = {
    "FILE.jsonl, FILE.jsonl.gz, FILE.parquet": "your problems, one a line or row",
    "hf:ORGANISATION/NAME, hf:FOLDER": "a set of the Hugging Face hub as Parquet",
    "tfds:NAME": "a set prepared by tensorflow-datasets",
    "rg:NAME": "a set of reasoning-gym with its scorer",
    "mix:3*PART,PART": "a mixture in exact proportions",
}


class Line(NamedTuple):
    """One task in the list. problems: for training + held out."""

    name: str
    problems: str
    verifiers: str
    licence: str
    about: str


def tasks(name: str = "") -> int:
    """Lists the tasks, or shows problems of one.

    Args:
      name: a task with its options; without, all names are listed.
    """
    if name:
        print("\n".join(shown(load_task(name))))
    else:
        width = max(len(name) for name in (*PROCEDURAL, *SETS))
        for line in task_lines():
            print(f"{line.name:<{width}}  {line.problems:>11}  {line.about}")
            print(f"{'':<{width}}  {'':>11}  {line.verifiers}; {line.licence}")
        for form, about in FORMS.items():
            print(f"{form}\n{'':<{width}}  {'':>11}  {about}")
    return 0


def shown(source: TaskSource) -> list[str]:
    """The first problems of a source as a model is asked, and how they are scored."""
    weighed = [f", {weight:g} {name}" for name, weight in source.weights.items()]
    lines = [
        f"{source.name}: {_counted(source)} problems, rewarded by "
        f"{next(iter(source.verifiers))}{''.join(weighed)}; verifiers: "
        f"{', '.join(source.verifiers)}"
    ]
    for task in map(source.train, range(SHOWN)):
        lines += ["", *_asked(task)]
    return lines


def _asked(task: Task) -> list[str]:
    turns = [f"{message.role}: {message.content}" for message in task.messages]
    return [f"--- {task.uid}", *turns, f"answer: {task.answer or 'none'}"]


def task_table() -> str:
    """The README's table of tasks."""
    rows = [
        f"| `{line.name}` | {line.about} | {line.problems} | "
        f"{', '.join(f'`{name}`' for name in line.verifiers.split(', '))} | {line.licence} |"
        for line in task_lines()
    ]
    forms = [
        f"| {', '.join(f'`{form}`' for form in forms.split(', '))} | {about} | | | |"
        for forms, about in FORMS.items()
    ]
    head = "| task | what is asked | problems | verifiers | licence of the data |"
    return "\n".join([head, "|---|---|---|---|---|", *rows, *forms])


def task_lines() -> list[Line]:
    """Every named task."""
    lines = []
    for name, (make, about) in PROCEDURAL.items():
        source = make(name)
        plain = "; also for character models" if "plain" in source.train(0).info else ""
        counted = _counted(source)
        lines.append(Line(name, counted, ", ".join(source.verifiers), "procedural", about + plain))
    for name, chosen in SETS.items():
        counted, verifiers = "{} + {}".format(*chosen.problems), ", ".join(chosen.verifiers)
        lines.append(Line(name, counted, verifiers, chosen.licence, chosen.about))
    for name, parts in GROUPS.items():
        sizes = [SETS[part].problems for part in parts]
        counted = "{} + {}".format(*map(sum, zip(*sizes, strict=True)))
        firsts = dict.fromkeys(SETS[part].verifiers[0] for part in parts)
        licences = dict.fromkeys(SETS[part].licence for part in parts)
        about = f"a mixture of the {len(parts)} sets above whose names begin with it"
        lines.append(Line(name, counted, ", ".join(firsts), ", ".join(licences), about))
    return lines


def _counted(source: TaskSource) -> str:
    """How many problems there are for training and held out."""
    training = sum(map(_training, source.parts or (source,)))
    return f"{training} + {source.held_out_size}"


def _training(source: TaskSource) -> int:
    """Problems until one comes again: an epoch asks each once."""
    seen: set[str] = set()
    for index in itertools.count():
        uid = source.train(index).uid
        if uid in seen:
            return index
        seen.add(uid)
    raise AssertionError("unreachable")
