import pytest

from jaxevo.tasks.arithmetic import SPECS, arithmetic, plain, plain_task
from jaxevo.types import Message, Task

NAMES = sorted(SPECS)


def train_tasks(source, epochs=1):
    size = len(source.train.items)
    return [source.train(i) for i in range(epochs * size)], size


def operand_set(task):
    return tuple(sorted(task.info["operands"]))


def test_a_task_in_full():
    source = arithmetic("add1")
    task = next(t for t in train_tasks(source)[0] if sorted(t.info["operands"]) == [2, 3])
    a, b = task.info["operands"]
    assert task == Task(
        uid=f"add1/{a}+{b}",
        messages=(Message("user", f"What is {a}+{b}? Reply with just the number."),),
        answer="5",
        info={"expression": f"{a}+{b}", "operands": [a, b], "kind": "add", "plain": f"{a}+{b}="},
    )


def test_worked_turns_echo_the_sum_and_are_never_asked():
    source = arithmetic("add2-shots")
    task = source.held_out(0)
    a, b = task.info["operands"]
    assert task.messages == (
        Message("user", "What is 23 + 14?"),
        Message("assistant", "23 + 14 = 37"),
        Message("user", "What is 58 + 31?"),
        Message("assistant", "58 + 31 = 89"),
        Message("user", f"What is {a} + {b}?"),
    )
    asked = {operand_set(t) for t in train_tasks(source)[0]}
    asked |= {operand_set(source.held_out(i)) for i in range(source.held_out_size)}
    assert not asked & {(14, 23), (31, 58)}
    assert len(train_tasks(arithmetic("add2"))[0]) - len(train_tasks(source)[0]) == 4


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_right_and_pass_both_verifiers(name):
    source, spec = arithmetic(name), SPECS[name]
    tasks = train_tasks(source)[0] + [source.held_out(i) for i in range(source.held_out_size)]
    for task in tasks:
        assert int(task.answer) == eval(task.info["expression"])  # our own digits and signs
        assert int(task.answer) >= 0
        assert all(spec.low <= x <= spec.high for x in task.info["operands"])
        assert len(task.info["operands"]) == spec.terms
        for verify in source.verifiers.values():
            assert verify(task, task.answer).status == "pass"
            assert verify(task, str(int(task.answer) + 1)).status == "fail"
    assert list(source.verifiers) == ["last_integer", "strict_integer"]


@pytest.mark.parametrize("name", NAMES)
def test_the_split_does_not_know_the_operand_order(name):
    source, spec = arithmetic(name), SPECS[name]
    train = {operand_set(t) for t in train_tasks(source)[0]}
    held = {operand_set(source.held_out(i)) for i in range(source.held_out_size)}
    assert not train & held
    width = spec.high - spec.low + 1
    sets = {2: width * (width + 1) // 2, 3: width * (width + 1) * (width + 2) // 6}[spec.terms]
    # Exactly a quarter of the unordered sets; worked turns take up to two sets away.
    assert 0 <= sets - sets // 4 - len(train) <= len(spec.shots)


@pytest.mark.parametrize("name", NAMES)
def test_held_out_problems_are_distinct_and_at_most_256(name):
    source = arithmetic(name)
    uids = [source.held_out(i).uid for i in range(source.held_out_size)]
    assert len(set(uids)) == len(uids) <= 256
    assert (len(uids) == 256) == (name in ("add2", "add2-shots", "sub2"))
    other = arithmetic(name, seed=9)
    assert uids == [other.held_out(i).uid for i in range(len(uids))]
    with pytest.raises(IndexError, match=f"held-out index {len(uids)} is outside"):
        source.held_out(len(uids))
    with pytest.raises(IndexError):
        source.held_out(-1)


def test_two_digit_sources_share_their_split():
    zero, shots = arithmetic("add2"), arithmetic("add2-shots")
    train = {operand_set(t) for t in train_tasks(zero)[0]}
    held = {operand_set(shots.held_out(i)) for i in range(256)}
    assert not train & held


@pytest.mark.parametrize("name", ["add1", "add2"])
def test_every_epoch_is_a_new_permutation(name):
    tasks, size = train_tasks(arithmetic(name, seed=1), epochs=3)
    epochs = [[t.uid for t in tasks[e * size : (e + 1) * size]] for e in range(3)]
    assert len(set(epochs[0])) == size
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2])
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_random_access_equals_sequential():
    tasks, _ = train_tasks(arithmetic("sub1", seed=4), epochs=8)
    again = arithmetic("sub1", seed=4)
    for index in reversed(range(len(tasks))):
        assert again.train(index) == tasks[index]
    far = 10**15 + 7
    assert again.train(far) == arithmetic("sub1", seed=4).train(far)


def test_the_seed_orders_problems_but_does_not_choose_them():
    one, two = (train_tasks(arithmetic("mul1", seed=s))[0] for s in (0, 1))
    assert [t.uid for t in one] != [t.uid for t in two]
    assert sorted(t.uid for t in one) == sorted(t.uid for t in two)


def test_order_is_the_same_on_every_machine():
    # Written down once: a change here means that resumed runs see other problems.
    source = arithmetic("add1")
    assert [source.train(i).info["expression"] for i in range(4)] == ["2+3", "8+2", "8+8", "4+2"]
    assert [source.held_out(i).info["expression"] for i in range(4)] == ["9+3", "3+8", "7+5", "5+7"]


def test_plain_tasks_for_character_models():
    source = plain(arithmetic("add2-shots", seed=2))
    task, chat = source.train(5), arithmetic("add2-shots", seed=2).train(5)
    a, b = task.info["operands"]
    assert task.messages == (Message("user", f"{a}+{b}="),)
    assert (task.uid, task.answer) == (chat.uid, chat.answer)
    assert source.held_out(3).messages[0].content == source.held_out(3).info["plain"]
    assert (source.name, source.held_out_size) == ("add2-shots-plain", 256)


def test_faults_are_named():
    with pytest.raises(ValueError, match=r"no arithmetic task 'add4'.*Did you mean 'add"):
        arithmetic("add4")
    with pytest.raises(ValueError, match="needs a seed >= 0, got -1"):
        arithmetic("add1", seed=-1)
    with pytest.raises(IndexError, match="counted from 0, got index -1"):
        arithmetic("add1").train(-1)
    with pytest.raises(ValueError, match=r"task x/1 has no info\['plain'\]"):
        plain_task(Task("x/1", (Message("user", "hi"),), "a"))
