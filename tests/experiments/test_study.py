"""A study's series of seeds: broken off, taken up again, and never mixed with another's."""

import dataclasses
import json
import time

import pytest


@pytest.fixture(scope="module")
def module(experiments_on_path):
    from experiments import study

    return study


@pytest.fixture
def asked():
    return []


@pytest.fixture
def study(module, asked):
    def run(seed):
        asked.append(seed)
        if seed == 3 and asked.count(3) == 1:
            raise KeyboardInterrupt
        if seed > 8:
            time.sleep(0.02)
        return [{"arm": "own", "seed": seed, "score": seed / 10}]

    return module.Study(
        name="counting",
        claim="Scores are tenths of seeds.",
        settings={"sizes": (1, 2)},
        target={"least": 0.15},
        tried=(),
        run=run,
        verdict=lambda runs: {"high": min(r["score"] for r in runs) >= 0.15},
        draw=lambda axes, runs: axes.plot([r["score"] for r in runs]),
        seeds=(2, 3, 4),
    )


def test_a_series_that_is_broken_off_goes_on_where_it_was(module, study, asked, tmp_path):
    options = ["--out", str(tmp_path / "out.json"), "--keep", str(tmp_path / "kept")]
    with pytest.raises(KeyboardInterrupt):
        module.main(study, options)
    assert asked == [2, 3]
    assert module.main(study, options) == 0
    assert asked == [2, 3, 3, 4]
    result = json.loads((tmp_path / "out.json").read_text())
    assert [r["score"] for r in result["runs"]] == [0.2, 0.3, 0.4]
    assert result["verdict"] == {"high": True}
    assert set(result["commit_by_seed"]) == {"2", "3", "4"}
    assert (tmp_path / "out.png").stat().st_size > 0


def test_what_other_settings_left_is_refused(module, study, tmp_path):
    options = ["--out", str(tmp_path / "out.json"), "--keep", str(tmp_path), "--seeds", "2"]
    module.main(study, options)
    other = dataclasses.replace(study, settings={"sizes": (1, 3)})
    with pytest.raises(ValueError, match="under other settings than these"):
        module.main(other, options)


def test_lower_bound_is_students(module):
    # Mean 2, s = 1, n = 3: 2 - 2.91999 / sqrt(3).
    assert module.lower_bound([1.0, 2.0, 3.0]) == pytest.approx(2 - 2.919986 / 3**0.5, abs=1e-5)


def test_two_seeds_at_a_time_give_what_one_by_one_gives(module, study, asked, tmp_path):
    whole = dataclasses.replace(study, seeds=(4, 5, 6, 7, 8))
    for jobs in ("1", "2"):
        module.main(whole, ["--out", str(tmp_path / f"{jobs}.json"), "--jobs", jobs])
    one, two = (json.loads((tmp_path / f"{jobs}.json").read_text()) for jobs in ("1", "2"))
    assert one["runs"] == two["runs"]
    with pytest.raises(KeyboardInterrupt):
        module.main(
            dataclasses.replace(study, seeds=range(3, 60)),
            ["--out", str(tmp_path / "broken.json"), "--jobs", "2"],
        )
    assert 59 not in asked  # what was not begun is not begun any more
    assert not (tmp_path / "broken.json").exists()
