"""A command starts over with huge pages, where the machine has them."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, resource, sys
from jaxevo.run.pages import use_huge_pages
{call}
import jax, jax.numpy as jnp

@jax.jit
def program(x):  # its temporaries, 0.13 GB, cannot be fused away
    return jnp.cumsum(jnp.sort(jnp.outer(x, x)))[-1]

x = jnp.ones(4096)
program(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
program(x).block_until_ready()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults, os.environ.get("GLIBC_TUNABLES"), *sys.argv[1:])
"""
SETTING = "glibc.malloc.hugetlb=1"


def ran(call: str, folder: Path, **environment: str) -> list[str]:
    own = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    script = folder / "program.py"
    script.write_text(PROGRAM.format(call=call))
    done = subprocess.run(
        [sys.executable, str(script), "--an", "argument"],
        env={**own, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def has_huge_pages() -> bool:
    library, version = platform.libc_ver()
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    asks = setting.exists() and "[madvise]" in setting.read_text()
    return library == "glibc" and float(version) > 2.34 and asks


@pytest.mark.skipif(not has_huge_pages(), reason="no glibc 2.35, or no huge pages to ask for")
def test_temporaries_touch_few_pages(tmp_path: Path) -> None:
    few, setting, *arguments = ran("use_huge_pages()", tmp_path)
    many, without, *_ = ran("", tmp_path)
    assert (setting, without) == (SETTING, "None")
    assert arguments == ["--an", "argument"]
    assert int(many) > 25_000
    assert int(few) < int(many) / 20


def test_what_the_environment_says_stays(tmp_path: Path) -> None:
    _, setting, *_ = ran("use_huge_pages()", tmp_path, GLIBC_TUNABLES="glibc.malloc.tcache_count=7")
    assert setting == "glibc.malloc.tcache_count=7"


def test_an_accelerator_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from jaxevo.run import pages

    started: list[object] = []
    monkeypatch.setattr(os, "execve", lambda *args: started.append(args))
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(pages, "_ACCELERATORS", ("/dev/null",))
    pages.use_huge_pages()
    assert not started
