"""Stories of a pool in virtual time, which real processes cannot be made to act out."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

import dspex
from dspex.pool.work import Work
from dspex.wire.messages import Beat
from tests.fake_workers import FakeWorker
from tests.pool_scene import code, details, lives, scene
from tests.virtual_time import VirtualLoop, virtual_loop


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    with virtual_loop() as made:
        yield made


def test_an_answer_in_the_moment_of_the_kill_is_delivered(loop: VirtualLoop) -> None:
    """What a worker had said before it died would be lost, and asked and paid for again."""
    here = scene(loop)
    call = here.call(1)
    worker, held = here.held(1)
    worker.answer(held)
    worker.die()
    loop.settle()
    assert call.result().attempts == 1
    here.close()


def test_a_stuck_call_is_told_at_its_grace_and_its_neighbour_ends_well(loop: VirtualLoop) -> None:
    """The caller would wait for the neighbours, or they would be cut off."""
    here = scene(loop, grace=0.5, drain_limit=2.0)
    neighbour, stuck = here.call(1), here.call(2, 1.0)
    worker, held = here.held(1)
    worker.obeys = False
    loop.advance(1.49)
    assert not stuck.done()
    loop.advance(0.02)
    assert code(stuck) == "python_timeout"
    assert details(stuck)["killed"] is True
    assert lives(worker)
    assert sorted(here.states()) == ["draining", "ready"]
    worker.answer(held)
    loop.settle()
    assert neighbour.result().attempts == 1
    assert not lives(worker)
    here.close()


def test_a_blocked_worker_is_killed_at_the_grace_and_its_other_calls_run_alone(loop: VirtualLoop) -> None:
    """A call that blocks would go on to block the next worker, and harm its new neighbours."""
    here = scene(loop)
    other, stuck = here.call(1, repeatable=True), here.call(2, 1.0)
    here.worker.beats = False
    loop.advance(1.6)
    assert code(stuck) == "python_timeout"
    worker, held = here.held(1)
    assert worker in here.apart.living
    worker.answer(held)
    loop.settle()
    assert other.result().attempts == 2
    here.close()


def test_a_worker_that_does_not_die_of_a_kill_keeps_no_caller_waiting(loop: VirtualLoop) -> None:
    """A process that hangs in the kernel would hang its caller, too."""
    here = scene(loop)
    stuck = here.call(1, 1.0)
    worker = here.worker
    worker.beats = False
    worker.die = lambda status=None: None  # type: ignore[method-assign]
    loop.advance(1.6)
    assert not stuck.done()
    loop.advance(1.0)
    assert code(stuck) == "python_timeout"
    del worker.die
    worker.die()
    here.close()


def test_own_delay_is_not_held_against_workers(loop: VirtualLoop) -> None:
    """A process that was stopped for a minute would kill all its healthy workers when it goes on."""
    here = scene(loop, workers=3)
    calls = [here.call(number) for number in range(6)]
    loop.advance(1.0)
    loop.jump(60.0)
    loop.advance(1.5)
    loop.jump(15.0)
    loop.advance(5.0)
    assert here.pool.stats().restarts == {}
    assert len(here.zygote.living) == 3
    assert not any(call.done() for call in calls)
    here.close()


def test_a_silent_worker_gets_no_calls_and_is_killed(loop: VirtualLoop) -> None:
    """Calls would be given to a worker that answers none."""
    here = scene(loop, workers=2)
    silent, well = here.zygote.living
    silent.beats = False
    loop.advance(4.5)
    for number in range(3):
        here.call(number)
    assert len(well.held) == 3
    assert lives(silent)
    loop.advance(10.0)
    assert not lives(silent)
    assert here.pool.stats().restarts == {"blocked": 1}
    assert here.states() == ["ready", "ready"]
    here.close()


def test_a_single_call_may_block_its_worker_until_its_deadline(loop: VirtualLoop) -> None:
    """A long computation that holds the GIL would be killed though nobody else was harmed."""
    here = scene(loop)
    call = here.call(1, 60.0)
    worker = here.worker
    worker.beats = False
    loop.advance(30.0)
    assert not call.done()
    assert lives(worker)
    loop.advance(31.0)
    assert code(call) == "python_timeout"
    here.close()


def test_a_suspect_dies_alone_twice_and_is_poison(loop: VirtualLoop) -> None:
    """A call that kills its worker would be tried for ever, or an innocent be blamed."""
    here = scene(loop)
    guilty, innocent = here.call(1, repeatable=True), here.call(2, repeatable=True)
    here.worker.die(9)
    loop.settle()
    here.held(1)[0].die(9)
    loop.settle()
    worker, held = here.held(2)
    worker.answer(held)
    loop.settle()
    here.held(1)[0].die(9)
    loop.settle()
    assert innocent.result().attempts == 2
    assert code(guilty) == "poison_call"
    assert here.pool.stats().counters == {"ok": 1, "poison_call": 1}
    here.close()


def test_a_death_with_the_zygote_blames_nobody(loop: VirtualLoop) -> None:
    """Calls would be poison because the process that forks workers was killed, again and again."""
    here = scene(loop, max_reruns=5)
    call = here.call(1, repeatable=True)
    for _ in range(4):
        here.held(1)[0].die(None)
        loop.advance(0.2)
    worker, held = here.held(1)
    assert worker in here.zygote.living, "it never had to run alone"
    worker.answer(held)
    loop.settle()
    assert call.result().attempts == 5
    here.close()


def test_a_crash_loop_is_said_and_passes(loop: VirtualLoop) -> None:
    """Callers would wait for a pool that cannot answer, or it would never be tried again."""
    here = scene(loop)
    here.zygote.born = lambda worker: worker.die(1)
    waiting = here.call(1, 300.0)
    here.worker.die(1)
    loop.advance(2.0)
    assert code(here.call(2)) == "pool_unhealthy"
    assert code(waiting) in {"worker_lost", "pool_unhealthy"}
    here.zygote.born = FakeWorker.ready
    loop.advance(20.0)
    call = here.call(3)
    worker, held = here.held(3)
    worker.answer(held)
    loop.settle()
    assert call.result()
    kinds = [type(event).__name__ for event in here.events if isinstance(event, dspex.PoolEvent)]
    assert kinds[:2] == ["PoolFailed", "PoolRecovered"]
    here.close()


def test_a_worker_that_dies_on_probation_does_not_make_the_pool_well(loop: VirtualLoop) -> None:
    """The pool would take calls for the half second that each of its workers lives."""
    here = scene(loop)

    def die_soon(worker: FakeWorker) -> None:
        worker.ready()
        loop.call_later(0.2, worker.die, 1)

    here.zygote.born = die_soon
    here.worker.die(1)
    loop.advance(30.0)
    for number in range(20):
        assert code(here.call(number)) == "pool_unhealthy"
        loop.advance(0.37)
    assert here.zygote.log == []
    here.close()


def test_the_successor_comes_first(loop: VirtualLoop) -> None:
    """A recycled worker would be a gap, or its calls be lost."""
    here = scene(loop, max_age=100.0)
    old = here.worker
    call = here.call(1)
    here.zygote.born = lambda _worker: None
    loop.advance(102.0)
    assert sorted(here.states()) == ["ready", "starting"]
    here.zygote.workers[-1].ready()
    loop.settle()
    assert sorted(here.states()) == ["draining", "ready"]
    old.answer(next(iter(old.held.values())))
    loop.settle()
    assert call.result()
    assert not lives(old)
    here.close()


def test_a_successor_that_never_comes_costs_nothing(loop: VirtualLoop) -> None:
    """A pool whose forks fail would retire its last worker."""
    here = scene(loop, max_age=100.0)
    here.zygote.refusals = [OSError("no memory")] * 3
    loop.advance(101.0)
    assert "ready" in here.states()
    call = here.call(1)
    worker, held = here.held(1)
    worker.answer(held)
    loop.settle()
    assert call.result()
    here.close()


def test_size_follows_load_and_time(loop: VirtualLoop) -> None:
    """A pool would stay small under load, or large for ever."""
    here = scene(loop, workers=None, min=1, max=3, slots=1)
    calls = [here.call(number) for number in range(5)]
    assert len(here.zygote.living) == 3
    for number in (0, 1, 2, 3, 4):
        worker, held = here.held(number)
        worker.answer(held)
        loop.settle()
    assert all(call.result() for call in calls)
    loop.advance(4.0)
    assert len(here.zygote.living) == 3
    loop.advance(10.0)
    assert len(here.zygote.living) == 1
    assert here.pool.stats().wanted == 1
    here.close()


def test_memory_recycles_and_twice_as_much_kills(loop: VirtualLoop) -> None:
    """A program could take all memory, or be cut off for a little."""
    here = scene(loop, max_rss=200 * 2**20)
    call = here.call(1)
    worker = here.worker
    worker.rss = 250 * 2**20
    loop.advance(0.2)
    assert lives(worker)
    assert sorted(here.states()) == ["draining", "ready"]
    worker.rss = 401 * 2**20
    loop.advance(0.2)
    assert code(call) == "worker_lost"
    assert here.pool.stats().restarts == {"memory": 1}
    here.close()


def test_a_caller_that_leaves_in_the_turn_of_its_answer_is_counted_once(loop: VirtualLoop) -> None:
    """The queue would count one less than wait, and from then on let calls wait for nothing."""
    here = scene(loop, slots=1)
    call = here.call(1)
    worker, held = here.held(1)
    here.loop.call_soon(worker.answer, held)
    here.loop.call_soon(here.pool._supervisor.workers[worker.number].listen)
    here.loop.call_soon(call.cancel)
    loop.settle()
    assert call.cancelled()
    assert here.pool.stats().queued == 0
    later = [here.call(number) for number in (2, 3)]
    assert here.pool.stats().queued == 1
    for number in (2, 3):
        worker, held = here.held(number)
        worker.answer(held)
        loop.settle()
    assert all(one.result() for one in later)
    here.close()


def test_a_worker_that_was_silent_and_beats_again_is_given_what_waits(loop: VirtualLoop) -> None:
    """A call would wait for the next event though the only worker is free."""
    here = scene(loop)
    here.call(1)
    worker = here.worker
    worker.beats = False
    loop.advance(5.0)
    here.call(2)
    assert here.pool.stats().queued == 1
    worker.beats = True
    worker.channel.send(Beat())
    loop.settle()
    assert here.pool.stats().queued == 0
    here.close()


def test_a_pool_without_workers_recovers_though_nobody_may_wait_for_it(loop: VirtualLoop) -> None:
    """The isolated pool would refuse calls for ever after a moment without descriptors."""
    here = scene(loop)
    here.apart.refusals = [OSError("too many open files")] * 6
    work = Work("x", msgspec.msgpack.encode(1))
    call = loop.create_task(here.companion.execute(work))
    loop.advance(1.0)
    assert code(call) == "pool_unhealthy"
    loop.advance(60.0)
    assert here.companion.stats().unhealthy is None
    loop.advance(20.0)
    assert here.companion.stats().workers == [], "what was tried is not kept"
    here.close()


def test_a_crash_while_it_drains_is_a_crash(loop: VirtualLoop) -> None:
    """A call that kills its worker after it has made it large would be an innocent each time, for ever."""
    here = scene(loop, max_rss=100 * 2**20)
    call = here.call(1, repeatable=True)
    for _ in range(3):
        worker, _ = here.held(1)
        worker.rss = 150 * 2**20
        loop.advance(0.2)
        worker.die(-6)
        loop.advance(0.2)
    assert code(call) == "poison_call"
    here.close()


def test_a_lane_fills_no_more_than_its_share_of_the_queue(loop: VirtualLoop) -> None:
    """A tenant that floods the pool would have everybody else refused."""
    here = scene(loop, slots=1, max_queue=8, max_share=0.5)
    flood = [here.call(number, tenant="loud") for number in range(9)]
    assert [call.done() for call in flood] == [False] * 5 + [True] * 4
    assert {code(call) for call in flood[5:]} == {"pool_saturated"}
    assert not here.call(10, tenant="quiet").done()
    here.close()


def test_a_share_does_not_keep_a_pool_small(loop: VirtualLoop) -> None:
    """One tenant alone could never make an elastic pool grow: its share is that of the workers there are."""
    here = scene(loop, workers=None, min=1, max=4, slots=1, max_share=0.5)
    for number in range(6):
        here.call(number)
    assert len(here.zygote.living) == 4
    assert sum(len(worker.held) for worker in here.zygote.living) == 2
    here.close()


def test_a_share_that_grows_with_the_pool_is_used_at_once(loop: VirtualLoop) -> None:
    """A call would wait for a worker that may never come, beside a slot that its lane may have by now."""
    here = scene(loop, workers=None, min=1, max=2, slots=2, max_share=0.5)
    here.zygote.born = lambda _worker: None
    for number in range(3):
        here.call(number)
    assert len(here.zygote.workers[0].held) == 2
    here.close()


def test_a_limit_below_what_a_worker_has_anyway_is_said(loop: VirtualLoop) -> None:
    """Workers would be replaced for ever, as fast as they can be forked, and nobody would know why."""
    here = scene(loop, max_rss=20 * 2**20)
    loop.advance(10.0)
    assert len(here.zygote.workers) < 20
    assert "max_rss" in str(here.pool.stats().unhealthy)
    here.close()


@pytest.mark.parametrize("told", [True, False])
def test_a_death_is_settled_though_nobody_tells_the_status(loop: VirtualLoop, told: bool) -> None:
    """Calls of a worker whose zygote died with it would wait for ever."""
    here = scene(loop)
    call = here.call(1)
    here.worker.tells = told
    here.worker.die(3)
    loop.advance(0.2)
    assert code(call) == "worker_lost"
    assert ("status 3" in str(call.exception())) is told
    here.close()
