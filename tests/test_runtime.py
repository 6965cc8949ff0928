"""Runtimes and adapters: loops and threads, opening and closing, preloads, profiles, the embedded model."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import dspex
from tests.provider import Provider, echo, fields

ONE = {"general": dspex.PoolOptions(workers=1)}


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


@pytest.fixture(scope="module")
def lm(provider: Provider) -> dspex.LM:
    return dspex.LM("openai/x", base_url=provider.base_url)


@pytest.fixture(scope="module")
def runtime(lm: dspex.LM) -> Iterator[dspex.Runtime]:
    with dspex.Runtime(lm, pools=ONE) as opened:
        yield opened


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_program_without_standard_descriptors(closed: str, tmp_path: Path) -> None:
    """If this failed, a service whose manager closes standard input would be aborted by its event loop."""
    told = tmp_path / "told"
    code = f"""
import pathlib, dspex
with dspex.Runtime("openai/x", pools={{"general": dspex.PoolOptions(workers=1)}}) as runtime:
    pathlib.Path({str(told)!r}).write_text(runtime.pool("general").execute("ping"))
"""
    shell = ["/bin/sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code]
    ran = subprocess.run(shell, timeout=60, check=False)
    assert (ran.returncode, told.read_text()) == (0, "pong")


@pytest.mark.anyio
async def test_async_with_lives_on_the_callers_loop(lm: dspex.LM) -> None:
    """If this failed, each await would hop threads, or a blocking call would hang its own loop."""
    threads = threading.active_count()
    async with dspex.Runtime(lm, pools=ONE) as runtime:
        answer = await runtime.adapter().agenerate("hello")
        assert answer.response == "hello"
        assert "dspex" not in [thread.name for thread in threading.enumerate()]
        with pytest.raises(RuntimeError, match="agenerate"):
            runtime.adapter().generate("hello")
        with pytest.raises(RuntimeError, match="aexecute"):
            runtime.pool("general").execute("ping")
        in_thread = await asyncio.to_thread(runtime.pool("general").execute, "ping")
        assert in_thread == "pong"
    assert threading.active_count() <= threads + 4


@pytest.mark.anyio
async def test_twins_may_be_awaited_from_any_loop(runtime: dspex.Runtime) -> None:
    """If this failed, an async web framework could not share a runtime that a script opened."""
    answers = await asyncio.gather(*(runtime.adapter().agenerate(f"q{n}") for n in range(20)))
    assert [answer.response for answer in answers] == [f"q{n}" for n in range(20)]

    def own_loop(number: int) -> str:
        return str(asyncio.run(runtime.adapter().agenerate(f"loop {number}")).response)

    found = await asyncio.gather(*(asyncio.to_thread(own_loop, n) for n in range(4)))
    assert found == [f"loop {n}" for n in range(4)]


@pytest.mark.anyio
async def test_a_sync_call_works_inside_a_running_loop_as_in_a_notebook(runtime: dspex.Runtime) -> None:
    """If this failed, a notebook cell, which runs inside a loop, could not call `generate`."""
    assert runtime.adapter().generate("cell").response == "cell"


def test_many_threads_share_one_adapter(runtime: dspex.Runtime) -> None:
    """If this failed, a threaded web server would mix its answers."""
    adapter = runtime.adapter()
    with ThreadPoolExecutor(16) as executor:
        answers = list(executor.map(adapter.generate, [f"t{n}" for n in range(64)]))
    assert [answer.response for answer in answers] == [f"t{n}" for n in range(64)]
    assert len({answer.request_id for answer in answers}) == 64


def test_before_and_after_it_is_open(lm: dspex.LM) -> None:
    """If this failed, using a runtime at the wrong time would hang or give a riddle."""
    runtime = dspex.Runtime(lm, pools=ONE)
    with pytest.raises(dspex.PoolClosed, match="with"):
        runtime.adapter().generate("?")
    with runtime:
        assert runtime.adapter().generate("a").response == "a"
        with pytest.raises(RuntimeError, match="opened before"):
            runtime.open()
    with pytest.raises(dspex.PoolClosed):
        runtime.adapter().generate("?")
    runtime.close()
    with pytest.raises(RuntimeError, match="another"):
        runtime.open()


def test_an_adapter_stands_alone(lm: dspex.LM) -> None:
    """If this failed, the shortest way to one answer would need two objects."""
    with dspex.DSPyAdapter(timeout=20.0, lm=lm) as adapter:
        assert adapter.generate("alone").response == "alone"
    with pytest.raises(RuntimeError, match="no runtime"):
        adapter.generate("closed")


def test_an_unknown_pool_is_named(runtime: dspex.Runtime) -> None:
    """If this failed, a slip in a pool's name would be a KeyError from the inside."""
    with pytest.raises(dspex.InvalidOption, match="general"):
        runtime.adapter("genral").generate("?")


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "10", True])
def test_a_timeout_has_to_be_a_positive_number(runtime: dspex.Runtime, timeout: float) -> None:
    """If this failed, a wrong timeout would mean no deadline, or one that has passed."""
    with pytest.raises(dspex.InvalidOption, match="timeout"):
        runtime.adapter().generate("?", timeout=timeout)
    with pytest.raises(dspex.InvalidOption, match="timeout"):
        runtime.adapter(timeout=timeout)


def test_no_lm_and_no_key_are_errors_only_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a service without its key would not start, or the caller not learn what to set."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with dspex.Runtime("openai/gpt-5-mini", pools=ONE) as runtime:
        with pytest.raises(dspex.LMNotConfigured) as caught:
            runtime.adapter().generate("?")
        assert caught.value.details["variable"] == "OPENAI_API_KEY"
        assert runtime.pool("general").execute("ping") == "pong"
    with dspex.Runtime(pools=ONE) as runtime, pytest.raises(dspex.LMNotConfigured, match="lm="):
        runtime.adapter().generate("?")


def test_profiles_by_name_and_per_call(provider: Provider, lm: dspex.LM) -> None:
    """If this failed, a call would be answered by another model than the one asked for."""
    provider.reply = lambda request: fields(response=f"{request.model}/{request.headers['authorization']}")
    base = provider.base_url
    profiles = {
        "fast": dspex.LM("openai/fast", base_url=base, api_key="key-fast"),
        "good": dspex.LM("openai/good", base_url=base, api_key="key-good"),
    }
    try:
        with dspex.Runtime("fast", lms=profiles, pools=ONE) as runtime:
            adapter = runtime.adapter()
            assert adapter.generate("?").response == "fast/Bearer key-fast"
            assert adapter.generate("?", lm="good").response == "good/Bearer key-good"
            assert runtime.adapter(lm="good").generate("?").response == "good/Bearer key-good"
            other = dspex.LM("openai/other", base_url=base, api_key="key-other")
            assert adapter.generate("?", lm=other).response == "other/Bearer key-other"
            with pytest.raises(dspex.InvalidOption, match="fast, good"):
                adapter.generate("?", lm="fats")
            configured = adapter.configure("openai", model="third", base_url=base, api_key="key-third")
            assert configured.model == "openai/third"
            assert adapter.generate("?").response == "third/Bearer key-third"
            with pytest.raises(dspex.UnknownProvider, match="anthropic"):
                adapter.configure("opnai", model="x")
    finally:
        provider.reply = lambda _: echo()


def test_a_rotated_key_reaches_the_next_call(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a key that was changed in the environment would need a restart."""
    provider.reply = lambda request: fields(response=request.headers["authorization"])
    try:
        lm = dspex.LM("openai/x", base_url=provider.base_url, api_key="env:ROTATING")
        with dspex.Runtime(lm, pools=ONE) as runtime:
            for key in ("first", "second", "first"):
                monkeypatch.setenv("ROTATING", key)
                assert runtime.adapter().generate("?").response == f"Bearer {key}"
    finally:
        provider.reply = lambda _: echo()


def _module(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> str:
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    return name


COMMAND = "import dspex\n@dspex.command('{0}')\ndef look():\n    return {1}\n"


def test_a_preload_is_imported_once_before_the_fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, callbacks set up in a preload would be missing in some worker, or set up per call."""
    text = "import os\nPID = os.getpid()\n" + COMMAND.format("where", "(PID, os.getpid(), os.getppid())")
    name = _module(tmp_path, "warm_preload", text, monkeypatch)
    pools = {"general": dspex.PoolOptions(workers=2, preload=(name,))}
    with dspex.Runtime(pools=pools, settings=dspex.Settings(allow_modules=(name,))) as runtime:
        loaded, own, zygote = runtime.pool("general").execute("where")
        assert loaded == zygote
        assert own != zygote


def test_a_preload_that_starts_a_thread_is_imported_in_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If this failed, a fork would copy locks that a lost thread held, and a worker hang one day."""
    text = (
        "import os, threading, time\nPID = os.getpid()\n"
        "threading.Thread(target=time.sleep, args=(3600,), daemon=True, name='own').start()\n"
        + COMMAND.format("who", "(PID == os.getpid(), [t.name for t in threading.enumerate()])")
    )
    name = _module(tmp_path, "threaded_preload", text, monkeypatch)
    pools = {"general": dspex.PoolOptions(workers=1, preload=(name,))}
    with (
        caplog.at_level(logging.WARNING),
        dspex.Runtime(pools=pools, settings=dspex.Settings(allow_modules=(name,))) as runtime,
    ):
        in_worker, threads = runtime.pool("general").execute("who")
    assert in_worker
    assert "own" in threads
    assert name in caplog.text


def test_a_preload_that_fails_says_so_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, callers would wait out a timeout for a pool that can never start."""
    name = _module(tmp_path, "broken_preload", "raise LookupError('no licence')\n", monkeypatch)
    with pytest.raises(dspex.PoolUnhealthy, match="no licence") as caught:
        dspex.Runtime(pools={"general": dspex.PoolOptions(preload=(name,))}).open()
    assert "LookupError" in caught.value.details["cause"]


def test_one_broken_pool_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a bad preload of one pool would take down the whole service."""
    name = _module(tmp_path, "broken_other", "raise LookupError('nope')\n", monkeypatch)
    pools = {
        "general": dspex.PoolOptions(workers=1),
        "bad": dspex.PoolOptions(workers=1, preload=(name,)),
    }
    with dspex.Runtime(pools=pools, wait=False) as runtime:
        assert runtime.pool("general").execute("ping", timeout=30) == "pong"
        with pytest.raises(dspex.PoolUnhealthy, match="nope"):
            runtime.pool("bad").execute("ping", timeout=30)
        assert runtime.pool("general").execute("ping") == "pong"


def test_a_subscriber_that_raises_disturbs_nobody() -> None:
    """If this failed, a broken metric would fail calls."""
    runtime = dspex.Runtime(pools=ONE)
    seen: list[dspex.LocalModelProgress] = []

    def broken(_: dspex.LocalModelProgress) -> None:
        raise ValueError("broken subscriber")

    runtime.on(dspex.LocalModelProgress, broken)
    runtime.on(dspex.LocalModelProgress, seen.append)
    event = dspex.LocalModelProgress(step="loading", done=1, total=2)
    runtime.core.bus.emit(event)
    asyncio.run(runtime.core.bus.aclose())
    assert seen == [event]
    assert runtime.core.bus.failed == 1


@pytest.mark.slow
def test_the_embedded_model_answers_and_goes_with_its_runtime() -> None:
    """If this failed, a new user's first question would have no answer."""
    pytest.importorskip("xllamacpp")
    steps: list[str] = []
    runtime = dspex.Runtime("local", pools=ONE)
    runtime.on(dspex.LocalModelProgress, lambda event: steps.append(event.step))
    with runtime:
        adapter = runtime.adapter(timeout=120)
        answer = adapter.generate("What is the capital of France?", signature="question -> answer")
        assert "Paris" in answer.answer
        assert answer.usage.completion_tokens > 0
        reasoned = adapter.generate(
            "What is 2 + 2?", module="ChainOfThought", signature="question -> answer: int"
        )
        assert list(reasoned.outputs) == ["reasoning", "answer"]
        assert isinstance(reasoned.answer, int)
        typed = adapter.generate(
            "I love this!", signature="text -> sentiment: Literal['positive', 'negative'], confidence: float"
        )
        assert typed.sentiment == "positive"
        assert isinstance(typed.confidence, float)
    assert "loading" in steps
