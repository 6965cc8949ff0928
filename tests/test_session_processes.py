"""One store and two processes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from dspex.errors import SessionQuota
from dspex.session import sessions
from dspex.session.place import place_of
from dspex.session.quotas import Quotas
from dspex.session.sessions import Wanted
from dspex.session.store import Store
from dspex.testing import InProcessRuntime

pytestmark = pytest.mark.chaos  # processes take seconds to start
HERE = Path(__file__).parent.parent


@pytest.fixture(params=["file", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that outlives a process."""
    if request.param == "file":
        return str(tmp_path / "dspex.db")
    url: str = request.getfixturevalue("database")
    return url


def test_increments_of_two_processes_are_all_counted(shared: str) -> None:
    """If this failed, two servers with one store would lose each other's changes, or make a session twice."""
    with InProcessRuntime(store=shared):  # the tables are there
        pass
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.incrementing", shared, "10"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=HERE,
        )
        for _ in range(2)
    ]
    try:
        for one in both:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        for one in both:
            one.communicate("go\n", timeout=60)
        assert [one.returncode for one in both] == [0, 0]
    finally:
        for one in both:
            one.kill()
            one.wait()
    with InProcessRuntime(store=shared) as runtime:
        adapter = runtime.adapter(tenant="t")
        assert adapter.session("shared").get("n") == 20
        assert [told.id for told in adapter.sessions()] == ["shared"]


@pytest.mark.anyio
async def test_of_many_at_once_one_makes_a_session(where: str) -> None:
    """If this failed, a session could be counted twice, or a quota be overrun by those that come at once."""
    store, defaults = Store(place_of(where)), {"ttl": None, "record": "all", "metadata": b"\x80", "lm": None}
    await store.open()

    async def make(name: str) -> bool | None:
        wanted = Wanted("t", name, False, {}, defaults)
        try:
            made, _ = await store.write(lambda c: sessions.make_or_find(c, wanted, Quotas(100, 5), 1.0))
        except SessionQuota:
            return None
        return made

    try:
        same = await asyncio.gather(*(make("same") for _ in range(20)))
        assert sorted(map(str, same)) == ["False"] * 19 + ["True"]
        others = await asyncio.gather(*(make(f"s{number}") for number in range(20)))
        assert others.count(True) == 4
        assert others.count(None) == 16
    finally:
        await store.aclose()
