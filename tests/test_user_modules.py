"""Programs of a user's own, named by import path, through a real runtime."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dspex
from tests.processes import lines, until
from tests.provider import Provider, Reply, Request, echo, fault

ALLOWED = ("tests.programs", "tests.bad_programs", "tests.commands")


@pytest.fixture(scope="module")
def serving() -> Iterator[tuple[Provider, dspex.Runtime]]:
    with (
        Provider() as provider,
        dspex.Runtime(
            lm=dspex.LM("openai/x", base_url=provider.base_url, retry=dspex.Retry(attempts=1)),
            pools={"general": dspex.PoolOptions(workers=1, grace=0.3)},
            settings=dspex.Settings(allow_modules=ALLOWED),
        ) as runtime,
    ):
        yield provider, runtime


@pytest.fixture
def provider(serving: tuple[Provider, dspex.Runtime]) -> Provider:
    serving[0].reply = lambda _: echo()
    serving[0].requests.clear()
    return serving[0]


@pytest.fixture
def runtime(serving: tuple[Provider, dspex.Runtime], provider: Provider) -> dspex.Runtime:
    return serving[1]


def ask(runtime: dspex.Runtime, name: str, prompt: str | None = None, **options: Any) -> dspex.Response:
    return runtime.adapter().generate(prompt, module=f"tests.programs:{name}", **options)


# What runs, and where


def test_a_program_runs_and_all_its_requests_are_counted(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a user's program would not run, or its cost not be known."""
    got = ask(runtime, "Router", "hello")
    assert got.outputs == {"team": "hello", "reply": "hello", "tone": "kind"}
    assert len(got.requests) == len(provider.requests) == 2
    assert got.usage.total_tokens == sum(request.usage.total_tokens for request in got.requests) > 0
    assert (got.content, got.model, got.attempts) == ("kind", "x", 1)


def test_aforward_is_preferred(runtime: dspex.Runtime) -> None:
    """If this failed, a program that awaits would run by its slower form, which no deadline can stop."""
    got = ask(runtime, "AsyncRouter", "hello", inputs={"count": 3})
    assert got.outputs == {"teams": ["hello"] * 3, "on": "MainThread"}
    assert len(got.requests) == 3


def test_a_program_finds_its_lm_wherever_it_goes(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a module inside another, or a thread, would have no LM or go uncounted."""
    got = ask(runtime, "Nested", "hi")
    assert got.outputs == {"team": "hi", "json": "hi", "threads": ["hi", "hi"], "many": ["hi", "hi"]}
    assert len(got.requests) == len(provider.requests) == 7


def test_shared_programs_are_made_once_and_share_a_worker(runtime: dspex.Runtime) -> None:
    """If this failed, a program declared shared would be made for each call, or block its worker's loop."""

    async def many() -> list[dspex.Response]:
        adapter = runtime.adapter()
        path = "tests.programs:SharedAsync"
        return await asyncio.gather(*[adapter.agenerate("hi", module=path) for _ in range(12)])

    found = asyncio.run(many())
    pid = runtime.pool().execute("get_stats")["pid"]
    assert {(got.answer, got.pid, got.made, got.on) for got in found} == {("hi", pid, 1, "MainThread")}
    in_thread = ask(runtime, "SharedSync", "hi")
    assert (in_thread.answer, in_thread.pid) == ("hi", pid)
    assert in_thread.on.startswith("dspex-command")


def test_a_subclass_of_a_shared_program_is_not_shared(runtime: dspex.Runtime) -> None:
    """If this failed, a subclass would be trusted with what only its parent was declared to be."""
    pid = runtime.pool().execute("get_stats")["pid"]
    assert ask(runtime, "SubOfShared", "hi").pid != pid
    assert ask(runtime, "SubOfShared", "hi", shared=True).pid == pid
    assert ask(runtime, "SharedSync", "hi", options={"shared": False}).pid != pid


def test_by_the_bridge(runtime: dspex.Runtime) -> None:
    """If this failed, the original's call would not know programs of one's own."""
    args = {"module": "tests.programs:Router", "inputs": {"message": "m", "tone": "short"}}
    pool = runtime.pool()
    assert pool.execute("execute_module", args)["tone"] == "short"
    assert pool.execute("run", {"module": "tests.programs:SharedSync", "prompt": "q"})["answer"] == "q"
    assert asyncio.run(pool.aexecute("execute_module", args))["team"] == "m"


def test_without_an_lm(provider: Provider) -> None:
    """If this failed, a program that asks no LM would need one, or one that does not say what is missing."""
    with dspex.Runtime(
        pools={"general": dspex.PoolOptions(workers=1)},
        settings=dspex.Settings(allow_modules=ALLOWED, file=False, default_lm=None),
    ) as bare:
        got = ask(bare, "Typed", inputs={"number": 1, "tags": ["a"]})
        assert got.outputs == {"number": 1, "tags": ["a"], "other": "None", "free": 3}
        with pytest.raises(dspex.LMNotConfigured):
            ask(bare, "Router", "hello")
        with pytest.raises(dspex.LMNotConfigured):
            ask(bare, "SharedAsync", "hello")


# Inputs and options


def test_inputs_are_checked_like_those_of_a_signature(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a program would run, and pay, on inputs that it does not take."""
    cases: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
        ({"massage": "x"}, "did you mean 'message'", {"unknown": ["massage"], "known": ["message", "tone"]}),
        ({}, "missing input: 'message'", {"missing": ["message"]}),
        ({"message": 3}, "has to be str", {"field": "message", "expected": "str", "got": "int"}),
        ({"message": "x", "tone": "rude"}, "has to be Literal['kind', 'short']", {"field": "tone"}),
    ]
    for inputs, said, details in cases:
        with pytest.raises(dspex.InvalidInput) as caught:
            ask(runtime, "Router", inputs=inputs)
        assert said in caught.value.message
        assert caught.value.details.items() >= details.items()
        assert caught.value.request_id
    with pytest.raises(dspex.InvalidInput, match="could fill any of 'number', 'tags'"):
        ask(runtime, "Typed", "x")
    with pytest.raises(dspex.InvalidInput, match=r"'tags\[0\]' has to be list\[str\]"):
        ask(runtime, "Typed", inputs={"number": 1, "tags": [1]})
    with pytest.raises(dspex.InvalidInput, match="every input is given"):
        ask(runtime, "Router", "x", inputs={"message": "x", "tone": "kind"})
    with pytest.raises(dspex.InvalidInput, match="history"):
        runtime.adapter().generate([{"role": "user", "content": "x"}], module="tests.programs:Router")
    assert provider.requests == []
    assert ask(runtime, "Typed", inputs={"number": 1, "tags": [], "other": 5, "free": {}}).other == "5"
    assert ask(runtime, "Anywhere", inputs={"whatever": [1]}).given == {"whatever": [1]}
    assert ask(runtime, "Router", "short", inputs={"message": "m"}).tone == "short"


def test_options_are_the_two_that_there_are(runtime: dspex.Runtime) -> None:
    """If this failed, an option without effect would be taken without a word."""
    with pytest.raises(dspex.InvalidOption, match="no option 'temperature'; it has idempotent, shared"):
        ask(runtime, "Router", "x", temperature=0.5)
    with pytest.raises(dspex.InvalidOption, match="takes True or False"):
        ask(runtime, "Router", "x", options={"shared": 1})
    with pytest.raises(dspex.InvalidOption, match="takes no signature"):
        ask(runtime, "Router", "x", signature="message -> team")
    with pytest.raises(dspex.InvalidOption, match="takes no signature"):
        runtime.pool().execute("describe", {"module": "tests.programs:Router", "signature": "a -> b"})
    adapter = runtime.adapter(module_config={"tests.programs:SubOfShared": {"shared": True}})
    pid = runtime.pool().execute("get_stats")["pid"]
    assert adapter.generate("x", module="tests.programs:SubOfShared").pid == pid


# Description


def test_a_program_is_described(runtime: dspex.Runtime) -> None:
    """If this failed, nobody could tell from outside what a program takes."""
    said = runtime.pool().execute("describe", {"module": "tests.programs:Router"})
    assert said["summary"] == "Sends a message where it belongs."
    assert said["instructions"].endswith("More of it.")
    assert said["inputs"]["message"] == {"type": "str", "schema": {"type": "string"}, "required": True}
    assert said["inputs"]["tone"]["default"] == "kind"
    assert said["inputs"]["tone"]["schema"]["enum"] == ["kind", "short"]
    assert {said["shared"], said["idempotent"], said["takes_any"]} == {False}
    said.clear()  # the caller's own copy
    again = runtime.pool().execute("describe", {"module": "tests.programs:SharedAsync"})
    assert (again["shared"], again["idempotent"]) == (True, True)
    typed = runtime.pool().execute("describe", {"module": "tests.programs:Typed"})["inputs"]
    assert [typed[name]["type"] for name in typed] == ["int", "list[str]", None, None]
    assert runtime.pool().execute("describe", {"module": "tests.programs:Router"})["summary"]


def test_a_program_is_described_once(provider: Provider) -> None:
    """If this failed, each call would pay for a second worker and a second import."""
    with dspex.Runtime(
        pools={"general": dspex.PoolOptions(workers=1)}, settings=dspex.Settings(allow_modules=ALLOWED)
    ) as fresh:
        inputs = {"number": 1, "tags": []}

        def ask_one() -> None:
            ask(fresh, "Typed", inputs=inputs)

        threads = [threading.Thread(target=ask_one) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ask(fresh, "Typed", inputs=inputs)
        pool = fresh.stats().pools["isolated"]
        assert (pool.calls, pool.counters) == (7, {"ok": 7})


def test_a_description_that_failed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a module that was mended would stay broken until the service is started again."""
    folder = tmp_path / "mended"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    file = folder / "program.py"
    file.write_text("import dspy\nthis is no Python\n")
    with dspex.Runtime(
        pools={"general": dspex.PoolOptions(workers=1)}, settings=dspex.Settings(allow_modules=["mended"])
    ) as fresh:
        adapter = fresh.adapter()
        with pytest.raises(dspex.PythonError, match="failed: SyntaxError") as caught:
            adapter.generate("x", module="mended.program:Late")
        assert caught.value.details["frames"] == [
            {"file": str(file), "line": 2, "function": "<module>", "source": "this is no Python"}
        ]
        file.write_text(
            "import dspy\nclass Late(dspy.Module):\n"
            "    def forward(self, q):\n        return dspy.Prediction(a=q)\n"
        )
        assert adapter.generate("x", module="mended.program:Late").a == "x"


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
        ("tests.programs:NeedsArguments", dspex.ModuleNotFound),
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
        ("tests.programs:NeedsArguments", "needs size, more, and constructor arguments cannot be given yet"),
        ("tests.programs:Abstract", "abstract: it lacks forward"),
        ("tests.programs:NoForward", "neither forward nor aforward"),
        ("tests.programs:AsyncForward", "call it aforward"),
        ("tests.programs:value", "not a class but int"),
        ("tests.programs:NoModule", "not a subclass of dspy.Module"),
        ("tests.bad_programs.absent:Router", "no module 'tests.bad_programs.absent'"),
        ("tests.programs.Router", "'package.module:Class'"),
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
    provider.reply = lambda _: fault(429, retry_after=2.0)
    with pytest.raises(dspex.LMRateLimited) as caught:
        ask(runtime, name, "hi")
    assert caught.value.retry_after == 2.0
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


def test_without_processes() -> None:
    """If this failed, users could not test their own programs in milliseconds."""
    from dspex.testing import InProcessRuntime, ScriptedLM

    team: dict[str, Any] = {"team": "a"}
    script = [team, {"reasoning": "so", "reply": "b"}, team, team, {"answer": "c"}]
    with (
        ScriptedLM(script) as model,
        InProcessRuntime(
            lm=model, settings=dspex.Settings(file=False, default_lm=None, allow_modules=ALLOWED)
        ) as here,
    ):
        assert ask(here, "Router", "hello").outputs == {"team": "a", "reply": "b", "tone": "kind"}
        assert ask(here, "AsyncRouter", "hello", inputs={"count": 2}).teams == ["a", "a"]
        assert ask(here, "SharedSync", "hello").answer == "c"
