"""Edits: what is similar, where a turn is cut, and what a splice leaves of the sampler's word."""

import dataclasses

import numpy as np
import pytest

from jaxevo.collect.edits import call_text, last_turn, repair_kind, similarity, splice, split_turn
from jaxevo.models import toy
from jaxevo.types import Message, Row, Segment, Task

TOKENS = toy.tokenizer()
MARKS = ("[", "]")


@dataclasses.dataclass(frozen=True)
class Pieces:
    """A tokenizer whose tokens are the listed strings."""

    pieces: tuple[str, ...]

    def token_bytes(self, token_id):
        return self.pieces[token_id].encode()

    def text(self, ids):
        return "".join(self.pieces[i] for i in ids)


def segment(text, source="policy", start=0.0):
    ids = np.array(TOKENS.encode(text), np.int32)
    if source != "policy":
        return Segment(ids, source)
    logp = start - np.arange(1.0, len(ids) + 1, dtype=np.float32)
    return Segment(ids, source, logp=logp, log_kept=logp / 8, entropy=-logp, weights_version=3)


def row(*texts):
    """A row: prompt, then policy and tool in turns."""
    sources = ("prompt", *("policy", "tool") * len(texts))
    task = Task("t", (Message("user", texts[0]),), "")
    return Row(5, task, 5, tuple(segment(t, s) for t, s in zip(texts, sources, strict=False)))


def shown(a_row):
    return [TOKENS.text(s.ids.tolist()) for s in a_row.segments]


def test_the_papers_similarities():
    old = "print(sum(range(10))"
    near, far = "print(sum(range(10)))", "from math import prod\nprint(prod([1,2,3]))"
    assert similarity(old, near) == pytest.approx(0.9756, abs=5e-5)
    assert similarity(old, far) == pytest.approx(0.3226, abs=5e-5)
    assert repair_kind(old, near) == "shallow"
    assert repair_kind(old, far) == "deep"
    assert repair_kind(old, far, similar=0.3) == "shallow"
    assert repair_kind("ab", "ac") == "shallow", "0.5 itself is similar"


def test_the_text_of_a_call():
    def read(text):
        return call_text((segment(text),), TOKENS, MARKS)

    assert read("7*8=[7*8]") == "7*8"
    assert read("[7[*8]") == "7[*8", "the first mark begins the call"
    assert read("7*8]") == "7*8]", "a call that was never begun"
    assert read("7*8=[7*8") is None
    assert call_text((segment("7*8=[7"), segment("*8]")), TOKENS, MARKS) == "7*8"


def test_a_turn_is_cut_before_the_mark_and_keeps_everything_known():
    turn = segment("7*8=[7*8]")
    (reasoning,), (call,) = split_turn((turn,), TOKENS, "[")
    assert TOKENS.text(reasoning.ids.tolist()) == "7*8="
    assert TOKENS.text(call.ids.tolist()) == "[7*8]"
    for name in ("ids", "logp", "log_kept", "entropy"):
        joined = np.concatenate([vars(reasoning)[name], vars(call)[name]])
        np.testing.assert_array_equal(joined, vars(turn)[name])
    assert reasoning.weights_version == 3
    assert split_turn((segment("7*8]"),), TOKENS, "[") is None
    assert split_turn((segment("[7]"),), TOKENS, "[")[0] == ()


def test_a_turn_of_several_segments_is_cut_in_any_of_them():
    turn = (segment("7*"), segment("8=[7"), segment("*8]"))
    reasoning, call = split_turn(turn, TOKENS, "[")
    assert [TOKENS.text(s.ids.tolist()) for s in reasoning] == ["7*", "8="]
    assert [TOKENS.text(s.ids.tolist()) for s in call] == ["[7", "*8]"]


def test_a_mark_in_several_tokens_and_one_that_shares_its_token():
    several = Pieces(("so", "<ca", "lc>", "7é", "</calc>"))
    turn = Segment(np.arange(5, dtype=np.int32), "policy")
    reasoning, call = split_turn((turn,), several, "<calc>")
    assert (reasoning[0].ids.tolist(), call[0].ids.tolist()) == ([0], [1, 2, 3, 4])
    assert call_text((turn,), several, ("<calc>", "</calc>")) == "7é"
    shared = Pieces(("é so", " <", "calc>7", "</calc>", ""))
    reasoning, call = split_turn((turn,), shared, "<calc>")
    assert (reasoning[0].ids.tolist(), call[0].ids.tolist()) == ([0], [1, 2, 3, 4])


def test_a_shallow_splice_keeps_the_old_reasoning_and_its_log_probs():
    old = row("1=", "[2]", "(2)", "7*8=[(7*8]")
    new = (segment("8*7=[7*8]", start=-50.0),)
    edited, kind = splice(old, new, "shallow", tokenizer=TOKENS, begin="[")
    assert kind == "shallow"
    assert shown(edited) == ["1=", "[2]", "(2)", "7*8=", "[7*8]"]
    assert edited.segments[:3] == old.segments[:3]
    reasoning, call = edited.segments[3:]
    np.testing.assert_array_equal(reasoning.logp, old.segments[3].logp[:4])
    assert call.logp is None
    assert call.entropy is None
    np.testing.assert_array_equal(call.log_kept, new[0].log_kept[4:])
    assert [s.source for s in edited.answer] == ["policy", "tool", "policy", "policy"]


def test_a_deep_splice_replaces_the_whole_turn():
    old, new = row("1=", "[2]", "(2)", "7*8=[(7*8]"), (segment("8*7=[1]"),)
    edited, kind = splice(old, new, "deep", tokenizer=TOKENS, begin="[")
    assert kind == "deep"
    assert shown(edited) == ["1=", "[2]", "(2)", "8*7=[1]"]
    assert edited.segments[3].logp is None


@pytest.mark.parametrize(("old", "new"), [("7*8]", "[7*8]"), ("[7*8", "7*8]")])
def test_what_cannot_be_split_is_replaced_whole(old, new):
    edited, kind = splice(row("1=", old), (segment(new),), "shallow", tokenizer=TOKENS, begin="[")
    assert kind == "deep"
    assert shown(edited) == ["1=", new]


@pytest.mark.parametrize(
    ("kind", "wanted"), [("shallow", ["1=", "7*8=", "[7+8]"]), ("deep", ["1=", "3=[7+8]"])]
)
def test_an_edited_turn_can_be_edited_again(kind, wanted):
    once, _ = splice(
        row("1=", "7*8=[(7*8]"), (segment("2=[7*8)]"),), "shallow", tokenizer=TOKENS, begin="["
    )
    assert len(last_turn(once)) == 2
    twice, _ = splice(once, (segment("3=[7+8]"),), kind, tokenizer=TOKENS, begin="[")
    assert shown(twice) == wanted
    assert [s.logp is None for s in twice.answer] == [False, True][-len(wanted) + 1 :]
