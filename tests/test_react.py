"""ReAct and ReActV2 with tools of their caller's, through a real runtime and a scripted model."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pydantic
import pytest

import dspex
from tests.agents import Act, observations, react
from tests.processes import until
from tests.provider import Provider, Reply, Request, fault, fields, text

SIGNATURE = "question -> answer"
ONCE = dspex.Retry(attempts=1)


@pytest.fixture(scope="module")
def serving() -> Iterator[tuple[Provider, dspex.Runtime]]:
    with (
        Provider() as provider,
        dspex.Runtime(
            lm=dspex.LM("openai/x", base_url=provider.base_url, retry=ONCE),
            pools={"general": dspex.PoolOptions(workers=1, slots=256, grace=5.0)},
            settings=dspex.Settings(allow_modules=("tests.agent_tools",), file=False, max_payload=2**23),
        ) as runtime,
    ):
        yield provider, runtime


@pytest.fixture
def provider(serving: tuple[Provider, dspex.Runtime]) -> Provider:
    serving[0].requests.clear()
    return serving[0]


@pytest.fixture
def runtime(serving: tuple[Provider, dspex.Runtime]) -> dspex.Runtime:
    return serving[1]


Asks = Callable[..., dspex.Response]


@pytest.fixture
def ask(runtime: dspex.Runtime, provider: Provider) -> Asks:
    """Run an agent that makes these calls."""

    def run(acts: list[Act], tools: list[Any], **more: Any) -> dspex.Response:
        provider.reply = react(acts)
        module = more.pop("module", "ReAct")
        adapter = runtime.adapter(timeout=60.0)
        return adapter.generate("q", module=module, signature=SIGNATURE, tools=tools, **more)

    return run


def statuses(response: dspex.Response) -> list[tuple[str, str]]:
    return [(called.tool, called.status) for called in response.tool_calls]


# What runs


class Desk:
    """Tools of all kinds."""

    def __init__(self) -> None:
        self.threads: list[str] = []

    def method(self, a: int) -> int:
        self.threads.append(threading.current_thread().name)
        return a + 1

    def __call__(self, a: int) -> dict[str, int]:
        return {"called with": a}

    async def later(self, a: int) -> list[int]:
        await asyncio.sleep(0)
        self.threads.append(threading.current_thread().name)
        return [a]


def test_functions_of_all_kinds_are_called(ask: Asks) -> None:
    """If this failed, a method, a closure or an async function of somebody's could not be a tool."""
    desk, seen = Desk(), []

    def closure(text: str) -> None:
        seen.append(text)

    def gives_coroutine(a: int) -> Any:
        return desk.later(a)

    tools = [
        desk.method,
        dspex.Tool(desk, name="desk"),
        desk.later,
        closure,
        functools.partial(Desk.method, desk),
        gives_coroutine,
        dspex.Tool(lambda a: a * 2, name="double"),
    ]
    tools[4] = dspex.Tool(tools[4], name="part")  # type: ignore[arg-type]
    names = ["method", "desk", "later", "part", "gives_coroutine", "double"]
    got = ask([*((name, {"a": 1}) for name in names), ("closure", {"text": "é\u0000"})], tools)
    assert statuses(got) == [(name, "ok") for name in [*names, "closure"]]
    assert got.trajectory is not None
    given = [got.trajectory[f"observation_{n}"] for n in range(7)]
    assert given == [2, {"called with": 1}, [1], 2, [1], 2, None]
    assert seen == ["é\u0000"]
    assert all(name.startswith("dspex-tool") for name in desk.threads)  # and never the supervisor's
    assert got.answer == "done q"
    assert got.trajectory["tool_name_7"] == "finish"
    assert json.loads(json.dumps(got.to_dict()))["tool_calls"][0]["arguments"] == {"a": 1}


class Order(pydantic.BaseModel):
    item: str
    count: int = 1


def test_arguments_and_results_are_the_functions_own_types(ask: Asks, provider: Provider) -> None:
    """If this failed, a tool that takes and gives pydantic models would meet dicts, or fail."""
    seen: list[Any] = []

    def place(order: Order, others: list[Order]) -> list[Order]:
        seen.append((order, others))
        return [order, *others]

    got = ask([("place", {"order": {"item": "tea"}, "others": [{"item": "cup", "count": 2}]})], [place])
    assert seen == [(Order(item="tea"), [Order(item="cup", count=2)])]
    assert '[{"item": "tea", "count": 1}, {"item": "cup", "count": 2}]' in observations(provider.requests[-1])
    assert statuses(got) == [("place", "ok")]


_user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")


def test_tools_see_the_context_of_whoever_called(ask: Asks) -> None:
    """If this failed, a tool could not tell on whose behalf it acts."""

    def who() -> str:
        return _user.get()

    async def awho() -> str:
        return _user.get()

    token = _user.set("ada")
    try:
        got = ask([("who", {}), ("awho", {})], [who, awho])
    finally:
        _user.reset(token)
    assert got.trajectory is not None
    assert (got.trajectory["observation_0"], got.trajectory["observation_1"]) == ("ada", "ada")


@pytest.mark.anyio
async def test_async_tools_run_on_the_loop_that_awaits_the_call(
    runtime: dspex.Runtime, provider: Provider
) -> None:
    """If this failed, a tool could not use the connections of the loop that its caller lives on."""
    here: list[asyncio.AbstractEventLoop] = []

    async def where() -> str:
        here.append(asyncio.get_running_loop())
        return threading.current_thread().name

    def sync_where() -> str:
        return threading.current_thread().name

    provider.reply = react([("where", {}), ("sync_where", {})])
    got = await runtime.adapter().agenerate(
        "q", module="ReAct", signature=SIGNATURE, tools=[where, sync_where]
    )
    assert here == [asyncio.get_running_loop()]
    assert got.trajectory is not None
    assert got.trajectory["observation_0"] == threading.current_thread().name
    assert got.trajectory["observation_1"].startswith("dspex-tool-")


def test_two_hundred_tool_calls_in_one_run(ask: Asks) -> None:
    """If this failed, a long run would lose count, or grow slower with every step."""
    seen: list[int] = []

    def step(number: int) -> str:
        seen.append(number)
        return "ok"

    got = ask([("step", {"number": n}) for n in range(200)], [step], max_iters=200)
    assert seen == list(range(200))
    assert len(got.tool_calls) == 200
    assert len(got.requests) == 201


def test_calls_side_by_side_never_mix_their_tools(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, one customer's agent would act with another customer's functions."""

    def act(question: str, turn: int) -> Act:
        return ("mine", {"turn": turn}) if turn < 3 else None

    provider.reply = react(act)
    seen: dict[int, list[int]] = {}

    async def one(number: int) -> dspex.Response:
        def mine(turn: int) -> str:
            seen.setdefault(number, []).append(turn)
            return f"of {number}"

        async def amine(turn: int) -> str:
            return mine(turn)

        tool = dspex.Tool(mine if number % 2 else amine, name="mine")
        return await runtime.adapter(timeout=60.0).agenerate(
            f"n{number}", module="ReAct", signature=SIGNATURE, tools=[tool]
        )

    async def all_of_them() -> list[dspex.Response]:
        return await asyncio.gather(*(one(number) for number in range(50)))

    for number, got in enumerate(asyncio.run(all_of_them())):
        assert got.answer == f"done n{number}"
        assert got.trajectory is not None
        assert [got.trajectory[f"observation_{n}"] for n in range(3)] == [f"of {number}"] * 3
    assert seen == {number: [0, 1, 2] for number in range(50)}


# What goes wrong


def test_an_exception_is_for_the_model_to_read(ask: Asks, provider: Provider) -> None:
    """If this failed, an agent could not learn from a failure, or would read of machinery instead."""

    def inner(key: str) -> str:
        raise KeyError(key)

    def outer(key: str) -> str:
        try:
            return inner(key)
        except KeyError as error:
            raise ValueError(f"no {key} here") from error

    got = ask([("outer", {"key": "tea"}), ("outer", {"keys": 1}), ("outer", {"key": 7})], [outer])
    shown = observations(provider.requests[-1])
    assert "Execution error in outer: \nTraceback (most recent call last):\n" in shown
    assert "in inner\n    raise KeyError(key)\nKeyError: 'tea'" in shown
    assert shown.count('File "') == 3
    assert "ValueError: no tea here" in shown
    assert "ValueError: Arg keys is not in the tool's args." in shown
    assert "ValueError: Arg key is invalid: 7 is not of type 'string'" in shown
    assert "src/dspex" not in shown
    assert "site-packages" not in shown
    assert statuses(got) == [("outer", "error")] * 3
    assert got.tool_calls[0].error == "the tool outer failed: ValueError: no tea here"


def test_a_result_that_cannot_be_sent_is_told_as_such(ask: Asks, provider: Provider) -> None:
    """If this failed, an object without a form for the wire would end the call, or come as its address."""

    def socket() -> Any:
        return {"lock": threading.Lock()}

    def huge() -> str:
        return "x" * (2**23 + 1)

    got = ask([("socket", {}), ("huge", {})], [socket, huge])
    first, second = (called.error or "" for called in got.tool_calls)
    assert "what the tool socket returned.lock: cannot be sent: it is a `_thread.lock`" in first
    assert "over the limit of 8,388,608" in second
    assert "cannot be sent" in observations(provider.requests[-1])


def test_a_large_result_arrives(ask: Asks) -> None:
    """If this failed, a tool that reads a document could not give it."""

    def read() -> str:
        return "é" * 500_000

    got = ask([("read", {})], [read])
    assert got.trajectory is not None
    assert got.trajectory["observation_0"] == "é" * 500_000


def test_a_fatal_tool_ends_the_call_and_stops_the_others(ask: Asks, provider: Provider) -> None:
    """If this failed, an agent would go on after a failure that its owner has called final."""

    def pay() -> None:
        raise PermissionError("the card was refused")

    with pytest.raises(dspex.ToolError, match="pay failed: PermissionError: the card was refused") as caught:
        ask([("pay", {})], [dspex.Tool(pay, fatal=True)])
    details = caught.value.details
    assert (details["tool"], details["type"], details["message"]) == (
        "pay",
        "PermissionError",
        "the card was refused",
    )
    assert details["tool_calls"][0]["status"] == "error"
    assert len(provider.requests) == 1


def test_what_is_no_exception_ends_the_call(ask: Asks) -> None:
    """If this failed, a tool that wants the process to end would be taken for one that looked up nothing."""

    def leaves() -> None:
        raise SystemExit(3)

    async def aleaves() -> None:
        raise asyncio.CancelledError("by itself")

    for tool in (leaves, aleaves):
        with pytest.raises(dspex.ToolError, match=f"{tool.__name__} failed"):
            ask([(tool.__name__, {})], [tool])


@pytest.mark.parametrize(
    "error",
    [
        dspex.LMRateLimited("slow down", retry_after=3.0),
        dspex.BudgetExceeded("too dear"),
        dspex.PythonTimeout("too late"),
    ],
    ids=lambda error: error.code,
)
def test_an_error_of_a_models_keeps_its_code_inside_a_tool(ask: Asks, error: dspex.DspexError) -> None:
    """If this failed, an agent would go on asking when the model behind its tool may not be asked."""

    def nested() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        ask([("nested", {})], [nested])
    assert (caught.value.code, caught.value.retry_after) == (error.code, error.retry_after)


def test_a_refusal_inside_a_tool_is_for_the_model(ask: Asks) -> None:
    """If this failed, a wrong question of a tool's own would end the agent that could correct it."""

    def nested() -> None:
        raise dspex.InvalidInput("no such field")

    assert ask([("nested", {})], [nested]).tool_calls[0].status == "error"


@pytest.mark.parametrize("status", [401, 429, 500])
def test_an_error_of_the_agents_own_model_keeps_its_code(
    ask: Asks, runtime: dspex.Runtime, provider: Provider, status: int
) -> None:
    """If this failed, an agent whose model is refused would answer from nothing."""
    calls: list[int] = []

    def tool() -> int:
        calls.append(1)
        return 1

    acts = react([("tool", {})])

    def reply(request: Request) -> Reply:
        return acts(request) if len(provider.requests) == 1 else fault(status)

    provider.reply = reply
    with pytest.raises(dspex.LMError) as caught:
        runtime.adapter().generate("q", module="ReAct", signature=SIGNATURE, tools=[tool])
    expected = {401: "lm_auth", 429: "lm_rate_limited", 500: "lm_unavailable"}
    assert caught.value.code == expected[status]
    assert calls == [1]


def test_a_wrong_tool_is_a_parse_error(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a model that calls what is not there would crash the agent without a name for it."""
    provider.reply = lambda _: fields(next_thought="?", next_tool_name="nothing", next_tool_args={})
    with pytest.raises(dspex.ParseError):
        runtime.adapter().generate("q", module="ReAct", signature=SIGNATURE, tools=[Desk().method])


# Time


def test_a_deadline_stops_what_can_be_stopped(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a tool that hangs would hold its caller, or a worker would be killed for it."""
    ended, release = threading.Event(), threading.Event()

    async def forever() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()

    def blocks() -> None:
        release.wait(60)

    before = dict(runtime.stats().pools["general"].restarts)
    for tool in (forever, blocks):
        provider.reply = react([(tool.__name__, {})])
        with pytest.raises(dspex.PythonTimeout) as caught:
            runtime.adapter(timeout=0.5).generate("q", module="ReAct", signature=SIGNATURE, tools=[tool])
        assert caught.value.details["killed"] is False
    assert ended.wait(10)
    release.set()
    assert runtime.stats().pools["general"].restarts == before


@pytest.mark.anyio
async def test_a_caller_that_goes_away_takes_its_tools_along(
    runtime: dspex.Runtime, provider: Provider
) -> None:
    """If this failed, tools would go on acting for somebody who has left."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def forever() -> None:
        begun.set()
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()

    provider.reply = react([("forever", {})])
    call = asyncio.create_task(
        runtime.adapter().agenerate("q", module="ReAct", signature=SIGNATURE, tools=[forever])
    )
    await asyncio.wait_for(begun.wait(), 30)
    call.cancel()
    await asyncio.wait_for(ended.wait(), 30)
    with pytest.raises(asyncio.CancelledError):
        await call


def test_hanging_tools_leave_their_neighbours_alone(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a few tools that hang would stop every other tool of the process."""
    release = threading.Event()
    hanging: list[int] = []

    def hangs() -> None:
        hanging.append(1)
        release.wait(120)

    def quick() -> int:
        return 1

    def act(question: str, turn: int) -> Act:
        return (question, {}) if turn == 0 else None

    provider.reply = react(act)

    def run(name: str) -> dspex.Response:
        adapter = runtime.adapter(timeout=60.0)
        return adapter.generate(name, module="ReAct", signature=SIGNATURE, tools=[hangs, quick])

    held = [threading.Thread(target=run, args=("hangs",)) for _ in range(20)]
    for thread in held:
        thread.start()
    until(lambda: len(hanging) == 20, 30)
    assert run("quick").tool_calls[0].status == "ok"
    release.set()
    for thread in held:
        thread.join(60)


# Agreement


def test_an_approval_may_allow_deny_and_edit(ask: Asks, provider: Provider) -> None:
    """If this failed, a mail that nobody agreed to would be sent, or one that was corrected as it was."""
    sent: list[str] = []
    asked: list[dspex.ToolRequest] = []

    def send(to: str) -> str:
        sent.append(to)
        return "sent"

    def agree(request: dspex.ToolRequest) -> dspex.Allow | dspex.Deny | bool:
        asked.append(request)
        match request.arguments["to"]:
            case "ada":
                return dspex.Allow()
            case "bob":
                return dspex.Deny("bob has left the company")
            case "eve":
                return dspex.Allow({"to": "adam"})
            case "yes":
                return True
        return False

    async def later(request: dspex.ToolRequest) -> dspex.Allow | dspex.Deny | bool:
        await asyncio.sleep(0)
        return agree(request)

    async def asend(to: str) -> str:
        return send(to)

    for fn, approve in ((send, agree), (send, later), (asend, agree), (asend, later)):
        sent.clear()
        people = ["ada", "bob", "eve", "yes", "no"]
        tool = dspex.Tool(fn, name="send", approve=approve)
        got = ask([("send", {"to": name}) for name in people], [tool])
        assert sent == ["ada", "adam", "yes"]
        assert [(called.status, called.approval) for called in got.tool_calls] == [
            ("ok", "allowed"),
            ("denied", ""),
            ("ok", "edited"),
            ("ok", "allowed"),
            ("denied", ""),
        ]
        assert got.tool_calls[1].error == "bob has left the company"
        assert got.tool_calls[2].arguments == {"to": "adam"}
        assert "send was not called: bob has left the company" in observations(provider.requests[-1])
        assert asked[-1].request_id == got.request_id


@pytest.mark.parametrize(
    "approve",
    [lambda _: "yes", lambda _: None, lambda _: 1 / 0, lambda _: dspex.Allow({"whom": 1})],
    ids=["text", "none", "raises", "unknown"],
)
def test_an_approval_that_fails_allows_nothing(ask: Asks, approve: Any) -> None:
    """If this failed, a mistake in an approval would be taken for consent."""
    sent: list[str] = []

    def send(to: str) -> None:
        sent.append(to)

    with contextlib.suppress(dspex.ToolError):
        ask([("send", {"to": "ada"})], [dspex.Tool(send, approve=approve)])
    assert sent == []


# Tools that a worker loads


def test_tools_by_import_path_run_in_a_worker_of_their_own(ask: Asks) -> None:
    """If this failed, a tool that a caller cannot hold would not run, or would run beside other calls."""
    import os

    tools = ["tests.agent_tools:pid", "tests.agent_tools:slow_pid", "tests.agent_tools:total"]
    orders = [{"item": "tea", "count": 2}, {"item": "cup"}]

    def here() -> int:
        return os.getpid()

    got = ask(
        [("pid", {"text": ""}), ("slow_pid", {}), ("total", {"orders": orders}), ("here", {})],
        [*tools, here],
    )
    assert got.trajectory is not None
    where, awaited, total, own = (got.trajectory[f"observation_{n}"] for n in range(4))
    assert where == awaited != str(os.getpid())
    assert (total, own) == (3, os.getpid())
    assert [called.status for called in got.tool_calls] == ["ok"] * 4


def test_a_loaded_tool_fails_like_any_other(ask: Asks, provider: Provider) -> None:
    """If this failed, whether a tool runs here or there would show in what the model reads."""
    got = ask(
        [("broken", {}), ("total", {"orders": 3})], ["tests.agent_tools:broken", "tests.agent_tools:total"]
    )
    shown = observations(provider.requests[-1])
    assert "Execution error in broken: \nTraceback" in shown
    assert "in broken\n    raise LookupError" in shown
    assert "src/dspex" not in shown
    assert statuses(got) == [("broken", "error"), ("total", "error")]
    fatal = dspex.Tool("tests.agent_tools:broken", fatal=True)
    with pytest.raises(dspex.ToolError, match="broken failed: LookupError: nothing here"):
        ask([("broken", {})], [fatal])


def test_calls_of_a_loaded_tool_are_agreed_to_by_the_caller(ask: Asks) -> None:
    """If this failed, moving a tool into the workers would take away the say of whoever called."""
    seen: list[Any] = []

    def agree(request: dspex.ToolRequest) -> dspex.Allow | dspex.Deny:
        seen.append(request.arguments)
        if len(seen) == 1:
            return dspex.Allow({"text": "edited "})
        return dspex.Deny("once is enough")

    tool = dspex.Tool("tests.agent_tools:pid", approve=agree)
    got = ask([("pid", {"text": "a"}), ("pid", {"text": "b"})], [tool])
    assert seen == [{"text": "a"}, {"text": "b"}]
    assert got.trajectory is not None
    assert got.trajectory["observation_0"].startswith("edited ")
    assert [called.status for called in got.tool_calls] == ["ok", "denied"]


def test_a_loaded_tool_that_hangs_or_dies_costs_nobody_else(
    runtime: dspex.Runtime, provider: Provider
) -> None:
    """If this failed, a tool that never comes back would stay in a worker that others share."""
    provider.reply = react([("hangs", {})])
    with pytest.raises(dspex.PythonTimeout):
        runtime.adapter(timeout=1.0).generate(
            "q", module="ReAct", signature=SIGNATURE, tools=["tests.agent_tools:hangs"]
        )
    provider.reply = react([("dies", {})])
    with pytest.raises(dspex.WorkerLost, match="idempotent=True"):
        runtime.adapter().generate("q", module="ReAct", signature=SIGNATURE, tools=["tests.agent_tools:dies"])
    assert runtime.stats().pools["general"].restarts.get("crash", 0) == 0


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("os:system", dspex.NotAllowed),
        ("tests.agent_tools:nothing", dspex.ModuleNotFound),
        ("tests.agent_tools:number", dspex.InvalidOption),
        ("tests.agent_tools:Order", dspex.InvalidOption),
        ("tests.agent_tools:positional", dspex.InvalidOption),
        ("tests.agent_tools:_hidden", dspex.ModuleNotFound),
    ],
)
def test_a_path_that_names_no_tool_is_refused(ask: Asks, path: str, kind: type[dspex.DspexError]) -> None:
    """If this failed, a caller could have any function of an installed package run."""
    with pytest.raises(kind):
        ask([], [path])


def test_a_command_takes_tools_by_path(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, the bridge's callers would have no agents, or could smuggle functions into one."""
    provider.reply = react([("pid", {"text": ""})])
    pool = runtime.pool("general")
    asked = {"module": "ReAct", "signature": SIGNATURE, "prompt": "q"}
    got = pool.execute("execute_module", {**asked, "tools": ["tests.agent_tools:pid"]})
    assert got["answer"] == "done q"
    with pytest.raises(dspex.InvalidInput, match="list of import paths"):
        pool.execute("execute_module", {**asked, "tools": [len]})


# What is refused


def test_tools_are_refused_where_nothing_calls_them(runtime: dspex.Runtime) -> None:
    """If this failed, a caller would believe that a plain prediction had looked something up."""
    adapter = runtime.adapter()
    with pytest.raises(
        dspex.InvalidOption, match=r"dspy\.Predict calls no tools; modules that do: dspy\.ReAct"
    ):
        adapter.generate("q", tools=[Desk().method])
    with pytest.raises(dspex.InvalidOption, match="needs tools"):
        adapter.generate("q", module="ReAct")
    with pytest.raises(dspex.InvalidSignature, match="uses the name 'trajectory' itself"):
        adapter.generate("q", module="ReAct", signature="trajectory -> answer", tools=[])
    with pytest.raises(dspex.InvalidSignature, match="uses the name 'history'"):
        adapter.generate(
            inputs={"q": 1, "history": 2}, module="ReActV2", signature="q, history -> a", tools=[]
        )


# Lost workers


def test_an_agent_runs_again_only_while_it_has_done_nothing(
    runtime: dspex.Runtime, provider: Provider
) -> None:
    """If this failed, a lost worker would have a mail sent twice, or a harmless agent fail."""
    import os
    import signal

    def act(question: str, turn: int) -> Act:
        return ("shoot", {}) if turn == 0 else None

    shots: list[int] = []

    def shoot() -> str:
        if not shots:
            shots.append(1)
            pid = runtime.stats().pools["general"].workers[0].pid
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        return "shot"

    provider.reply = react(act)
    adapter = runtime.adapter(timeout=60.0)
    got = adapter.generate(
        "q", module="ReAct", signature=SIGNATURE, tools=[dspex.Tool(shoot, idempotent=True)]
    )
    assert got.attempts == 2
    assert statuses(got) == [("shoot", "ok")]
    shots.clear()
    with pytest.raises(dspex.WorkerLost, match=r"dspex.Tool\(fn, idempotent=True\)"):
        adapter.generate("q", module="ReAct", signature=SIGNATURE, tools=[shoot])


# ReActV2


def test_react_v2_calls_several_tools_in_a_turn(
    ask: Asks, provider: Provider, runtime: dspex.Runtime
) -> None:
    """If this failed, DSPy's next agent would have no tools of its caller's."""
    desk = Desk()

    def broken() -> None:
        raise LookupError("nothing here")

    def reply(request: Request) -> Reply:
        if len(provider.requests) == 1:
            calls = [
                {"name": "method", "args": {"a": 1}},
                {"name": "later", "args": {"a": 5}},
                {"name": "broken", "args": {}},
            ]
        else:
            calls = [{"name": "submit", "args": {"answer": "forty"}}]
        return fields(next_thought="I look.", tool_calls={"tool_calls": calls})

    provider.reply = reply
    got = runtime.adapter().generate(
        "q", module="ReActV2", signature=SIGNATURE, tools=[desk.method, desk.later, broken]
    )
    assert got.answer == "forty"
    assert list(got.outputs) == ["answer"]
    assert statuses(got) == [("method", "ok"), ("later", "ok"), ("broken", "error")]
    assert got.trajectory is not None
    assert got.trajectory["termination_reason"] == "submit"
    results = got.trajectory["messages"][0]["tool_calls"]["tool_call_results"]["tool_call_results"]
    assert [result["value"] for result in results[:2]] == [2, [5]]
    assert "in broken\n    raise LookupError" in results[2]["value"]


def test_react_v2_that_never_submits_is_a_parse_error(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a model that does not answer would look like an error of the caller's code."""
    provider.reply = lambda _: text('{"next_thought": "hm", "tool_calls": {"tool_calls": []}}')
    with pytest.raises(dspex.ParseError, match="did not give its outputs"):
        runtime.adapter().generate(
            "q", module="ReActV2", signature=SIGNATURE, tools=[Desk().method], max_iters=2
        )


def test_the_gates_limits_hold_under_many_agents(provider: Provider) -> None:
    """If this failed, agents would be refused by their provider, each of their requests on its own."""
    limits = dspex.Limits(in_flight=8)
    most: list[int] = []
    here = [0]
    lock = threading.Lock()
    with Provider() as counted:
        acts = react(lambda _, turn: ("count", {"a": turn}) if turn < 2 else None)

        def reply(request: Request) -> Reply:
            with lock:
                here[0] += 1
                most.append(here[0])
            return Reply(lambda r: _leaving(acts(r).wire, r), delay=0.002)

        def _leaving(wire: Any, request: Request) -> bytes:
            with lock:
                here[0] -= 1
            return bytes(wire(request))

        counted.reply = reply

        async def count(a: int) -> int:
            return a

        async def all_of_them(runtime: dspex.Runtime) -> list[dspex.Response]:
            adapter = runtime.adapter(timeout=120.0)
            return await asyncio.gather(
                *(
                    adapter.agenerate(f"n{n}", module="ReAct", signature=SIGNATURE, tools=[count])
                    for n in range(200)
                )
            )

        lm = dspex.LM("openai/x", base_url=counted.base_url, limits=limits, retry=ONCE)
        with dspex.Runtime(lm, pools={"general": {"workers": 2}}) as runtime:
            got = asyncio.run(all_of_them(runtime))
    assert [response.answer for response in got] == [f"done n{n}" for n in range(200)]
    assert len(most) == 800
    assert max(most) <= 8
