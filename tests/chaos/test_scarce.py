"""Descriptors that run out and a disk that is full: calls go on, or fail with a word."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dspex
from tests.chaos.figures import back_to
from tests.namespaces import need
from tests.provider import Provider

pytestmark = pytest.mark.chaos

ROOT = Path(__file__).parents[2]
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
# Full: the rest of it is taken by one file.
ON_A_FULL_DISK = """
mount -t tmpfs -o size=16k tmpfs "$1" || exit 77
head -c 1000000 /dev/zero > "$1/taken" 2>/dev/null
cd "$2" && TMPDIR="$1" exec "$3" -m tests.chaos.full_disk 2>/dev/full
"""


def told(command: list[str]) -> dict[str, Any]:
    """What a script prints as its last line, as JSON."""
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    assert isinstance(found, dict)
    print(found)
    return found


def test_a_supervisor_without_descriptors_answers_on_and_recovers() -> None:
    """If this failed, a service at its limit of open files would stop, or need a restart."""
    found = told([sys.executable, "-m", "tests.chaos.scarce"])
    assert found["whole"] == found["again"] == {"ok": 100}
    assert found["none_free"] == {"ok": 200}
    assert found["one_left"] == {"ok": 200}
    before, after = found["descriptors"]
    assert after <= before + 2


@pytest.mark.anyio
async def test_a_worker_without_descriptors_fails_its_calls_with_a_word_and_recovers(
    provider: Provider,
) -> None:
    """If this failed, a program that leaks files would hang its neighbours, or end the worker for good."""
    lm = dspex.LM("openai/x", base_url=provider.base_url, retry=dspex.Retry(attempts=1))
    settings = dspex.Settings(allow_modules=("tests.chaos.commands",))
    async with dspex.Runtime(
        lm, pools={"general": dspex.PoolOptions(workers=1)}, settings=settings
    ) as runtime:
        await back_to(runtime, 1)
        adapter, pool = runtime.adapter(timeout=20.0), runtime.pool("general")
        using = asyncio.create_task(pool.aexecute("chaos.use_descriptors", {"seconds": 1.5}, timeout=30.0))
        await asyncio.sleep(0.5)
        assert await pool.aexecute("ping") == "pong"
        answers = await asyncio.gather(
            *(adapter.agenerate(f"q{number}") for number in range(4)), return_exceptions=True
        )
        assert all(isinstance(answer, dspex.DspexError | dspex.Response) for answer in answers), answers
        assert await using > 100
        assert (await adapter.agenerate("after")).response == "after"
        assert runtime.stats().pools["general"].unfinished == 0


def test_a_full_disk_costs_no_call(tmp_path: Path) -> None:
    """If this failed, a full disk, or errors that cannot be written, would stop a service."""
    need(NAMESPACE)
    command = [*NAMESPACE, "sh", "-c", ON_A_FULL_DISK, "sh", str(tmp_path), str(ROOT), sys.executable]
    found = told(command)
    assert found == {
        "full": True,
        "asked": {"ok": 50},
        "large": 2 * 1024 * 1024,
        "wrote": {"ok": 4},
        "again": {"ok": 50},
    }
