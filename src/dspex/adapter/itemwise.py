"""What a batch asks of each item, how it is run, and how it is opened."""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sized
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from dspex import checks
from dspex.adapter.base import Base
from dspex.adapter.kept import kept, rebuilt
from dspex.adapter.outcomes import Run
from dspex.batch.batch import Batch, How, Items
from dspex.batch.journal import Journal
from dspex.batch.outcome import BatchProgress
from dspex.errors import InvalidInput, InvalidOption
from dspex.lm.profile import LM
from dspex.lm.reference import identity
from dspex.program import document as documents
from dspex.program.document import Document
from dspex.runtime.steps import Steps
from dspex.telemetry.events import BatchFinished, BatchStarted
from dspex.telemetry.otel import current, inside
from dspex.wire.values import encode

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from dspex.adapter.response import Response
    from dspex.batch.bar import Bar

# Of the calls that a pool can run at once, those that a batch leaves to others.
_LEFT_TO_OTHERS = 8
#: Told how far a batch is; True shows a bar.
Progress = Callable[[BatchProgress], None] | bool | None


@dataclass(frozen=True)
class Whole:
    """What all items of a batch have in common.

    Attributes:
        program: Its fingerprint: that of the program, and all else that answers depend on.
        says: The same in words, for the journal.
        lm: The LM that is asked; None when nobody knows.
        shared: Whether it may run beside other calls.
    """

    program: bytes
    says: dict[str, Any]
    lm: LM | None
    shared: bool = True


@dataclass(frozen=True)
class Options:
    """How a batch is run; see ``DSPyAdapter.batch``."""

    concurrency: int | None = None
    journal: str | Path | None = None
    retry_failed: bool = False
    retries: int = 0
    max_errors: int | None = None
    max_cost: float | None = None
    progress: Progress = None

    @classmethod
    def of(cls, given: dict[str, Any]) -> Options:
        """From keywords.

        Raises:
            InvalidOption: One of them is none.
        """
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                raise InvalidOption(
                    f"batch has no option {name!r}; it has {', '.join(known)}",
                    details={"option": name, "known": known},
                )
        return cls(**given)

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            InvalidOption: One of them is not what it has to be.
        """
        checks.whole_number("concurrency", self.concurrency, 1, optional=True)
        checks.whole_number("retries", self.retries, 0)
        checks.whole_number("max_errors", self.max_errors, 1, optional=True)
        checks.number("max_cost", self.max_cost, optional=True)
        if self.journal is not None and not isinstance(self.journal, str | Path):
            raise checks.refuse("journal", "the path of a file", self.journal)
        if not (self.progress is None or isinstance(self.progress, bool) or callable(self.progress)):
            raise checks.refuse("progress", "True, or a function of a BatchProgress", self.progress)


class Calls:
    """The items of one batch of an adapter; see ``batch.batch.Asked``.

    Args:
        adapter: The adapter.
        steps: Makes the steps of an item's call, from its prompt and its inputs.
        within: What the spans of the calls belong in.
    """

    def __init__(
        self, adapter: Base, steps: Callable[[Any, Any], Steps[Response]], within: Any = None
    ) -> None:
        self._adapter = adapter
        self._steps = steps
        self._within = within

    async def ask(self, item: Any) -> Response:
        """See ``Asked``."""
        with inside(self._within):
            return await self._adapter._atake(self._steps(*_split(item)))

    def fingerprint(self, item: Any) -> str:
        """See ``Asked``."""
        if isinstance(item, Mapping):
            item = sorted(item.items(), key=lambda pair: str(pair[0]))
        pieces, _ = encode(item, where="item")
        digest = hashlib.blake2b(digest_size=16)
        for piece in pieces:
            digest.update(piece)
        return digest.hexdigest()

    def kept(self, response: Response) -> dict[str, Any]:
        """See ``Asked``."""
        return kept(response)

    def rebuilt(self, said: dict[str, Any]) -> Response:
        """See ``Asked``."""
        return rebuilt(said)

    def spent(self, response: Response) -> tuple[int, float | None]:
        """See ``Asked``."""
        return response.usage.total_tokens, response.cost


def _check_items(items: Any) -> None:
    """Refuse one item where many belong: a text would be a batch of its letters."""
    if isinstance(items, str | bytes | Mapping) or not isinstance(items, Iterable | AsyncIterable):
        raise InvalidInput(
            "items is a list, an iterator or an asynchronous iterator of prompts or of dicts of inputs, not "
            f"{type(items).__name__}; one item alone is [item]",
            details={"option": "items"},
        )


def _split(item: Any) -> tuple[Any, Any]:
    """An item's prompt, and its inputs."""
    return (None, item) if isinstance(item, Mapping) else (item, None)


def opener(
    adapter: Base,
    items: Items,
    whole: Callable[[], Awaitable[Whole]],
    steps: Callable[[Any, Any], Steps[Response]],
    options: Options,
) -> Callable[[], Any]:
    """What opens a batch, on whatever loop it is to run.

    Args:
        adapter: The adapter.
        items: The items.
        whole: Tells what they have in common; refuses what is wrong with all of them.
        steps: Makes the steps of an item's call, from its prompt and its inputs.
        options: How it is run.

    Raises:
        InvalidInput: There is one item where many belong.
        InvalidOption: An option is not what it has to be.
    """
    _check_items(items)
    options.check()
    origin = current()

    async def opened() -> Run:
        common = await whole()
        journal = None
        if options.journal is not None:
            path = Path(options.journal)
            program = hashlib.blake2b(common.program, digest_size=16).hexdigest()
            journal = await asyncio.to_thread(Journal, path, program, common.says)
        bar = _bar() if options.progress is True else None
        how = How(
            _most(adapter, common, options.concurrency),
            options.retries,
            options.retry_failed,
            options.max_errors,
            options.max_cost,
            bar if isinstance(options.progress, bool) else options.progress,
        )
        total = len(items) if isinstance(items, Sized) else None
        said = {"dspex.batch.items": total}
        spans = adapter._open.core.tracing.call(origin, "batch", said, time.monotonic())
        batch = Batch(items, Calls(adapter, steps, origin if spans is None else spans.within), how, journal)
        begun = time.monotonic()
        bus = adapter._open.core.bus
        bus.emit(BatchStarted(total=total, recorded=0 if journal is None else journal.recorded))

        def close() -> None:
            ok, failed = batch.counted
            bus.emit(BatchFinished(ok=ok, failed=failed, seconds=time.monotonic() - begun))
            if bar is not None:
                bar.close()
            if spans is not None:
                spans.end(None, {})

        return Run(batch, total, close)

    return opened


def _bar() -> Bar:
    from dspex.batch.bar import Bar  # with it comes rich, which nothing else of a runtime needs

    return Bar()


def _most(adapter: Base, common: Whole, concurrency: int | None) -> Callable[[], int]:
    """How many items can be under way: what the pool can run but for a few, what the LM's limits allow."""
    route = adapter._route
    allowed = (common.lm.at_once if common.lm is not None else None) or math.inf

    def most() -> int:
        if concurrency is not None:
            return concurrency
        can = route.capacity(shared=common.shared)
        return int(min(max(1, can - can // _LEFT_TO_OTHERS), allowed))

    return most


def of_document(adapter: Base, document: Document, lm: LM | str | None, name: str | None) -> Whole:
    """What all items of a stored program's batch have in common."""
    models = adapter._open.core.models
    stored = [one for one in (document.lm, *(stage.lm for stage in document.stages)) if one is not None]
    found = [models.references.found(one) for one in stored] if lm is None else [lm]
    lms = [models.find(one) for one in found] or [models.find(adapter._lm)]
    says = {
        "program": name,
        "modules": [stage.module for stage in document.stages],
        "signature": None if document.signature is None else document.signature.text,
        "lm": [identity(one) for one in lms],
    }
    return Whole(documents.encoded(document) + encoded(says), says, lms[0])


def encoded(said: Any) -> bytes:
    """Plain data as bytes, the same in every process."""
    return msgspec.msgpack.encode(said, order="deterministic")
