"""Verifiers of instructions that a program can check: the prompts and scores of IFEval.

A task says what its prompt demands: `info["instruction_id_list"]` names kinds of instruction
(`KINDS`), `info["kwargs"]` has the arguments of each; those that are null do not count. The task's
answer is not looked at.

References: IFEval, arXiv 2311.07911, section 3, and its official code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from jaxevo.names import did_you_mean
from jaxevo.rewards import instructions
from jaxevo.types import Task, Verdict

_SHOWN = 100  # characters of an argument in the feedback
_LANGUAGES = ("language:", "change_case:english_")  # kinds that ask for the language of a text

Demand: TypeAlias = tuple[str, Mapping[str, Any]]  # the name of a kind, and its arguments


# ---------------------------------------------------------------------------- the kinds
@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of instruction: its check, and what each of its arguments must be (`_IS`)."""

    check: Callable[..., bool]
    needs: Mapping[str, str] = dataclasses.field(default_factory=dict)


_COUNT, _TEXT, _TEXTS = "a number, at least 0", "a text", "a list of texts"
_RELATION = "'at least' or 'less than'"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


_IS: Mapping[str, Callable[[Any], bool]] = {
    _COUNT: lambda value: type(value) is int and value >= 0,
    _TEXT: _is_text,
    _TEXTS: lambda value: isinstance(value, (list, tuple)) and all(map(_is_text, value)),
    _RELATION: lambda value: value in ("at least", "less than"),
}

KINDS: Mapping[str, Kind] = {
    "change_case:capital_word_frequency": Kind(
        instructions.capital_word_frequency,
        {"capital_relation": _RELATION, "capital_frequency": _COUNT},
    ),
    "change_case:english_capital": Kind(instructions.english_capital),
    "change_case:english_lowercase": Kind(instructions.english_lowercase),
    "combination:repeat_prompt": Kind(instructions.repeat_prompt, {"prompt_to_repeat": _TEXT}),
    "combination:two_responses": Kind(instructions.two_responses),
    "detectable_content:number_placeholders": Kind(
        instructions.number_placeholders, {"num_placeholders": _COUNT}
    ),
    "detectable_content:postscript": Kind(instructions.postscript, {"postscript_marker": _TEXT}),
    "detectable_format:constrained_response": Kind(instructions.constrained_response),
    "detectable_format:json_format": Kind(instructions.json_format),
    "detectable_format:multiple_sections": Kind(
        instructions.multiple_sections, {"section_spliter": _TEXT, "num_sections": _COUNT}
    ),
    "detectable_format:number_bullet_lists": Kind(
        instructions.number_bullet_lists, {"num_bullets": _COUNT}
    ),
    "detectable_format:number_highlighted_sections": Kind(
        instructions.number_highlighted_sections, {"num_highlights": _COUNT}
    ),
    "detectable_format:title": Kind(instructions.title),
    "keywords:existence": Kind(instructions.existence, {"keywords": _TEXTS}),
    "keywords:forbidden_words": Kind(instructions.forbidden_words, {"forbidden_words": _TEXTS}),
    "keywords:frequency": Kind(
        instructions.frequency, {"keyword": _TEXT, "relation": _RELATION, "frequency": _COUNT}
    ),
    "keywords:letter_frequency": Kind(
        instructions.letter_frequency,
        {"letter": _TEXT, "let_relation": _RELATION, "let_frequency": _COUNT},
    ),
    "language:response_language": Kind(instructions.response_language, {"language": _TEXT}),
    "length_constraints:nth_paragraph_first_word": Kind(
        instructions.nth_paragraph_first_word,
        {"num_paragraphs": _COUNT, "nth_paragraph": _COUNT, "first_word": _TEXT},
    ),
    "length_constraints:number_paragraphs": Kind(
        instructions.number_paragraphs, {"num_paragraphs": _COUNT}
    ),
    "length_constraints:number_sentences": Kind(
        instructions.number_sentences, {"relation": _RELATION, "num_sentences": _COUNT}
    ),
    "length_constraints:number_words": Kind(
        instructions.number_words, {"relation": _RELATION, "num_words": _COUNT}
    ),
    "punctuation:no_comma": Kind(instructions.no_comma),
    "startend:end_checker": Kind(instructions.end_checker, {"end_phrase": _TEXT}),
    "startend:quotation": Kind(instructions.quotation),
}


def _wrong_argument(kind: Kind, given: Mapping[str, Any]) -> str:
    """What is wrong with the arguments given to a kind of instruction, "" if they are right."""
    for name in given:
        if name not in kind.needs:
            return f"it takes no {name!r}"
    for name, needed in kind.needs.items():
        if not _IS[needed](given.get(name)):
            return f"{name} is {str(given.get(name))[:80]!r}, but {needed} is needed"
    return ""


# ---------------------------------------------------------------------------- the verifiers
def ifeval(task: Task, text: str) -> Verdict:
    """Passes when the text follows all instructions: the strict score.

    An empty text follows none.

    Returns:
      pass or fail; the score is the share of instructions followed, and the feedback names the
      others with their arguments. error when the task has no instructions, or one of an unknown
      kind or with wrong arguments, and when one about a language meets no langdetect.
    """
    return _verdict(task, [text])


def ifeval_loose(task: Task, text: str) -> Verdict:
    """Passes when each instruction is followed by the text or by one of its relaxed forms.

    They leave out the first line, the last line, both, or none, and asterisks or not: eight in all,
    so that an opening phrase or bold print does not count. Result as in `ifeval`.
    """
    return _verdict(task, list(_relaxed(text)))


def _verdict(task: Task, texts: Sequence[str]) -> Verdict:
    demands, fault = _demands(task.info)
    if fault:
        return Verdict("error", 0.0, f"task {task.uid}: {fault}.")
    try:
        if any(name.startswith(_LANGUAGES) for name, _ in demands):
            # Whether langdetect is there must not depend on the answer.
            instructions.language_of("")
        missed = [demand for demand in demands if not _followed(demand, texts)]
    except ModuleNotFoundError as absent:
        return Verdict("error", 0.0, str(absent))
    if not missed:
        return Verdict("pass", 1.0)
    share = 1.0 - len(missed) / len(demands)
    return Verdict("fail", share, f"Not followed: {'; '.join(map(_said, missed))}.")


def _followed(demand: Demand, texts: Sequence[str]) -> bool:
    name, given = demand
    check: Callable[..., bool] = KINDS[name].check
    return any(bool(text.strip()) and check(text, **given) for text in texts)


def _relaxed(text: str) -> Iterator[str]:
    """The eight forms of a text, itself first."""
    lines = text.split("\n")
    for form in (text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))):
        yield form
        yield form.replace("*", "")


def _demands(info: Mapping[str, Any]) -> tuple[list[Demand], str]:
    """What a task demands, or what is wrong with it."""
    names, arguments = info.get("instruction_id_list"), info.get("kwargs")
    if not isinstance(names, (list, tuple)) or not names:
        return [], "info has no list 'instruction_id_list'"
    if not isinstance(arguments, (list, tuple)) or len(arguments) != len(names):
        return [], f"info needs a list 'kwargs' of {len(names)} objects, one for each instruction"
    demands = []
    for name, given in zip(names, arguments, strict=True):
        if not isinstance(name, str) or name not in KINDS:
            return [], f"no instruction {name!r}. {did_you_mean(str(name), KINDS)}".rstrip(".")
        if not isinstance(given, Mapping):
            return [], f"the kwargs of {name} are no object"
        known = {key: value for key, value in given.items() if value is not None}
        if fault := _wrong_argument(KINDS[name], known):
            return [], f"the kwargs of {name} are wrong: {fault}"
        demands.append((name, known))
    return demands, ""


def _said(demand: Demand) -> str:
    name, given = demand
    shown = ", ".join(f"{key} {_shown(value)}" for key, value in given.items())
    return f"{name} ({shown})" if shown else name


def _shown(value: Any) -> str:
    text = ", ".join(value) if isinstance(value, (list, tuple)) else str(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
