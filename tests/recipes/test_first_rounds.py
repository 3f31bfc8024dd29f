"""First rounds whose losses are known in closed form: nothing has been learnt yet."""

import numpy as np
import pytest
from cases import Case

from jaxevo.recipes.dpo import dpo
from jaxevo.recipes.ppo import ppo

pytestmark = pytest.mark.slow


def first_round(start, drive, recipe):
    _, _, (metrics,), (records,) = drive(start(Case("first", lambda: recipe)), 1)
    return metrics, [r for r in records if r["trained"]]


def pairs_of(records):
    """The better and the worse row of each group."""
    groups = sorted({r["group"] for r in records})
    rows = [[r for r in records if r["group"] == group] for group in groups]
    return [sorted(pair, key=lambda r: -r["reward"]) for pair in rows]


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ({}, np.log(2)),
        ({"loss": "ipo"}, (1 / 0.2) ** 2),
        ({"loss": "ipo", "beta": 0.5}, 1.0),
        ({"loss": "kto"}, 0.5),
    ],
)
def test_a_policy_that_is_its_reference_has_no_margin(options, want, start, drive):
    metrics, records = first_round(start, drive, dpo(learning_rate=1e-3, **options))
    assert metrics["loss"] == pytest.approx(want, rel=1e-5)
    pairs = pairs_of(records)
    assert len(pairs) > 1
    assert all(len(pair) == 2 and pair[0]["reward"] > pair[1]["reward"] for pair in pairs)


@pytest.mark.parametrize("options", [{}, {"beta": 3.0}, {"gamma": 0.0}])
def test_without_a_reference_means_of_log_probs_are_compared(options, start, drive):
    metrics, records = first_round(start, drive, dpo(loss="simpo", learning_rate=1e-3, **options))
    pairs = pairs_of(records)
    margin = np.array([np.mean(a["logp"]) - np.mean(b["logp"]) for a, b in pairs])
    logit = options.get("beta", 2.0) * margin - options.get("gamma", 1.0)
    assert metrics["loss"] == pytest.approx(np.mean(np.log1p(np.exp(-logit))), rel=1e-4)


@pytest.mark.parametrize(
    ("make", "options", "says"),
    [
        (dpo, {"beta": 0.0}, "beta=0.0 must be positive"),
        (ppo, {"gae_lambda": 1.5}, "gae_lambda=1.5 must lie in"),
        (ppo, {"value_clip": 0.0}, "value_clip=0.0 must be positive"),
    ],
)
def test_options_outside_their_ranges_are_refused_when_built(make, options, says):
    with pytest.raises(ValueError, match=says):
        make(**options)


def test_options_of_another_loss_are_refused():
    with pytest.raises(ValueError, match=r'gamma=1\.0 is the margin of loss="simpo"'):
        dpo(loss="ipo", gamma=1.0)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5)])
def test_untrained_values_leave_the_discounted_reward(gamma, lam, start, drive):
    options = {"gamma": gamma, "gae_lambda": lam, "whitened": False, "value_clip": None}
    metrics, records = first_round(start, drive, ppo(learning_rate=1e-3, **options))
    want = [r["reward"] * (gamma * lam) ** np.arange(len(r["ids"]))[::-1] for r in records]
    for record, advantage in zip(records, want, strict=True):
        np.testing.assert_allclose(record["advantage"], advantage, atol=1e-5)
    target = np.concatenate(want)
    assert metrics["value/loss/value"] == pytest.approx(np.mean(target**2), rel=1e-4)
    assert metrics["loss/policy"] == pytest.approx(-np.mean(target), rel=1e-4)


def test_whitened_advantages_and_clipped_values(start, drive):
    _, records = first_round(start, drive, ppo(learning_rate=1e-3, epochs=2))
    advantage = np.concatenate([r["advantage"] for r in records])
    assert all("value" in r["signals"] and "policy" in r["signals"] for r in records)
    assert np.mean(advantage) == pytest.approx(0, abs=1e-4)
    assert np.var(advantage, ddof=1) == pytest.approx(1, rel=1e-3)
    options = {"learning_rate": 1e-3, "value_learning_rate": 0.01, "epochs": 2}
    clipped, _ = first_round(start, drive, ppo(value_clip=1e-4, **options))
    free, _ = first_round(start, drive, ppo(value_clip=None, **options))
    # The second pass finds values that have moved towards their targets, or next to nothing.
    assert clipped["value/loss/value"] > 1.01 * free["value/loss/value"]
