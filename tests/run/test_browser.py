"""The pages in a real browser: Chromium without a window and without a network."""

import json
import re
import shutil
import subprocess
from urllib.parse import quote

import numpy as np
import pytest

from jaxevo.run.cli import main
from jaxevo.run.logs import compact_json, read_jsonl
from jaxevo.run.report import PAGE_BYTES, SCRIPTS, write_report

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path: apt install chromium"),
]
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WORDS = ["so ", "it ", "is ", "<b>5</b>", "\n", "7", "é"]


def opened(page, profile, fragment=""):
    """The page's elements after its script has run, and what the console said."""
    done = subprocess.run(
        [CHROMIUM, *QUIET, f"--user-data-dir={profile}", "--enable-logging=stderr",
         "--virtual-time-budget=4000", "--window-size=1280,900", "--dump-dom",
         f"{page.as_uri()}{fragment}"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, said


def make_run(folder, *, rounds=6, rows=8, length=6):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    config = {"recipe": "grpo", "recipe_repr": "Recipe()", "options": {"model": "toy"}}
    (folder / "config.json").write_text(json.dumps(config))
    numbers = lambda: [round(float(x), 5) for x in -rng.random(length)]  # noqa: E731
    with (
        (folder / "metrics.jsonl").open("w") as metrics,
        (folder / "rollouts.jsonl").open("w") as lines,
    ):
        for index in range(rounds):
            values = {"reward": rng.random(), "padding_share": 0.25, "logp_mismatch": 1e-6}
            metrics.write(compact_json({"round": index, **values}) + "\n")
            for n in range(rows):
                ids = rng.integers(0, len(WORDS), length).tolist()
                text = [WORDS[i] for i in ids]
                record = {
                    "round": index, "uid": index * rows + n, "parent": None, "group": n // 4,
                    "role": "policy", "task": f"sum {n // 4}", "expected": "5",
                    "trained": n != 1, "reward": n % 4 / 4, "rewards": {"correct": n % 4 / 4},
                    "feedback": "", "finish": "length" if n % 2 else "eos",
                    "sampled_tokens": length, "prompt": f"what is {n // 4}?",
                    "answer": "".join(text), "tokens": text, "ids": ids,
                    "sources": [["policy", length]], "mask": [1] * length, "logp": numbers(),
                    "advantage": [0.5] * length,
                    "signals": {"logp": numbers(), "entropy": [-x for x in numbers()]},
                }  # fmt: skip
                lines.write(compact_json(record) + "\n")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


def rows_of(dom):
    return re.findall(r'<div class="row" role="option".*?</div>', dom)


def tokens_of(dom):
    """The spans of the chosen answer: (classes, share of the full colour)."""
    return re.findall(r'<span class="(t[^"]*)" data-i="\d+"(?: style="--a: ?([\d.]+);?")?', dom)


def test_the_report_draws_itself_without_an_error(run, tmp_path):
    dom, said = opened(write_report(run), tmp_path)
    assert said == []
    assert len(re.findall("<figure", dom)) == 3
    assert len(rows_of(dom)) == 8
    assert "<b>5</b>" not in dom
    assert "One prompt over rounds" in dom
    assert re.search(r'<ins class="t ins">', dom)
    assert re.search(r'<del class="t del">', dom)


def test_an_address_opens_a_row_and_its_heat_map(run, tmp_path):
    page = write_report(run)
    dom, said = opened(page, tmp_path, "#round=3&row=5&signal=entropy")
    assert said == []
    logged = read_jsonl(run / "rollouts.jsonl")
    (wanted,) = (r for i, r in enumerate(logged) if r["round"] == 3 and i % 8 == 5)
    assert f"uid {wanted['uid']}<" in dom
    entropy = np.array(wanted["signals"]["entropy"])
    everything = np.sort([x for r in logged for x in r["signals"]["entropy"]])
    full = everything[int(0.98 * (len(everything) - 1))]
    tokens = tokens_of(dom)
    assert [classes for classes, _ in tokens] == ["t pos"] * 6
    # entropies have four decimals in the page and shares of the colour three
    shares = [float(a) for _, a in tokens]
    np.testing.assert_allclose(shares, np.minimum(1, entropy / full), atol=1e-3)
    dom, _ = opened(page, tmp_path, "#round=3&row=5&signal=log-prob")
    assert {classes for classes, _ in tokens_of(dom)} == {"t neg"}
    dom, _ = opened(page, tmp_path, "#round=3&row=5&signal=" + quote("logp − log-prob"))
    gaps = np.subtract(wanted["signals"]["logp"], wanted["logp"])
    assert [c for c, _ in tokens_of(dom)] == ["t pos" if gap > 0 else "t neg" for gap in gaps]


@pytest.mark.parametrize(
    ("fragment", "rows"),
    [
        ("#round=2&group=1", 4),
        ("#round=2&low=0.5", 4),
        ("#round=2&high=0", 2),
        ("#round=2&finish=length", 4),
        ("#round=2&learnt=not+trained", 1),
        ("#round=2&text=WHAT+IS+1", 4),
        ("#round=all&low=0.75", 12),
        ("#round=2&text=nowhere", 0),
    ],
)
def test_filters_of_the_address_leave_the_right_rows(run, tmp_path, fragment, rows):
    dom, said = opened(write_report(run), tmp_path, fragment)
    assert said == []
    assert len(rows_of(dom)) == rows


def test_rows_are_sorted(run, tmp_path):
    dom, _ = opened(write_report(run), tmp_path, "#round=2&sort=best")
    rewards = [float(x) for x in re.findall(r'<span class="reward">([\d.]+)', dom)]
    assert rewards == sorted(rewards, reverse=True)
    assert rewards[0] == 0.75


def test_a_large_run_opens(tmp_path):
    folder = make_run(tmp_path / "large", rounds=500, rows=64, length=12)
    page = write_report(folder)
    assert 0.5 * PAGE_BYTES < page.stat().st_size <= PAGE_BYTES
    dom, said = opened(page, tmp_path / "profile")
    assert said == []
    assert "rounds whole" in dom
    assert len(rows_of(dom)) == 64
    assert len(dom) < page.stat().st_size + 10**6  # rows are drawn when they are looked at


def test_a_script_that_throws_is_heard(run, tmp_path):
    (tmp_path / "throws.js").write_text("throw new Error('heard');")
    scripts = (*SCRIPTS, str(tmp_path / "throws"))
    _, said = opened(write_report(run, scripts=scripts), tmp_path / "profile")
    assert any("Uncaught Error: heard" in line for line in said)


def test_a_script_that_is_not_the_page_s_own_is_refused(run, tmp_path):
    page = write_report(run)
    page.write_bytes(page.read_bytes() + b"<script>document.title = 'taken'</script>")
    dom, said = opened(page, tmp_path)
    assert "<title>taken" not in dom
    assert any("Content Security Policy" in line for line in said)


def test_a_comparison_draws_every_run(run, tmp_path):
    other = make_run(tmp_path / "other", rounds=4)
    page = tmp_path / "compare.html"
    assert main(["compare", str(run), str(other), "--out", str(page)]) == 0
    dom, said = opened(page, tmp_path / "profile")
    assert said == []
    assert len(re.findall("<figure", dom)) == 3
    assert len(re.findall(r'<path class="raw s0" d="M[^H"]*"', dom)) == 6  # a curve of each run
    assert "reward, final" in dom
