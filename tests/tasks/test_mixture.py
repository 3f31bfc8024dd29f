"""Mixtures: exact proportions, no gaps, verdicts of the part that a problem comes from."""

import dataclasses
from collections import Counter

import pytest

from jaxevo.tasks import arithmetic, load_task, mixture, plain, task_source
from jaxevo.tasks.options import read_options, scored
from jaxevo.types import Message, Task, Verdict

PERIOD = 4


@pytest.fixture
def source():
    return mixture([arithmetic("add1", seed=2), arithmetic("sub1", seed=2)], [3, 1], seed=2)


def part(task):
    return task.info["part"]


def test_every_period_has_the_exact_proportions(source):
    tasks = [source.train(i) for i in range(100 * PERIOD)]
    periods = [tasks[i : i + PERIOD] for i in range(0, len(tasks), PERIOD)]
    assert all(Counter(map(part, p)) == {"add1": 3, "sub1": 1} for p in periods)
    places = Counter([part(t) for t in p].index("sub1") for p in periods)
    assert all(12 <= places[n] <= 40 for n in range(PERIOD))  # 25 expected, deviation 4.3


def test_each_part_is_walked_in_its_own_order_without_gaps(source):
    tasks = [source.train(i) for i in range(200)]
    for name in ("add1", "sub1"):
        own = [t.uid for t in tasks if part(t) == name]
        assert own == [arithmetic(name, seed=2).train(i).uid for i in range(len(own))]


def test_seed_and_index_decide(source):
    again = mixture([arithmetic("add1", seed=2), arithmetic("sub1", seed=2)], [6, 2], seed=2)
    assert [source.train(i) for i in (99, 3, 50)] == [again.train(i) for i in (99, 3, 50)]
    other = mixture([arithmetic("add1", seed=2), arithmetic("sub1", seed=2)], [3, 1], seed=3)
    assert [part(source.train(i)) for i in range(64)] != [part(other.train(i)) for i in range(64)]


def test_held_out_problems_take_turns_until_all_are_asked(source):
    tasks = [source.held_out(i) for i in range(source.held_out_size)]
    assert [part(t) for t in tasks[:4]] == ["add1", "sub1"] * 2
    assert len({t.uid for t in tasks}) == len(tasks)
    sizes = {n: arithmetic(n).held_out_size for n in ("add1", "sub1")}
    assert Counter(map(part, tasks)) == sizes
    with pytest.raises(IndexError, match=f"held-out index {len(tasks)} is outside"):
        source.held_out(len(tasks))


def test_parts_are_sources_of_marked_tasks(source):
    assert [p.name for p in source.parts] == ["add1", "sub1"]
    task, own = source.parts[1].train(5), arithmetic("sub1", seed=2).train(5)
    assert task == dataclasses.replace(own, info={**own.info, "part": "sub1"})
    assert part(source.parts[0].held_out(0)) == "add1"


def test_a_task_is_scored_by_its_own_part():
    both = load_task("mix:add1,countdown")
    assert list(both.verifiers) == ["mixed"]
    by_part = {part(task): task for task in map(both.train, range(8))}
    verify = both.verifiers["mixed"]
    assert all(verify(task, task.answer).status == "pass" for task in by_part.values())
    swapped = by_part["add1"].answer, by_part["countdown"].answer
    assert verify(by_part["countdown"], swapped[0]).status == "fail"
    shared = load_task("mix:add1,sub1")
    assert list(shared.verifiers) == ["last_integer", "strict_integer"]
    task = shared.train(0)
    scores = [verify(task, f"It is {task.answer}").score for verify in shared.verifiers.values()]
    assert scores == [1.0, 0.0]


def test_rewards_are_weighed_alike_or_refused():
    alike = load_task("mix:add1?weight.strict_integer=0.5,sub1?weight.strict_integer=0.5")
    assert alike.weights == {"strict_integer": 0.5}
    with pytest.raises(ValueError, match=r"part 'sub1' weighs \{\}, but 'add1' weighs"):
        load_task("mix:add1?weight.strict_integer=0.5,sub1")


def test_character_models_get_plain_parts(source):
    flat = plain(source)
    task = flat.parts[0].train(3)
    assert task.messages == (Message("user", task.info["plain"]),)
    assert part(flat.train(0)) == part(source.train(0))
    assert [p.name for p in flat.parts] == ["add1", "sub1"]


def test_uids_of_parts_cannot_meet():
    def named(name):
        tasks = [Task("same", (Message("user", name),), "1")]
        return task_source(name, (tasks, []), verifiers={"v": lambda t, x: Verdict("pass", 1.0)})

    both = mixture([named("a"), named("b")], [1, 1])
    assert {both.train(0).uid, both.train(1).uid} == {"a/same", "b/same"}


def test_a_weight_of_a_verifier_adds_to_a_source():
    _, options = read_options("add1?weight.strict_integer=0.5", ("weight.NAME",))
    assert scored(arithmetic("add1"), options).weights == {"strict_integer": 0.5}
    first = load_task("add1?verifier=exact_match")
    assert list(first.verifiers) == ["exact_match", "strict_integer"]
    with pytest.raises(ValueError, match="weights of a mixture are whole numbers"):
        mixture([arithmetic("add1"), arithmetic("sub1")], [1, 0])
