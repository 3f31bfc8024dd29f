"""Packing keeps every token on its own path, and reads every answer slot from the right place."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxevo.collect.pack import Bucket, FitError, Shapes, fitting, lay_out, minibatches, stack
from jaxevo.collect.table import tabulate
from jaxevo.types import OWN, Message, Minibatch, Objective, Row, Segment, Task, bind

TASK = Task("t/0", (Message("user", "x"),), "0")


def make_row(uid, prompt, answer, *, group=0, **more):
    segments = [Segment(np.array(prompt, np.int32), "prompt")]
    logp = np.linspace(-1, -2, len(answer)).astype(np.float32)
    segments.append(Segment(np.array(answer, np.int32), "policy", logp=logp))
    return Row(uid, TASK, group, tuple(segments), **more)


def path_of(packed, b, s):
    """The tokens that slot (b, s) sees, by position: what a causal model conditions on."""
    node, S = packed.node_BS[b], packed.ids_BS.shape[1]
    seen = [
        (int(packed.positions_BS[b, k]), int(packed.ids_BS[b, k]))
        for k in range(S)
        if packed.ancestor_BLL[b, node[s], node[k]]
        and packed.positions_BS[b, k] <= packed.positions_BS[b, s]
    ]
    return [token for _, token in sorted(seen)], [place for place, _ in sorted(seen)]


def check_paths(rows, packed):
    S = packed.ids_BS.shape[1]
    for n, row in enumerate(rows):
        tokens = [*row.prompt_ids.tolist(), *row.answer_ids.tolist()]
        start = len(row.prompt_ids)
        for t in range(len(row.answer_ids)):
            seen, places = path_of(packed, *divmod(int(packed.index_NA[n, t]), S))
            assert seen == tokens[: start + t]
            assert places == list(range(start + t))


prompts = st.lists(st.integers(1, 3), min_size=1, max_size=6)
answers = st.lists(st.integers(1, 5), min_size=0, max_size=5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(prompts, answers, st.integers(0, 2)), min_size=1, max_size=8))
def test_every_answer_slot_sees_exactly_the_tokens_before_it(drawn):
    rows = [make_row(i, p, a, group=g) for i, (p, a, g) in enumerate(drawn)]
    table = tabulate(rows, answer_slots=5)
    bucket = Bucket(rows=4, slots=40, nodes=32)
    shapes = Shapes(len(rows), 5, 1, ((OWN, (bucket,)),))
    check_paths(rows, lay_out(table, range(len(rows)), OWN, shapes, bucket))


def test_a_group_computes_its_prompt_once():
    rows = [make_row(g, [1, 2, 3, 4], [5, 6, 7]) for g in range(8)]
    table = tabulate(rows, answer_slots=3)
    bucket = Bucket(rows=1, slots=4 + 8 * 2, nodes=10)
    packed = lay_out(table, range(8), OWN, Shapes(8, 3, 1, ((OWN, (bucket,)),)), bucket)
    assert (packed.node_BS > 0).sum() == 4 + 8 * 2


def test_a_tree_that_is_too_large_is_split_and_a_row_that_is_too_long_is_named():
    rows = [make_row(g, [1, 2, 3, 4], [5, 6, 7]) for g in range(4)]
    table = tabulate(rows, answer_slots=3)
    shapes = Shapes(4, 3, 1, ())
    check_paths(rows, lay_out(table, range(4), OWN, shapes, Bucket(2, 8, 8)))
    with pytest.raises(FitError, match="a row of view 'own' needs 6 slots"):
        lay_out(table, range(4), OWN, shapes, Bucket(4, 5, 8))
    with pytest.raises(FitError, match="do not fit into 1 packed rows of 8 slots"):
        lay_out(table, range(4), OWN, shapes, Bucket(1, 8, 8))


def test_the_first_bucket_that_fits_is_used():
    rows = [make_row(g, [1, 2, 3, 4], [5, 6, 7]) for g in range(4)]
    ladder = (Bucket(1, 6, 8), Bucket(1, 12, 8), Bucket(2, 32, 8))
    batch = stack(tabulate(rows, answer_slots=3), range(4), Shapes(4, 3, 1, ((OWN, ladder),)))
    assert batch.layouts[OWN].ids_BS.shape == (1, 1, 12)


def test_rows_that_do_not_fit_together_are_read_in_halves():
    rows = [make_row(g, [1, 2, 3, g], [5, 6], group=g) for g in range(7)]
    table = tabulate(rows, answer_slots=2)
    shapes = Shapes(7, 2, 1, ((OWN, (Bucket(rows=2, slots=10, nodes=8),)),))
    found = list(fitting(table, range(7), shapes))
    assert [list(chosen) for chosen, _ in found] == [[0, 1, 2], [3, 4, 5, 6]]
    for chosen, batch in found:
        np.testing.assert_array_equal(batch.group_N[0, : len(chosen)], chosen)
        assert batch.real_N.sum() == len(chosen)
    narrow = Shapes(7, 2, 1, ((OWN, (Bucket(rows=2, slots=4, nodes=8),)),))
    with pytest.raises(FitError, match="needs 5 slots"):
        list(fitting(table, range(7), narrow))


def objective(by, count):
    dummy = bind(max)
    return Objective(
        "policy", dummy, dummy, (), dummy, dummy, minibatch=Minibatch(by, count), epochs=2
    )


def test_minibatches_keep_groups_whole_and_cover_every_row_once():
    rows = [make_row(i, [1], [1], group=i % 4) for i in range(12)]
    table = tabulate(rows, answer_slots=1)
    cuts = minibatches(table, objective("groups", 2), np.random.default_rng(0))
    assert sorted(n for cut in cuts for n in cut) == list(range(12))
    for cut in cuts:
        groups = {rows[n].group for n in cut}
        assert len(groups) == 2
        assert len(cut) == 6
    uneven = minibatches(table, objective("groups", 3), np.random.default_rng(0))
    assert [len(cut) for cut in uneven] == [6, 3, 3]
    assert sorted(n for cut in uneven for n in cut) == list(range(12))
    assert len(minibatches(table, objective("groups", 9), np.random.default_rng(0))) == 4


def test_padding_rows_are_empty():
    rows = [make_row(0, [1, 2], [3, 4], rewards={"correct": 1.0})]
    bucket = Bucket(1, 8, 4)
    batch = stack(tabulate(rows, answer_slots=2), [0], Shapes(3, 2, 2, ((OWN, (bucket,)),)))
    assert batch.answers["text"].mask_NA.shape == (2, 3, 2)
    assert batch.answers["text"].mask_NA.sum() == 2
    np.testing.assert_array_equal(batch.real_N, [[1, 0, 0], [0, 0, 0]])
    assert batch.reward_N.sum() == 1.0
