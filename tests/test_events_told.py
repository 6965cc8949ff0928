"""Every event, heard from a real runtime to which the thing has happened, with its values."""

from __future__ import annotations

import functools
import os
import signal
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import update

import dspex
from dspex.session.tables import sessions as rows
from dspex.telemetry import events
from tests.processes import until
from tests.provider import Provider, Request, echo, fault, fields

E = TypeVar("E", bound=dspex.Event)
QUESTION = "question -> answer"
MODEL = "openai/gpt-4o-mini"  # DSPy knows its price
BASES = {
    dspex.Event,
    dspex.CallEvent,
    dspex.WorkerEvent,
    dspex.PoolEvent,
    dspex.SessionEvent,
    dspex.CacheEvent,
}
#: Which events the tests below are about.
TOLD: set[type[dspex.Event]] = set()
# Which they have looked at.
_LOOKED_AT: set[type[dspex.Event]] = set()
Test = Callable[..., None]


def of(*kinds: type[dspex.Event]) -> Callable[[Test], Test]:
    """What a test hears and looks at."""
    TOLD.update(kinds)

    def about(test: Test) -> Test:
        @functools.wraps(test)
        def checked(**fixtures: Any) -> None:
            test(**fixtures)
            assert set(kinds) <= _LOOKED_AT

        return checked

    return about


class Ear:
    """Hears all that a runtime tells."""

    def __init__(self, runtime: dspex.Runtime) -> None:
        self.all: list[dspex.Event] = []
        self.stop = runtime.on(dspex.Event, self.all.append)

    def every(self, kind: type[E], **values: Any) -> list[E]:
        """Those of a kind that have these values."""
        found = [
            event
            for event in list(self.all)
            if type(event) is kind and all(getattr(event, name) == value for name, value in values.items())
        ]
        _LOOKED_AT.update(map(type, found))
        return found

    def one(self, kind: type[E], **values: Any) -> E:
        """The only one, when it has come."""
        until(lambda: self.every(kind, **values), 60)
        (event,) = self.every(kind, **values)
        return event


def model(provider: Provider, name: str = MODEL, **options: Any) -> dspex.LM:
    known = {"api_key": "k", "retry": dspex.Retry(attempts=1, wait=0.0)}
    return dspex.LM(name, base_url=provider.base_url, **{**known, **options})


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


@pytest.fixture(scope="module")
def runtime(provider: Provider) -> Iterator[dspex.Runtime]:
    settings = dspex.Settings(file=False, max_sessions_per_tenant=5)
    pools = {"general": dspex.PoolOptions(workers=1)}
    with dspex.Runtime(model(provider), pools=pools, settings=settings) as opened:
        yield opened


@pytest.fixture
def ear(runtime: dspex.Runtime, provider: Provider) -> Iterator[Ear]:
    provider.reply = lambda _: echo()
    heard = Ear(runtime)
    yield heard
    heard.stop()


@of(dspex.CallQueued, dspex.CallStarted, dspex.CallFinished, dspex.LMRequestFinished)
def test_a_call(runtime: dspex.Runtime, provider: Provider, ear: Ear) -> None:
    """If this failed, what is billed and watched would not be what was called."""
    adapter = runtime.adapter(tenant="acme")
    session = adapter.session("told-of-a-call")
    asked = [fault(503), fields(answer="Paris")]
    provider.reply = lambda _: asked.pop(0)
    lm = model(provider, retry=dspex.Retry(attempts=2, wait=0.0))
    answer = adapter.generate("Where?", signature=QUESTION, session=session, lm=lm)
    ended = ear.one(dspex.CallFinished)
    said = {
        "request_id": answer.request_id,
        "pool": "general",
        "module": "dspy.Predict",
        "tenant": "acme",
        "session_id": "told-of-a-call",
    }
    queued, started = ear.one(dspex.CallQueued, **said), ear.one(dspex.CallStarted, **said)
    assert ended == ear.one(dspex.CallFinished, **said)
    assert queued.program == ended.program
    assert len(ended.program) == 12
    assert (started.worker, started.attempt) == (answer.worker, 1)
    assert (ended.code, ended.model, ended.attempts, ended.requests) == ("ok", MODEL, 1, 1)
    assert (ended.prompt_tokens, ended.completion_tokens) == (
        answer.usage.prompt_tokens,
        answer.usage.completion_tokens,
    )
    assert ended.cost == answer.cost
    assert ended.cost
    assert not ended.cached
    assert 0 <= ended.lm <= ended.total
    assert 0 <= ended.queued <= ended.total
    assert 0 < ended.run <= ended.total
    (made,) = answer.requests
    assert ear.one(dspex.LMRequestFinished) == dspex.LMRequestFinished(
        model=MODEL,
        status="ok",
        seconds=made.seconds,
        prompt_tokens=ended.prompt_tokens,
        completion_tokens=ended.completion_tokens,
        cost=ended.cost,
        retries=1,
        pool="general",
    )
    assert [type(event) for event in ear.all if isinstance(event, dspex.CallEvent)] == [
        dspex.CallQueued,
        dspex.CallStarted,
        dspex.CallFinished,
    ]


def test_calls_that_fail(runtime: dspex.Runtime, provider: Provider, ear: Ear) -> None:
    """If this failed, an outage would look like calm, and a refusal like work."""
    provider.reply = lambda _: fault(401)
    with pytest.raises(dspex.LMAuth) as caught:
        runtime.adapter().generate("q", signature=QUESTION)
    ended = ear.one(dspex.CallFinished)
    assert (ended.request_id, ended.code, ended.requests) == (caught.value.request_id, "lm_auth", 1)
    assert (ended.tenant, ended.session_id, ended.prompt_tokens) == ("", None, 0)
    assert ear.one(dspex.LMRequestFinished).status == "lm_auth"
    with pytest.raises(dspex.InvalidInput) as refused:
        runtime.adapter().generate("q", signature="a, b -> c")
    ended = ear.one(dspex.CallFinished, code="invalid_input")
    assert ended.request_id == refused.value.request_id
    assert (ended.attempts, ended.program, ended.run) == (0, "", 0.0)


@of(dspex.CacheMiss, dspex.CacheStored, dspex.CacheHit)
def test_a_cache(runtime: dspex.Runtime, provider: Provider, ear: Ear) -> None:
    """If this failed, nobody could tell what the cache is worth."""
    adapter = runtime.adapter(lm=model(provider, cache=True))
    first = adapter.generate("cached?", signature=QUESTION)
    second = adapter.generate("cached?", signature=QUESTION)
    until(lambda: len(ear.every(dspex.CallFinished)) == 2)
    assert ear.one(dspex.CacheMiss) == dspex.CacheMiss(request_id=first.request_id, module="dspy.Predict")
    assert ear.one(dspex.CacheHit) == dspex.CacheHit(request_id=second.request_id, module="dspy.Predict")
    stored = ear.one(dspex.CacheStored)
    assert stored.request_id == first.request_id
    assert stored.bytes > len('{"answer": "cached?"}')
    ended = ear.one(dspex.CallFinished, cached=True)
    assert (ended.request_id, ended.cost, ended.requests, ended.attempts) == (second.request_id, 0, 0, 0)
    assert ended.model == MODEL


@of(dspex.BatchStarted, dspex.BatchFinished)
def test_a_batch(runtime: dspex.Runtime, provider: Provider, ear: Ear, tmp_path: Path) -> None:
    """If this failed, a night's batch would have ended without anybody hearing how."""
    broken = [True]
    provider.reply = lambda request: (
        fault(400) if broken[0] and "bad" in request.prompt.user else fields(answer="x")
    )
    journal = tmp_path / "journal.db"
    items = ["good 1", "bad", "good 2"]
    runtime.adapter().batch(items, signature=QUESTION, journal=journal)
    assert ear.one(dspex.BatchStarted) == dspex.BatchStarted(total=3, recorded=0)
    ended = ear.one(dspex.BatchFinished)
    assert (ended.ok, ended.failed) == (2, 1)
    assert ended.seconds > 0
    broken[0] = False
    runtime.adapter().batch(items, signature=QUESTION, journal=journal, retry_failed=True)
    assert ear.one(dspex.BatchStarted, recorded=3).total == 3
    assert len(ear.every(dspex.CallFinished)) == 4


@of(dspex.BudgetRefused)
def test_a_budget(runtime: dspex.Runtime, ear: Ear) -> None:
    """If this failed, an alert would name the wrong budget."""
    with pytest.raises(dspex.BudgetExceeded) as caught:
        runtime.adapter().generate("q", signature=QUESTION, budget=dspex.Budget(tokens=5))
    told = ear.one(dspex.BudgetRefused)
    assert (told.scope, told.name, told.unit, told.limit, told.spent) == ("call", "", "tokens", 5, 0)
    assert told.reserved == 0
    assert caught.value.details["limit"] == told.limit
    assert ear.one(dspex.CallFinished).code == "budget_exceeded"


@of(dspex.BreakerChanged, dspex.FellBack)
def test_a_breaker_and_a_fallback(runtime: dspex.Runtime, provider: Provider, ear: Ear) -> None:
    """If this failed, nobody would know that another model than the one that is paid for answers."""
    down = [True]

    def reply(request: Request) -> Any:
        return fault(503) if down[0] and request.model == "first" else fields(answer="x")

    provider.reply = reply
    lm = model(
        provider,
        "openai/first",
        fallbacks=(model(provider, "openai/second"),),
        breaker=dspex.Breaker(failures=1, share=0.5, pause=0.2),
    )
    answer = runtime.adapter().generate("q", signature=QUESTION, lm=lm)
    assert ear.one(dspex.FellBack) == dspex.FellBack(
        model="openai/first",
        code="lm_unavailable",
        next_model="openai/second",
        request_id=answer.request_id,
    )
    opened = ear.one(dspex.BreakerChanged)
    assert (opened.model, opened.state) == ("openai/first", "open")
    assert opened.endpoint == provider.base_url
    assert "1 of 1 requests failed" in opened.cause
    down[0] = False

    def closed() -> bool:
        return runtime.adapter().generate("q", signature=QUESTION, lm=lm).model == "first"

    until(closed, 30)
    until(lambda: ear.every(dspex.BreakerChanged, state="closed"))
    assert [event.state for event in ear.every(dspex.BreakerChanged)] == ["open", "half_open", "closed"]


@of(dspex.SessionCreated, dspex.SessionEnded, dspex.SessionQuotaNear)
def test_sessions(runtime: dspex.Runtime, ear: Ear) -> None:
    """If this failed, a service would run into its quota without a word before."""
    adapter = runtime.adapter(tenant="sessions")
    for number in range(4):
        adapter.session(f"s{number}", ttl=1000)
        adapter.session(f"s{number}", ttl=1000)  # it is found, and not made
    near = ear.one(dspex.SessionQuotaNear)
    assert near == dspex.SessionQuotaNear(tenant="sessions", kind="tenant", sessions=4, limit=5)
    assert ear.every(dspex.SessionCreated) == [
        dspex.SessionCreated(tenant="sessions", session_id=f"s{number}", anonymous=False)
        for number in range(4)
    ]
    adapter.session("s0").delete()

    def age(connection: Any) -> None:
        connection.execute(
            update(rows).where(rows.c.tenant == "sessions", rows.c.id == "s1").values(expires=0.0)
        )

    runtime.portal.run(lambda: runtime.core.sessions.write(age), "-")
    runtime.portal.run(lambda: runtime.core.sessions._sweep(time.time()), "-")
    ended = ear.one(dspex.SessionEnded, cause="expired")
    assert ended == dspex.SessionEnded(tenant="sessions", session_id="s1", cause="expired")
    ended = ear.one(dspex.SessionEnded, cause="deleted")
    assert ended == dspex.SessionEnded(tenant="sessions", session_id="s0", cause="deleted")
    runtime.adapter(tenant="other").create_program(QUESTION)
    assert ear.one(dspex.SessionCreated, tenant="other").anonymous


@of(
    dspex.ZygoteStarted,
    dspex.WorkerStarted,
    dspex.WorkerReady,
    dspex.WorkerGone,
    dspex.PoolResized,
    dspex.PoolClosing,
)
def test_workers_from_their_fork_to_their_end(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, an operator would read a history of his workers that did not happen."""
    monkeypatch.setattr("dspex.pool.vitals._IDLE", 0.2)
    settings = dspex.Settings(file=False, allow_modules=["tests.stuck"])
    pools = {"general": dspex.PoolOptions(min=1, max=2, slots=1)}
    runtime = dspex.Runtime(pools=pools, settings=settings)
    ear = Ear(runtime)
    with runtime:
        first = ear.one(dspex.WorkerStarted)
        assert (first.pool, first.cause) == ("general", "size")
        zygote = ear.one(dspex.ZygoteStarted)
        assert zygote.seconds > 0
        assert zygote.pid != first.pid
        (standing,) = runtime.stats().pools["general"].workers
        assert (first.worker, first.pid) == (standing.number, standing.pid)
        ready = ear.one(dspex.WorkerReady)
        assert (ready.pool, ready.worker, ready.pid) == ("general", first.worker, first.pid)
        assert ready.seconds > 0

        with ThreadPoolExecutor(2) as executor:
            calls = [executor.submit(runtime.pool().execute, "wait", {"seconds": 0.5}) for _ in range(2)]
            grown = ear.one(dspex.PoolResized, cause="growth")
            assert (grown.pool, grown.before, grown.wanted) == ("general", 1, 2)
            assert [call.result(60) for call in calls] == ["waited"] * 2
        second = ear.one(dspex.WorkerStarted, cause="growth")

        shrunk = ear.one(dspex.PoolResized, cause="idle")
        assert (shrunk.before, shrunk.wanted) == (2, 1)
        gone = ear.one(dspex.WorkerGone)
        assert (gone.pool, gone.cause, gone.lost, gone.planned) == ("general", "idle", 0, True)
        assert (gone.worker, gone.pid) in {(first.worker, first.pid), (second.worker, second.pid)}

        monkeypatch.setattr("dspex.pool.vitals._IDLE", 600.0)
        left = {first.pid, second.pid} - {gone.pid}
        with ThreadPoolExecutor(1) as executor:
            call = executor.submit(runtime.pool().execute, "wait", {"seconds": 600}, timeout=60)
            until(lambda: sum(w.in_flight for w in runtime.stats().pools["general"].workers))
            os.kill(next(iter(left)), signal.SIGKILL)
            with pytest.raises(dspex.WorkerLost):
                call.result(60)
        killed = ear.one(dspex.WorkerGone, planned=False)
        assert {killed.pid} == left
        assert (killed.cause, killed.lost) == ("crashed", 1)
        assert "SIGKILL" in killed.reason
        until(lambda: len(ear.every(dspex.WorkerReady)) == 3, 60)
        assert runtime.pool().execute("ping") == "pong"
    closing = ear.one(dspex.PoolClosing, pool="general")
    assert (closing.unfinished, closing.drain) == (0, False)
    last = ear.one(dspex.WorkerGone, cause="closing")
    assert (last.pool, last.lost, last.planned) == ("general", 0, True)


@of(dspex.WorkerDraining)
def test_a_worker_that_is_replaced_in_the_middle_of_a_call() -> None:
    """If this failed, a recycling would look like a loss, and an unfinished call like a finished one."""
    settings = dspex.Settings(file=False, allow_modules=["tests.stuck"])
    runtime = dspex.Runtime(pools={"general": {"workers": 1, "slots": 2, "max_calls": 1}}, settings=settings)
    ear = Ear(runtime)
    with runtime, ThreadPoolExecutor(1) as executor:
        call = executor.submit(runtime.pool().execute, "wait", {"seconds": 600}, timeout=600)
        until(lambda: sum(worker.in_flight for worker in runtime.stats().pools["general"].workers))
        assert runtime.pool().execute("ping") == "pong"
        leaving = ear.one(dspex.WorkerDraining)
        first = ear.one(dspex.WorkerStarted, cause="size")
        assert (leaving.pool, leaving.worker, leaving.pid) == ("general", first.worker, first.pid)
        assert (leaving.cause, leaving.in_flight) == ("calls", 1)
        assert ear.one(dspex.WorkerStarted, cause="replacement").worker != first.worker
        runtime.close()
        assert isinstance(call.exception(60), dspex.PoolClosed)
    closing = ear.one(dspex.PoolClosing, pool="general")
    assert (closing.unfinished, closing.drain) == (1, False)


@of(dspex.ZygoteLost)
def test_a_zygote_that_is_lost() -> None:
    """If this failed, all workers of a service would go at once, and nothing say why."""
    runtime = dspex.Runtime(pools={"general": dspex.PoolOptions(workers=1)})
    ear = Ear(runtime)
    with runtime:
        pid = ear.one(dspex.ZygoteStarted).pid
        os.kill(pid, signal.SIGKILL)
        lost = ear.one(dspex.ZygoteLost)
        assert lost.pid == pid
        assert "SIGKILL" in lost.cause or "-9" in lost.cause
        until(lambda: len(ear.every(dspex.WorkerReady)) == 2, 60)
        assert runtime.pool().execute("ping") == "pong"
    first, second = ear.every(dspex.ZygoteStarted)
    assert (first.pid, second.pid != pid) == (pid, True)


@of(dspex.PoolFailed, dspex.PoolRecovered)
def test_a_pool_that_fails_and_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, an alert would not come, or never be taken back."""
    broken = tmp_path / "broken"
    broken.touch()
    (tmp_path / "dies_when_told.py").write_text(
        "import os\n"
        "def die():\n"
        f"    if os.path.exists({str(broken)!r}):\n"
        "        os._exit(3)\n"
        "os.register_at_fork(after_in_child=die)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    pools = {"general": dspex.PoolOptions(workers=1, preload=["dies_when_told"])}
    runtime = dspex.Runtime(pools=pools, wait=False)
    ear = Ear(runtime)
    with runtime:
        failed = ear.one(dspex.PoolFailed)
        assert failed.pool == "general"
        assert failed.failures > 1
        assert "status 3" in failed.cause
        broken.unlink()
        assert ear.one(dspex.PoolRecovered) == dspex.PoolRecovered(pool="general")


@of(dspex.LocalModelProgress)
def test_a_local_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, the first call would seem to hang while gigabytes are loaded."""
    weights = tmp_path / "some.gguf"
    weights.write_bytes(b"x" * 1000)
    # In the place of xllamacpp, which would load real weights; the rest of it is what it is.
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "xllamacpp.py").write_text(
        textwrap.dedent("""
            from types import SimpleNamespace as Empty
            def CommonParams():
                return Empty(model=Empty(), cpuparams=Empty())
            class Server:
                listening_address = "http://127.0.0.1:1"
                def __init__(self, parameters):
                    pass
        """)
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "library"))
    runtime = dspex.Runtime(f"local:{weights}", pools={"general": dspex.PoolOptions(workers=1)})
    ear = Ear(runtime)
    with runtime:
        until(lambda: len(ear.every(dspex.LocalModelProgress)) == 2)
    assert ear.every(dspex.LocalModelProgress) == [
        dspex.LocalModelProgress(step="loading", done=0, total=1000),
        dspex.LocalModelProgress(step="loading", done=1000, total=1000),
    ]


def kinds(root: type[dspex.Event] = dspex.Event) -> set[type[dspex.Event]]:
    """Every type of event that there is."""
    return {root}.union(*(kinds(kind) for kind in root.__subclasses__()))


def test_every_event_is_heard_exported_and_documented() -> None:
    """If this failed, an event would be promised that never comes, or come that nobody can find."""
    pages = Path(__file__).parents[1] / "docs"
    reference = (pages / "reference" / "events.md").read_text("utf-8")
    guide = (pages / "how-to" / "events.md").read_text("utf-8")
    # Types of other tests, and what other libraries make of ours, are none of ours.
    ours = {kind for kind in kinds() if kind.__module__.startswith("dspex.")}
    assert {getattr(events, name) for name in events.__all__} == ours
    assert ours == TOLD | BASES
    assert {kind for kind in ours if kind.__subclasses__()} == BASES
    for kind in ours:
        assert getattr(dspex, kind.__name__) is kind
        assert f"\n## {kind.__name__}\n" in reference
        assert kind in BASES or f"| `{kind.__name__}` |" in guide
        for field in kind.__struct_fields__:
            assert f"`{field}`" in reference
