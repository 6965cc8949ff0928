"""Three tenants who ask the same with keys of their own, of two providers who look at what reaches them."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspex
from tests.provider import Provider, Reply, Request, delayed, fault, fields, paced

SIGNATURE = "question -> answer"
#: Tenants, and which provider's they are; two have the same, with keys of their own.
NAMES = {"ada": 0, "bob": 1, "eve": 0}
#: Kinds of calls.
KINDS = ("call", "stream", "batch", "session", "program")
# Prompts that are asked again and again, where answers are cached.
_POPULAR = 9


class Customers:
    """The tenants, and their providers.

    Attributes:
        lms: Each tenant's LM.
        wrong: What was seen that was not to be: another's key, or another's words.
        requests: How many requests each tenant's key has made.
    """

    def __init__(self, providers: list[Provider], attempts: int, cache: Path | None) -> None:
        self.wrong: list[str] = []
        self.requests: Counter[str] = Counter()
        self.lms = {
            name: dspex.LM(
                "openai/same",
                api_key=f"key-of-{name}",
                base_url=providers[where].base_url,
                retry=dspex.Retry(attempts),
                cache=cache,
            )
            for name, where in NAMES.items()
        }
        for number, provider in enumerate(providers):
            provider.reply = self._script(number)

    def _script(self, number: int) -> Any:
        mine = {f"Bearer key-of-{name}": name for name, where in NAMES.items() if where == number}

        def reply(request: Request) -> Reply:
            shown = request.headers.get("authorization", "")
            name = mine.get(shown)
            if name is None:
                self.wrong.append(f"the provider {number} was shown {shown!r}")
                return fault(401)
            self.requests[name] += 1
            said = json.dumps(request.body)
            if others := [other for other in NAMES if other != name and f"{other} says" in said]:
                self.wrong.append(f"{name}'s request has words of {others}")
            asked = re.findall(r"\bq\d+\b", request.prompt.user)[-1]
            return delayed(0.01, paced(fields(answer=f"{name} says {asked}"), cut=4))

        return reply

    async def ask(self, runtime: dspex.Runtime, name: str, number: int) -> list[dspex.Response]:
        """Ask as one of them, in one of the ways that there are: every second call may be cached.

        Raises:
            AssertionError: The answer is somebody else's, or to another question.
            DspexError: It has failed.
        """
        kind = KINDS[number % len(KINDS)]
        cached = (number // len(KINDS)) % 2 == 1
        asked = f"q{number % _POPULAR if cached else number}"
        call: dict[str, Any] = {"signature": SIGNATURE, **({"temperature": 0} if cached else {})}
        adapter = runtime.adapter(lm=self.lms[name], tenant=name, timeout=120.0)
        mine = f"{name} says {asked}"
        match kind:
            case "stream":
                async with adapter.astream(asked, **call) as stream:
                    events = [event async for event in stream]
                deltas = "".join(event.text for event in events if isinstance(event, dspex.Delta))
                self._check(deltas, mine)
                assert isinstance(events[-1], dspex.Final)
                found = [events[-1].response]
            case "batch":
                items = [{"question": asked}] * 3
                outcomes = await adapter.abatch(items, **call)
                for outcome in outcomes:
                    if outcome.error is not None:
                        raise outcome.error
                found = [outcome.response for outcome in outcomes if outcome.response is not None]
            case "session":
                session = await adapter.asession(f"the same {number}")
                found = [await adapter.agenerate(asked, session=session, **call) for _ in range(2)]
                turns = await session.aturns()
                self._check(str({(turn.outputs or {}).get("answer") for turn in turns}), str({mine}))
            case "program":
                program = await adapter.acreate_program(
                    SIGNATURE, options={"temperature": 0} if cached else None
                )
                found = [await program.acall(question=asked)]
            case _:
                found = [await adapter.agenerate(asked, **call)]
        for response in found:
            self._check(response.answer, mine)
        return found

    def _check(self, answer: Any, mine: str) -> None:
        if answer != mine:
            self.wrong.append(f"{answer!r} is not {mine!r}")
        assert answer == mine


@contextlib.contextmanager
def customers(attempts: int = 1, cache: Path | None = None) -> Iterator[Customers]:
    """The tenants, while their providers run.

    Args:
        attempts: How often a request is tried.
        cache: The file that all their answers are cached in; None is memory, for every second call.
    """
    with Provider(record=False) as one, Provider(record=False) as other:
        yield Customers([one, other], attempts, cache)
