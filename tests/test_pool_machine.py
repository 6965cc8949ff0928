"""Whatever happens to two pools: each call has one end, slots and permits add up, nobody is forgotten."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import dspex
from dspex.lm.gates import Gates
from dspex.lm.profile import LM
from dspex.pool.pool import LocalPool
from dspex.pool.work import Done, Work
from dspex.pool.zygote_client import ZygoteGone
from dspex.settings import PoolOptions, Settings
from dspex.types import Limits, LMSpec
from tests.fake_workers import FakeWorker, FakeZygote, Held
from tests.virtual_time import virtual_loop

SETTINGS = Settings(file=False)
SHARED = PoolOptions(
    min=1,
    max=3,
    workers=2,
    slots=2,
    max_queue=4,
    queue_timeout=20.0,
    max_share=0.75,
    max_calls=8,
    max_age=200.0,
    max_rss=200 * 2**20,
)
ALONE = PoolOptions(isolation="call", max=3, max_queue=4)
MiB = 2**20


def name_of(work: Work) -> int:
    assert isinstance(work.args, bytes)
    return msgspec.msgpack.decode(work.args, type=int)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


class PoolMachine(RuleBasedStateMachine):
    """Two pools, and everything that may become of them."""

    def __init__(self) -> None:
        super().__init__()
        self.descriptors = descriptors()
        self.opened = ExitStack()
        self.loop = self.opened.enter_context(virtual_loop())
        self.zygotes = [FakeZygote(), FakeZygote()]
        self.calls: dict[int, tuple[Work, asyncio.Task[Done], LocalPool]] = {}
        self.cancelled: set[int] = set()
        self.closing: asyncio.Task[Any] | None = None
        self.loop.do(self._open())

    async def _open(self) -> None:
        self.gates = Gates()
        lms = [LM("openai/a", limits=Limits(in_flight=2)), LM("openai/b")]
        self.lms = [(number + 1, self.gates.of(lm), lm) for number, lm in enumerate(lms)]
        self.alone = LocalPool("isolated", ALONE, SETTINGS, self.zygotes[1], self.gates, self._event)
        self.shared = LocalPool(
            "general", SHARED, SETTINGS, self.zygotes[0], self.gates, self._event, lambda: self.alone
        )
        self.pools = [self.shared, self.alone]
        for pool in self.pools:
            pool.start()

    def _event(self, event: dspex.Event) -> None:
        assert isinstance(event, dspex.WorkerEvent | dspex.PoolEvent)

    # What there is

    def workers(self) -> list[FakeWorker]:
        return [worker for zygote in self.zygotes for worker in zygote.living]

    def held(self) -> list[tuple[FakeWorker, Held]]:
        return [(worker, held) for worker in self.workers() for held in worker.held.values()]

    def gate_of(self, held: Held) -> Any:
        return self.calls[held.name][0].gate

    # What may happen

    @precondition(lambda self: self.closing is None)
    @rule(
        alone=st.sampled_from([False, False, False, True]),
        tenant=st.sampled_from(["", "a", "b"]),
        batch=st.booleans(),
        lm=st.sampled_from([None, 0, 1]),
        repeatable=st.booleans(),
        timeout=st.sampled_from([None, 0.001, 1.0, 30.0]),
    )
    def submit(
        self,
        alone: bool,
        tenant: str,
        batch: bool,
        lm: int | None,
        repeatable: bool,
        timeout: float | None,
    ) -> None:
        name = len(self.calls) + 1
        pool = self.pools[alone]
        number, gate, spec = 0, None, None
        if lm is not None:
            number, gate, profile = self.lms[lm]
            spec = LMSpec(model=profile.model, gate=gate.number, limited=gate.limited)
        work = Work(
            "x",
            msgspec.msgpack.encode(name),
            None if timeout is None else self.loop.now + timeout,
            lm_number=number,
            lm=spec,
            gate=gate,
            tenant=tenant,
            batch=batch,
            repeatable=repeatable,
        )
        self.calls[name] = (work, self.loop.create_task(pool.execute(work)), pool)

    @rule(which=st.integers(0, 99), twice=st.booleans())
    def answer(self, which: int, twice: bool) -> None:
        if held := self.held():
            worker, one = held[which % len(held)]
            (worker.answer_twice if twice else worker.answer)(one)

    @rule(which=st.integers(0, 99))
    def fail(self, which: int) -> None:
        if held := self.held():
            worker, one = held[which % len(held)]
            worker.fail(one, dspex.ParseError("no such output").to_wire())

    @rule(which=st.integers(0, 99))
    def answer_and_die(self, which: int) -> None:
        if held := self.held():
            worker, one = held[which % len(held)]
            worker.answer(one)
            worker.die(1)

    @rule(which=st.integers(0, 99))
    def leave(self, which: int) -> None:
        """A caller goes away."""
        left = [name for name, (_, task, _) in self.calls.items() if not task.done()]
        if left:
            name = left[which % len(left)]
            self.cancelled.add(name)
            self.calls[name][1].cancel()

    @rule(which=st.integers(0, 99), status=st.sampled_from([1, -11, -9, None]))
    def crash(self, which: int, status: int | None) -> None:
        if workers := self.workers():
            workers[which % len(workers)].die(status)

    @rule(which=st.integers(0, 99), what=st.sampled_from(["obeys", "beats", "exits", "tells"]))
    def misbehave(self, which: int, what: str) -> None:
        if workers := self.workers():
            setattr(workers[which % len(workers)], what, False)

    @rule(which=st.integers(0, 99), size=st.sampled_from([60, 190, 250, 450]))
    def swell(self, which: int, size: int) -> None:
        if workers := self.workers():
            workers[which % len(workers)].rss = size * MiB

    @rule(which=st.integers(0, 99))
    def garble(self, which: int) -> None:
        if workers := self.workers():
            workers[which % len(workers)].channel._sock.send(b"\xff" * 64)

    @rule(which=st.integers(0, 99), status=st.sampled_from(["ok", "ok", "lm_rate_limited"]))
    def request(self, which: int, status: str) -> None:
        """A program makes its next step: it uses its seat, settles a request, or asks for another."""
        asking = [(worker, held) for worker, held in self.held() if self.gate_of(held) is not None]
        if asking:
            worker, held = asking[which % len(asking)]
            gate = self.gate_of(held)
            if held.has_seat:
                worker.use_seat(held, gate.number, self.loop.now, status)
            elif held.granted:
                worker.settle(held, gate.number, self.loop.now, status)
            elif not held.asks and gate.watched:
                worker.ask(held, gate.number)

    @rule(how=st.sampled_from(["well", "never", "dies", "other protocol"]), alone=st.booleans())
    def births(self, how: str, alone: bool) -> None:
        """How workers are born from now on."""
        ways: dict[str, Callable[[FakeWorker], None]] = {
            "well": FakeWorker.ready,
            "never": lambda _worker: None,
            "dies": lambda worker: worker.die(1),
            "other protocol": lambda worker: worker.ready(99),
        }
        self.zygotes[alone].born = ways[how]

    @rule(
        alone=st.booleans(),
        refusal=st.sampled_from(
            [OSError("no memory"), dspex.PoolUnhealthy("no such module"), ZygoteGone(7, "it died")]
        ),
    )
    def refuse_a_fork(self, alone: bool, refusal: Exception) -> None:
        self.zygotes[alone].refusals.append(refusal)

    @rule(seconds=st.sampled_from([0.001, 0.1, 0.6, 3.0, 15.0, 70.0]))
    def wait(self, seconds: float) -> None:
        self.loop.advance(seconds)

    @rule(seconds=st.sampled_from([5.0, 40.0]))
    def sleep_unseen(self, seconds: float) -> None:
        """The supervisor's process is stopped for a while."""
        self.loop.jump(seconds)

    @precondition(lambda self: self.closing is None and len(self.calls) > 5)
    @rule(drain=st.booleans())
    def close(self, drain: bool) -> None:
        async def end() -> None:
            if drain:
                try:
                    async with asyncio.timeout(30.0):
                        await asyncio.gather(*(pool.drain() for pool in self.pools))
                except TimeoutError:
                    pass
            await asyncio.gather(*(pool.aclose() for pool in self.pools))

        self.closing = self.loop.create_task(end())

    # What always holds

    @invariant()
    def settled(self) -> None:
        self.loop.settle()
        self._calls_have_one_end()
        self._slots_add_up()
        self._permits_add_up()
        self._nobody_is_forgotten()

    def _calls_have_one_end(self) -> None:
        for pool in self.pools:
            stats = pool.stats()
            made = [task for _, task, home in self.calls.values() if home is pool]
            assert stats.calls == len(made)
            assert stats.unfinished == sum(not task.done() for task in made)
        for name, (_, task, _) in self.calls.items():
            if task.done() and not task.cancelled():
                error = task.exception()
                assert error is None or isinstance(error, dspex.DspexError)
                if isinstance(error, dspex.PoisonCall):
                    alone = sum(given == name for given, _ in self.zygotes[1].log)
                    assert alone >= 2, "an innocent was blamed"
            elif task.cancelled():
                assert name in self.cancelled
        given = Counter(name for zygote in self.zygotes for name, _ in zygote.log)
        for name, times in given.items():
            work = self.calls[name][0]
            assert times == 1 or work.repeatable, "a call ran twice that must not"
            assert times <= work.attempts, "a worker may be dead already when a call is sent to it"

    def _slots_add_up(self) -> None:
        for pool, zygote, options in zip(self.pools, self.zygotes, (SHARED, ALONE), strict=True):
            slots = 1 if options is ALONE else options.slots
            handles = pool._supervisor.workers
            living = {worker.number: worker for worker in zygote.living}
            serving = [handle for handle in handles.values() if handle.serving]
            retiring = [handle for handle in serving if handle.retiring is not None]
            assert len(serving) <= options.size(2)[1] + len(retiring)
            for handle in handles.values():
                assert handle.state != "draining" or handle.in_flight, "a worker drains for ever"
            if options.max_share is not None:
                lanes = Counter(
                    work.lane for handle in handles.values() for work in handle.in_flight.values()
                )
                assert pool._dispatch._shares._held == lanes, "a share is lost"
            for number, handle in handles.items():
                assert len(handle.in_flight) <= slots
                if number in living and handle.state in {"ready", "busy", "draining"}:
                    here = sorted(name_of(work) for work in handle.in_flight.values())
                    there = sorted(held.name for held in living[number].held.values())
                    assert here == there, "the two sides disagree about what runs"
        waiting = [
            work
            for work, task, _ in self.calls.values()
            if not task.done() and not work.ended and work.worker is None
        ]
        for pool, options in zip(self.pools, (SHARED, ALONE), strict=True):
            queued = [work for work in waiting if work.pool is pool]
            assert pool.stats().queued == len(queued)
            fresh = sum(not work.attempts for work in queued)  # those that were put back are above the bound
            assert fresh <= options.max_queue + (options.size(2)[1] if options is ALONE else 0)

    def _some_are_dying(self) -> bool:
        """Whether a worker is dead, or heard no more, whose end is still waited for."""
        living = [{worker.number for worker in zygote.living} for zygote in self.zygotes]
        return any(
            number not in alive or handle.state == "stopping"
            for pool, alive in zip(self.pools, living, strict=True)
            for number, handle in pool._supervisor.workers.items()
        )

    def _permits_add_up(self) -> None:
        if self._some_are_dying():
            return
        for _, gate, _ in self.lms:
            held = [one for _, one in self.held() if self.gate_of(one) is gate]
            under_way = sum(one.has_seat + len(one.granted) for one in held)
            assert gate.in_flight == under_way, "a permit is lost, or given twice"
            if gate.limited:
                assert gate.in_flight <= 2

    def _nobody_is_forgotten(self) -> None:
        for pool, options in zip(self.pools, (SHARED, ALONE), strict=True):
            supervisor, dispatch = pool._supervisor, pool._dispatch
            if pool._closed or supervisor.unhealthy is not None or not len(dispatch):
                continue
            could = [
                work
                for work, task, _ in self.calls.values()
                if not task.done()
                and work.worker is None
                and not work.ended
                and work.pool is pool
                and dispatch._has_share(work)
                and (work.gate is None or not (work.gate.watched and (work.gate.shut or work.gate.waiting)))
            ]
            if not could:
                continue
            handles = supervisor.workers.values()
            assert not any(handle.free for handle in handles), "a worker is free, and a call waits for one"
            coming = len(supervisor._starting) or any(h.state == "starting" for h in handles)
            most = options.size(2)[1]
            if not coming and not any(handle.state == "stopping" for handle in handles):
                serving = sum(handle.serving for handle in handles)
                assert serving >= most or len(handles) >= most, "nobody starts a worker"

    def teardown(self) -> None:
        for zygote in self.zygotes:
            zygote.refusals.clear()
        if self.closing is None:
            self.closing = self.loop.create_task(self._close_all())
        self.loop.advance(40.0)
        assert self.closing.done(), "closing hangs"
        self.closing.result()
        for zygote in self.zygotes:
            self.loop.do(zygote.aclose())
        for name, (_, task, _) in self.calls.items():
            assert task.done(), f"call {name} has no end"
            if not task.cancelled():
                task.exception()
        for pool in self.pools:
            stats = pool.stats()
            assert stats.unfinished == stats.queued == 0
            assert stats.workers == []
        assert not asyncio.all_tasks(self.loop)
        for _, gate, _ in self.lms:
            assert gate.in_flight == 0
        self.loop.advance(200.0)
        self.opened.close()
        assert descriptors() <= self.descriptors

    async def _close_all(self) -> None:
        await asyncio.gather(*(pool.aclose() for pool in self.pools))


QUICK = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)


def test_a_pool_keeps_its_promises_whatever_happens() -> None:
    """Some order of events would lose a call, a slot or a permit, or answer twice."""
    run_state_machine_as_test(PoolMachine, settings=QUICK)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_pool_keeps_its_promises_for_longer() -> None:
    """The same, with more and longer histories."""
    long = settings(QUICK, max_examples=300, stateful_step_count=60, derandomize=False)
    run_state_machine_as_test(PoolMachine, settings=long)
