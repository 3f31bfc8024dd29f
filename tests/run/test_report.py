"""The HTML page of a run."""

import json
import re

import numpy as np
import pytest

from jaxevo.run.logs import RunLog, compact_json, read_jsonl
from jaxevo.run.report import script_json, write_report

EVIL = "</script><img src=x onerror=alert(1)> {{7*7}} {% raw %} <!-- \u2028\u2029 &lt; é\ud800"


def rollout(index: int, sample: int = 0, text: str = "so 7") -> dict:
    return {
        "round": index,
        "uid": 2**61 + sample,
        "parent": None,
        "group": 0,
        "role": "policy",
        "task": "sum",
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
    shown = [r | {"uid": str(r["uid"])} for r in read_jsonl(folder / "rollouts.jsonl")]
    assert data["rollouts"] == {"records": shown, "rows": 12, "rounds_shown": 3, "rounds": 3}


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
    assert data["rollouts"]["records"][0]["tokens"] == [EVIL]
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
    folder = make_run(tmp_path, rounds=21, text="<" * 100)
    budget = int(5.5 * 4 * len(script_json(rollout(0, text="<" * 100))))
    data = embedded(read(write_report(folder, rollout_bytes=budget)))["rollouts"]
    shown = sorted({r["round"] for r in data["records"]})
    assert shown == [0, 5, 10, 15, 20]
    assert (data["rounds_shown"], data["rounds"], data["rows"]) == (5, 21, 84)
    assert len(script_json(data["records"])) <= budget


def test_a_small_budget_cuts_the_first_and_the_last_round(tmp_path):
    folder = make_run(tmp_path, rounds=5)
    one = len(compact_json(rollout(0))) + 10
    data = embedded(read(write_report(folder, rollout_bytes=4 * one)))["rollouts"]
    assert [r["round"] for r in data["records"]] == [0, 0, 4, 4]
    assert data["rows"] == 20
    none = embedded(read(write_report(folder, rollout_bytes=10)))["rollouts"]
    assert none == {"records": [], "rows": 20, "rounds_shown": 0, "rounds": 5}


def test_a_killed_run_without_config_and_rollouts_has_a_report(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"round": 0, "reward": 1}\n{"rou')
    data = embedded(read(write_report(tmp_path)))
    assert data["metrics"] == [{"round": 0, "reward": 1}]
    assert data["config"] == {}
    assert data["rollouts"] == {"records": [], "rows": 0, "rounds_shown": 0, "rounds": 0}


@pytest.mark.parametrize("content", [None, "", '{"rou'])
def test_no_finished_round_is_one_clear_error(tmp_path, content):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(ValueError, match=r"metrics\.jsonl holds no finished round"):
        write_report(tmp_path)
