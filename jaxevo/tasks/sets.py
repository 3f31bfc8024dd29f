"""Data sets that are shipped: a table of files, columns, wordings, verifiers and licences.

Each folder under `data` has a README with source, commit, licence and fields. A further set is a
folder and a row.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from jaxevo.names import did_you_mean
from jaxevo.rewards.named import verifier
from jaxevo.tasks.files import records_source
from jaxevo.tasks.jsonl import jsonl_records
from jaxevo.tasks.records import Columns
from jaxevo.types import TaskSource

DATA = Path(__file__).parent / "data"

LETTER = "Answer with the letter of the right option."
YES_OR_NO = "Answer with Yes or No only."


@dataclasses.dataclass(frozen=True)
class DataSet:
    """One set.

    file: its training problems, below `data`. problems: how many are for training, and held out.
    template: how a problem is asked. answer: the column
    of the right answer, None where the verifiers know. verifiers: by name; the first gives the
    reward. held_out: a file of its own, or a share. together: a column whose equal values are on
    one side of the split.
    """

    file: str
    problems: tuple[int, int]
    about: str
    licence: str
    template: str
    answer: str | None
    verifiers: tuple[str, ...]
    held_out: str | float = 0.2
    together: str | None = None


def _bbh(subset: str, training: int, about: str, ask: str, *verifiers: str) -> DataSet:
    file, problems = f"bbh_subset/{subset}.jsonl.gz", (training, 250 - training)
    return DataSet(file, problems, about, "MIT", f"{{input}}\n{ask}", "target", verifiers)


def _ntrex(column: str, language: str) -> DataSet:
    return DataSet(
        file="ntrex/ntrex_1997.jsonl.gz",
        problems=(1628, 369),
        about=f"news sentences, English to {language}",
        licence="CC BY-SA 4.0",
        template=f"Translate into {language}. Reply with just the translation.\n{{en}}",
        answer=column,
        verifiers=("chrf",),
        together="en",
    )


SETS = {
    "gsm8k": DataSet(
        file="gsm8k/train.jsonl.gz",
        problems=(7473, 1319),
        held_out="gsm8k/test.jsonl.gz",
        about="word problems of several steps",
        licence="MIT",
        template="{question}\nThink step by step, then give the answer as a number.",
        answer="answer",
        verifiers=("math", "last_integer"),
    ),
    "svamp": DataSet(
        file="svamp/svamp.jsonl.gz",
        problems=(680, 320),
        held_out=0.3,
        about="word problems of one or two steps",
        licence="MIT",
        template="{question} Answer with a number.",
        answer="answer",
        verifiers=("numeric", "last_integer"),
    ),
    "aqua_rat": DataSet(
        file="aqua_rat/test.jsonl.gz",
        problems=(177, 77),
        held_out=0.3,
        about="algebra with five choices (the set's test part)",
        licence="Apache-2.0",
        template="{question}\n{options}\nThink step by step, then answer with the letter of the "
        "right choice.",
        answer="correct",
        verifiers=("choice",),
    ),
    "bbh-boolean_expressions": _bbh(
        "boolean_expressions", 205, "value of a logical expression",
        "Answer with True or False only.", "exact_match",
    ),
    "bbh-logical_deduction_three_objects": _bbh(
        "logical_deduction_three_objects", 189, "order of three things", LETTER, "choice"
    ),
    "bbh-navigate": _bbh(
        "navigate", 191, "whether a walk ends where it began", YES_OR_NO, "exact_match"
    ),
    "bbh-object_counting": _bbh(
        "object_counting", 194, "how many things of a kind", "Answer with a number.",
        "last_integer", "strict_integer",
    ),
    "bbh-sports_understanding": _bbh(
        "sports_understanding", 197, "whether a sentence about sports is plausible", YES_OR_NO,
        "exact_match",
    ),
    "bbh-tracking_shuffled_objects_three_objects": _bbh(
        "tracking_shuffled_objects_three_objects", 194, "who holds what after swaps", LETTER,
        "choice",
    ),
    "bbh-web_of_lies": _bbh(
        "web_of_lies", 188, "whether the last speaker tells the truth", YES_OR_NO, "exact_match"
    ),
    "bbh-word_sorting": _bbh(
        "word_sorting", 212, "words in alphabetical order",
        "Answer with the words only, separated by spaces.", "exact_match",
    ),
    "ifeval": DataSet(
        file="ifeval/ifeval.jsonl.gz",
        problems=(415, 126),
        about="instructions that a program can check",
        licence="Apache-2.0",
        template="{prompt}",
        answer=None,
        verifiers=("ifeval",),
    ),
    "mbpp": DataSet(
        file="mbpp_sanitized/train.jsonl.gz",
        problems=(170, 257),
        held_out="mbpp_sanitized/test.jsonl.gz",
        about="short Python functions with their tests (sanitized)",
        licence="CC BY 4.0",
        template="{prompt}\nYour code should pass these tests:\n{tests}\nAnswer with Python "
        "code only.",
        answer="code",
        verifiers=("unit_tests",),
    ),
    "humaneval": DataSet(
        file="humaneval/humaneval.jsonl.gz",
        problems=(81, 83),
        held_out=0.5,
        about="Python functions from their docstrings",
        licence="MIT",
        template="Complete this function. Answer with all of its Python code.\n\n{prompt}",
        answer="solution",
        verifiers=("unit_tests",),
    ),
    "xquad": DataSet(
        file="xquad_en/questions.jsonl.gz",
        problems=(995, 195),
        about="questions about a passage; passages stay on one side",
        licence="CC BY-SA 4.0",
        template="{passage}\n\n{question} Answer with words of the passage only.",
        answer="answer",
        verifiers=("exact_match", "token_f1"),
        together="paragraph",
    ),
    "ntrex-de": _ntrex("de", "German"),
    "ntrex-es": _ntrex("es", "Spanish"),
    "ntrex-fr": _ntrex("fr", "French"),
    "ntrex-pt": _ntrex("pt", "Portuguese"),
    "ntrex-zh": _ntrex("zh", "Chinese"),
}  # fmt: skip

GROUPS = {"bbh": tuple(name for name in SETS if name.startswith("bbh-"))}


def shipped(name: str, *, system: str | None = None, limit: int = 0, seed: int = 0) -> TaskSource:
    """A shipped set by its name in `SETS`.

    Args:
      name: of `SETS`.
      system: a system turn put before every prompt.
      limit: most training problems, the first ones of the file; 0 for all.
      seed: >= 0; orders the training problems.

    Raises:
      ValueError: for an unknown name.
    """
    if name not in SETS:
        raise ValueError(f"no data set {name!r}. {did_you_mean(name, SETS)}")
    chosen = SETS[name]
    records = {"train": jsonl_records(DATA / chosen.file)}
    if isinstance(chosen.held_out, str):
        records["held out"] = jsonl_records(DATA / chosen.held_out)
    return records_source(
        name,
        records,
        Columns(
            answer=chosen.answer,
            template=chosen.template,
            system=system,
            together=chosen.together,
        ),
        held_out=chosen.held_out if isinstance(chosen.held_out, float) else 0.0,
        limit=limit,
        verifiers={called: verifier(called) for called in chosen.verifiers},
        seed=seed,
    )
