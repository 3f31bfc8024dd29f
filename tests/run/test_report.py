"""The HTML page of a run."""

import json
import re

import numpy as np
import pytest

from jaxevo.run.logs import RunLog, compact_json, read_jsonl
from jaxevo.run.report import write_report
from jaxevo.run.selection import selected_rollouts
from jaxevo.run.web import script_json

EVIL = "</script><img src=x onerror=alert(1)> {{7*7}} {% raw %} <!-- \u2028\u2029 &lt; é\ud800"


def rollout(index: int, sample: int = 0, text: str = "so 7", task: str = "sum") -> dict:
    return {
        "round": index,
        "uid": 2**61 + sample,
        "parent": None,
        "group": 0,
        "role": "policy",
        "task": task,
        "reward": 0.5,
        "rewards": {text: 0.5},
        "feedback": text,
        "prompt": text,
        "answer": text,
        "tokens": [text],
        "ids": [1],
        "mask": [1],
        "logp": [-0.5],
        "advantage": None,
        "signals": {},
    }


def make_run(folder, *, rounds=3, text="so 7", config=None):
    with RunLog(folder) as log:
        log.write_config({"recipe": "grpo()", "model": "toy"} if config is None else config)
        for index in range(rounds):
            log.write_metrics({"round": index, "reward": index / 2, "loss": np.nan})
            log.write_rollouts([rollout(index, n, text) for n in range(4)])
    return folder


def embedded(page: str) -> dict:
    found = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.S)
    assert len(found) == 1
    return json.loads(found[0])


def read(path) -> str:
    return path.read_text(encoding="utf-8")


def test_the_page_holds_the_run(tmp_path):
    folder = make_run(tmp_path / "run", config={"recipe": "grpo(clip=0.2)", "seed": 3})
    path = write_report(folder)
    assert path == folder / "report.html"
    data = embedded(read(path))
    assert data["name"] == "run"
    assert data["config"] == {"recipe": "grpo(clip=0.2)", "seed": 3}
    assert data["metrics"] == read_jsonl(folder / "metrics.jsonl")
    # JavaScript would round 62-bit integers, so that uids are text there.
    logged = read_jsonl(folder / "rollouts.jsonl")
    shown = [r | {"uid": str(r["uid"]), "row": n % 4} for n, r in enumerate(logged)]
    assert expanded(data["rollouts"]) == shown
    assert [data["rollouts"][k] for k in ("rows", "rounds_shown", "rounds")] == [12, 3, 3]


def expanded(found: dict) -> list[dict]:
    """What records.js makes of the compacted records."""
    rows = []
    words = {int(i): text for i, text in found["vocabulary"].items()}
    for record in found["records"]:
        tokens = record.get("tokens") or [words[i] for i in record["ids"]]
        runs = record.get("sources", [])
        mask = record.get("mask") or [int(s == "policy") for s, n in runs for _ in range(n)]
        prompt, answer = found["prompts"][record["prompt"]], record.get("answer", "".join(tokens))
        rows.append(record | {"prompt": prompt, "tokens": tokens, "mask": mask, "answer": answer})
    return rows


def test_what_a_row_says_twice_is_left_out_and_told_again(tmp_path):
    plain = rollout(0) | {"sources": [["policy", 1], ["tool", 2]], "mask": [1, 0, 0]}
    plain |= {"ids": [1, 2, 2], "tokens": ["so ", "7", "7"], "answer": "so 77"}
    odd = plain | {"tokens": ["so ", "7", "8"], "answer": "other", "mask": [1, 1, 0]}
    odd |= {"logp": [-0.12346, None, 0.0], "signals": {"entropy": [1.00001, None, 2.5]}}
    with RunLog(tmp_path) as log:
        log.write_rollouts([plain, odd])
    found = selected_rollouts(tmp_path / "rollouts.jsonl", 10**6)
    first, second = found["records"]
    assert not {"tokens", "mask", "answer"} & set(first)
    assert (second["logp"], second["signals"]) == ([-0.1235, None, 0], {"entropy": [1, None, 2.5]})
    same = ("tokens", "mask", "answer", "prompt", "ids")
    for told, was in zip(expanded(found), (plain, odd), strict=True):
        assert {k: told[k] for k in same} == {k: was[k] for k in same}


def test_model_text_stays_text(tmp_path):
    folder = make_run(tmp_path / "a<b>&", text=EVIL, config={"model": EVIL, EVIL: EVIL})
    page = read(write_report(folder))
    assert "<img" not in page
    assert "alert(1)>" not in page
    assert "\u2028" not in page
    assert "\u2029" not in page
    assert "\\u003c/script\\u003e\\u003cimg src=x onerror=alert(1)\\u003e {{7*7}}" in page
    assert "<title>a&lt;b&gt;&amp; · jaxevo</title>" in page
    assert page.count("</script>") == 2  # the data's and the script's
    data = embedded(page)
    assert expanded(data["rollouts"])[0]["tokens"] == [EVIL]
    assert data["config"] == {"model": EVIL, EVIL: EVIL}


@pytest.mark.parametrize("text", [EVIL, "a\\u003cb", '"\\"', "\x00\x1f\x7f"])
def test_script_json_means_the_same_and_has_no_markup(text):
    escaped = script_json({text: [text, 0.5, None]})
    assert not set(escaped) & set("<>&\u2028\u2029")
    assert json.loads(escaped) == {text: [text, 0.5, None]}


def test_the_page_reaches_for_nothing_outside(tmp_path):
    page = read(write_report(make_run(tmp_path)))
    assert "http://" not in page
    assert "https://" not in page
    assert not re.search(r"\b(src|href|srcset|action)\s*=\s*[\"']", page)
    assert not re.search(r"@import|url\(|\bfetch\(|XMLHttpRequest|import\(", page)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", page)
    assert not re.search(r"\sstyle=\"|\son[a-z]+=\"", page)


def test_the_policy_allows_only_the_page_s_own_script_and_style(tmp_path):
    import base64
    import hashlib

    page = read(write_report(make_run(tmp_path)))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert rules["default-src"] == "'none'"
    for name in ("script", "style"):
        text = re.search(f"<{name}>(.*?)</{name}>", page, re.S)
        assert text is not None
        digest = base64.b64encode(hashlib.sha256(text[1].encode()).digest()).decode()
        assert rules[f"{name}-src"] == f"'sha256-{digest}'"


def test_a_large_run_keeps_the_first_the_last_and_evenly_spaced_rounds(tmp_path):
    rows = [rollout(r, n, "<" * 100, task=f"sum {r}") for r in range(21) for n in range(4)]
    with RunLog(tmp_path) as log:
        log.write_rollouts(rows)
    path = tmp_path / "rollouts.jsonl"
    whole = selected_rollouts(path, 10**6)
    budget = len(script_json(whole)) // 3
    found = selected_rollouts(path, budget)
    shown = sorted({r["round"] for r in found["records"]})
    assert len(shown) >= 4
    assert (shown[0], shown[-1]) == (0, 20)
    assert np.ptp(np.diff(shown)) <= 1
    assert len(found["records"]) == 4 * len(shown)
    assert [found[k] for k in ("rounds_shown", "rounds", "rows")] == [len(shown), 21, 84]
    assert len(script_json(found)) <= budget


def test_a_large_run_keeps_a_row_of_prompts_that_come_back(tmp_path):
    tasks = lambda r: [f"once {r}", "always", f"once {r} too", "odd" if r % 2 else f"x {r}"]  # noqa: E731
    rows = [rollout(r, n, task=task) for r in range(40) for n, task in enumerate(tasks(r))]
    with RunLog(tmp_path) as log:
        log.write_rollouts(rows)
    path = tmp_path / "rollouts.jsonl"
    budget = int(0.45 * len(script_json(selected_rollouts(path, 10**6))))
    found = selected_rollouts(path, budget)
    rounds = lambda task: {r["round"] for r in found["records"] if r["task"] == task}  # noqa: E731
    assert 2 <= found["rounds_shown"] < 20
    assert len(rounds("always")) >= found["rounds_shown"] + 10
    assert {0, 39} < rounds("always")
    assert all(r["row"] == 1 for r in found["records"] if r["task"] == "always")
    assert len(script_json(found)) <= budget


def test_a_small_budget_cuts_the_first_and_the_last_round(tmp_path):
    folder = make_run(tmp_path, rounds=5)
    path = folder / "rollouts.jsonl"
    whole = len(script_json(selected_rollouts(path, 10**6)))
    found = selected_rollouts(path, 300 + whole // 4)
    rounds = [r["round"] for r in found["records"]]
    assert rounds.count(0) == rounds.count(4) == 2
    assert len(rounds) < 6  # the task comes back, so that another round may have a row
    assert (found["rows"], found["rounds_shown"]) == (20, 0)
    none = selected_rollouts(path, 10)
    assert none["records"] == []
    assert none["rows"] == 20


def long_run(folder, *, rounds: int, rows: int):
    """A run as large as a day's, of answers of 40 tokens."""
    rng, ids = np.random.default_rng(0), list(range(40))
    words = [f" word{i}" for i in ids]
    (folder / "config.json").write_text("{}")
    with (
        (folder / "metrics.jsonl").open("w") as metrics,
        (folder / "rollouts.jsonl").open("w") as lines,
    ):
        for index in range(rounds):
            values = {f"metric_{n}": round(float(x), 5) for n, x in enumerate(rng.random(60))}
            metrics.write(compact_json({"round": index, "reward": 0.5, **values}) + "\n")
            noise = [round(float(x), 5) for x in -rng.random(40)]
            for n in range(rows):
                own = rollout(index, n, task=f"sum {n // 8 + 8 * (index % 25)}")
                own |= {"ids": ids, "tokens": words, "answer": "".join(words), "mask": [1] * 40}
                own |= {"logp": noise, "signals": {"entropy": noise}, "prompt": f"prompt {n // 8}"}
                lines.write(compact_json(own | {"group": n // 8, "trained": True}) + "\n")
    return folder


def test_a_page_has_at_most_its_bytes(tmp_path):
    folder = long_run(tmp_path, rounds=60, rows=16)
    for budget in (10**6, 200_000):
        page = write_report(folder, page_bytes=budget)
        assert 0.75 * budget <= page.stat().st_size <= budget
    assert 2 <= len(embedded(read(page))["metrics"]) < 60
    assert len(embedded(read(page))["rollouts"]["records"]) > 16
    assert embedded(read(page))["rounds_logged"] == 60
    with pytest.raises(ValueError, match="a page of 20000 bytes has no place for this run"):
        write_report(folder, page_bytes=20_000)


def test_a_config_that_is_too_large_is_left_out(tmp_path):
    folder = make_run(tmp_path, config={"recipe": "x" * 60_000})
    data = embedded(read(write_report(folder, page_bytes=200_000)))
    assert list(data["config"]) == ["left out"]


def test_a_killed_run_without_config_and_rollouts_has_a_report(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"round": 0, "reward": 1}\n{"rou')
    data = embedded(read(write_report(tmp_path)))
    assert data["metrics"] == [{"round": 0, "reward": 1}]
    assert data["config"] == {}
    assert data["rollouts"]["records"] == []
    assert [data["rollouts"][k] for k in ("rows", "rounds_shown", "rounds")] == [0, 0, 0]


@pytest.mark.parametrize("content", [None, "", '{"rou'])
def test_no_finished_round_is_one_clear_error(tmp_path, content):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(ValueError, match=r"metrics\.jsonl holds no finished round"):
        write_report(tmp_path)
