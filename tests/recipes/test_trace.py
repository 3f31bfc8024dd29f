"""What its card says of TRACE, on a random model; worked numbers are in the tests of losses."""

import dataclasses

import numpy as np
import pytest
from cases import Case

from jaxevo.collect.annotate import by_digits, segment_ranges, span_mask
from jaxevo.recipes.grpo import grpo
from jaxevo.recipes.trace import trace

REWARDS = [[0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 1, 1]]

pytestmark = pytest.mark.slow


def make(**options):
    return trace(context_tokens=16, annotator_tokens=16, coverage=0.5, **options)


@pytest.fixture(scope="module")
def run(start):
    return start(Case("trace", make))


@pytest.fixture(scope="module")
def rows(run, marked):
    """Answers of rewards as above, a span and a label on the failed ones that have two tokens."""
    return [spanned(row) for row in marked(run, REWARDS)]


@pytest.fixture(scope="module")
def sets(run, moved):
    start = run.state.params["policy"]
    return {"policy": moved(start, 1), "teacher": moved(start, 2)}


@pytest.fixture(scope="module")
def plain(start, rows, sets, graded):
    options = {"clip_high": 0.28, "reduction": "seq_mean_token_mean"}
    return graded(start(Case("grpo", lambda: grpo(**options))), rows, sets)


def spanned(row, fade=1.0):
    count = len(row.answer_ids)
    span = (np.arange(count) == 1) & (row.reward == 0)
    info = {**row.info, "label": "+"} if span.any() else {"finish": row.info["finish"]}
    changed = {"by_token": {"span": span.astype(np.float32)}, "numbers": {"fade": fade}}
    return dataclasses.replace(row, info=info, **changed)


def test_a_row_has_one_mean_of_two_losses(run, rows, sets, graded, plain):
    half = [dataclasses.replace(row, numbers={"fade": 0.5}) for row in rows]
    value, _, said = graded(run, half, sets)
    span = np.zeros((16, 4), bool)
    for n, row in enumerate(rows):
        span[n, : len(row.answer_ids)] = row.by_token["span"] > 0
    assert span.sum() > 3
    np.testing.assert_array_equal(said["distill_weight"], np.where(span, 0.5, 0))
    want = np.where(span, 0.5, 1) * plain[2]["policy"]
    np.testing.assert_allclose(said["policy"], want, rtol=1e-6, atol=1e-8)
    assert (said["distill"] != 0).sum() == span.sum()
    lengths = [len(row.answer_ids) for row in rows]
    total = (said["policy"] + 0.5 * said["distill"]).sum(1) / lengths
    assert value == pytest.approx(total.mean(), rel=1e-5)


def test_faded_out_or_without_spans_it_is_grpo(run, rows, sets, graded, plain, same_gradient):
    none = np.float32(0)
    bare = [
        dataclasses.replace(r, by_token={"span": none * r.by_token["span"]}, info={}) for r in rows
    ]
    faded = [dataclasses.replace(r, numbers={"fade": 0.0}) for r in rows]
    for found in (bare, faded):
        value, gradient, _ = graded(run, found, sets)
        assert value == plain[0]
        same_gradient(gradient, plain[1])


def collected(run, counters=None):
    state = dataclasses.replace(run.state, counters={**run.state.counters, **(counters or {})})
    lab = run.bench.lab(state.params, learner=run.learner)
    return run.recipe.collect(lab, state, run.memory)["policy"], run.bench.model.tokenizer


@pytest.mark.parametrize("route", ["wrong", "right"])
def test_attempts_on_the_route_are_annotated(start, route):
    rows, tokenizer = collected(start(Case("trace", lambda: make(route=route))))
    seen = set()
    for row in rows:
        span, on = row.by_token["span"], (row.reward > 0.5) == (route == "right")
        ranges = segment_ranges(row.answer_ids, tokenizer)
        found = by_digits(row, tokenizer, ranges) if on else None
        chosen = () if found is None else found.segments
        want = span_mask(chosen, ranges, len(row.answer_ids), coverage=0.5)
        np.testing.assert_array_equal(span, want)
        label = found.label if span.any() else None
        assert row.info.get("label") == label
        assert ("annotated" in row.info.get("tally", {})) == on
        if on:
            tally = row.info["tally"]
            assert tally["annotated"] == float(found is not None)
            assert tally["span_share"] == pytest.approx(span.mean())
        seen.add(bool(span.any()))
    assert seen == {True, False}


def test_coverage_bounds_a_span(start):
    wide, narrow = (
        sum(row.by_token["span"].sum() for row in collected(start(Case("trace", wanted)))[0])
        for wanted in (make, lambda: trace(context_tokens=16, annotator_tokens=16, coverage=0.3))
    )
    assert wide > narrow > 0


def test_in_the_end_nothing_is_annotated(run):
    faded, _ = collected(run, {"round": 40})
    assert {row.numbers["fade"] for row in faded} == {0.0}
    assert not any(row.by_token["span"].any() or "label" in row.info for row in faded)
    begun, _ = collected(run, {"round": 25})
    assert {row.info["tally"]["fade"] for row in begun} == {0.5}
    assert {row.numbers["fade"] for row in begun} == {0.5}
    assert any(row.by_token["span"].any() for row in begun)


def test_the_teacher_is_the_policy_of_each_tenth_round():
    (teacher,) = [param for param in trace().params if param.name == "teacher"]
    assert [k + 1 for k in range(45) if teacher.when({"round": k})] == [10, 20, 30, 40]
    names = [[p.name for p in trace(annotator=who).params] for who in ("policy", "start")]
    assert [sorted(own) for own in names] == [
        ["policy", "teacher"],
        ["policy", "reference", "teacher"],
    ]
