"""Answers in other words: the scores of sacrebleu 2.6.0 and of SQuAD's script."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxevo.rewards.overlap import chrf, token_f1
from jaxevo.types import Task


def task(answer):
    return Task("t/1", (), answer)


@pytest.mark.parametrize(
    ("text", "answer", "score"),
    [  # CHRF() of sacrebleu, sentence_score / 100
        ("The cat sat on the mat.", "The cat is on the mat.", 0.6717273492330233),
        ("Das Haus ist klein", "Das Haus ist sehr klein.", 0.59095191207140886),
        ("a", "abc", 0.3846153846153846),
        ("", "abc", 0.0),
        ("我们喜欢苹果", "我喜欢苹果和梨", 0.3221520365933348),
        ("xyz", "abc", 0.0),
        ("Guten Morgen , Welt", "guten morgen Welt!", 0.3950320512820513),
    ],
)
def test_chrf_is_that_of_sacrebleu(text, answer, score):
    found = chrf(task(answer), text)
    assert found.score == pytest.approx(score, abs=1e-12)
    assert (found.status, answer in found.feedback) == ("fail", True)


@pytest.mark.parametrize(
    ("text", "answer", "score"),
    [
        ("The Denver Broncos!", "Denver Broncos", 1.0),
        ("the team of Denver", "Denver Broncos", 2 / 5),  # 1 of 3 words, 1 of 2
        ("Denver Denver", "Denver Broncos", 1 / 2),  # counted once
        ("a, an the", "Denver", 0.0),
        ("", "Denver", 0.0),
    ],
)
def test_token_f1_counts_words_that_both_hold(text, answer, score):
    found = token_f1(task(answer), text)
    assert found.score == pytest.approx(score)
    assert found.status == ("pass" if score == 1 else "fail")


@given(st.text(), st.text())
def test_scores_are_shares_and_what_is_said_word_for_word_passes(text, answer):
    for verify in (chrf, token_f1):
        assert 0 <= verify(task(answer), text).score <= 1
        itself = verify(task(answer), answer)
        assert itself.status == ("error" if itself.feedback else "pass")


def test_an_empty_answer_is_an_error():
    assert chrf(task(" \n"), "x").status == "error"
    assert token_f1(task("the!"), "x").feedback == "task t/1 has an empty answer."
