"""Waves that ask again: what is kept, what is spent, what is taught."""

import numpy as np
import pytest

from jaxevo.collect.lab import RolloutConfig
from jaxevo.collect.table import by_group, tabulate
from jaxevo.collect.waves import single_turn, undecided_groups
from jaxevo.run.build import build_bench
from jaxevo.sampling.sampler import Sampling


@pytest.fixture(scope="module")
def bench(tiny_model):
    """Coin rewards, P = 3, G = 2, answers of up to 4 tokens."""
    rollout = RolloutConfig(3, 2, 4, Sampling())
    return build_bench(
        model=tiny_model, task="add1", rollout=rollout, seed=5, prompt_tokens=12, control="random"
    )


@pytest.fixture(scope="module")
def collect(bench):
    """collect(wave, **options) -> the lab and the rows of one round."""

    def make(wave=undecided_groups, **options):
        lab = bench.lab({"policy": bench.model.params})
        return lab, wave(lab, None, None, **options)["policy"]

    return make


def test_new_problems_are_asked_until_enough_groups_disagree(collect):
    lab, rows = collect(extra_waves=20)
    groups = by_group(rows).values()
    assert [len({row.reward for row in group}) for group in groups] == [2, 2, 2]
    assert lab.position == len(by_group(lab.sampled.values())) > 3  # each problem asked once
    whole = by_group(lab.sampled.values())
    uneven = [g for g, mates in whole.items() if len({row.reward for row in mates}) == 2]
    assert list(by_group(rows)) == uneven[:3]  # the first ones: the surplus is left out
    assert {row.info["tally"]["waves"] for row in rows} == {lab.position // 3}
    once, first = collect(extra_waves=0)
    assert len(once.sampled) == 6
    assert len(by_group(first)) == sum(g in uneven for g in by_group(once.sampled.values())) < 3


def test_long_answers_are_punished_after_the_choice(collect):
    lab, rows = collect(extra_waves=20, overlong=0.5)  # over the last two of four tokens
    assert {row.sampled_tokens for row in rows} > {4}
    for row in rows:
        assert row.rewards["overlong"] == min(0, -(row.sampled_tokens - 2) / 2)
        assert lab.sampled[row.uid].rewards == row.rewards
    plain = collect(extra_waves=20)[1]
    assert [row.uid for row in plain] == [row.uid for row in rows]


def test_all_groups_can_be_kept_and_long_answers_punished(collect):
    lab, rows = collect(single_turn, overlong=0.5)
    assert [row.uid for row in rows] == list(lab.sampled)
    assert len({row.rewards["overlong"] for row in rows}) > 1
    for row in rows:
        assert row.rewards["overlong"] == min(0, -(row.sampled_tokens - 2) / 2)
        assert lab.sampled[row.uid].rewards == row.rewards
    plain = collect(single_turn)[1]
    assert [row.accuracy for row in plain] == [row.accuracy for row in rows]
    assert not any("overlong" in row.rewards for row in plain)


def test_rows_can_have_the_entropies_of_their_sampler(collect):
    _, rows = collect(extra_waves=20, entropies=True)
    for row in rows:
        (answer,) = row.answer
        np.testing.assert_array_equal(row.by_token["entropy"], answer.entropy)
    assert not collect(extra_waves=20)[1][0].by_token


def test_answers_that_were_cut_off_can_be_left_out_of_the_loss(collect):
    _, rows = collect(extra_waves=20, mask_truncated=True)
    cut = np.array([row.info["finish"] == "length" for row in rows])
    assert cut.any()
    assert not cut.all()
    mask = tabulate(rows, answer_slots=4).batch.answers["text"].mask_NA
    np.testing.assert_array_equal(mask.any(1), ~cut)
    assert all(row.rewards for row in rows)
