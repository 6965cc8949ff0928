"""What this machine gives: cores by affinity and cgroup, and the memory that a process takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dspex.process import limits
from tests.scenes import Scene, scene

__all__ = ["scene"]


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cgroup, on a machine of eight cores."""
    monkeypatch.setattr(limits, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    (tmp_path / "cpu").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000", 8),
        ("150000 100000", 2),
        ("200000 100000", 2),
        ("50000 100000", 1),
        ("1 100000", 1),
        ("900000 100000", 8),
        ("300000 100000\n", 3),
        ("75000 25000", 3),
    ],
)
def test_cores_by_the_quota_of_cgroup_2(cgroup: Path, quota: str, cores: int) -> None:
    """A container with two cores on a machine of 64 would start 64 workers."""
    (cgroup / "cpu.max").write_text(quota)
    assert limits.cores() == cores


@pytest.mark.parametrize(
    ("quota", "period", "cores"),
    [("-1", "100000", 8), ("250000", "100000", 3), ("50000\n", "100000\n", 1), ("0", "100000", 8)],
)
def test_cores_by_the_quota_of_cgroup_1(cgroup: Path, quota: str, period: str, cores: int) -> None:
    """A container of an older system would start a worker for each core of the machine."""
    (cgroup / "cpu/cpu.cfs_quota_us").write_text(quota)
    (cgroup / "cpu/cpu.cfs_period_us").write_text(period)
    assert limits.cores() == cores


def test_cores_without_a_cgroup(cgroup: Path) -> None:
    """A machine without cgroups could open no runtime."""
    assert limits.cores() == 8


@pytest.mark.parametrize("content", [b"", b"\n", b"max", b"lots 100000", b"1 2 3", b"\xff\xfe", b"100000 0"])
def test_a_broken_quota_counts_as_none(cgroup: Path, content: bytes) -> None:
    """A file that nobody foresaw would keep every runtime of that machine from opening."""
    (cgroup / "cpu.max").write_bytes(content)
    (cgroup / "cpu/cpu.cfs_quota_us").write_bytes(content.split(b" ")[0])
    (cgroup / "cpu/cpu.cfs_period_us").write_bytes(b"0" if content.endswith(b" 0") else b"")
    assert limits.cores() == 8


def test_a_quota_that_may_not_be_read_counts_as_none(cgroup: Path) -> None:
    """A hardened container would keep every runtime from opening."""
    (cgroup / "cpu.max").mkdir()
    assert limits.cores() == 8


def test_cores_by_affinity(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`taskset` would be ignored."""
    (cgroup / "cpu.max").write_text("600000 100000")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5})
    assert limits.cores() == 2


def test_cores_of_this_machine() -> None:
    """A pool would have no worker, or more than there are cores."""
    assert 1 <= limits.cores() <= len(os.sched_getaffinity(0))


def test_the_memory_of_a_process() -> None:
    """`max_rss` and the statistics would measure something else."""
    assert 1_000_000 < limits.resident_bytes(os.getpid()) < 100_000_000_000
    code = "import sys; x = bytearray(80_000_000); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert 80_000_000 < limits.resident_bytes(child.pid) < 200_000_000
        child.kill()
    assert limits.resident_bytes(child.pid) == 0


@pytest.mark.parametrize("pid", [0, -1, 2**31 - 1])
def test_the_memory_of_no_process_is_none(pid: int) -> None:
    """Statistics would fail because a worker has just ended."""
    assert limits.resident_bytes(pid) == 0


def test_an_expendable_child_dumps_no_core_and_dies_first(scene: Scene) -> None:
    """A crash would write gigabytes, and memory pressure would kill the service in place of a worker."""
    child = scene.start_child("facts")
    facts = scene.facts()
    assert facts["core"][1:] == [0, 0]
    assert facts["oom"] == 500
    assert child.bury() == 0
