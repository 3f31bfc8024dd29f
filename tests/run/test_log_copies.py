"""Copies of log files: what is lost comes back, what lies behind a checkpoint is forgotten."""

import pytest

from jaxevo.run.log_copies import LogCopies
from jaxevo.run.storage import listed, place_of


@pytest.fixture
def at(tmp_path):
    """A run's folder, where its checkpoints are, and the copies of its logs."""
    folder = tmp_path / "run"
    folder.mkdir()
    return folder, place_of(tmp_path / "kept"), place_of(tmp_path / "kept-logs")


def add(folder, name, text):
    with (folder / name).open("ab") as file:
        file.write(text)
    return (folder / name).stat().st_size


def parts(copies, name):
    return [(part.name, part.read_bytes()) for part in listed(copies / name)]


def make_whole_places(copies, *names):
    for name in names:  # a bucket needs no folders
        (copies / name).mkdir(parents=True, exist_ok=True)


def test_each_save_adds_what_is_new_and_all_comes_back(at):
    folder, kept, copies = at
    make_whole_places(copies, "m")
    logs = LogCopies(kept, folder)
    for text in (b"a\n", b"bb\n", b""):
        logs.send({"m": add(folder, "m", text)})
    assert [data for _, data in parts(copies, "m")] == [b"a\n", b"bb\n"]
    (folder / "m").unlink()
    assert LogCopies(kept, folder).bring_back({"m": 5}) == ["m"]
    assert (folder / "m").read_bytes() == b"a\nbb\n"
    assert LogCopies(kept, folder).bring_back({"m": 5}) == []


def test_what_lies_behind_the_checkpoint_is_written_anew(at):
    folder, kept, copies = at
    make_whole_places(copies, "m", "audit")
    logs = LogCopies(kept, folder)
    logs.send({"m": add(folder, "m", b"a\n")})
    logs.send({"m": add(folder, "m", b"lost\n"), "audit": add(folder, "audit", b"x\n")})
    logs.send({"m": add(folder, "m", b"lost, too\n"), "audit": add(folder, "audit", b"y\n")})
    again = LogCopies(kept, folder)  # from the first save, of which alone there is a checkpoint
    assert again.bring_back({"m": 2}) == []
    assert parts(copies, "audit") == []
    for name in ("m", "audit"):
        (folder / name).write_bytes((folder / name).read_bytes()[: 2 if name == "m" else 0])
    again.send({"m": add(folder, "m", b"b\n"), "audit": add(folder, "audit", b"z\n")})
    assert [data for _, data in parts(copies, "m")] == [b"a\n", b"b\n"]
    assert [data for _, data in parts(copies, "audit")] == [b"z\n"]


def test_a_part_that_reaches_beyond_the_checkpoint_is_cut(at):
    folder, kept, copies = at
    make_whole_places(copies, "m")
    logs = LogCopies(kept, folder)
    logs.send({"m": add(folder, "m", b"a\nb\n")})
    (folder / "m").write_bytes(b"")
    again = LogCopies(kept, folder)
    assert again.bring_back({"m": 2}) == ["m"]
    assert (folder / "m").read_bytes() == b"a\n"
    again.send({"m": add(folder, "m", b"c\n")})
    assert parts(copies, "m") == [("0" * 15, b"a\nc\n")]


def test_a_run_that_begins_anew_leaves_nothing(at):
    folder, kept, copies = at
    make_whole_places(copies, "m")
    logs = LogCopies(kept, folder)
    logs.send({"m": add(folder, "m", b"a\n")})
    logs.clear()
    assert listed(copies) == []
    logs.clear()
