"""A load with a key in every place and every kind of end, and all that it leaves: ``python -m tests.canary``.

It runs in a process of its own, so that all that is written on standard error is its own, its workers' too;
all loggers are at DEBUG, here and in the workers. What it finds is written as JSON: texts by place.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec

import dspex
from dspex.runtime import presence
from dspex.server.app import create_app
from dspex.telemetry import logs
from tests.provider import Provider, Reply, Request, echo, fault, hanging, text
from tests.tracing import kept

CANARY = "canary-4d91"
SIGNATURE = "question -> answer"
ROOT = Path(__file__).parents[1]
#: Where a key is, and what comes with a request where it was used.
USED = (
    *("value", "environment", "file", "callable", "header", "query", "settings", "configured"),
    *("gemini", "anthropic", "ada", "bob", "second", "backup", "profile"),
)


def key(place: str) -> str:
    """The key in that place."""
    return f"{CANARY}-{place}"


def reply(request: Request) -> Reply:
    """What the prompt asks for; errors repeat all that came with the request, as some gateways do."""
    said = f"refused: {json.dumps(request.headers)} {request.query}"
    asked = request.prompt.user
    for status in (401, 429, 500):
        if f"fail {status}" in asked and not ("unless second" in asked and request.model == "backup"):
            return fault(status, message=said)
    if "say nothing" in asked:
        return text("no fields here")
    if "hang" in asked:
        return hanging()
    return echo()


class Found:
    """What was found, by place.

    Attributes:
        texts: Where it was, and what it was.
        codes: Ends of calls.
    """

    def __init__(self) -> None:
        self.texts: dict[str, list[str]] = {}
        self.codes: list[str] = []

    def add(self, place: str, *texts: Any) -> None:
        """Keep texts; of all else what it says of itself."""
        self.texts.setdefault(place, []).extend(one if isinstance(one, str) else repr(one) for one in texts)

    def response(self, response: dspex.Response) -> None:
        """An answer, in all its forms."""
        self.codes.append("ok")
        self.add("responses", response, json.dumps(response.to_dict()), response.requests, response.fallbacks)

    def error(self, error: BaseException) -> None:
        """An error, in all its forms, with its causes."""
        assert isinstance(error, dspex.DspexError), repr(error)
        self.codes.append(error.code)
        self.add("errors", error, str(error), json.dumps(error.details), json.dumps(error.to_wire()))
        self.add("errors", "".join(traceback.format_exception(error)), str(error.args), str(vars(error)))

    async def ends(self, call: Awaitable[Any]) -> None:
        """Wait for a call, and keep how it ends."""
        try:
            ended = await call
        except dspex.DspexError as error:
            self.error(error)
        else:
            for one in ended if isinstance(ended, list) else [ended]:
                if isinstance(one, dspex.Response):
                    self.response(one)
                    continue
                self.add("outcomes", one)
                if one.response is not None:
                    self.response(one.response)
                else:
                    self.error(one.error)


def lms(folder: Path, provider: Provider) -> dict[str, dspex.LM]:
    """LMs with a key in each place that can have one."""
    file = folder / "key"
    file.write_text(key("file"))
    os.environ["CANARY_KEY"] = key("environment")
    there = provider.base_url
    one = partial(dspex.LM, base_url=there, retry=dspex.Retry(attempts=1), breaker=None)
    second = one("openai/second", api_key=key("second"))
    return {
        "value": one("openai/x", api_key=key("value"), cache=True),
        "environment": one("openai/x", api_key="env:CANARY_KEY", cache=str(folder / "answers.db")),
        "file": one("openai/x", api_key=f"file:{file}", temperature=0),
        "callable": one("openai/x", api_key=lambda: key("callable")),
        "header": one("openai/x", api_key="none", extra_headers={"x-gateway": key("header")}, cache=True),
        "query": one("openai/x", api_key="none", extra_query={"subscription": key("query")}, cache=True),
        "gemini": one("gemini/x", api_key=key("gemini"), base_url=provider.gemini_url),
        "anthropic": one("anthropic/x", api_key=key("anthropic"), base_url=provider.anthropic_url),
        "nowhere": one(
            "gemini/x",
            api_key=key("nowhere"),
            base_url="http://127.0.0.1:9/v1",
            extra_query={"k": key("nowhere")},
        ),
        "litellm": one("openai/x", api_key=key("litellm"), engine="litellm", cache=True),
        "litellm gemini": one(
            "gemini/x", api_key=key("litellm-g"), engine="litellm", base_url="http://127.0.0.1:9/v1beta"
        ),
        "second": one("openai/x", api_key=key("value"), adapter="two_step", extraction_lm=second),
        "backup": one(
            "openai/x",
            api_key=key("value"),
            fallbacks=(one("openai/y", api_key=key("profile")), one("openai/backup", api_key=key("backup"))),
        ),
        "broken": one("openai/broken", api_key=key("value"), breaker=dspex.Breaker(failures=2, window=300.0)),
        "deadly": one("openai/x", api_key=key("value"), adapter="tests.deadly:Deadly"),
    }


async def streamed(adapter: dspex.DSPyAdapter, found: Found, prompt: str, **call: Any) -> dspex.Response:
    """A stream to its end: its events are kept."""
    async with adapter.astream(prompt, signature=SIGNATURE, **call) as stream:
        async for event in stream:
            found.add("stream", event)
            if isinstance(event, dspex.Final):
                return event.response
    raise AssertionError("a stream without an end")


async def load(runtime: dspex.Runtime, found: Found, folder: Path, models: Mapping[str, dspex.LM]) -> None:
    """Every kind of call and of end, with every key."""
    ways = [name for name in models if name not in {"broken", "deadly"}]
    await asyncio.gather(*(one_way(runtime, found, folder, way, models[way]) for way in ways))
    await odd(runtime, found, models)


async def one_way(runtime: dspex.Runtime, found: Found, folder: Path, way: str, lm: dspex.LM) -> None:
    """The calls of one LM."""
    prompts = ["fine", "fine", "fail 401", "fail 429", "fail 500", "say nothing", "hang"]
    adapter = runtime.adapter(lm=lm, timeout=60, tenant=way if way in {"ada", "bob"} else None)
    found.add("reprs", lm, adapter, runtime)
    ask = partial(adapter.agenerate, signature=SIGNATURE)
    calls = [ask(p, timeout=0.5 if p == "hang" else 60, debug=p == "fine") for p in prompts]
    calls += [ask("again"), ask("too dear", budget=dspex.Budget(tokens=1))]
    session = await adapter.asession(f"s-{way}", lm=lm)
    calls += [ask(prompt, session=session) for prompt in ("fine", "fail 401 unless second")]
    await asyncio.gather(*(found.ends(call) for call in calls))
    await found.ends(ask("again"))
    for prompt in ("fine", "fail 401", "fail 500 unless second"):
        await found.ends(streamed(adapter, found, prompt, lm=lm))
    items = [{"question": prompt} for prompt in ("fine", "fail 401", "fail 500 unless second")]
    await found.ends(adapter.abatch(items, signature=SIGNATURE, journal=folder / f"journal-{way}"))
    found.add("sessions", await session.aturns(), json.dumps(await session.aexport(), default=repr))


async def odd(runtime: dspex.Runtime, found: Found, models: Mapping[str, dspex.LM]) -> None:
    """Breakers that open, workers that are lost, tools that fail, servers that are not there."""
    broken = runtime.adapter(lm=models["broken"])
    for _ in range(4):
        await found.ends(broken.agenerate("fail 500", signature=SIGNATURE))
    await found.ends(runtime.adapter(lm=models["deadly"]).agenerate("exit", signature=SIGNATURE))
    for module in ("Router", "SharedAsync"):
        own = partial(runtime.adapter(lm=models["header"]).agenerate, module=f"tests.programs:{module}")
        for prompt in ("fine", "fail 401"):
            await found.ends(own(prompt))
    agent = partial(
        runtime.adapter(lm=models["value"]).agenerate, "q", module="dspy.ReAct", signature=SIGNATURE
    )

    def failing() -> str:
        raise ValueError("no such place")

    await found.ends(agent(tools=[dspex.Tool(failing, fatal=True)], max_iters=1))
    shows = "import os, sys; sys.stderr.write(os.environ['TOKEN'] + chr(10)); sys.exit(os.environ['WORD'])"
    secret = {"TOKEN": "env:CANARY_MCP", "WORD": key("mcp-word")}
    servers = [
        dspex.MCPServer(command=(sys.executable, "-c", shows), env=secret),
        dspex.MCPServer(command=(sys.executable, "-m", "tests.mcp_servers"), cwd=str(ROOT), env=secret),
        dspex.MCPServer(url="http://127.0.0.1:9/mcp", headers={"x": key("mcp-header")}),
    ]
    for server in servers:
        found.add("reprs", server)
        await found.ends(agent(tools=[server], max_iters=1))


async def served(runtime: dspex.Runtime, found: Found) -> None:
    """The same over HTTP."""
    app = create_app(runtime, key=key("server"), tenant_keys={"eve": key("eve")}, opens=False)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://here", timeout=60) as client:
        for shown in (key("server"), key("eve"), key("server") + "-wrong"):
            headers = {"Authorization": f"Bearer {shown}"}
            for path in ("/v1/generate", "/v1/stream"):
                for prompt in ("fine", "fail 401", "fail 429", "fail 500", "say nothing"):
                    body = {"prompt": prompt, "signature": SIGNATURE, "lm": "shop"}
                    answer = await client.post(path, json=body, headers=headers)
                    found.add("http", answer.text, str(answer.headers), str(answer.status_code))
            for path in ("/v1/modules", "/openapi.json", "/metrics", "/readyz", "/nothing"):
                answer = await client.get(path, headers=headers)
                found.add("http", answer.text, str(answer.headers))


def files(folder: Path) -> dict[str, list[str]]:
    """The bytes of all files that a runtime has written, as they lie there."""
    found: dict[str, list[str]] = {}
    for kind, pattern in (("cache", "answers.db*"), ("store", "sessions.db*"), ("journal", "journal-*")):
        paths = [path for path in folder.rglob(pattern) if path.is_file()]
        found[f"{kind} files"] = [path.read_bytes().decode("latin-1") for path in paths]
    return found


async def run(folder: Path, *, content: bool, litellm: bool) -> None:
    """See the module.

    Args:
        folder: Where files are written.
        content: Whether traces have what was said.
        litellm: Whether one of the LMs is asked through LiteLLM, which takes long to load.
    """
    found = Found()
    os.environ["CANARY_MCP"] = key("mcp")
    lines = (folder / "lines").open("w")
    handler = logs.to_json(lines, "debug")
    with Provider(reply) as provider, kept() as spans:
        there = provider.base_url
        shop = {"model": "openai/x", "base_url": there, "api_key": key("settings"), "retry": {"attempts": 1}}
        settings = dspex.Settings(
            file=False,
            lms={"shop": shop},
            allow_modules=["tests.deadly", "tests.programs"],
            trace_content=content,
            budgets={"day": dspex.Budget(tokens=10**9)},
        )
        found.add("settings", settings, json.dumps(settings.to_dict(), default=repr), settings.sources())
        models = lms(folder, provider)
        if not litellm:
            models = {name: lm for name, lm in models.items() if not name.startswith("litellm")}
        pools = {"general": dspex.PoolOptions(workers=2, preload=("tests.canary_preload",))}
        async with dspex.Runtime(pools=pools, settings=settings, store=folder / "sessions.db") as runtime:

            def seen(event: dspex.Event) -> None:
                found.add("events", event, json.dumps(msgspec.to_builtins(event)))

            runtime.on(dspex.Event, seen)
            configured = runtime.adapter().configure(
                "openai", model="x", base_url=there, api_key=key("configured")
            )
            tenants = {
                name: dspex.LM("openai/x", base_url=there, api_key=key(name), retry=dspex.Retry(1))
                for name in ("ada", "bob")
            }
            models |= {"configured": configured, "settings": runtime.core.models.find("shop"), **tenants}
            await load(runtime, found, folder, models)
            await served(runtime, found)
            found.add("stats", runtime.stats(), msgspec.json.encode(runtime.stats()).decode())
            found.add("metrics", runtime.metrics(), runtime.insights())
            found.add("status", *(msgspec.json.encode(one).decode() for one in await status()))
            found.texts |= files(folder)
        found.texts = {**found.texts, **{f"{place}, closed": texts for place, texts in files(folder).items()}}
        for span in spans.all:
            found.add("spans", span.to_json())
        refuse(found)
        sent = [f"{dict(request.headers)} {request.query}" for request in provider.requests]
    logging.getLogger("dspex").removeHandler(handler)
    lines.close()
    found.add("log lines as JSON", (folder / "lines").read_text())
    unused = [place for place in USED if not any(key(place) in one for one in sent)]
    told = {"texts": found.texts, "codes": sorted(set(found.codes)), "unused": unused}
    (folder / "found.json").write_text(json.dumps(told))


async def status() -> list[presence.Report]:
    """What ``dspex status`` has of this process."""
    answers = await asyncio.to_thread(presence.ask, 20.0)
    return [report for report in answers.reports if report.pid == os.getpid()]


def refuse(found: Found) -> None:
    """What is refused at once is not repeated."""
    bad: list[Callable[[], object]] = [
        lambda: dspex.LM("openai/x", base_url=f"http://user:{key('password')}@127.0.0.1/v1"),
        lambda: dspex.LM("openai/x", base_url=f"http://127.0.0.1/v1?key={key('password')}"),
        lambda: dspex.LM("openai/x", api_key=f"{key('line')}\n{key('line')}"),
        lambda: dspex.MCPServer(url=f"http://user:{key('password')}@127.0.0.1/mcp"),
        lambda: dspex.MCPServer(url=f"http://127.0.0.1/mcp?k={key('password')}"),
        lambda: dspex.MCPServer(url=f"ftp://user:{key('password')}@127.0.0.1/mcp"),
        lambda: dspex.Settings(file=False, store=f"postgresql://user:{key('password')}@127.0.0.1/db"),
        lambda: dspex.Runtime(store=f"mysql://user:{key('password')}@127.0.0.1/db"),
    ]
    for make in bad:
        try:
            found.add("reprs", make())
        except dspex.DspexError as error:
            found.error(error)


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    with contextlib.suppress(KeyboardInterrupt):
        asked = sys.argv[2:]
        asyncio.run(run(Path(sys.argv[1]), content="content" in asked, litellm="litellm" in asked))
