"""Problems of reasoning-gym under their own scorers."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from jaxevo.tasks import load_task

gym = pytest.importorskip("reasoning_gym", reason="needs the extra `gym`: reasoning-gym")

SUMS = "rg:chain_sum?min_terms=2&max_terms=2&min_digits=1&max_digits=1&size=40&held_out=8"


def everything(source):
    train = [source.train(i) for i in range(len(source.train.items))]
    return train, [source.held_out(i) for i in range(source.held_out_size)]


def test_no_held_out_question_is_asked_in_training():
    train, held_out = everything(load_task(SUMS))
    questions = [[t.messages[-1].content for t in side] for side in (train, held_out)]
    assert not set(questions[0]) & set(questions[1])
    assert (len(train), len(set(questions[1]))) == (40, 8)
    assert len({t.uid for t in train + held_out}) == 48


def test_the_sets_own_options_change_its_problems():
    for task in everything(load_task(SUMS))[0]:
        expression = task.info["metadata"]["expression"]
        assert len(expression.split()) == 3
        assert int(task.answer) == eval(expression)  # digits and signs of the set
    longer = load_task(SUMS.replace("terms=2", "terms=4"))
    assert {len(t.info["metadata"]["expression"].split()) for t in everything(longer)[0]} == {7}
    listed = load_task("rg:number_sorting?size=3&held_out=0&system=Be+brief.")
    assert listed.train(0).messages[0].content == "Be brief."
    assert listed.held_out_size == 0


def test_the_seed_orders_problems_but_does_not_choose_them():
    one, other = (load_task(SUMS, seed=seed) for seed in (0, 1))
    assert everything(one)[1] == everything(other)[1]
    assert everything(one)[0] != everything(other)[0]
    uids = [{t.uid for t in everything(source)[0]} for source in (one, other)]
    assert uids[0] == uids[1]


def test_the_scorer_reads_the_tags_or_the_whole_text():
    source = load_task(SUMS)
    task, verify = source.train(0), source.verifiers["gym"]
    right = task.answer
    assert verify(task, right).status == "pass"
    assert verify(task, f"Let me see. <answer>{right}</answer>").score == 1.0
    wrong = verify(task, "x")
    assert (wrong.status, wrong.score) == ("fail", 0.0)
    assert f"The right answer is '{right}'" in wrong.feedback
    assert 0.0 < verify(task, f"It is {right}.").score < 1.0  # the set's own partial credit
    held_out = source.held_out(0)
    assert verify(held_out, held_out.answer).status == "pass"


def test_a_scorer_that_raises_is_an_error_of_the_verifier():
    source = load_task("rg:prime_factorization?size=4&held_out=0")
    verdict = source.verifiers["gym"](source.train(0), "two times three")
    assert (verdict.status, verdict.score) == ("error", 0.0)
    assert "the scorer of rg:prime_factorization/" in verdict.feedback


def test_a_set_without_answers_is_scored_all_the_same():
    source = load_task("rg:propositional_logic?size=4&held_out=2")
    task, verify = source.train(0), source.verifiers["gym"]
    assert task.answer == ""
    assert verify(task, task.info["metadata"]["example_answer"]).score <= 1.0
    assert verify(task, "nonsense").status == "fail"


def test_several_threads_may_ask():
    source = load_task("rg:countdown?size=8&held_out=0")
    tasks = [source.train(i) for i in range(8)] * 8
    with ThreadPoolExecutor(4) as pool:
        verdicts = pool.map(lambda task: source.verifiers["gym"](task, task.answer), tasks)
    assert [v.status for v in verdicts] == ["pass"] * 64


def test_two_forms_of_one_set_can_be_mixed():
    two, four = (f"rg:chain_sum?min_terms={n}&max_terms={n}&size=9&held_out=2" for n in (2, 4))
    source = load_task(f"mix:{two},{four}")
    tasks = [source.train(i) for i in range(6)]
    assert [source.verifiers["gym"](t, t.answer).status for t in tasks] == ["pass"] * 6
    assert [p.name for p in source.parts] == [
        "rg:chain_sum?min_terms=2&max_terms=2", "rg:chain_sum?min_terms=4&max_terms=4"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("rg:chainsum", r"reasoning-gym has no data set 'chainsum'\. Did you mean 'chain_sum'"),
        ("rg:", "reasoning-gym has no data set ''"),
        ("rg:chain_sum?bogus=1", "no option 'bogus'. Choose from size, held_out, system, min_ter"),
        ("rg:chain_sum?min_terms=9&max_terms=2", "refuses its options .*max_terms must be >="),
        ("rg:chain_sum?min_terms=few", "refuses its options {'min_terms': 'few'}"),
        ("rg:chain_sum?size=0", "size='0' is not a whole number of at least 1"),
        (f"{SUMS.replace('size=40&held_out=8', 'size=900&held_out=50')}", "too few different"),
    ],
)
def test_faults_get_one_line_and_status_2(refused, name, fault):
    assert re.search(fault, refused("tasks", name))
