"""Shipped sets: what stands in the files is asked, under a licence that is stated."""

import json
import subprocess
import sys

import pytest

from jaxevo.rewards.named import VERIFIERS
from jaxevo.tasks import load_task
from jaxevo.tasks.sets import DATA, GROUPS, SETS

PROMPTS = {
    "gsm8k": "Think step by step, then give the answer as a number.",
    "aqua_rat": "\nE)",
    "bbh-navigate": "\n- No\nAnswer with Yes or No only.",
    "mbpp": "\nassert ",
    "ntrex-zh": "Translate into Chinese.",
    "xquad": "Answer with words of the passage only.",
}


def loaded(name):
    missing = set(SETS[name].verifiers) - set(VERIFIERS)
    if missing:
        pytest.skip(f"no verifier {', '.join(missing)} here")
    return load_task(name)


def everything(source):
    train = [source.train(i) for i in range(len(source.train.items))]
    return train, [source.held_out(i) for i in range(source.held_out_size)]


@pytest.mark.parametrize("name", SETS)
def test_all_problems_are_there(name):
    source = loaded(name)
    train, held_out = everything(source)
    assert list(source.verifiers) == list(SETS[name].verifiers)
    assert (len(train), len(held_out)) == SETS[name].problems
    assert len({t.uid for t in train + held_out}) == len(train) + len(held_out)
    assert not {t.messages for t in train} & {t.messages for t in held_out}
    assert all(t.answer or SETS[name].answer is None for t in train + held_out)
    assert PROMPTS.get(name, "") in train[0].messages[0].content


PROGRAMS = [n for n in SETS if "unit_tests" in SETS[n].verifiers]


@pytest.mark.parametrize("name", [n for n in SETS if SETS[n].answer and n not in PROGRAMS])
def test_right_answers_pass_their_verifiers(name):
    source = loaded(name)
    train, held_out = everything(source)
    verify = next(iter(source.verifiers.values()))
    for task in (train + held_out)[:: 16 if "math" in source.verifiers else 1]:
        assert verify(task, task.answer).status == "pass", task.uid


@pytest.mark.parametrize("name", PROGRAMS)
def test_right_programs_pass_their_tests(name):
    """In a process of their own, as the set's authors have seen them run."""
    train, held_out = everything(loaded(name))
    pieces = [
        [task.info.get("setup", ""), task.answer, *task.info["tests"]]
        for task in (train + held_out)[::8]
    ]
    runs = "import json, sys\nfor pieces in json.load(sys.stdin):\n    space = {}\n"
    runs += "    for piece in pieces:\n        exec(piece, space)\n"
    done = subprocess.run(
        [sys.executable, "-c", runs], input=json.dumps(pieces), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-1000:]


@pytest.mark.parametrize("name", SETS)
def test_the_licence_stands_beside_the_data(name):
    chosen = SETS[name]
    text = (DATA / chosen.file).parent.joinpath("README.md").read_text()
    assert f"- Licence: {chosen.licence}" in text
    assert all(f"- {word}" in text for word in ("Source:", "Files:", "Fields", "Changes made:"))
    if chosen.licence == "MIT":
        assert "Copyright" in text
        assert "permission notice shall be included" in (DATA / "MIT.txt").read_text()


def test_a_passage_and_a_translation_stay_on_one_side():
    train, held_out = everything(load_task("xquad"))
    assert not {t.info["paragraph"] for t in train} & {t.info["paragraph"] for t in held_out}
    sides = [{t.info["id"] for t in everything(load_task(f"ntrex-{x}"))[1]} for x in ("fr", "pt")]
    assert sides[0] == sides[1]


def test_splits_of_their_own_are_those_of_the_source():
    assert SETS["gsm8k"].problems == (7473, 1319)
    assert SETS["mbpp"].problems == (120 + 43 + 7, 257)
    assert {sum(SETS[name].problems) for name in GROUPS["bbh"]} == {250}


def test_options_of_shipped_sets():
    whole, few = load_task("xquad"), load_task("xquad?limit=10&system=Be+brief.")
    assert few.held_out_size == whole.held_out_size
    uids = {few.train(i).uid for i in range(50)}
    assert uids == {f"xquad/{n}" for n in range(1, 11)}
    assert [m.role for m in few.train(0).messages] == ["system", "user"]
    assert few.train(0).messages[0].content == "Be brief."


def test_a_group_is_a_mixture_of_its_sets():
    for part in GROUPS["bbh"]:
        loaded(part)
    source = load_task("bbh")
    assert [p.name for p in source.parts] == list(GROUPS["bbh"])
    assert source.held_out_size == sum(loaded(part).held_out_size for part in GROUPS["bbh"])
