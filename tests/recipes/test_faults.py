"""NaN and inf put into rewards, log-probs, gradients and weights: caught, counted, named."""

import dataclasses
import io
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES

from jaxevo.run import loop
from jaxevo.run.console import Progress
from jaxevo.run.logs import read_jsonl
from jaxevo.run.loop import DivergedError, train
from jaxevo.types import Term, bind

NAMES = ("grpo", "grpo-full", "sdpo", "spiral")
ROUNDS = 5


def go(run):
    said = io.StringIO()
    with Progress(run.options.rounds, stream=said) as progress:
        state, _ = train(run, progress)
    return state, said.getvalue()


def rewarded(row, value):
    name = next(iter(row.rewards), "coin")
    return dataclasses.replace(row, rewards={**row.rewards, name: value})


def scored(row, value):
    """The row with one log-prob of its first sampled segment replaced."""
    n = next(n for n, s in enumerate(row.segments) if s.source == "policy" and len(s.ids))
    own = row.segments[n]
    logp = np.array(own.logp)
    logp[0] = value
    changed = dataclasses.replace(own, logp=logp)
    return dataclasses.replace(row, segments=(*row.segments[:n], changed, *row.segments[n + 1 :]))


def steep(now, frozen, credit, batch, *, stream):
    """0 everywhere, with a gradient that is not a number: the square root's at 0."""
    own = now[stream]
    return jnp.sqrt(own.logp_NA * 0.0), batch.answers[stream].mask_NA


def with_steep(recipe):
    return dataclasses.replace(
        recipe,
        objectives=tuple(
            dataclasses.replace(o, terms=(*o.terms, Term("steep", bind(steep))))
            for o in recipe.objectives
        ),
    )


def poisoned(params, value):
    norm = params["final_norm"]
    bad = np.array(norm)
    bad[0] = value
    return {**params, "final_norm": jax.device_put(bad, norm.sharding)}


@pytest.fixture
def inject(monkeypatch):
    """inject(where, value, round): puts the value there in that round."""
    gather, one_round = loop.gather_round, loop.one_round

    def put(where, value, when):
        def gathered(run, state, memory):
            found = gather(run, state, memory)
            if state.counters["round"] != when or where not in ("reward", "logp"):
                return found
            change = rewarded if where == "reward" else scored
            first = {name: rows[0].uid for name, rows in found.experience.items() if rows}
            experience = {
                name: [change(r, value) if r.uid == first[name] else r for r in rows]
                for name, rows in found.experience.items()
            }
            return dataclasses.replace(found, experience=experience)

        def rounds(run, state, memory, *args, **how):
            if state.counters["round"] == when and where == "gradient":
                run = dataclasses.replace(run, recipe=with_steep(run.recipe))
            if state.counters["round"] == when and where == "weights":
                params = {n: poisoned(p, value) for n, p in state.params.items()}
                state = state.replace(params=params)
            return one_round(run, state, memory, *args, **how)

        monkeypatch.setattr(loop, "gather_round", gathered)
        monkeypatch.setattr(loop, "one_round", rounds)

    return put


def finite(tree):
    return all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(tree)))


MOMENTS = random.Random(0)
TRIES = [
    pytest.param(name, where, value, MOMENTS.randrange(ROUNDS - 1), id=f"{name}-{where}-{value}")
    for name in NAMES
    for where in ("reward", "logp", "gradient")
    for value in (float("nan"), float("inf"))
    if where != "gradient" or (np.isnan(value) and name != "grpo-full")  # 4 updates a round end it
]


@pytest.mark.parametrize(
    ("name", "where", "value", "when"),
    [t if n < 3 else pytest.param(*t.values, id=t.id, marks=pytest.mark.slow)
     for n, t in enumerate(TRIES)],
)  # fmt: skip
def test_a_round_with_a_fault_is_named_and_the_run_goes_on(
    name, where, value, when, start, inject, tmp_path
):
    (case,) = (c for c in CASES if c.name == name)
    folder = tmp_path / "run"
    inject(where, value, when)
    state, said = go(start(case, out=str(folder), eval_problems=0, rounds=ROUNDS))
    assert state.counters["round"] == ROUNDS
    assert finite((state.params, state.optimizer))
    lines = read_jsonl(folder / "metrics.jsonl")
    assert [m["round"] for m in lines if "faults" in m] == [when]
    bad = lines[when]
    for line in bad["faults"]:
        assert f"round {when}: {line}" in said
    if where == "reward":
        assert sum(v for k, v in bad.items() if k.startswith("nonfinite/reward/")) >= 1
    if where == "logp":
        assert bad["nonfinite/logp"] >= 1
    if where == "gradient":
        assert any(k.endswith("nonfinite/gradient") for k in bad)
        assert state.counters["skipped"] >= 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_end_the_run_and_reach_no_checkpoint(
    value, start, inject, tmp_path
):
    folder = tmp_path / "run"
    inject("weights", value, 3)
    options = {"out": str(folder), "eval_problems": 0, "rounds": ROUNDS, "checkpoint_every": 1}
    with pytest.raises(DivergedError, match=r"round 3: 1 weights of 'policy' are not finite; "
                       "checkpoint 3 is the last"):  # fmt: skip
        go(start(CASES[0], **options))
    inject("nothing", 0.0, -1)
    state, said = go(start(CASES[0], **options))
    assert "after round 2" in said
    assert state.counters["round"] == ROUNDS
    assert finite(state.params)


def test_a_checkpoint_is_not_made_of_weights_that_are_not_finite(start, monkeypatch, tmp_path):
    real = loop.one_round

    def last(run, state, *args, **how):
        state, *rest = real(run, state, *args, **how)
        if state.counters["round"] == 3:
            params = {n: poisoned(p, float("inf")) for n, p in state.params.items()}
            state = state.replace(params=params)
        return state, *rest

    monkeypatch.setattr(loop, "one_round", last)
    with pytest.raises(
        DivergedError, match="weights of 'policy' are not finite; no checkpoint was"
    ):
        go(start(CASES[0], out=str(tmp_path / "run"), eval_problems=0))
    assert not [p for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdecimal()]
