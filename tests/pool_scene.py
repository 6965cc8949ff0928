"""A pool and its companion with fake workers, and questions about their calls."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

import dspex
from dspex.lm.gates import Gates
from dspex.pool.pool import LocalPool
from dspex.pool.work import Done, Work
from dspex.settings import PoolOptions, Settings
from dspex.telemetry.events import Event
from tests.fake_workers import FakeWorker, FakeZygote, Held
from tests.virtual_time import VirtualLoop

SETTINGS = Settings(file=False)


class Scene:
    """A pool with its companion, whose workers are fakes."""

    def __init__(self, loop: VirtualLoop, **options: Any) -> None:
        self.loop = loop
        self.zygote, self.apart = FakeZygote(), FakeZygote()
        self.events: list[Event] = []
        self.pool, self.companion = loop.do(self._make(options))
        loop.settle()

    async def _make(self, options: dict[str, Any]) -> tuple[LocalPool, LocalPool]:
        gates, emit = Gates(), self.events.append
        alone = PoolOptions(isolation="call")
        companion = LocalPool("isolated", alone, SETTINGS, self.apart, gates, emit)
        merged = PoolOptions(**{"workers": 1, "slots": 4, **options})
        pool = LocalPool("general", merged, SETTINGS, self.zygote, gates, emit, lambda: companion)
        pool.start()
        companion.start()
        return pool, companion

    def call(
        self, name: int, timeout: float | None = None, *, repeatable: bool = False, tenant: str = ""
    ) -> asyncio.Task[Done]:
        deadline = None if timeout is None else self.loop.now + timeout
        work = Work("x", msgspec.msgpack.encode(name), deadline, repeatable=repeatable, tenant=tenant)
        task = self.loop.create_task(self.pool.execute(work))
        self.loop.settle()
        return task

    def held(self, name: int) -> tuple[FakeWorker, Held]:
        """Where a call is now."""
        for worker in (*self.zygote.living, *self.apart.living):
            for held in worker.held.values():
                if held.name == name:
                    return worker, held
        raise AssertionError(f"nobody runs call {name}")

    @property
    def worker(self) -> FakeWorker:
        (worker,) = self.zygote.living
        return worker

    def states(self) -> list[str]:
        return [worker.state for worker in self.pool.stats().workers]

    def close(self) -> None:
        async def end() -> None:
            await asyncio.gather(self.pool.aclose(), self.companion.aclose())
            await asyncio.gather(self.zygote.aclose(), self.apart.aclose())

        task = self.loop.create_task(end())
        self.loop.advance(5.0)
        task.result()


def scene(loop: VirtualLoop, **options: Any) -> Scene:
    return Scene(loop, **options)


def lives(worker: FakeWorker) -> bool:
    return worker.alive


def code(task: asyncio.Task[Done]) -> str:
    assert task.done(), "it has not ended"
    error = task.exception()
    assert isinstance(error, dspex.DspexError)
    return error.code


def details(task: asyncio.Task[Done]) -> dict[str, Any]:
    error = task.exception()
    assert isinstance(error, dspex.DspexError)
    return error.details
