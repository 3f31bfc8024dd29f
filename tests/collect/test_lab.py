"""The instruments: reproducible wherever they run, and honest about what was sampled."""

import dataclasses
import threading

import numpy as np
import pytest

from jaxevo.collect.lab import RolloutConfig
from jaxevo.run.build import build_bench
from jaxevo.sampling.sampler import Sampler, Sampling
from jaxevo.types import Verdict


@pytest.fixture(scope="module")
def bench(tiny_model):
    rollout = RolloutConfig(3, 2, 4, Sampling())
    return build_bench(model=tiny_model, task="add1", rollout=rollout, seed=5, prompt_tokens=12)


def new_lab(bench, **where):
    return bench.lab({"policy": bench.model.params}, **where)


def flat(rows):
    return [row.answer_ids.tolist() for row in rows]


def test_the_same_round_gives_the_same_rows_and_another_round_others(bench):
    first = new_lab(bench, round_index=2, position=6)
    rows = first.sample(first.tasks())
    again = new_lab(bench, round_index=2, position=6)
    assert flat(again.sample(again.tasks())) == flat(rows)
    assert first.position == 9
    later = new_lab(bench, round_index=3, position=6)
    assert flat(later.sample(later.tasks())) != flat(rows)
    evaluation = new_lab(bench, round_index=2, position=6, evaluation=True)
    assert flat(evaluation.sample(evaluation.tasks())) != flat(rows)


def test_rows_of_a_task_share_a_group_and_waves_differ(bench):
    lab = new_lab(bench)
    tasks = lab.tasks(2)
    rows, more = lab.sample(tasks, samples=3), lab.sample(tasks, samples=3)
    assert [r.group for r in rows] == [rows[0].group] * 3 + [rows[3].group] * 3
    assert len({r.uid for r in rows + more}) == 12
    assert flat(rows) != flat(more)
    assert lab.sampled.keys() == {r.uid for r in rows + more}


def test_extending_a_row_keeps_what_stood_there_and_marks_sources(bench):
    lab = new_lab(bench)
    rows = lab.sample(lab.tasks(2))
    injected = [("tool", [12, 12]), ("injected", []), ("forced", [3]), ("tool", [4])]
    longer = lab.extend(rows, injected)
    for row, new, (source, ids) in zip(rows, longer, injected, strict=True):
        kinds = [s.source for s in new.segments]
        assert kinds == ["prompt", "policy", *([source] if ids else []), "policy"]
        assert new.segments[:2] == row.segments
        assert new.uid == row.uid
        assert new.sampled_tokens == row.sampled_tokens + len(new.segments[-1].ids)
    assert {r.uid: r for r in longer} == lab.sampled


def test_what_an_extended_row_began_with_is_not_read_again(tiny_model):
    bench = build_bench(
        model=tiny_model,
        task="add1",
        rollout=RolloutConfig(2, 2, 40, Sampling()),
        seed=5,
        prompt_tokens=160,
    )
    found, made = [], []

    class Watched(Sampler):
        def conversations(self):
            made.append(super().conversations())
            return made[-1]

    bench = dataclasses.replace(bench, sampler=Watched(**vars(bench.sampler)))
    for keep in (False, True):
        lab = new_lab(bench)
        rows = lab.sample(lab.tasks(), new_tokens=20, keep=keep)
        for _ in range(4):
            injected = [("tool", np.arange(3, 13))] * len(rows)
            rows = lab.extend(rows, injected, new_tokens=10, keep=keep)
        found.append(flat(rows))
    assert found[0] == found[1]
    (kept,) = made  # nobody made room where nothing was to be kept
    assert kept.shared_tokens > kept.read_tokens


def test_a_limit_of_new_tokens_can_be_one_per_row(bench):
    lab = new_lab(bench)
    rows = lab.sample(lab.tasks(3), samples=4)
    limits = [1, 2, 3] * 4
    longer = lab.extend(rows, [("tool", [3])] * 12, new_tokens=limits)
    free = new_lab(bench).extend(rows, [("tool", [3])] * 12)
    for one, other, limit in zip(longer, free, limits, strict=True):
        assert one.segments[-1].ids.tolist() == other.segments[-1].ids[:limit].tolist()
    assert {len(row.segments[-1].ids) for row in longer} == {1, 2, 3}


def test_verify_gives_reward_feedback_and_all_verdicts(bench):
    lab = new_lab(bench)
    (row,) = lab.sample(lab.tasks(1), samples=1)
    prompt, answer = row.segments
    ids = bench.model.tokenizer.encode(row.task.answer)
    right = dataclasses.replace(row, segments=(prompt, dataclasses.replace(
        answer, ids=np.array([*ids, 1], np.int32))))  # fmt: skip
    wrong = dataclasses.replace(row, segments=(prompt, dataclasses.replace(
        answer, ids=np.array([*ids, ids[0]], np.int32))))  # fmt: skip
    good, bad = lab.verify([right, wrong])
    assert good.rewards == {"correct": 1.0}
    assert good.feedback == ""
    passed = Verdict("pass", 1.0)
    assert good.info["verdicts"] == {"last_integer": passed, "strict_integer": passed}
    assert bad.info["verdicts"]["last_integer"] == Verdict("fail", 0.0, bad.feedback)
    assert bad.reward == 0.0
    assert row.task.answer in bad.feedback


def test_weighed_verifiers_add_parts_to_the_reward(bench):
    def starts_with_2(task, text):
        return Verdict("pass", 1.0) if text.startswith("2") else Verdict("fail", 0.25)

    verifiers = {**bench.source.verifiers, "starts_with_2": starts_with_2}
    source = dataclasses.replace(bench.source, verifiers=verifiers, weights={"starts_with_2": -0.5})
    lab = new_lab(dataclasses.replace(bench, source=source))
    for row in lab.verify(lab.sample(lab.tasks())):
        score = 1.0 if lab.answer_text(row).startswith("2") else 0.25
        correct = row.info["verdicts"]["last_integer"].score
        assert row.rewards == {"correct": correct, "starts_with_2": -0.5 * score}
        assert row.info["verdicts"]["starts_with_2"].score == score


def test_an_attempt_is_a_sample_that_was_verified_meanwhile(bench):
    threads = []

    def watched(task, text):
        threads.append(threading.current_thread())
        return bench.source.verifiers["last_integer"](task, text)

    source = dataclasses.replace(bench.source, verifiers={"watched": watched})
    lab, other = (new_lab(dataclasses.replace(bench, source=source)) for _ in range(2))
    rows = lab.attempt(lab.tasks())
    assert len(threads) == len(rows)
    assert threading.main_thread() not in threads
    wanted = other.verify(other.sample(other.tasks()))
    assert flat(rows) == flat(wanted)
    for row, same in zip(rows, wanted, strict=True):
        assert (row.uid, row.rewards, row.feedback) == (same.uid, same.rewards, same.feedback)
        assert row.info == same.info
        assert lab.sampled[row.uid] is row


def test_an_attempt_tells_of_a_verifier_that_fails(bench):
    def broken(task, text):
        raise RuntimeError("no such judge")

    source = dataclasses.replace(bench.source, verifiers={"broken": broken})
    lab = new_lab(dataclasses.replace(bench, source=source))
    with pytest.raises(RuntimeError, match="no such judge"):
        lab.attempt(lab.tasks())


def test_the_control_arm_hears_nothing_of_the_truth(bench):
    lab = dataclasses.replace(bench, control="random").lab({"policy": bench.model.params})
    rows = lab.verify(lab.sample(lab.tasks(3), samples=8))
    assert {r.reward for r in rows} == {0.0, 1.0}
    assert {r.feedback for r in rows} == {""}
    assert {name for r in rows for name in r.rewards} == {"coin"}


def test_an_unknown_parameter_set_is_named(bench):
    lab = new_lab(bench)
    with pytest.raises(ValueError, match=r"parameter set 'critic', but the recipe has \['policy'"):
        lab.sample(lab.tasks(1), params="critic")
