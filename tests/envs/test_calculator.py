"""The calculator: exact values, one kind of error for each fault, and nothing executed."""

from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from jaxevo.envs.calculator import ERRORS, LONGEST, Calculator, CallError, calculate
from jaxevo.models import toy


@pytest.mark.parametrize(
    ("expression", "value"),
    [("3+4*2", 11), ("(3+4)*2", 14), ("10-4-3", 3), ("12/4/2", Fraction(3, 2)), ("-(2-5)*--2", 6),
     ("2*-3", -6), (" 7 * 8 ", 56), ("007", 7), ("((5))", 5)],
)  # fmt: skip
def test_values(expression, value):
    assert calculate(expression) == value


@pytest.mark.parametrize(
    ("expression", "error"),
    [("(7*8", "unbalanced"), ("7*8)", "unbalanced"), (")7(", "unbalanced"), ("", "form"),
     ("7*", "form"), ("7**8", "form"), ("()", "form"), ("7 8(1)", "form"), ("2x", "form"),
     ("٣", "form"), ("[7", "form"), ("1/(2-2)", "division"), ("1" * (LONGEST + 1), "length"),
     ("__import__('os')", "form")],
)  # fmt: skip
def test_errors_have_a_kind(expression, error):
    with pytest.raises(CallError, match=f"^{error}$"):
        calculate(expression)


EXPRESSIONS = st.recursive(
    st.integers(0, 99).map(str),
    lambda x: st.tuples(x, st.sampled_from(("+", "-", "*", "*-")), x).map(
        "({0[0]}{0[1]}{0[2]})".format
    ),
    max_leaves=8,
)


@given(EXPRESSIONS, EXPRESSIONS)
def test_it_agrees_with_python(one, other):
    expression = f"{one}-{other}*3+{one}"
    assume(len(expression) <= LONGEST)
    assert calculate(expression) == eval(expression)  # of our own making


@given(st.text(alphabet="0123456789+-*/()[]=? ", max_size=LONGEST + 5))
def test_any_text_has_a_value_or_a_known_error(text):
    reply = Calculator().reply(text, compact=False)
    assert reply.error in ("", *ERRORS)
    assert reply.text.startswith("<error>" if reply.error else "<result>")


def test_replies_in_both_forms():
    tool = Calculator()
    assert tool.reply("7*8", compact=True).text == "(56)"
    assert tool.reply("2-5", compact=True).text == "(-3)"
    assert tool.reply("7*8", compact=False).text == "<result>56</result>"
    unbalanced = ERRORS.index("unbalanced")
    assert tool.reply("(7*8", compact=True).text == f"(?{unbalanced})"
    assert tool.reply("(7*8", compact=True, again=True).text == f"(?{unbalanced}?)"
    words = tool.reply("(7*8", compact=False, again=True)
    assert words.error == "unbalanced"
    assert "not balanced" in words.text
    assert "another way" in words.text
    assert "another way" not in tool.reply("(7*8", compact=False).text


def test_the_compact_form_keeps_to_the_toys_alphabet():
    tool, faults = Calculator(), ("(7", "7*", "7*8", "1" * 101, "")
    texts = [tool.reply(call, compact=True, again=again).text
             for call in faults for again in (False, True)]  # fmt: skip
    written = "".join([*texts, *tool.marks(compact=True), tool.manual(compact=True)])
    tokens = toy.tokenizer()
    assert tokens.decode(tokens.encode(written)) == written
