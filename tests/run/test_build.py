"""The declared shapes hold whatever single-turn rows can be."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxevo.collect.pack import stack
from jaxevo.collect.table import Table, tabulate
from jaxevo.models import hub
from jaxevo.recipes.sdpo import sdpo
from jaxevo.run.build import declare_shapes, single_turn_sizes
from jaxevo.run.options import RunOptions
from jaxevo.types import Message, Row, Segment, Size, Task

P, G, A, PROMPT, CONTEXT = 3, 4, 3, 5, 7
TASK = Task("t/0", (Message("user", "x"),), "0")
RECIPE = sdpo(context_tokens=CONTEXT)
(OBJECTIVE,) = RECIPE.objectives
OPTIONS = RunOptions(prompts=P, samples=G, max_new_tokens=A)

contexts = st.lists(st.integers(1, 2), min_size=1, max_size=CONTEXT)


def row(n, prompt):
    ids = np.full(A, 3, np.int32)
    segments = (
        Segment(np.array(prompt, np.int32), "prompt"),
        Segment(ids, "policy", logp=np.zeros(A, np.float32)),
    )
    return Row(n, TASK, n // G, segments)


@settings(max_examples=150, deadline=None)
@given(st.lists(contexts, min_size=P * G, max_size=P * G))
def test_any_contexts_within_their_limit_fit(drawn):
    rows = [row(n, [1] * PROMPT) for n in range(P * G)]
    table = tabulate(rows, answer_slots=A)
    own = table.prompts["own"]
    teacher = [np.array(ids, np.int32) for ids in drawn]
    table = Table(table.batch, {"own": own, "teacher": teacher}, rows)
    sizes = single_turn_sizes(RECIPE, OPTIONS, PROMPT)
    shapes = declare_shapes(OBJECTIVE, sizes.objectives[OBJECTIVE.name], 1)
    batch = stack(table, range(P * G), shapes)
    slots = batch.layouts["teacher"]
    for n, ids in enumerate(drawn):
        b, r = divmod(int(slots.index_NA[0, n, 0]), slots.read_BR.shape[2])
        s = slots.read_BR[0, b, r]
        assert slots.positions_BS[0, b, s] == len(ids) - 1
        assert slots.ids_BS[0, b, s] == ids[-1]


def test_groups_that_cannot_be_cut_into_micro_batches_are_refused():
    options = RunOptions(prompts=6, samples=2, micro_batches=4)
    with pytest.raises(ValueError, match="--prompts 6 cannot be cut into 1 minibatches x 4"):
        single_turn_sizes(RECIPE, options, PROMPT)


def test_small_models_have_few_programs():
    """A shape for an update must save 1 GFLOP over the next larger one."""
    size = Size(16, answer=33, group=1, slots=64)
    own = dataclasses.replace(OBJECTIVE, views=())

    def slots(model):
        config = hub.load(model, weights=False).config
        ladder = declare_shapes(own, size, 1, config=config).ladder
        return [bucket.slots for rung in ladder for _, bucket in rung]

    every = [b.slots for rung in declare_shapes(own, size, 1).ladder for _, b in rung]
    assert every == [16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128]
    assert slots("smollm2-135m") == every
    assert slots("toy") == [24, 64, 96, 128]
