"""`jaxevo doctor`: what this machine is, and what would stop a run on it, each with what to do."""

from __future__ import annotations

import dataclasses
import fcntl
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

PACKAGES = ("jax", "jaxlib", "numpy", "optax", "chex", "orbax-checkpoint", "transformers")
OLDEST_JAX, TESTED_JAX = (0, 10, 2), (0, 12)
PREFIXES = ("JAX_", "XLA_", "TPU_", "LIBTPU", "CUDA_VISIBLE", "NCCL_", "GLIBC_TUNABLES", "TF_GPU")
SECRET = ("TOKEN", "KEY", "SECRET", "PASSWORD")
PORT = 8476  # of the process that others join, as on Cloud TPUs
MAPPINGS, FILES = 65_530, 1024  # what Linux gives a process; fewer ends large runs
FREE_GB, SLOW_MB = 5.0, 50.0  # disk: room for checkpoints; megabytes per second


@dataclasses.dataclass(frozen=True)
class Finding:
    """One check: its name, what was found, and whether a run can go on with that."""

    name: str
    status: Literal["ok", "warn", "fail"]
    said: str


def doctor(*, folder: str = "runs", port: int = PORT, json_out: str = "") -> int:
    """Checks versions, devices, environment, limits, disk, port; status 1 where a run would fail.

    With several hosts, start it on each of them with the variables that a run gets
    (JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID; on TPU pods none is needed): they
    meet at a timed barrier and tell each other's names.

    Args:
      folder: where runs would be written.
      port: that other hosts would reach this one at.
      json_out: file for the findings as JSON; empty for none.
    """
    findings = list(examine(Path(folder), port))
    wide = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{finding.status:<4}  {finding.name:<{wide}}  {finding.said}")
    failed = [finding.name for finding in findings if finding.status == "fail"]
    print(f"cannot run: {', '.join(failed)}" if failed else "ready to run")
    if json_out:
        text = json.dumps([dataclasses.asdict(finding) for finding in findings], indent=1)
        Path(json_out).write_text(text + "\n", "utf-8")
    return 1 if failed else 0


def examine(folder: Path, port: int) -> Iterator[Finding]:
    """All checks; one that raises is itself a finding."""
    checks: dict[str, Callable[[], Finding | list[Finding]]] = {
        "versions": versions,
        "environment": environment,
        "limits": limits,
        "disk": lambda: disk(folder),
        "port": lambda: free_port(port),
        "hosts": hosts,
        "devices": devices,
        "arithmetic": arithmetic,
    }
    for name, check in checks.items():
        try:
            found = check()
        except Exception as fault:  # whatever it is, the other checks tell more
            found = Finding(name, "fail", f"{type(fault).__name__}: {str(fault).splitlines()[0]}")
        yield from found if isinstance(found, list) else [found]


# ---------------------------------------------------------------------------- the checks
def versions() -> Finding:
    """Python and the packages that a run imports."""
    found = {"python": platform.python_version()}
    missing = []
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    said = ", ".join(f"{name} {version}" for name, version in found.items())
    if missing:
        return Finding(
            "versions", "fail", f"{', '.join(missing)} missing: pip install 'jaxevo[train]'"
        )
    numbers = tuple(int(part) for part in found["jax"].split(".")[:3])
    if numbers < OLDEST_JAX:
        return Finding("versions", "fail", f"{said}: jax is older than 0.10.2; update it")
    if numbers[:2] > TESTED_JAX:
        return Finding("versions", "warn", f"{said}: this jax is newer than those tested (0.12)")
    if found["jax"] != found["jaxlib"]:
        return Finding("versions", "warn", f"{said}: jax and jaxlib differ; install them together")
    return Finding("versions", "ok", said)


def environment() -> Finding:
    """Variables that change what JAX does; secrets are not told."""
    own = {n: v for n, v in sorted(os.environ.items()) if n.startswith(PREFIXES)}
    shown = (f"{n}={'***' if any(s in n for s in SECRET) else v}" for n, v in own.items())
    said = ", ".join(shown).replace(str(Path.home()), "~")
    return Finding("environment", "ok", said or "nothing set for JAX, XLA or TPUs")


def limits() -> Finding:
    """Open files and memory mappings that a process may have."""
    import resource

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    path = Path("/proc/sys/vm/max_map_count")
    mappings = int(path.read_text()) if path.exists() else MAPPINGS
    said = f"{files} open files, {mappings} memory mappings"
    if files < FILES:
        return Finding("limits", "warn", f"{said}: raise the first (ulimit -n 4096)")
    return Finding("limits", "ok", said)


def disk(folder: Path) -> Finding:
    """Room, speed and locks where runs are written."""
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(place).free / 1e9
    with tempfile.TemporaryFile(dir=place) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        block, start = os.urandom(1 << 24), time.perf_counter()
        for _ in range(4):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        rate = 4 * len(block) / 1e6 / (time.perf_counter() - start)
    said = f"{folder}: {free:.0f} GB free, {rate:.0f} MB/s written, locks work"
    if free < FREE_GB:
        return Finding("disk", "warn", f"{said}: a checkpoint of 1 B parameters takes 12 GB")
    if rate < SLOW_MB:
        return Finding("disk", "warn", f"{said}: checkpoints will be slow")
    return Finding("disk", "ok", said)


def free_port(port: int) -> Finding:
    """Whether other hosts could join this one there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as fault:
            return Finding(
                "port", "warn", f"{port} cannot be had ({fault.strerror}): another run may hold it"
            )
    return Finding("port", "ok", f"{port} is free on {socket.gethostname()}")


def devices() -> list[Finding]:
    """What JAX computes on here."""
    import jax

    by_kind: dict[str, list[Any]] = {}
    for device in jax.local_devices():
        by_kind.setdefault(f"{device.platform} {device.device_kind}", []).append(device)
    found = []
    for kind, same in by_kind.items():
        stats = same[0].memory_stats() or {}
        limit = stats.get("bytes_limit")
        room = f", {limit / 1e9:.1f} GB each" if limit else ""
        found.append(Finding("devices", "ok", f"{len(same)} x {kind}{room}"))
    if jax.default_backend() == "cpu" and _accelerator_here():
        said = (
            "an accelerator is here, but JAX does not see it: pip install 'jaxevo[cuda]' or [tpu]"
        )
        found.append(Finding("devices", "warn", said))
    return found


def _accelerator_here() -> bool:
    return Path("/dev/nvidiactl").exists() or Path("/dev/accel0").exists()


def arithmetic() -> Finding:
    """A product on every local device: right, and how fast."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxevo.run.costs import matmul_rate

    x = np.arange(64, dtype=np.float32).reshape(8, 8)
    for device in jax.local_devices():
        got = jax.device_get(jnp.matmul(*jax.device_put((x, x), device), precision="highest"))
        if not np.allclose(got, x.astype(np.float64) @ x, rtol=1e-5):
            return Finding("arithmetic", "fail", f"{device} multiplies wrongly: take it out of use")
    return Finding(
        "arithmetic", "ok", f"products are right; {matmul_rate() / 1e9:,.0f} GFLOP/s, float32"
    )


def hosts() -> Finding:
    """A timed barrier with every other process, and their names."""
    import jax

    from jaxevo.parallel.hosts import host_names, join_hosts

    join_hosts()
    if jax.process_count() == 1:
        return Finding("hosts", "ok", f"this one alone: {socket.gethostname()}")
    start = time.perf_counter()
    names = host_names()
    seconds = time.perf_counter() - start
    return Finding(
        "hosts", "ok", f"{len(names)} processes met in {seconds:.2f} s: {', '.join(names)}"
    )
