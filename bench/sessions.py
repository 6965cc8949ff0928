"""(l) What a session costs: a turn against a call without one, and a hundred thousand sessions."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench.measure import Row, fresh, latency, rate, row

_CALLS, _AT_ONCE, _SESSIONS = 300, 64, 50
_FEW, _MANY = 100, 100_000
One = Callable[[int], Awaitable[object]]


async def _beside(store: str) -> dict[str, float]:
    """Median seconds of a call and of a turn, taken in turns; and how many turns there are a second."""
    import dspex

    lm = dspex.LM("bench/instant", engine="bench.instant:AsyncInstant")
    pools = {"general": dspex.PoolOptions(workers=2)}
    settings = dspex.Settings(allow_modules=("bench",))
    async with dspex.Runtime(lm, pools=pools, settings=settings, store=store) as runtime:
        adapter = runtime.adapter(timeout=120.0)
        alone = await adapter.asession()
        many = [await adapter.asession() for _ in range(_SESSIONS)]
        talk = await adapter.asession(record="all")

        def call(number: int) -> Awaitable[object]:
            return adapter.agenerate(f"question {number}", signature="question -> answer")

        def turn(number: int, session: Any = alone) -> Awaitable[object]:
            return adapter.agenerate(f"question {number}", signature="question -> answer", session=session)

        def among(number: int) -> Awaitable[object]:
            return turn(number, many[number % _SESSIONS])

        def chat(number: int) -> Awaitable[object]:
            return talk.achat(f"question {number}", signature="history: dspy.History, question -> answer")

        def chat_among(number: int) -> Awaitable[object]:
            session = many[number % _SESSIONS]
            return session.achat("question", signature="history: dspy.History, question -> answer")

        for one in (call, turn, among):
            await rate(200, 8, one)
        await rate(60, 1, chat)
        calls, turns = [], []
        for _ in range(5):  # side by side, for machines drift
            calls.append(await latency(_CALLS // 5, call))
            turns.append(await latency(_CALLS // 5, turn))
        found = {
            "call": statistics.median(calls),
            "turn": statistics.median(turns),
            "chat": await latency(100, chat),
            "calls": await rate(4000, _AT_ONCE, call),
            "turns": await rate(4000, _AT_ONCE, among),
        }
        found["chats"] = await rate(1000, _AT_ONCE, chat_among)
        return found


async def _sizes(store: str) -> dict[str, float]:
    """Median seconds to make and to find a session, beside few and beside many."""
    import dspex

    settings = dspex.Settings(max_sessions=10**7, max_sessions_per_tenant=10**7)
    pools = {"general": dspex.PoolOptions(workers=1)}
    found = {}
    async with dspex.Runtime(pools=pools, settings=settings, store=store) as runtime:
        adapter = runtime.adapter()
        made = 0
        for size in (_FEW, _MANY):

            async def make(number: int) -> None:
                await adapter.asession(f"s{number}")

            start = made
            await rate(size - start, 256, lambda number, start=start: make(start + number))  # type: ignore[misc]
            made = size
            times: dict[str, list[float]] = {"create": [], "get": []}
            for number in range(200):
                began = time.perf_counter()
                await adapter.asession(f"new{size}.{number}")
                middle = time.perf_counter()
                await adapter.asession(f"s{number * 7919 % size}")
                times["create"].append(middle - began)
                times["get"].append(time.perf_counter() - middle)
            for what, taken in times.items():
                found[f"{what}{size}"] = statistics.median(taken)
    return found


def main(what: str, store: str) -> dict[str, float]:
    """``beside`` or ``sizes``, in one store."""
    return asyncio.run(_beside(store) if what == "beside" else _sizes(store))


def rows(rounds: int) -> list[Row]:
    """A file and memory; PostgreSQL when ``DSPEX_BENCH_POSTGRESQL`` has the URL of an empty database."""
    import os

    found: list[Row] = []
    url = os.environ.get("DSPEX_BENCH_POSTGRESQL")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("file", "memory", *(["PostgreSQL"] if url else [])):

            def place(kind: str, name: str = name) -> str:
                number = len(list(Path(folder).iterdir()))
                return {"file": f"{folder}/{kind}{number}.db", "memory": "memory"}.get(name, url or "")

            runs = [fresh("bench.sessions", what="beside", store=place("beside")) for _ in range(rounds)]
            found += _beside_rows(name, runs)
            if name == "file":
                sizes = [fresh("bench.sessions", what="sizes", store=place("sizes")) for _ in range(rounds)]
                found += _size_rows(sizes)
    return found


def _beside_rows(name: str, runs: list[dict[str, float]]) -> list[Row]:
    milli = {what: [run[what] * 1e3 for run in runs] for what in ("call", "turn", "chat")}
    more = [turn - call for turn, call in zip(milli["turn"], milli["call"], strict=True)]
    absolute = partial(_absolute, name, len(runs))
    per_second = {what: [run[what] for run in runs] for what in ("calls", "turns", "chats")}
    return [
        row(f"a turn, {name}, p50 / a call", milli["turn"], milli["call"], "ms"),
        absolute("what a turn takes more, p50 / 3 ms", more, 3.0, "ms", "<= 1"),
        row(f"a chat with 50 turns of history, {name}, p50 / a call", milli["chat"], milli["call"], "ms"),
        row(
            f"turns of 50 sessions, 64 in flight, {name} / calls",
            per_second["turns"],
            per_second["calls"],
            "/s",
        ),
        absolute("turns of 50 sessions, 64 in flight / 400", per_second["turns"], 400.0, "/s", ">= 1"),
        row(
            f"chats of 50 sessions, 64 in flight, {name} / calls",
            per_second["chats"],
            per_second["calls"],
            "/s",
        ),
    ]


def _absolute(name: str, rounds: int, what: str, ours: list[float], limit: float, unit: str, bar: str) -> Row:
    return row(f"{what}, {name}", ours, [limit] * rounds, unit, bar)


def _size_rows(runs: list[dict[str, float]]) -> list[Row]:
    found = []
    for what, text in {"create": "make", "get": "find"}.items():
        many, few = ([run[f"{what}{size}"] * 1e3 for run in runs] for size in (_MANY, _FEW))
        found.append(row(f"to {text} a session beside 100,000 / beside 100, p50", many, few, "ms", "<= 1.5"))
    return found
