"""The server process of a local model and how it is supervised, with a stand-in for its library."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dspex.errors import LMNotConfigured, LMUnavailable, PoolClosed
from dspex.lm import local as local_module
from dspex.lm.llama_server import Configuration, ask
from dspex.lm.local import LocalModel
from dspex.process.spawn import spawn
from tests.local_models import eventually, is_gone, own_world

__all__ = ["own_world"]  # a fixture, which each test of this file has

pytestmark = pytest.mark.anyio


def visible(pid: int | None) -> str:
    """What a process shows of itself: its arguments and its environment."""
    return "".join(Path(f"/proc/{pid}/{file}").read_text() for file in ("cmdline", "environ"))


class Library:
    """A stand-in for xllamacpp that the child imports: what it does when a server is made is set here."""

    def __init__(self, directory: Path) -> None:
        self.gguf = directory / "some.gguf"
        self.gguf.touch()
        self._module = directory / "library" / "xllamacpp.py"
        self._module.parent.mkdir()
        self._starts = directory / "starts"
        self._starts.touch()
        self.on_start("")

    def on_start(self, body: str, on_import: str = "") -> None:
        self._module.write_text(
            textwrap.dedent(f"""
                import os, threading, time
                from types import SimpleNamespace as Empty
                {on_import}
                def CommonParams():
                    return Empty(model=Empty(), cpuparams=Empty())
                class Server:
                    listening_address = "http://127.0.0.1:1"
                    def __init__(self, parameters):
                        with open({str(self._starts)!r}, "a") as starts: print(os.getpid(), file=starts)
                        {body}
            """)
        )

    @property
    def starts(self) -> list[int]:
        return [int(pid) for pid in self._starts.read_text().split()]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "library"))
    return Library(tmp_path)


@pytest.fixture
async def model(library: Library) -> AsyncIterator[LocalModel]:
    model = LocalModel(str(library.gguf), slots=2)
    yield model
    await model.aclose()


async def test_callers_share_one_start(model: LocalModel, library: Library) -> None:
    """The first calls of a program would each load the model, at 1.3 GB apiece."""
    endpoints = await asyncio.gather(*(model.endpoint() for _ in range(5)))
    assert set(endpoints) == {await model.endpoint()}
    assert len(library.starts) == 1
    assert endpoints[0].base_url == "http://127.0.0.1:1/v1"
    assert endpoints[0].model == "some"


async def test_one_caller_can_go_away(model: LocalModel, library: Library) -> None:
    """A deadline of one call would end the start that others wait for."""
    library.on_start("time.sleep(0.3)")
    impatient, patient = (asyncio.create_task(model.endpoint()) for _ in range(2))
    await eventually(lambda: len(library.starts) == 1)
    impatient.cancel()
    assert (await patient).model == "some"
    assert impatient.cancelled()
    assert len(library.starts) == 1


async def test_the_key_is_secret(model: LocalModel) -> None:
    """Any user of the machine could read the key in the list of processes, or a log could hold it."""
    endpoint = await model.endpoint()
    assert endpoint.api_key not in visible(model.pid)
    assert endpoint.api_key not in repr(endpoint)


async def test_a_dead_server_is_replaced(model: LocalModel, library: Library) -> None:
    """After a crash every call would go to a dead address."""
    first, pid = await model.endpoint(), model.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: model.pid != pid)
    second = await model.endpoint()
    assert second.api_key != first.api_key
    assert library.starts == [pid, model.pid]


async def test_a_dead_server_is_replaced_unasked(model: LocalModel) -> None:
    """The call after a crash would wait while the model loads, though nobody used the time before."""
    await model.endpoint()
    pid = model.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: model.pid not in {pid, None})


async def test_deaths_in_a_row_end_in_an_error(
    model: LocalModel, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that cannot live would be started for ever, at full load."""
    library.on_start("threading.Timer(0.05, os._exit, [7]).start()")
    await model.endpoint()
    await eventually(lambda: len(library.starts) == 3 and is_gone(library.starts[-1]))
    await eventually(lambda: model.pid is None)
    with pytest.raises(LMUnavailable, match="3 times") as caught:
        await model.endpoint()
    assert caught.value.details == {"cause": "ended with status 7", "deaths": 3}
    assert caught.value.retry_after is not None
    assert len(library.starts) == 3
    # When its rest is over it gets another chance.
    library.on_start("")
    monkeypatch.setattr(local_module, "_REST", 0.0)
    assert (await model.endpoint()).model == "some"


@pytest.mark.parametrize(
    ("on_import", "body", "error", "says"),
    [
        ("raise ImportError('libgomp.so.1: cannot open')", "", LMNotConfigured, "apt-get install libgomp1"),
        ("raise ModuleNotFoundError('xllamacpp')", "", LMNotConfigured, r"pip install 'dspex\[local\]'"),
        ("", "raise RuntimeError('failed')", LMUnavailable, "failed"),
        ("", "os.write(2, b'0.1 E reader: bad magic'); raise RuntimeError", LMUnavailable, ": bad magic"),
        ("", "os._exit(7)", LMUnavailable, "ended with status 7"),
        ("", "os.kill(os.getpid(), 9)", LMUnavailable, "memory"),
    ],
)
async def test_a_failed_start_is_explained(
    model: LocalModel, library: Library, *, on_import: str, body: str, error: type[Exception], says: str
) -> None:
    """The user would see that a process ended, and not what to install or which file is bad."""
    library.on_start(body, on_import)
    with pytest.raises(error, match=says):
        await model.endpoint()
    library.on_start("")  # put right, it starts
    assert (await model.endpoint()).model == "some"


async def test_each_caller_has_an_error_of_its_own(model: LocalModel, library: Library) -> None:
    """Two calls that share a failed start would be reported under one request id."""
    library.on_start("raise RuntimeError('failed')")
    one, other = await asyncio.gather(model.endpoint(), model.endpoint(), return_exceptions=True)
    assert isinstance(one, LMUnavailable)
    assert isinstance(other, LMUnavailable)
    assert one is not other


async def test_closing_ends_a_start(model: LocalModel, library: Library) -> None:
    """Leaving a runtime would wait until its model has loaded, or leave that process behind."""
    library.on_start("time.sleep(60)")
    waiting = asyncio.create_task(model.endpoint())
    await eventually(lambda: len(library.starts) == 1)
    async with asyncio.timeout(5):
        await model.aclose()
    with pytest.raises(PoolClosed):
        await waiting
    assert is_gone(library.starts[0])


async def test_a_closed_model_stays_closed(model: LocalModel, library: Library) -> None:
    """A late call would start a server that nobody stops."""
    await model.endpoint()
    await model.aclose()
    await model.aclose()
    assert is_gone(library.starts[0])
    with pytest.raises(PoolClosed):
        await model.endpoint()


def test_a_fork_does_not_share_it(library: Library) -> None:
    """A forked copy would use, and end, the server of the process it was copied from."""
    script = f"""
        import asyncio, os
        from dspex.errors import PoolClosed
        from dspex.lm.local import LocalModel
        model = LocalModel({str(library.gguf)!r}, slots=1)
        pid = os.fork()
        if pid:
            raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        try:
            asyncio.run(model.endpoint())
        except PoolClosed as error:
            os._exit(0 if "before a fork" in error.message else 1)
        os._exit(2)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=30)


async def test_the_child_is_quiet_and_goes_when_hung_up_on(library: Library, tmp_path: Path) -> None:
    """The library's log would appear among a user's output, or a lost parent would leave it running."""
    library.on_start("print('noise', flush=True); os.write(2, b'noise')")
    output = tmp_path / "output"
    ours, theirs = socket.socketpair()
    with output.open("wb") as sink, theirs:
        child = spawn(
            "dspex.lm.llama_server",
            descriptors={"control": theirs.fileno()},
            stdout=sink.fileno(),
            stderr=sink.fileno(),
        )
    try:
        with ours:
            configuration = Configuration(str(library.gguf), "some", "key", 1, 1)
            answer = await asyncio.to_thread(ask, ours, configuration, lambda: False)
            assert answer is not None
            assert answer.address == "http://127.0.0.1:1"
        async with asyncio.timeout(5):
            assert await child.wait() == 0
        assert output.read_bytes() == b""
    finally:
        child.kill()
        child.bury()
