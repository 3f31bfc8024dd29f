"""Records of rows, the files of a run folder, and resuming in it."""

import dataclasses
import json
import math
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from jaxevo.models.tokenizer import HFTokenizer
from jaxevo.run.logs import RunLog, read_jsonl, rollout_record, token_texts
from jaxevo.types import Actions, Row, Segment, Task, row_uid


def byte_tokenizer() -> HFTokenizer:
    """One token per byte, as the byte-level BPE of GPT-2 without merges."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: i for i, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return HFTokenizer(tokenizer, tokenizer, (0,), 0, None, {})


def ids(text: str) -> np.ndarray:
    return np.array(byte_tokenizer().encode(text), np.int32)


def tool_row() -> Row:
    """2 sampled tokens, 1 from a tool, 1 sampled; the first segment was sampled with a cut."""
    return Row(
        uid=row_uid(3, 0, 1, 2),
        task=Task("sum-3+4", (), "7"),
        group=5,
        segments=(
            Segment(ids("3+4?"), "prompt"),
            Segment(
                ids("7 "),
                "policy",
                logp=np.array([-0.5, -1.25], np.float32),
                log_kept=np.array([-0.25, 0.0], np.float32),
                entropy=np.array([0.1, 0.2], np.float32),
            ),
            Segment(ids("!"), "tool", logp=np.array([-9.0], np.float32)),
            Segment(ids("."), "policy", logp=np.array([-0.123456789], np.float32)),
        ),
        rewards={"correct": 1.0, "format": 0.25},
        feedback="well done",
        info={"finish": "stop"},
    )


def record(**options) -> dict:
    row = options.pop("row", tool_row())
    return rollout_record(row, round_index=3, tokenizer=byte_tokenizer(), trained=True, **options)


def test_record_says_what_was_sampled_and_by_whom():
    made = record()
    assert made["tokens"] == ["7", " ", "!", "."]
    assert made["prompt"] == "3+4?"
    assert made["answer"] == "7 !."
    assert made["mask"] == [1, 1, 0, 1]
    assert made["sources"] == [["policy", 2], ["tool", 1], ["policy", 1]]
    # -0.5 - (-0.25): the kept mass is subtracted; the tool's own log-prob is not ours.
    assert made["logp"] == [-0.25, -1.25, None, -0.12346]
    assert made["signals"] == {"entropy": [0.1, 0.2, None, None]}
    assert made["sampled_tokens"] == 3
    assert made["reward"] == 1.25
    assert (made["finish"], made["feedback"], made["trained"]) == ("stop", "well done", True)
    assert json.loads(json.dumps(made, allow_nan=False)) == made


def test_the_advantage_stands_by_itself_and_a_padded_array_is_cut():
    assert record()["advantage"] is None
    padded = jnp.array([1.0, 2.0, 0.0, 3.0, 7.0, 7.0])
    made = record(signals={"text": {"advantage": padded}})
    assert made["advantage"] == [1.0, 2.0, 0.0, 3.0]
    assert made["signals"].keys() == {"entropy"}


def test_actions_of_other_streams_are_shown_beside_the_text():
    moves = Actions(
        {"to": np.array([[1.0, 2.0], [3.0, 4.000001]])}, np.array([True, False]), np.array([-1, 0])
    )
    signals = {"flow": {"advantage": np.array([0.5, 0.0, 9.0])}}
    row = dataclasses.replace(tool_row(), actions={"flow": moves})
    made = record(row=row, signals=signals)
    assert made["actions"]["flow"] == {
        "mask": [1, 0],
        "advantage": [0.5, 0.0],
        "logp": [-1.0, 0.0],
        "data": {"to": [[1.0, 2.0], [3.0, 4.0]]},
    }


def test_signals_are_cut_rounded_and_freed_of_nan():
    made = record(signals={"text": {"gap": np.array([0.123456, np.nan, np.inf, 1, 9])}})
    assert made["signals"]["gap"] == [0.12346, None, None, 1.0]
    with pytest.raises(ValueError, match=r"gap has shape \(2,\).*4 tokens"):
        record(signals={"text": {"gap": np.zeros(2)}})


def test_each_token_is_decoded_on_its_own():
    tokenizer = byte_tokenizer()
    assert token_texts(ids("a é\n").tolist(), tokenizer) == ["a", " ", "\ufffd", "\ufffd", "\n"]


# ---------------------------------------------------------------------------- files
def test_metrics_and_rollouts_read_back(tmp_path):
    with RunLog(tmp_path / "run") as log:
        log.write_config({"recipe": "r()", "versions": {"jax": "0"}, "rounds": np.int64(3)})
        log.write_metrics({"round": 0, "reward": jnp.float32(0.5), "count": np.int64(4)})
        # The line is there at once, for those who watch a run.
        assert read_jsonl(log.folder / "metrics.jsonl") == [{"round": 0, "reward": 0.5, "count": 4}]
        log.write_rollouts([record()])
    assert read_jsonl(tmp_path / "run" / "rollouts.jsonl") == [record()]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["rounds"] == 3


def test_non_finite_metrics_become_null_and_are_named(tmp_path):
    with RunLog(tmp_path) as log:
        log.write_metrics({"round": 0, "loss": math.nan, "grad_norm": jnp.inf, "note": None})
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert read_jsonl(tmp_path / "metrics.jsonl") == [
        {"round": 0, "loss": None, "grad_norm": None, "note": None}
        | {"nonfinite": ["loss", "grad_norm"]}
    ]
    assert [tag for tag, _, _ in scalars(tmp_path)] == []


def test_strange_text_survives_the_file(tmp_path):
    strange = {"round": 0, "feedback": "a\u2028b\r\n\x00 \ud800 </script> é"}
    with RunLog(tmp_path) as log:
        log.write_rollouts([strange, strange])
    assert read_jsonl(tmp_path / "rollouts.jsonl") == [strange, strange]


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    with RunLog(tmp_path) as log:
        log.write_metrics({"round": 0})
    with pytest.raises(FileExistsError, match="already holds a run"):
        RunLog(tmp_path)


def test_metrics_need_a_round(tmp_path):
    with RunLog(tmp_path) as log, pytest.raises(ValueError, match="'round'"):
        log.write_metrics({"reward": 1.0})


def test_values_without_a_json_form_are_refused(tmp_path):
    with RunLog(tmp_path) as log, pytest.raises(TypeError, match="as JSON"):
        log.write_config({"task": tmp_path})


# ---------------------------------------------------------------------------- resuming
def scalars(folder) -> list[tuple[str, int, float]]:
    """What TensorBoard would show: it hides earlier files' steps from a restart's step on."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    kept: list[tuple[str, int, float]] = []
    for path in sorted((folder / "tensorboard").glob("*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += 16 + size
            if event.session_log.status == SessionLog.START:
                kept = [entry for entry in kept if entry[1] < event.step]
            kept += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
    return kept


def write_round(log: RunLog, index: int, reward: float) -> None:
    log.write_metrics({"round": index, "reward": reward})
    log.write_rollouts([{"round": index, "uid": n} for n in range(2)])


def test_a_resumed_run_has_each_round_once(tmp_path):
    with RunLog(tmp_path) as log:
        write_round(log, 0, 0.0)
        write_round(log, 1, 0.25)
        checkpoint = json.loads(json.dumps(log.offsets()))
        write_round(log, 2, -1.0)
    with (tmp_path / "rollouts.jsonl").open("ab") as file:
        file.write(b'{"round": 3, "ui')  # killed in the middle of a line
    with RunLog(tmp_path, append=True) as log:
        log.cut_back(checkpoint)
        assert [m["round"] for m in read_jsonl(tmp_path / "metrics.jsonl")] == [0, 1]
        assert [r["round"] for r in read_jsonl(tmp_path / "rollouts.jsonl")] == [0, 0, 1, 1]
        write_round(log, 2, 0.5)
    assert [m["reward"] for m in read_jsonl(tmp_path / "metrics.jsonl")] == [0.0, 0.25, 0.5]
    assert [r["round"] for r in read_jsonl(tmp_path / "rollouts.jsonl")] == [0, 0, 1, 1, 2, 2]
    assert scalars(tmp_path) == [("reward", 0, 0.0), ("reward", 1, 0.25), ("reward", 2, 0.5)]


def test_an_audit_file_is_made_with_its_first_line_and_cut_back_with_the_others(tmp_path):
    path = tmp_path / "audit.jsonl"
    with RunLog(tmp_path) as log:
        log.write_audit([])
        write_round(log, 0, 0.0)
        nothing = log.offsets()
        assert not path.exists()
        log.write_audit([{"round": 1, "uid": 7}])
        one = log.offsets()
        log.write_audit([{"round": 2, "uid": 8}, {"round": 2, "uid": 9}])
    with path.open("ab") as file:
        file.write(b'{"round": 3, "ui')  # killed in the middle of a line
    with RunLog(tmp_path, append=True) as log:
        assert [line["uid"] for line in read_jsonl(path)] == [7, 8, 9]
        log.cut_back(one)
        log.write_audit([{"round": 2, "uid": 10}])
        assert [line["uid"] for line in read_jsonl(path)] == [7, 10]
        log.cut_back(nothing)
        assert not path.exists()
        log.write_audit([{"round": 1, "uid": 11}])
    assert [line["uid"] for line in read_jsonl(path)] == [11]
    path.unlink()
    with RunLog(tmp_path, append=True) as log, pytest.raises(ValueError, match="has 0 bytes"):
        log.cut_back(one)


def test_a_running_log_can_be_cut_back_to_nothing(tmp_path):
    with RunLog(tmp_path) as log:
        start = log.offsets()
        write_round(log, 0, 0.0)
        log.cut_back(start)
        write_round(log, 0, 1.0)
    assert read_jsonl(tmp_path / "metrics.jsonl") == [{"round": 0, "reward": 1.0}]
    assert scalars(tmp_path) == [("reward", 0, 1.0)]


def test_appending_drops_a_cut_last_line_only(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"round": 0}\n{"rou')
    with RunLog(tmp_path, append=True) as log:
        log.write_metrics({"round": 1})
    assert read_jsonl(tmp_path / "metrics.jsonl") == [{"round": 0}, {"round": 1}]


@pytest.mark.parametrize(
    ("offset", "problem"), [(99, "has 13 bytes"), (5, "not the end of a line")]
)
def test_offsets_of_another_run_are_refused(tmp_path, offset, problem):
    (tmp_path / "metrics.jsonl").write_text('{"round": 0}\n')
    with RunLog(tmp_path, append=True) as log, pytest.raises(ValueError, match=problem):
        log.cut_back({"metrics.jsonl": offset, "rollouts.jsonl": 0})
    assert read_jsonl(tmp_path / "metrics.jsonl") == [{"round": 0}]


# ---------------------------------------------------------------------------- reading
def test_a_cut_last_line_is_named_unless_it_may_be_ignored(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"round": 0}\n{"note": "\xc3')
    with pytest.raises(ValueError, match=r"line 2 of .* is cut off"):
        read_jsonl(path)
    assert read_jsonl(path, ignore_cut_last=True) == [{"round": 0}]


@pytest.mark.parametrize("line", ["", "[1]", '{"a": NaN}', '{"a"'])
def test_nothing_else_is_tolerated(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"round": 0}}\n{line}\n{{"round": 2}}\n')
    with pytest.raises(ValueError, match=r"line 2 of .* cannot be read"):
        read_jsonl(path, ignore_cut_last=True)
