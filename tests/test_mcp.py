"""MCP servers as tools: real ones, on standard input and over HTTP, held by a real runtime."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import dspex
from dspex.runtime.mcp_process import MCPProcess
from tests.agents import Act, observations, react
from tests.processes import alive, descendants, until
from tests.provider import Provider

SIGNATURE = "question -> answer"
ROOT = Path(__file__).parents[1]
COMMAND = (sys.executable, "-m", "tests.mcp_servers")
CANARY = "canary-5e1f7a"


@pytest.fixture(scope="module")
def serving() -> Iterator[tuple[Provider, dspex.Runtime]]:
    lm = dspex.LM("openai/x", base_url="http://127.0.0.1:9")
    with Provider() as provider:
        lm = dspex.LM("openai/x", base_url=provider.base_url)
        with dspex.Runtime(lm, pools={"general": dspex.PoolOptions(workers=1)}) as runtime:
            yield provider, runtime


@pytest.fixture
def provider(serving: tuple[Provider, dspex.Runtime]) -> Provider:
    serving[0].requests.clear()
    return serving[0]


Asks = Callable[..., dspex.Response]


@pytest.fixture
def ask(serving: tuple[Provider, dspex.Runtime], provider: Provider) -> Asks:
    """Run an agent that makes these calls."""

    def run(acts: list[Act], *tools: Any, timeout: float = 60.0) -> dspex.Response:
        provider.reply = react(acts)
        adapter = serving[1].adapter(timeout=timeout)
        return adapter.generate("q", module="ReAct", signature=SIGNATURE, tools=list(tools))

    return run


def server(**more: Any) -> dspex.MCPServer:
    return dspex.MCPServer(command=COMMAND, cwd=str(ROOT), **more)


def seen(response: dspex.Response, turn: int) -> Any:
    assert response.trajectory is not None
    return response.trajectory[f"observation_{turn}"]


def test_tools_of_a_program_are_called(ask: Asks, provider: Provider) -> None:
    """If this failed, an agent would have none of the tools that others have written."""
    acts: list[Act] = [
        ("add", {"a": 1}),
        ("where", {"place": {"city": "Rome"}}),
        ("picture", {}),
        ("broken", {}),
        ("add", {"a": "x"}),
        ("mine", {}),
    ]

    def mine() -> str:
        return "mine"

    got = ask(acts, server(), mine)
    assert [seen(got, turn) for turn in (0, 1, 5)] == ["3", "in Rome", "mine"]
    assert seen(got, 2)[0]["mime_type"] == "image/png"
    assert [called.status for called in got.tool_calls] == ["ok", "ok", "ok", "error", "error", "ok"]
    shown = observations(provider.requests[-1])
    assert "RuntimeError: Failed to call a MCP tool: Error executing tool broken" in shown
    assert "ValueError: Arg a is invalid: 'x' is not of type 'integer'" in shown
    assert "src/dspex" not in shown
    asked = provider.requests[0].body["messages"][0]["content"]
    assert (
        "(1) add, whose description is <desc>The sum of two numbers.</desc>. It takes arguments {'a'" in asked
    )


def test_a_program_is_started_once_and_again_when_it_has_died(ask: Asks) -> None:
    """If this failed, each call would start a server of its own, or none after one has died."""
    first = seen(ask([("pid", {})], server()), 0)
    got = ask([("pid", {}), ("dies", {}), ("pid", {})], server(tools=["pid", "dies"]))
    assert seen(got, 0) == first
    assert [called.status for called in got.tool_calls] == ["ok", "error", "ok"]
    assert "did not answer" in seen(got, 1)
    assert seen(got, 2) != first
    until(lambda: not alive(int(first)))


@pytest.mark.anyio
async def test_calls_that_come_together_share_one_start(provider: Provider) -> None:
    """If this failed, a service that begins with many calls would start as many servers."""
    provider.reply = react([("pid", {})])
    lm = dspex.LM("openai/x", base_url=provider.base_url)
    async with dspex.Runtime(lm, pools={"general": {"workers": 1}}) as runtime:
        ask = functools.partial(
            runtime.adapter().agenerate, module="ReAct", signature=SIGNATURE, tools=[server()]
        )
        got = await asyncio.gather(*(ask(f"q{number}") for number in range(5)))
    assert len({seen(one, 0) for one in got}) == 1


def test_only_the_tools_that_were_named_are_offered(ask: Asks, provider: Provider) -> None:
    """If this failed, a model could call what its operator has left out."""
    ask([("add", {"a": 1})], server(tools=["add", "pid"]))
    asked = provider.requests[0].body["messages"][0]["content"]
    assert "(3) finish" in asked
    with pytest.raises(dspex.InvalidOption, match="has no tool subtract; it has add, where"):
        ask([], server(tools=["subtract"]))
    with pytest.raises(dspex.InvalidOption, match="'add' is there twice"):
        ask([], server(), server(tools=["add"]))


def test_secrets_reach_the_program_and_nobody_else(
    ask: Asks, provider: Provider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """If this failed, a token would have to stand in the code, or would be shown with the server."""
    monkeypatch.setenv("SOME_TOKEN", CANARY)
    monkeypatch.setenv("ANOTHER", "left out")
    (tmp_path / "key").write_text(f"{CANARY}-file\n")
    with_env = server(env={"TOKEN": "env:SOME_TOKEN", "FILED": f"file:{tmp_path}/key", "PLAIN": "as it is"})
    names = ["TOKEN", "FILED", "PLAIN", "ANOTHER"]
    got = ask([("variable", {"name": name}) for name in names], with_env)
    given = [seen(got, turn) for turn in range(4)]
    assert given == [CANARY, f"{CANARY}-file", "as it is", "unset"]
    assert CANARY not in repr(server(env={"TOKEN": CANARY}))
    assert CANARY not in "".join(Path(f"/proc/{os.getpid()}/cmdline").read_text())
    for pid in descendants(os.getpid()):
        assert CANARY not in Path(f"/proc/{pid}/cmdline").read_text()
    with pytest.raises(dspex.InvalidOption, match="refers to NOT_THERE, which is not there"):
        ask([], server(env={"TOKEN": "env:NOT_THERE"}))


def test_calls_of_a_servers_tools_are_agreed_to(ask: Asks) -> None:
    """If this failed, somebody else's tools would run without the say that one's own have."""

    def agree(request: dspex.ToolRequest) -> dspex.Allow | dspex.Deny:
        if request.arguments["a"] == 1:
            return dspex.Deny("not one")
        return dspex.Allow({"a": 40})

    got = ask([("add", {"a": 1}), ("add", {"a": 2})], server(approve=agree))
    assert seen(got, 0) == "add was not called: not one"
    assert seen(got, 1) == "42"
    with pytest.raises(dspex.ToolError, match="broken failed"):
        ask([("broken", {})], server(fatal=True))


def test_a_slow_tool_ends_with_its_call(ask: Asks) -> None:
    """If this failed, a server that hangs would hold its caller, or be lost for the others."""
    ask([("pid", {})], server())
    with pytest.raises(dspex.PythonTimeout):
        ask([("slow", {"seconds": 600})], server(), timeout=0.5)
    assert seen(ask([("add", {"a": 1})], server()), 0) == "3"


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"command": ["/no/such/program"]}, "No such file"),
        ({"command": [sys.executable, "-c", "raise SystemExit('I cannot')"]}, "I cannot"),
        ({"command": [sys.executable, "-c", ""], "cwd": "/no/such/place"}, "/no/such/place"),
        ({"url": "http://127.0.0.1:9/mcp"}, "was not reached"),
    ],
)
def test_a_server_that_does_not_start_says_why(ask: Asks, wrong: dict[str, Any], why: str) -> None:
    """If this failed, a misspelled command would be found by strace."""
    with pytest.raises(dspex.ToolError, match="was not reached") as caught:
        ask([], dspex.MCPServer(**wrong))
    assert why in caught.value.message


@pytest.mark.parametrize(
    "wrong", [{}, {"command": ["a"], "url": "http://x"}, {"command": "a b"}, {"url": "x"}]
)
def test_a_server_is_one_thing(wrong: dict[str, Any]) -> None:
    """If this failed, a wrong option would show itself as a server that does not answer."""
    with pytest.raises(dspex.InvalidOption):
        dspex.MCPServer(**wrong)


def test_closing_leaves_nothing_behind(provider: Provider) -> None:
    """If this failed, each runtime would leave its servers, and what these have started."""
    provider.reply = react([("pid", {}), ("starts", {})])
    lm = dspex.LM("openai/x", base_url=provider.base_url)
    with dspex.Runtime(lm, pools={"general": {"workers": 1}}) as runtime:
        got = runtime.adapter().generate("q", module="ReAct", signature=SIGNATURE, tools=[server()])
        pids = [int(seen(got, turn)) for turn in range(2)]
        assert all(alive(pid) for pid in pids)
    until(lambda: not any(alive(pid) for pid in pids))


@pytest.mark.anyio
async def test_a_program_that_does_not_end_is_killed_and_reaped() -> None:
    """If this failed, a server that hangs would be left as a zombie, and asyncio would complain of it."""
    before = {child.pid for child in psutil.Process().children()}
    async with MCPProcess(["sleep", "600"], dict(os.environ), None):
        (pid,) = {child.pid for child in psutil.Process().children()} - before
    assert not psutil.pid_exists(pid)  # as a zombie would


def test_a_server_dies_with_a_supervisor_that_is_killed(provider: Provider) -> None:
    """If this failed, a service that was killed would leave its MCP servers to run for ever."""
    provider.reply = react([("pid", {}), ("starts", {})])
    code = f"""
import sys, time, dspex
from tests.test_mcp import server, SIGNATURE
lm = dspex.LM("openai/x", base_url={provider.base_url!r}, api_key="k")
with dspex.Runtime(lm, pools={{"general": {{"workers": 1}}}}) as runtime:
    got = runtime.adapter().generate("q", module="ReAct", signature=SIGNATURE, tools=[server()])
    print(got.trajectory["observation_0"], got.trajectory["observation_1"], flush=True)
    time.sleep(600)
"""
    supervisor = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    pids = [int(pid) for pid in supervisor.stdout.readline().split()]
    assert len(pids) == 2
    assert all(alive(pid) for pid in pids)
    supervisor.send_signal(signal.SIGKILL)
    supervisor.wait()
    supervisor.stdout.close()
    until(lambda: not any(alive(pid) for pid in pids))


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _serve(port: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([*COMMAND, str(port)], cwd=ROOT)

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    until(listens, 30)
    return process


def test_a_server_is_reached_over_http(ask: Asks, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a shared server could not be used, or not any more once it was started again."""
    monkeypatch.setenv("SOME_TOKEN", CANARY)
    remote = dspex.MCPServer(url=f"http://127.0.0.1:{port}/mcp", headers={"x-token": "env:SOME_TOKEN"})
    first = _serve(port)
    try:
        got = ask([("add", {"a": 1}), ("header", {"name": "x-token"}), ("broken", {})], remote)
        assert [seen(got, turn) for turn in range(2)] == ["3", CANARY]
        assert got.tool_calls[2].status == "error"
    finally:
        first.terminate()
        first.wait()
    second = _serve(port)
    try:
        # The first may have to find out that the session is gone.
        got = ask([("add", {"a": 1}), ("add", {"a": 2})], remote)
        assert seen(got, 1) == "4"
    finally:
        second.terminate()
        second.wait()
