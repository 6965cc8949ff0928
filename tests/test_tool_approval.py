"""Tools that somebody has to agree to, and tools that a worker loads."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

import pytest

import dspex
from tests.agent_scene import SIGNATURE, Asks, ask, provider, runtime, serving, statuses
from tests.agents import observations, react
from tests.provider import Provider

__all__ = ["ask", "provider", "runtime", "serving"]  # fixtures, which the tests of this file have


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
