"""Checks of Python, of what is installed, and of what the machine gives."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

from rich.filesize import decimal

from dspex.cli.doctor.finding import Finding
from dspex.pool.zygote_client import Preparation
from dspex.process import limits

_CLAUSE = re.compile(r"(>=|<)\s*(\d+)\.(\d+)")
_FEW_FILES = 1024
_LITTLE_MEMORY = 512 * 1024 * 1024
_CGROUPS = Path("/sys/fs/cgroup")
# As the zygote does it, so that the workers' import is what is tried.
_IMPORT = "import sys; sys.path.insert(0, sys.argv[1]); import dspex.worker.dspy_compat"
_ROOT = str(Path(__file__).parents[3])
_IMPORT_LIMIT = 120.0  # seconds


def python() -> Finding:
    """Whether this Python is one that dspex is made for."""
    version = platform.python_version()
    found = f"{version} ({platform.python_implementation()}), {sys.executable}"
    wanted = _metadata("Requires-Python")
    if not _within(version, wanted):
        return Finding("broken", f"{found}; dspex needs {wanted}", "uv venv --python 3.12")
    return Finding("ok", found)


def system() -> Finding:
    """Whether this is Linux, and which."""
    library = " ".join(filter(None, platform.libc_ver())) or "no glibc"
    found = f"{platform.system()} {platform.release()}, {platform.machine()}, {library}"
    if sys.platform != "linux":
        return Finding("broken", found, "run dspex on Linux, or in a Linux container")
    return Finding("ok", found)


def dspex() -> Finding:
    """Which dspex this is, and where."""
    return Finding("ok", f"{_metadata('Version')}, {Path(__file__).parents[2]}")


def dspy(interpreter: str | None) -> Finding:
    """Whether DSPy is there, in a version that dspex knows, and can be imported.

    Args:
        interpreter: The workers' Python; None is this one.
    """
    wanted = next(
        (text for text in importlib.metadata.requires("dspex") or [] if text.startswith("dspy")), ""
    )
    mend = f"{f'{interpreter} -m ' if interpreter else ''}pip install '{wanted}'"
    command = [interpreter or sys.executable, "-c", f"{_IMPORT}, dspy; print(dspy.__version__)", _ROOT]
    began = time.monotonic()
    try:
        done = subprocess.run(  # noqa: S603 (the workers' interpreter and a line of ours)
            command,
            env=Preparation().environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_IMPORT_LIMIT,
            check=False,
        )
    except OSError as error:
        if interpreter is not None:
            mend = "set python= of the settings to a Python that has DSPy, or leave it out"
        return Finding("broken", f"{command[0]} does not run: {error.strerror}", mend)
    except subprocess.TimeoutExpired as error:
        return Finding("broken", f"it cannot be imported by {command[0]}: {error}", mend)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return Finding("broken", f"it cannot be imported by {command[0]}: {said[-1]}", mend)
    version = done.stdout.split()[-1]
    found = f"{version}, imported in {time.monotonic() - began:.1f} s by a process of its own"
    if not _within(version, wanted):
        return Finding("broken", f"{found}; dspex needs {wanted}", mend)
    return Finding("ok", found)


def cores() -> Finding:
    """How many cores workers may use, and what limits them."""
    usable, allowed, there = limits.cores(), len(os.sched_getaffinity(0)), os.cpu_count() or 1
    found = f"{usable} to use, of {there}"
    if usable < allowed:
        found += ", by the quota of the control group"
    elif allowed < there:
        found += ", by the CPU affinity"
    return Finding("ok", found)


def memory() -> Finding:
    """How much memory there is for all processes together."""
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _memory_limit()
    if limit is None or limit >= there:
        found = f"{decimal(there)}, no limit by the control group"
    else:
        found = f"{decimal(limit)} by the limit of the control group, of {decimal(there)}"
    if min(limit or there, there) < _LITTLE_MEMORY:
        return Finding("warning", f"{found}: little for DSPy and its workers", "docker run --memory 1g ...")
    return Finding("ok", found)


def open_files() -> Finding:
    """How many descriptors a process may have: each worker, and each request, needs some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return Finding("ok", "no limit")
    if soft < _FEW_FILES:
        return Finding(
            "warning",
            f"at most {soft} open files in a process (hard limit {hard})",
            f"ulimit -n {_FEW_FILES}",
        )
    return Finding("ok", f"at most {soft} open files in a process")


def _memory_limit() -> int | None:
    """The smallest limit of the control groups that this process is in, in bytes; v2, then v1."""
    found = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in {"", "memory"}:
                base = _CGROUPS / controllers
                file = "memory.limit_in_bytes" if controllers else "memory.max"
                group = base / path.lstrip("/")
                # In a container the path may be the host's; then only the root is to be seen.
                for place in (group, *group.parents):
                    with contextlib.suppress(OSError, ValueError):
                        found.append(int((place / file).read_text()))
                    if place == base:
                        break
    return min(found, default=None)


def _metadata(field: str) -> str:
    return str(importlib.metadata.metadata("dspex")[field])


def _within(version: str, wanted: str) -> bool:
    """Whether a version is in a range such as ``>=3.4,<3.5``."""
    have = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    return all(
        have >= (int(major), int(minor)) if sign == ">=" else have < (int(major), int(minor))
        for sign, major, minor in _CLAUSE.findall(wanted)
    )
