"""Programs of a user's own that are refused, that fail, and that hang."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

import dspex
from tests.processes import lines, until
from tests.provider import Provider, Reply, Request, echo, fault
from tests.user_runtime import ask, provider, runtime, serving

__all__ = ["provider", "runtime", "serving"]  # fixtures


# What is refused


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("os:system", dspex.NotAllowed),
        ("builtins:eval", dspex.NotAllowed),
        ("tests.programsx:Router", dspex.NotAllowed),
        ("tests:programs", dspex.NotAllowed),
        ("tests.programs:__builtins__", dspex.ModuleNotFound),
        ("tests.programs:_Hidden", dspex.ModuleNotFound),
        ("tests.programs:Router.forward", dspex.ModuleNotFound),
        ("tests.programs:Router:Router", dspex.ModuleNotFound),
        ("tests..programs:Router", dspex.ModuleNotFound),
        (".tests.programs:Router", dspex.ModuleNotFound),
        ("../tests/programs:Router", dspex.ModuleNotFound),
        ("tests.programs:", dspex.ModuleNotFound),
        (":Router", dspex.ModuleNotFound),
        (":", dspex.ModuleNotFound),
        ("tests.programs :Router", dspex.ModuleNotFound),
        ("tests.programs:Router\n", dspex.ModuleNotFound),
        ("tests.programs:Rou\x00ter", dspex.ModuleNotFound),
        ("tests.programs:class", dspex.ModuleNotFound),
        ("tests.programs:Ｒouter", dspex.ModuleNotFound),
        ("tests.programs:R\ud83du", dspex.ModuleNotFound),
        ("tests.programs:" + "R" * 10_000_000, dspex.ModuleNotFound),
        ("tests.programs.Router", dspex.ModuleNotFound),
        ("tests.programs:Predict", dspex.NotAllowed),
        ("tests.programs:dspy", dspex.ModuleNotFound),
        ("tests.programs:value", dspex.ModuleNotFound),
        ("tests.programs:NoModule", dspex.ModuleNotFound),
        ("tests.programs:Abstract", dspex.ModuleNotFound),
        ("tests.programs:NoForward", dspex.ModuleNotFound),
        ("tests.programs:AsyncForward", dspex.ModuleNotFound),
        ("tests.programs:ByPosition", dspex.ModuleNotFound),
        ("tests.programs:NeedsArguments", dspex.InvalidOption),
        ("tests.programs.deeper:Router", dspex.ModuleNotFound),
    ],
    ids=lambda value: ascii(value)[:40] if isinstance(value, str) else "",
)
def test_what_is_no_program_is_refused(
    runtime: dspex.Runtime, path: str, error: type[dspex.DspexError]
) -> None:
    """If this failed, a caller could have something imported or made that nobody meant to offer."""
    with pytest.raises(error) as caught:
        runtime.adapter().generate("x", module=path)
    assert len(caught.value.message) < 500
    assert caught.value.request_id
    with pytest.raises(error):
        runtime.pool().execute("execute_module", {"module": path, "prompt": "x"})


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("os:system", r"Settings\(allow_modules=\['os'\]\)"),
        ("tests.programs:Rooter", "did you mean 'Router'"),
        ("tests.programs:NeedsArguments", r"needs 'size', 'more'; give it in arguments=\{'size'"),
        ("tests.programs:Abstract", "abstract: it lacks forward"),
        ("tests.programs:NoForward", "neither forward nor aforward"),
        ("tests.programs:AsyncForward", "call it aforward"),
        ("tests.programs:value", "not a class but int"),
        ("tests.programs:NoModule", "not a subclass of dspy.Module"),
        ("tests.bad_programs.absent:Router", "no module 'tests.bad_programs.absent'"),
        ("tests.programs.Router", "did you mean 'tests.programs:Router'"),
        ("elsewhere.programs.Router", "'package.module:Class'"),
    ],
)
def test_what_is_no_program_says_what_to_do(runtime: dspex.Runtime, path: str, said: str) -> None:
    """If this failed, a user would have to guess what is wrong with a class."""
    with pytest.raises(dspex.Refused, match=said):
        runtime.adapter().generate("x", module=path)


# Programs that fail


@pytest.mark.parametrize(
    ("path", "kind", "function"),
    [
        ("tests.bad_programs.lacking:Any", "ModuleNotFoundError", "<module>"),
        ("tests.bad_programs.raising:Any", "ZeroDivisionError", "_fail"),
        ("tests.bad_programs.leaving:Any", "SystemExit", "<module>"),
        ("tests.programs:BadConstructor", "LookupError", "__init__"),
    ],
)
def test_a_broken_import_or_constructor_shows_the_users_frames(
    runtime: dspex.Runtime, path: str, kind: str, function: str
) -> None:
    """If this failed, a user would look for the fault in files that are not theirs."""
    with pytest.raises(dspex.PythonError) as caught:
        runtime.adapter().generate("x", module=path)
    frames = caught.value.details["frames"]
    assert caught.value.details["type"] == kind
    assert frames[-1]["function"] == function
    assert all("/tests/" in frame["file"] for frame in frames)
    assert frames[-1]["source"]
    assert frames[-1]["line"] > 0


@pytest.mark.parametrize("name", ["Misbehaving", "AsyncMisbehaving"])
@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ("error", "ValueError"),
        ("exit", "SystemExit"),
        ("odd", "Odd"),
        ("interrupt", "KeyboardInterrupt"),
        ("cancelled", "CancelledError"),
        ("nothing", "TypeError"),
        ("dict", "TypeError"),
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_whatever_a_program_raises_is_its_calls_error(
    runtime: dspex.Runtime, name: str, how: str, kind: str, shared: bool
) -> None:
    """If this failed, an exception of some class would end a worker, or be taken for something else."""
    with pytest.raises(dspex.PythonError) as caught:
        ask(runtime, name, how, shared=shared)
    assert caught.value.details["type"] == kind
    if kind == "TypeError":
        assert "has to return a dspy.Prediction" in caught.value.message
    else:
        assert caught.value.details["frames"][-1]["function"] == "_misbehave"


@pytest.mark.parametrize("name", ["Router", "AsyncRouter", "SharedSync", "SharedAsync"])
def test_an_lm_error_keeps_its_code(runtime: dspex.Runtime, provider: Provider, name: str) -> None:
    """If this failed, a caller could not tell a busy provider from a fault in the program."""
    provider.reply = lambda _: fault(429, retry_after=0.3)
    with pytest.raises(dspex.LMRateLimited) as caught:
        ask(runtime, name, "hi")
    assert caught.value.retry_after == 0.3
    assert caught.value.details["requests"][0]["status"] == "lm_rate_limited"


def test_a_program_that_ends_its_worker_is_not_run_again(runtime: dspex.Runtime, tmp_path: Path) -> None:
    """If this failed, what a program had done before would be done twice."""
    mark = tmp_path / "mark"
    with pytest.raises(dspex.DspexError) as caught:
        ask(runtime, "Misbehaving", "die", inputs={"mark": str(mark)})
    assert caught.value.code in {"worker_lost", "poison_call"}
    assert len(lines(mark)) == 1


@pytest.mark.parametrize(
    ("path", "how"),
    [
        ("tests.bad_programs.hanging:Any", "x"),
        ("tests.programs:HangingConstructor", "x"),
        ("tests.programs:Misbehaving", "sleep"),
        ("tests.programs:Misbehaving", "spin"),
        ("tests.programs:AsyncMisbehaving", "wait"),
        ("tests.programs:AsyncMisbehaving", "spin"),
        ("tests.programs:AsyncMisbehaving", "swallow"),
    ],
)
def test_a_program_that_hangs_ends_at_its_deadline(
    runtime: dspex.Runtime, provider: Provider, path: str, how: str
) -> None:
    """If this failed, a program that hangs would keep its caller, or take others along."""
    begun = threading.Event()
    go_on = threading.Event()

    def reply(request: Request) -> Reply:
        begun.set()
        assert go_on.wait(60)
        return echo()

    provider.reply = reply
    got: list[dspex.Response] = []
    neighbour = threading.Thread(target=lambda: got.append(runtime.adapter(timeout=60).generate("hi")))
    neighbour.start()
    assert begun.wait(10)
    with pytest.raises(dspex.PythonTimeout) as caught:
        runtime.adapter(timeout=1.0).generate(how, module=path)
    # A description that hangs has no module to wait in; what awaits is cancelled and not killed.
    assert caught.value.details["killed"] is (how != "wait")
    go_on.set()
    neighbour.join(60)
    assert (got[0].response, got[0].attempts) == ("hi", 1)


def test_a_caller_that_leaves_stops_a_description(runtime: dspex.Runtime) -> None:
    """If this failed, a module that hangs at import would keep a worker after everybody has gone."""

    async def leave() -> None:
        waiting = asyncio.ensure_future(
            runtime.adapter(timeout=None).agenerate("x", module="tests.bad_programs.hanging:Gone")
        )
        isolated = runtime.stats().pools["isolated"]
        cancelled = isolated.counters.get("cancelled", 0)
        await asyncio.sleep(0.2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.to_thread(
            until,
            lambda: runtime.stats().pools["isolated"].counters.get("cancelled", 0) == cancelled + 1,
        )

    asyncio.run(leave())
    until(lambda: not sum(worker.in_flight for worker in runtime.stats().pools["isolated"].workers))
