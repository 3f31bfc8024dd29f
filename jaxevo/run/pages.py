"""Memory of a process on CPUs: pages of 2 MiB instead of 4 KiB."""

from __future__ import annotations

import glob
import os
import platform
import sys
from pathlib import Path

_SETTING = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
_SINCE = (2, 35)  # the glibc that knows the setting
_KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_ACCELERATORS = ("/dev/accel*", "/dev/vfio/[0-9]*", "/dev/nvidia[0-9]*", "/dev/kfd")


def use_huge_pages() -> None:
    """Starts this process over with huge pages for what it allocates, where that is of use.

    XLA on a CPU allocates the temporaries of a program at every call, and gives them back. Every
    page costs a fault at its first touch, where one core works alone: with pages of 4 KiB a fifth
    of an update of SmolLM2-135M. To be called first of all. A process cannot change this later, and
    what it runs inherits it.

    Does nothing where it is done already, on a machine with an accelerator, where the environment
    sets `GLIBC_TUNABLES`, and where glibc or the kernel cannot: there malloc keeps its pages.
    """
    if _is_of_use():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **_SETTING})


def _is_of_use() -> bool:
    if _SETTING.keys() & os.environ.keys():
        return False
    on_cpu = os.environ.get("JAX_PLATFORMS") == "cpu" or not any(map(glob.glob, _ACCELERATORS))
    library, version = platform.libc_ver()
    knows = library == "glibc" and tuple(map(int, version.split(".")[:2])) >= _SINCE
    asks = _KERNEL.exists() and "[madvise]" in _KERNEL.read_text()
    return on_cpu and knows and asks
