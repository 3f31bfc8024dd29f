"""What its card says of DelTA, on a random model; worked numbers are in the tests of advantages."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case

from jaxevo.advantages.discriminant import discriminant_coefficients, side_sums
from jaxevo.collect.coefficients import with_coefficients
from jaxevo.models import decoder
from jaxevo.recipes.dapo import dapo
from jaxevo.recipes.delta import delta

REWARDS = [[0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 1, 1]]
HOW = {"refinements": 1, "low": 0.8, "high": 1.2}

pytestmark = pytest.mark.slow


def make(**options):
    return delta(minibatches=1, overlong=0.0, **options)


@pytest.fixture(scope="module")
def run(start):
    return start(Case("delta", make))


@pytest.fixture(scope="module")
def lab(run):
    return run.bench.lab(run.state.params, learner=run.learner)


@pytest.fixture(scope="module")
def plain(run):
    """The objective that knows no coefficients."""
    return dict(run.recipe.collect.options)["like"]


@pytest.fixture(scope="module")
def rows(lab):
    """Answers of rewards as above, and of several lengths."""
    sampled = lab.attempt(lab.tasks())
    flat = [float(reward) for group in REWARDS for reward in group]
    return [
        shortened(row, r, 2 + n % 3) for n, (row, r) in enumerate(zip(sampled, flat, strict=True))
    ]


@pytest.fixture(scope="module")
def weighed(lab, rows, plain):
    return with_coefficients(lab, rows, like=plain, **HOW)


def shortened(row, reward, length):
    prompt, answer = row.segments
    cut = dataclasses.replace(answer, ids=answer.ids[:length], logp=answer.logp[:length])
    return dataclasses.replace(row, segments=(prompt, cut), rewards={"correct": reward})


def coefficients(rows):
    return np.concatenate([row.by_token["coefficient"] for row in rows])


def test_coefficients_are_those_of_the_heads_own_inputs(run, rows, weighed):
    """v = (1 − p) h of plain forward passes, where h @ head are the logits."""
    config, params = run.learner.forward, run.state.params["policy"]
    config = dict(config.options)["config"]
    mask = np.zeros((16, 4), bool)
    vector = np.zeros((16, 4, config.width), np.float32)
    for n, row in enumerate(rows):
        ids = np.concatenate([row.prompt_ids, row.answer_ids])
        S, first, count = len(ids), len(row.prompt_ids) - 1, len(row.answer_ids)
        hidden, _ = decoder.apply(
            config, params, ids[None], np.arange(S)[None], jnp.tri(S, dtype=bool)[None]
        )
        hidden = hidden[0, first : S - 1]
        p = jax.nn.softmax(hidden @ decoder.unembed(config, params))
        left = 1 - p[np.arange(count), row.answer_ids]
        mask[n, :count], vector[n, :count] = True, left[:, None] * hidden
    rewards = np.array(REWARDS, float)
    above = rewards - rewards.mean(1, keepdims=True)
    advantage = (above / (rewards.std(1, ddof=1, keepdims=True) + 1e-6)).ravel()

    def read(boundary):
        return side_sums(jnp.asarray(vector), mask, advantage, boundary)

    want = discriminant_coefficients(read, advantage, mask, **HOW)[mask]
    got = coefficients(weighed)
    np.testing.assert_allclose(got, want, atol=2e-4)  # float32, packed or not
    assert got.mean() == pytest.approx(1.0, rel=1e-6)
    equal = np.repeat(np.arange(16) // 4, 4).reshape(16, 4)[mask]
    assert len(set(got[np.isin(equal, [1, 2])])) == 1  # the least one, before it is normalised
    assert got[np.isin(equal, [1, 2])][0] < got[np.isin(equal, [0, 3])].min()


def test_each_token_has_its_rows_advantage_times_its_own(run, weighed, rows, plain, graded):
    sets = {"policy": run.state.params["policy"]}
    _, _, said = graded(run, weighed, sets)
    _, _, before = graded(run, rows, sets, plain)
    for n, row in enumerate(weighed):
        count, own = len(row.answer_ids), row.by_token["coefficient"]
        want = before["advantage"][n, :count] * own
        np.testing.assert_allclose(said["advantage"][n, :count], want, rtol=1e-6)
        spread = row.info["tally"]["coefficient_spread"]
        assert spread == pytest.approx(own.max() - own.min())


def test_without_a_range_it_is_dapo_without_sampling_anew(start, lab, run, rows, plain, graded):
    sets = {"policy": run.state.params["policy"]}
    ones = with_coefficients(lab, rows, like=plain, **{**HOW, "high": 0.8})
    assert set(coefficients(ones)) == {1.0}
    got = graded(run, ones, sets)
    options = {"minibatches": 1, "overlong": 0.0}
    want = graded(start(Case("dapo", lambda: dapo(**options))), rows, sets)
    assert got[0] == want[0]
    jax.tree.map(np.testing.assert_array_equal, got[1], want[1])


def test_one_side_alone_is_left_alone(lab, rows, plain):
    """Groups of one have their rewards as advantages: all on one side."""
    alone = [dataclasses.replace(row, group=n, rewards={"c": 1.0}) for n, row in enumerate(rows)]
    assert set(coefficients(with_coefficients(lab, alone, like=plain, **HOW))) == {1.0}
    dead = [dataclasses.replace(row, rewards={"c": 1.0}) for row in rows]
    assert set(coefficients(with_coefficients(lab, dead, like=plain, **HOW))) == {1.0}


def test_refinements_and_range_change_them(lab, rows, weighed, plain):
    for options in ({"refinements": 2}, {"low": 0.5}, {"high": 2.0}):
        other = with_coefficients(lab, rows, like=plain, **{**HOW, **options})
        assert np.abs(coefficients(other) - coefficients(weighed)).max() > 1e-3


def test_long_answers_are_punished(start):
    run = start(Case("delta", lambda: delta(minibatches=1)), max_new_tokens=6)
    lab = run.bench.lab(run.state.params, learner=run.learner)
    found = run.recipe.collect(lab, run.state, run.memory)["policy"]
    for row in found:
        assert row.rewards["overlong"] == pytest.approx(min(0, -(row.sampled_tokens - 4.8) / 1.2))
    assert len({row.rewards["overlong"] for row in found}) > 1


@pytest.mark.parametrize("options", [{"refinements": -1}, {"low": 1.3}])
def test_options_outside_their_ranges_are_refused_when_built(options):
    with pytest.raises(ValueError, match="must be at least 0, and 0 < low <= high"):
        delta(**options)
