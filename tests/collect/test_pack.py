"""Packing keeps every token on its own path, and reads every answer slot from the right place."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxevo.collect.pack import Bucket, FitError, Shapes, fitting, lay_out, minibatches, stack, used
from jaxevo.collect.table import tabulate
from jaxevo.models.attention import Trees
from jaxevo.types import OWN, Message, Minibatch, Objective, Row, Segment, Task, bind

TASK = Task("t/0", (Message("user", "x"),), "0")


def make_row(uid, prompt, answer, *, group=0, **more):
    segments = [Segment(np.array(prompt, np.int32), "prompt")]
    logp = np.linspace(-1, -2, len(answer)).astype(np.float32)
    segments.append(Segment(np.array(answer, np.int32), "policy", logp=logp))
    return Row(uid, TASK, group, tuple(segments), **more)


def one_shape(rows, answer, bucket):
    return Shapes(len(rows), answer, 1, (((OWN, bucket),),))


def path_of(packed, b, s):
    """The tokens that slot (b, s) sees, by position: what a causal model conditions on."""
    seen = [
        (int(packed.positions_BS[b, k]), int(packed.ids_BS[b, k]))
        for k in range(s + 1)
        if s < packed.until_BS[b, k]
    ]
    return [token for _, token in sorted(seen)], [place for place, _ in sorted(seen)]


def check_paths(rows, packed):
    R = packed.read_BR.shape[1]
    for n, row in enumerate(rows):
        tokens = [*row.prompt_ids.tolist(), *row.answer_ids.tolist()]
        start = len(row.prompt_ids)
        for t in range(len(row.answer_ids)):
            b, r = divmod(int(packed.index_NA[n, t]), R)
            seen, places = path_of(packed, b, packed.read_BR[b, r])
            assert seen == tokens[: start + t]
            assert places == list(range(start + t))
            assert packed.target_BR[b, r] == tokens[start + t]


prompts = st.lists(st.integers(1, 3), min_size=1, max_size=6)
answers = st.lists(st.integers(1, 5), min_size=0, max_size=5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(prompts, answers, st.integers(0, 2)), min_size=1, max_size=8))
def test_every_answer_slot_sees_exactly_the_tokens_before_it(drawn):
    rows = [make_row(i, p, a, group=g) for i, (p, a, g) in enumerate(drawn)]
    table = tabulate(rows, answer_slots=5)
    bucket = Bucket(rows=4, slots=40, reads=40)
    packed = lay_out(table, range(len(rows)), OWN, one_shape(rows, 5, bucket), bucket)
    check_paths(rows, packed)
    mask_BSS = np.asarray(Trees(packed.until_BS).mask())
    for b, s in np.argwhere(packed.until_BS):
        assert mask_BSS[b, s].sum() == packed.positions_BS[b, s] + 1


def test_what_rows_have_in_common_is_computed_and_read_once():
    bucket = Bucket(rows=1, slots=50, reads=50)

    def sizes(rows):
        packed = lay_out(tabulate(rows, answer_slots=3), range(len(rows)), OWN, shapes, bucket)
        check_paths(rows, packed)
        read = {(packed.read_BR[0, r], packed.target_BR[0, r]) for r in np.unique(packed.index_NA)}
        return int((packed.until_BS > 0).sum()), len(read)

    shapes = Shapes(8, 3, 1, (((OWN, bucket),),))
    group = [make_row(g, [1, 2, 3, 4], [5 + g, 6, 7]) for g in range(8)]
    assert sizes(group) == (4 + 8 * 2, 8 * 3)
    alike = [make_row(g, [1, 2, 3, 4], [5, 6, 7 + g % 2]) for g in range(8)]
    assert sizes(alike) == (4 + 2, 2 + 2)
    groups = [make_row(g, [1, 2, 3, g], [5, 6, 7], group=g) for g in range(8)]
    assert sizes(groups) == (3 + 8 * (1 + 2), 8 * 3)
    turns = [make_row(0, [1, 2], [3, 4]), make_row(1, [1, 2, 3, 4, 9], [3, 4], turn=1)]
    turns += [make_row(2, [1, 2, 3, 4, 9, 3, 4, 9], [3], turn=2)]
    assert sizes(turns) == (8, 5)


def test_groups_that_differ_fill_packed_rows_together():
    rows = [make_row(n, [10 * n + i for i in range(4 + n)], [1, 2], group=n) for n in range(6)]
    bucket = Bucket(rows=3, slots=15, reads=4)
    shapes = Shapes(6, 2, 1, (((OWN, bucket),),))
    batch = stack(tabulate(rows, answer_slots=2), range(6), shapes)
    assert used(batch) == (45, 45)


def test_a_tree_that_is_too_large_is_split_and_a_row_that_is_too_long_is_named():
    rows = [make_row(g, [1, 2, 3, 4], [5 + g, 6, 7]) for g in range(4)]
    table = tabulate(rows, answer_slots=3)
    shapes = Shapes(4, 3, 1, ())
    check_paths(rows, lay_out(table, range(4), OWN, shapes, Bucket(2, 8, 6)))
    for bucket, found in (
        (Bucket(4, 5, 9), "a row needs [6, 3] (slots, reads), but"),
        (Bucket(6, 9, 2), "a row needs [6, 3] (slots, reads), but"),
        (Bucket(1, 8, 8), "the rows need [12, 12] (slots, reads), but"),
        (Bucket(2, 6, 8), "[0, 5] are left, [6, 3] needed next (slots, reads), but"),
    ):
        said = f"{found} the declared shape has {bucket.rows} packed rows of {bucket.size.tolist()}"
        with pytest.raises(FitError, match=re.escape(said)):
            lay_out(table, range(4), OWN, shapes, bucket)


def test_the_first_shapes_of_the_ladder_that_hold_everything_are_used():
    rows = [make_row(g, [1, 2, 3, 4], [5 + g, 6, 7]) for g in range(4)]
    ladder = tuple(((OWN, Bucket(1, slots, 12)),) for slots in (6, 12, 32))
    batch = stack(tabulate(rows, answer_slots=3), range(4), Shapes(4, 3, 1, ladder))
    assert batch.layouts[OWN].ids_BS.shape == (1, 1, 12)


def test_rows_that_do_not_fit_together_are_read_in_halves():
    rows = [make_row(g, [1, 2, 3, g], [5, 6], group=g) for g in range(7)]
    table = tabulate(rows, answer_slots=2)
    shapes = one_shape(rows, 2, Bucket(rows=2, slots=11, reads=8))
    found = list(fitting(table, range(7), shapes))
    assert [list(chosen) for chosen, _ in found] == [[0, 1, 2], [3, 4, 5, 6]]
    for chosen, batch in found:
        np.testing.assert_array_equal(batch.group_N[0, : len(chosen)], chosen)
        assert batch.real_N.sum() == len(chosen)
    narrow = one_shape(rows, 2, Bucket(rows=2, slots=4, reads=8))
    with pytest.raises(FitError, match=r"need.* \[5, 2\]"):
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
    batch = stack(tabulate(rows, answer_slots=2), [0], Shapes(3, 2, 2, (((OWN, bucket),),)))
    assert batch.answers["text"].mask_NA.shape == (2, 3, 2)
    assert batch.answers["text"].mask_NA.sum() == 2
    np.testing.assert_array_equal(batch.real_N, [[1, 0, 0], [0, 0, 0]])
    assert batch.reward_N.sum() == 1.0
