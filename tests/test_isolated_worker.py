"""A worker for one call, over its own channel: the program on the main thread, the rest beside it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dspex.pool.zygote_client import Forkling, Preparation, ZygoteClient
from dspex.program.fingerprint import fingerprint
from dspex.program.spec import ProgramSpec, make
from dspex.types import LMSpec, Retry
from dspex.wire.blobs import Blob
from dspex.wire.channel import Channel
from dspex.wire.messages import (
    NOTHING,
    PROTOCOL,
    Beat,
    Call,
    Cancel,
    Fault,
    FromWorker,
    Knock,
    LmAsk,
    LmDone,
    LmGo,
    Ready,
    Result,
    Shutdown,
    UseLM,
    WorkerOptions,
    read_from_worker,
)
from dspex.wire.payloads import take
from dspex.wire.values import encode
from tests.processes import lines
from tests.provider import Provider, hanging

pytestmark = pytest.mark.anyio
MiB = 1024 * 1024
Answer = Result | Fault


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Alone:
    """A worker and this side of its channel, with nothing in between."""

    def __init__(self, forkling: Forkling) -> None:
        self.forkling = forkling
        self.arrived: list[FromWorker] = []
        self.exited: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._came = asyncio.Event()
        self._channel: Channel[FromWorker] = Channel(
            forkling.sock,
            read_from_worker,
            on_message=self._take,
            on_close=lambda _: self._came.set(),
            limit=64 * MiB,
            blob_limit=64 * MiB,
        )
        self.send = self._channel.send

    def _take(self, message: FromWorker, blob: Blob | None) -> None:
        self.arrived.append(message)
        self._came.set()

    async def until(self, holds: Callable[[FromWorker], bool]) -> Any:
        """The first message that is so, now or later."""
        async with asyncio.timeout(30):
            while True:
                for message in self.arrived:
                    if holds(message):
                        return message
                self._came.clear()
                await self._came.wait()

    async def answer(self, number: int) -> Any:
        return await self.until(lambda m: isinstance(m, Result | Fault) and m.id == number)

    def count(self, kind: type[Any]) -> int:
        return sum(isinstance(message, kind) for message in self.arrived)

    def close(self) -> None:
        self._channel.close()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.forkling.pidfd, signal.SIGKILL)
        os.close(self.forkling.pidfd)
        self.forkling.lifeline.cut()


class Zygote:
    """Gives workers with options of the test's."""

    def __init__(self, client: ZygoteClient) -> None:
        self._client = client
        self.workers: list[Alone] = []

    async def worker(self, **options: Any) -> Alone:
        made = WorkerOptions(1, ["tests.programs", "tests.stuck"], 64 * MiB, 64 * MiB, isolated=True)
        alone: Alone | None = None

        def on_exit(_: int, status: int | None) -> None:
            if alone is not None and not alone.exited.done():
                alone.exited.set_result(status)

        alone = Alone(await self._client.fork(msgspec.structs.replace(made, **options), on_exit))
        self.workers.append(alone)
        ready = await alone.until(lambda m: isinstance(m, Ready))
        assert isinstance(ready, Ready)
        assert ready.protocol == PROTOCOL
        return alone


@pytest.fixture
async def zygote() -> AsyncIterator[Zygote]:
    client = ZygoteClient(Preparation(None, (), ()), lambda _event: None)
    made = Zygote(client)
    yield made
    for worker in made.workers:
        worker.close()
    await client.aclose()


def args(**values: Any) -> msgspec.Raw:
    return msgspec.Raw(b"".join(encode(values)[0]))


def run(number: int, program: str, inputs: dict[str, Any], **options: Any) -> Call:
    """A call of a program of the tests', or of one of DSPy's."""
    spec = ProgramSpec(program, None) if ":" in program else make(program, "question -> answer")
    encoded = msgspec.Raw(msgspec.msgpack.encode(spec))
    deadline = options.pop("deadline", None)
    return Call(number, "execute_module", deadline, args(**inputs), encoded, fingerprint(spec), **options)


def misbehave(how: str, *, number: int = 1, is_async: bool = False, **options: Any) -> Call:
    name = "AsyncMisbehaving" if is_async else "Misbehaving"
    inputs = {"how": how} | ({"mark": options.pop("mark")} if "mark" in options else {})
    return run(number, f"tests.programs:{name}", inputs, **options)


def lm(provider: Provider, **options: Any) -> LMSpec:
    return LMSpec(
        model="openai/x", base_url=provider.base_url, api_key="k", gate=5, retry=Retry(attempts=1), **options
    )


async def marked(path: Path) -> None:
    async with asyncio.timeout(30):
        while not lines(path):  # noqa: ASYNC110 (another process writes it)
            await asyncio.sleep(0.01)


async def test_the_built_in_commands(zygote: Zygote) -> None:
    """If this failed, an isolated worker would not answer what any worker answers."""
    worker = await zygote.worker()
    worker.send(Call(1, "ping", None, NOTHING))
    worker.send(Call(2, "echo", None, args(a=[1, None])))
    assert take((await worker.answer(1)).value) == "pong"
    assert take((await worker.answer(2)).value) == {"a": [1, None]}
    worker.send(Call(3, "get_stats", None, NOTHING))
    assert take((await worker.answer(3)).value)["pid"] == worker.forkling.pid
    worker.send(Call(4, "describe", None, args(module="tests.programs:Router")))
    assert take((await worker.answer(4)).value)["summary"].startswith("Sends")
    worker.send(Call(5, "threads", None, NOTHING))
    assert "dspex-channel" in take((await worker.answer(5)).value)
    worker.send(Call(6, "wait", None, args(seconds=0)))
    assert take((await worker.answer(6)).value) == "waited"
    worker.send(Call(7, "shutdown", None, NOTHING))
    await worker.answer(7)
    worker.send(Shutdown())  # which is the supervisor's part of it
    assert await asyncio.wait_for(worker.exited, 30) == 0


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_program_has_the_main_thread(zygote: Zygote, is_async: bool) -> None:
    """If this failed, a program could install no signal handler and run no loop."""
    worker = await zygote.worker()
    if is_async:
        worker.send(run(1, "tests.programs:AsyncRouter", {"message": "m", "count": 0}))
        assert take((await worker.answer(1)).value)["outputs"] == {"teams": [], "on": "MainThread"}
    else:
        worker.send(run(1, "tests.programs:Anywhere", {}))
        got = take((await worker.answer(1)).value)["outputs"]
        assert (got["main"], got["signals"], got["looped"], got["copy"]) == (True, [1], "looped", 0)


@pytest.mark.parametrize("how", ["spin", "sleep"])
@pytest.mark.parametrize("is_async", [False, True])
async def test_knocks_are_answered_while_the_main_thread_is_busy(
    zygote: Zygote, how: str, is_async: bool, tmp_path: Path
) -> None:
    """If this failed, a program that computes would be taken for a worker that is stuck, and killed early."""
    worker = await zygote.worker()
    mark = tmp_path / "mark"
    worker.send(misbehave(how, is_async=is_async, mark=str(mark)))
    await marked(mark)
    for count in range(1, 4):
        worker.send(Knock())
        beat = await worker.until(lambda m, count=count: worker.count(Beat) >= count)  # type: ignore[misc]
        assert beat is not None
    worker.send(Call(2, "ping", None, NOTHING))
    assert take((await worker.answer(2)).value) == "pong"
    assert worker.count(Fault) == 0


@pytest.mark.parametrize("by", ["deadline", "cancel"])
async def test_what_awaits_is_cancelled_on_its_own_loop(zygote: Zygote, by: str, tmp_path: Path) -> None:
    """If this failed, a program that awaits would not end at its deadline, or answer before it has ended."""
    worker = await zygote.worker()
    mark = tmp_path / "mark"
    deadline = time.monotonic() + 1.0 if by == "deadline" else None
    worker.send(misbehave("late", is_async=True, mark=str(mark), deadline=deadline))
    await marked(mark)
    if by == "cancel":
        worker.send(Cancel(1))
    fault = await worker.answer(1)
    assert fault.error["code"] == ("python_timeout" if by == "deadline" else "cancelled")
    assert len(lines(mark)) == 2  # it had its last word first


@pytest.mark.parametrize(("how", "is_async"), [("sleep", False), ("swallow", True)])
async def test_what_cannot_be_stopped_is_not_called_stopped(
    zygote: Zygote, how: str, is_async: bool, tmp_path: Path
) -> None:
    """If this failed, a call would be answered as ended while its program runs on."""
    worker = await zygote.worker()
    mark = tmp_path / "mark"
    worker.send(misbehave(how, is_async=is_async, mark=str(mark)))
    await marked(mark)
    worker.send(Cancel(1))
    worker.send(Knock())
    await worker.until(lambda m: isinstance(m, Beat))
    await asyncio.sleep(0.2)
    assert worker.count(Fault) == 0


async def test_a_stray_task_that_leaves_is_the_calls_failure(zygote: Zygote) -> None:
    """If this failed, a SystemExit in a stray task would end the worker, or leave its call waiting."""
    worker = await zygote.worker()
    worker.send(misbehave("stray", is_async=True))
    fault = await worker.answer(1)
    assert (fault.error["code"], fault.error["details"]["type"]) == ("python_error", "SystemExit")


async def test_shutdown_ends_a_worker_whose_program_computes(zygote: Zygote, tmp_path: Path) -> None:
    """If this failed, closing would have to kill a worker that could have ended."""
    worker = await zygote.worker()
    mark = tmp_path / "mark"
    worker.send(misbehave("sleep", mark=str(mark)))
    await marked(mark)
    worker.send(Shutdown())
    assert await asyncio.wait_for(worker.exited, 30) == 0


@pytest.mark.parametrize("name", ["Router", "AsyncRouter"])
async def test_requests_ask_at_the_gate(zygote: Zygote, name: str) -> None:
    """If this failed, limits would not hold for programs on a main thread."""
    with Provider() as provider:
        worker = await zygote.worker()
        worker.send(UseLM(1, lm(provider, limited=True)))
        inputs = {"message": "hi"} | ({"count": 2} if name == "AsyncRouter" else {})
        worker.send(run(1, f"tests.programs:{name}", inputs, lm=1, seat=5))
        ask = await worker.until(lambda m: isinstance(m, LmAsk))
        await asyncio.sleep(0.1)
        assert len(provider.requests) == 1  # by the call's seat
        worker.send(LmGo(ask.ask))
        result = await worker.answer(1)
        assert isinstance(result, Result)
        done = [message for message in worker.arrived if isinstance(message, LmDone)]
        assert sorted(message.ask for message in done) == [-1, ask.ask]
        assert all(message.record is not None and message.status == "ok" for message in done)
        assert worker.arrived.index(result) > max(map(worker.arrived.index, done))


async def test_a_request_that_waits_at_the_gate_is_given_back(zygote: Zygote) -> None:
    """If this failed, a cancelled program would keep a permit that others wait for."""
    with Provider() as provider:
        worker = await zygote.worker()
        worker.send(UseLM(1, lm(provider, limited=True)))
        worker.send(run(1, "tests.programs:AsyncRouter", {"message": "hi"}, lm=1))
        ask = await worker.until(lambda m: isinstance(m, LmAsk))
        worker.send(Cancel(1))
        assert (await worker.answer(1)).error["code"] == "cancelled"
        given_back = await worker.until(lambda m: isinstance(m, LmDone))
        assert (given_back.ask, given_back.sent, given_back.status) == (ask.ask, None, "cancelled")
        assert provider.requests == []


@pytest.mark.parametrize("module", ["dspy.Predict", "dspy.ChainOfThought"])
async def test_modules_of_dspy_run_here_too(zygote: Zygote, module: str) -> None:
    """If this failed, a call that may have killed its worker could not be tried again alone."""
    with Provider() as provider:
        worker = await zygote.worker()
        worker.send(UseLM(1, lm(provider)))
        worker.send(run(1, module, {"question": "Paris"}, lm=1))
        assert take((await worker.answer(1)).value)["outputs"]["answer"] == "Paris"
        assert worker.count(LmDone) == 1


async def test_a_request_is_dropped_at_the_deadline(zygote: Zygote) -> None:
    """If this failed, a provider that hangs would hold an async program until its worker is killed."""
    with Provider(lambda _: hanging()) as provider:
        worker = await zygote.worker()
        worker.send(UseLM(1, lm(provider)))
        deadline = time.monotonic() + 0.5
        worker.send(run(1, "tests.programs:AsyncRouter", {"message": "hi"}, lm=1, deadline=deadline))
        assert (await worker.answer(1)).error["code"] == "python_timeout"
        done = await worker.until(lambda m: isinstance(m, LmDone))
        assert done.status == "cancelled"


async def test_a_profiles_timeout_holds_for_sync_requests(zygote: Zygote) -> None:
    """If this failed, a program without aforward would wait for a silent provider until its deadline."""
    with Provider(lambda _: hanging()) as provider:
        worker = await zygote.worker()
        worker.send(UseLM(1, lm(provider, timeout=0.3)))
        worker.send(run(1, "tests.programs:Router", {"message": "hi"}, lm=1))
        assert (await worker.answer(1)).error["code"] == "lm_timeout"


@pytest.mark.parametrize("isolated", [False, True])
async def test_an_allocation_above_the_limit_fails_and_says_so(zygote: Zygote, isolated: bool) -> None:
    """If this failed, one program could take all of the machine's memory, or take its worker along."""
    worker = await zygote.worker(isolated=isolated, max_memory=1024 * MiB)
    worker.send(misbehave("memory"))
    fault = await worker.answer(1)
    assert (fault.error["code"], fault.error["details"]["type"]) == ("python_error", "MemoryError")
    assert fault.error["details"]["frames"][-1]["function"] == "_misbehave" or sys.version_info < (3, 12)
    worker.send(misbehave("fine", number=2))
    assert take((await worker.answer(2)).value)["outputs"] == {"how": "fine"}


async def test_a_garbled_channel_ends_the_worker(zygote: Zygote, tmp_path: Path) -> None:
    """If this failed, a worker that nobody can talk to would compute on."""
    worker = await zygote.worker()
    mark = tmp_path / "mark"
    worker.send(misbehave("spin", mark=str(mark)))
    await marked(mark)
    worker.forkling.sock.shutdown(socket.SHUT_RDWR)
    assert await asyncio.wait_for(worker.exited, 30) == 0
