"""Tools that a policy calls in the middle of its answer, and one of them: a calculator.

A call is a stretch of the policy's own text between two marks, and the tool's reply stands right
behind it in the same turn: `[7*8](56)` in the few characters of a character-level model (the
compact form), `<calc>7*8</calc><result>56</result>` otherwise.
"""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction
from typing import Protocol

LONGEST = (
    100  # characters of an expression: bounds the size of its result and the depth of brackets
)

_WORDS = {
    "form": "this is no expression of numbers, + - * / and brackets",
    "unbalanced": "brackets are not balanced",
    "division": "division by zero",
    "length": f"more than {LONGEST} characters",
}
ERRORS = tuple(_WORDS)
_AGAIN = "; this has failed before, so try another way"
_MANUAL = (
    "You may use a calculator. Write <calc>expression</calc> with numbers, + - * / and brackets, "
    "and its result will stand behind it.\n"
)
_TOKEN = re.compile(r"[0-9]+|[-+*/()]")


@dataclasses.dataclass(frozen=True)
class Reply:
    """What a tool says to a call, as it stands in the conversation; `error` names what went wrong,
    and is empty on success."""

    text: str
    error: str = ""


class Tool(Protocol):
    """A tool without a state of its own: a frozen dataclass, which gives equal replies to equal
    calls. compact: whether the model knows a handful of characters only, or ordinary text."""

    def marks(self, *, compact: bool) -> tuple[str, str]:
        """The texts that begin and end a call; the second stops the policy."""
        ...

    def manual(self, *, compact: bool) -> str:
        """What a prompt says of the tool; it ends with a new line, or is empty."""
        ...

    def reply(self, call: str, *, compact: bool, again: bool = False) -> Reply:
        """The reply to the text of a call, whatever it is.

        again: an earlier try of the same call failed too, which an error text should point out.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Calculator:
    """Exact arithmetic with + - * / and brackets on whole numbers; fractions are `7/2`.

    In its compact form the error text is `(?n)`, where n counts in `ERRORS`, and `(?n?)` for
    another try that has failed.

    >>> Calculator().reply("3+4*2", compact=True).text
    '(11)'
    """

    def marks(self, *, compact: bool) -> tuple[str, str]:
        return ("[", "]") if compact else ("<calc>", "</calc>")

    def manual(self, *, compact: bool) -> str:
        return "" if compact else _MANUAL

    def reply(self, call: str, *, compact: bool, again: bool = False) -> Reply:
        try:
            result = str(calculate(call))
        except CallError as fault:
            error = str(fault)
            if compact:
                return Reply(f"(?{ERRORS.index(error)}{'?' * again})", error)
            return Reply(f"<error>{_WORDS[error]}{_AGAIN * again}</error>", error)
        return Reply(f"({result})" if compact else f"<result>{result}</result>")


class CallError(ValueError):
    """Why a call has no result: one of `ERRORS`."""


def calculate(expression: str) -> Fraction:
    """The value of an arithmetic expression, in exact fractions. White space is ignored.

    sum: product ((+ | -) product)*;  product: signed ((* | /) signed)*;
    signed: - signed | number | ( sum )

    Args:
      expression: any text; nothing of it is ever executed.

    Raises:
      CallError: length (more than `LONGEST` characters), form (another character, or no expression
        of the grammar), unbalanced (brackets), or division (by zero); the first that applies.
    """
    if len(expression) > LONGEST:
        raise CallError("length")
    tight = "".join(expression.split())
    tokens = _TOKEN.findall(tight)
    if "".join(tokens) != tight or not tokens:
        raise CallError("form")
    if not _balanced(tokens):
        raise CallError("unbalanced")
    value, place = _sum(tokens, 0)
    if place < len(tokens):
        raise CallError("form")
    return value


def _balanced(tokens: list[str]) -> bool:
    depth = 0
    for token in tokens:
        depth += (token == "(") - (token == ")")
        if depth < 0:
            return False
    return depth == 0


def _sum(tokens: list[str], place: int) -> tuple[Fraction, int]:
    """The value of the sum that begins at a place, and the place behind it; so do the others."""
    value, place = _product(tokens, place)
    while place < len(tokens) and tokens[place] in "+-":
        sign = 1 if tokens[place] == "+" else -1
        term, place = _product(tokens, place + 1)
        value += sign * term
    return value, place


def _product(tokens: list[str], place: int) -> tuple[Fraction, int]:
    value, place = _signed(tokens, place)
    while place < len(tokens) and tokens[place] in "*/":
        divides = tokens[place] == "/"
        factor, place = _signed(tokens, place + 1)
        if divides and factor == 0:
            raise CallError("division")
        value = value / factor if divides else value * factor
    return value, place


def _signed(tokens: list[str], place: int) -> tuple[Fraction, int]:
    token = tokens[place] if place < len(tokens) else ""
    if token == "-":
        value, place = _signed(tokens, place + 1)
        return -value, place
    if token == "(":
        value, place = _sum(tokens, place + 1)
        if tokens[place : place + 1] != [")"]:
            raise CallError("form")
        return value, place + 1
    if not token.isdigit():
        raise CallError("form")
    return Fraction(int(token)), place + 1
