"""The 25 kinds of instruction of IFEval, each a pure function of an answer.

What counts as a word, a paragraph or a highlight is what the paper's code takes for one. Differs
from it: keywords are literal text, no patterns; sentences and words in capitals are counted without
nltk (`sentences`, `capital_words`); a mark alone on its line is always a bullet; signs are counted
like letters, where that code takes a random letter in their place.

References: IFEval, arXiv 2311.07911, table 1, and its official code.
"""

from __future__ import annotations

import functools
import importlib
import json
import re
import threading
from collections.abc import Sequence
from typing import Any

CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")

_ABBREVIATED = (
    "mr mrs ms dr prof sr jr st vs etc inc ltd co corp no vol fig al dept est approx "
    "e.g i.e a.m p.m u.s u.k ph.d jan feb mar apr jun jul aug sep sept oct nov dec"
)
_ABBREVIATIONS = frozenset(_ABBREVIATED.split())
_SENTENCE_END = re.compile(r"(?<![.!?])[.!?]++[\"'”’)\]]*+(?=\s|$)")
_NUMBERED = re.compile(r"(?:^|\n)\s*\d{1,3}$")
_LONGEST = 12  # characters: more than an abbreviation or a number before a list's item
_CAPITAL_WORD = re.compile(r"\w+(?:[-.'’]\w+)*")
_LOADING = threading.Lock()


# ---------------------------------------------------------------------------- counting
def sentences(text: str) -> int:
    """How many sentences a text has; takes linear time.

    A sentence ends at `.`, `!` or `?` before white space or the end, closing quotes and brackets in
    between, and holds a letter or digit; what follows the last end is one too. A full stop after an
    initial, a common abbreviation or the number of a list's item ends none, unless the text ends
    there. A line break ends none either, so a list without full stops is one sentence. The
    paper's code asks nltk's trained Punkt model, which knows more abbreviations and looks at
    capitals.

    >>> sentences('Dr. No came. "Why?" Version 1.5 (see e.g. J. Doe) is out')
    3
    """
    count, start, end = 0, 0, len(text.rstrip())
    for match in _SENTENCE_END.finditer(text):
        tail = text[max(start, match.start() - _LONGEST) : match.start()]
        if match.group() == "." and match.end() < end and _goes_on(tail):
            continue
        count += any(map(str.isalnum, text[start : match.start()]))
        start = match.end()
    return count + any(map(str.isalnum, text[start:]))


def _goes_on(tail: str) -> bool:
    """Whether a sentence goes on after this and a full stop."""
    words = tail.split()
    last = words[-1].lstrip("(['\"“‘") if words else ""
    initial = len(last) == 1 and last.isupper() and last != "I"
    return initial or last.lower() in _ABBREVIATIONS or bool(_NUMBERED.search(tail))


def capital_words(text: str) -> int:
    """How many words have letters, all of them capitals: `NASA`, `I`, `A-4`, `DON'T`, `U.S.`.

    Words go on over inner hyphens, dots and apostrophes; nltk's tokenizer, which the paper's code
    asks, splits contractions and takes `DON'T` for two.
    """
    return sum(match.group().isupper() for match in _CAPITAL_WORD.finditer(text))


def _related(count: int, relation: str, number: int) -> bool:
    return count >= number if relation == "at least" else count < number


def _occurrences(text: str, keyword: str) -> int:
    return len(re.findall(re.escape(keyword), text, re.IGNORECASE))


def _lines(text: str) -> list[str]:
    return text.split("\n")


# ---------------------------------------------------------------------------- languages
def language_of(text: str) -> str:
    """The language of a text as a code of langdetect ("en", "zh-cn"), always the same for a text.

    "" where it cannot be told: without letters, or with words in capitals alone.

    Raises:
      ModuleNotFoundError: without langdetect.
    """
    with _LOADING:
        factory, unknown = _languages()
    detector = factory.create()  # the only state, which no other call sees
    detector.append(text)
    try:
        return detector.detect()
    except unknown:
        return ""


@functools.cache
def _languages() -> tuple[Any, type[Exception]]:
    """langdetect's profiles, seeded, apart from those that other code in the process may use."""
    try:
        module = importlib.import_module("langdetect.detector_factory")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "the language of an answer is told by langdetect, which is not installed: "
            "pip install 'jaxevo[ifeval]'."
        ) from None
    factory = module.DetectorFactory()
    factory.load_profile(module.PROFILES_DIRECTORY)
    factory.set_seed(0)
    return factory, module.LangDetectException


def response_language(text: str, *, language: str) -> bool:
    """Written in the language, or in one that cannot be told."""
    return language_of(text) in (language, "")


def english_capital(text: str) -> bool:
    """No small letter, some capitals, and English, as far as that can be told of capitals."""
    return text.isupper() and response_language(text, language="en")


def english_lowercase(text: str) -> bool:
    """No capital, some small letters, and English."""
    return text.islower() and response_language(text, language="en")


# ---------------------------------------------------------------------------- words
def existence(text: str, *, keywords: Sequence[str]) -> bool:
    """All keywords occur, in any letter case, also inside of words."""
    return all(_occurrences(text, keyword) for keyword in keywords)


def frequency(text: str, *, keyword: str, relation: str, frequency: int) -> bool:
    """A keyword occurs at least, or less than, so often."""
    return _related(_occurrences(text, keyword.strip()), relation, frequency)


def forbidden_words(text: str, *, forbidden_words: Sequence[str]) -> bool:
    """None of the words occurs as a whole word, in any letter case."""
    patterns = (rf"\b{re.escape(word)}\b" for word in forbidden_words)
    return not any(re.search(pattern, text, re.IGNORECASE) for pattern in patterns)


def letter_frequency(text: str, *, letter: str, let_relation: str, let_frequency: int) -> bool:
    """A letter or sign occurs at least, or less than, so often, in any letter case."""
    return _related(text.lower().count(letter.lower()), let_relation, let_frequency)


def capital_word_frequency(text: str, *, capital_relation: str, capital_frequency: int) -> bool:
    """At least, or less than, so many words in capitals."""
    return _related(capital_words(text), capital_relation, capital_frequency)


def no_comma(text: str) -> bool:
    """No comma."""
    return "," not in text


# ---------------------------------------------------------------------------- lengths
def number_words(text: str, *, relation: str, num_words: int) -> bool:
    r"""At least, or less than, so many runs of letters, digits and `_`."""
    return _related(len(re.findall(r"\w+", text)), relation, num_words)


def number_sentences(text: str, *, relation: str, num_sentences: int) -> bool:
    """At least, or less than, so many `sentences`."""
    return _related(sentences(text), relation, num_sentences)


def number_paragraphs(text: str, *, num_paragraphs: int) -> bool:
    """Exactly so many paragraphs divided by `***`, none of them empty but the first or last."""
    first, *rest = text.split("***")
    *inner, last = rest or [""]
    count = bool(first.strip()) + len(inner) + bool(last.strip())
    return all(map(str.strip, inner)) and count == num_paragraphs


def nth_paragraph_first_word(
    text: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str
) -> bool:
    """Exactly so many paragraphs divided by two line breaks, the n-th of which begins so."""
    parts = text.split("\n\n")
    count = sum(1 for part in parts if part.strip())
    if count != num_paragraphs or not 1 <= nth_paragraph <= count:
        return False
    words = parts[nth_paragraph - 1].split()
    begins = re.split(r"[.,?!'\"]", words[0].lstrip("'").lstrip('"'))[0] if words else ""
    return bool(words) and begins.lower() == first_word.lower()


# ---------------------------------------------------------------------------- marks and forms
def number_placeholders(text: str, *, num_placeholders: int) -> bool:
    """At least so many placeholders in square brackets, such as `[address]`."""
    return sum(map(_bracketed, _lines(text))) >= num_placeholders


def _bracketed(line: str) -> int:
    """How often `[` is followed by `]`, from left to right."""
    count, end = 0, -1
    while (start := line.find("[", end + 1)) >= 0 and (end := line.find("]", start)) >= 0:
        count += 1
    return count


def postscript(text: str, *, postscript_marker: str) -> bool:
    """A postscript begins with the marker, in any letter case; `P. S.` is `P.S.`."""
    forms = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    marker = postscript_marker.strip()
    return bool(re.search(forms.get(marker, re.escape(marker)), text, re.IGNORECASE))


def number_bullet_lists(text: str, *, num_bullets: int) -> bool:
    """Exactly so many lines that begin with `*` (not `**`) or `-`."""
    lines = [line.lstrip() for line in _lines(text)]
    bullets = [ln for ln in lines if ln.startswith(("*", "-")) and not ln.startswith("**")]
    return len(bullets) == num_bullets


def constrained_response(text: str) -> bool:
    """`My answer is yes.`, or no, or maybe, occurs."""
    return any(option in text for option in CONSTRAINED)


def number_highlighted_sections(text: str, *, num_highlights: int) -> bool:
    """At least so many stretches between `*` or `**`, each within a line."""
    single = re.findall(r"\*([^\n*]*)\*", text)
    double = re.findall(r"\*\*([^\n*]*)\*\*", text)
    return sum(bool(found.strip()) for found in single + double) >= num_highlights


def multiple_sections(text: str, *, section_spliter: str, num_sections: int) -> bool:
    """At least so many section marks, such as `Section 1`."""
    marks = re.findall(re.escape(section_spliter.strip()) + r"\s?\d+", text)
    return len(marks) >= num_sections


def json_format(text: str) -> bool:
    """One JSON value, which may stand in a fence of three back ticks."""
    text = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def title(text: str) -> bool:
    """A title within a line, as in `<<poem of joy>>`."""
    return any(map(_has_title, _lines(text)))


def _has_title(line: str) -> bool:
    start, end = line.find("<<"), line.rfind(">>")
    return 0 <= start < end and bool(line[start:end].lstrip("<").rstrip(">").strip())


def two_responses(text: str) -> bool:
    """Two different responses, divided by six asterisks."""
    first, *rest = map(str.strip, text.split("******"))
    *inner, last = rest or [""]
    given = [part for part in (first, *inner, last) if part]
    return all(inner) and len(given) == 2 and given[0] != given[1]


def repeat_prompt(text: str, *, prompt_to_repeat: str) -> bool:
    """Begins with the request, in any letter case."""
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(text: str, *, end_phrase: str) -> bool:
    """Ends with the phrase, in any letter case, quotation marks left out."""
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quotation(text: str) -> bool:
    """Stands in double quotation marks as a whole."""
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'
