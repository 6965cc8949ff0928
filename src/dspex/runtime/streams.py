"""A call that somebody listens to: it runs on the runtime's loop as any other, and tells what happens."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from dspex.errors import Cancelled, DspexError, PythonTimeout
from dspex.media.turns import ToolCall
from dspex.runtime import steps
from dspex.runtime.feed import WINDOW, Ended, Feed
from dspex.runtime.told import Delta, Started, Status, ToolResult
from dspex.types import Usage
from dspex.wire.jsonready import as_text
from dspex.wire.messages import NOTHING, Chunk
from dspex.wire.values import decode

if TYPE_CHECKING:
    from dspex.runtime.call import Answer
    from dspex.runtime.portal import Portal
    from dspex.runtime.question import Question
    from dspex.runtime.route import Found, Route

# Seconds that closing waits for the call to have ended.
_CLOSING = 5.0
_LOST = "its worker was lost, and it runs again"


class LiveCall:
    """One call that is listened to, from its first step to its end.

    Args:
        taken: The steps of the call.
        portal: The way onto the runtime's loop.
        route: The way of questions.
        first_token: Seconds within which the first delta has to come; None is no limit.
        idle: Seconds within which something has to come after what came last; None is no limit.

    Attributes:
        feed: What it tells, to be read.
        content: The output of the last stage that is the response's one text, once that is known.
        last_stage: Number of the stage whose outputs are the response's, once it has begun.
        has_one_output: Whether that has one output only, as far as is known.
    """

    def __init__(
        self,
        taken: steps.Steps[Any],
        portal: Portal,
        route: Route,
        first_token: float | None = None,
        idle: float | None = None,
    ) -> None:
        self.feed = Feed(self._granted)
        self.content: str | None = None
        self.last_stage: int | None = None
        self.has_one_output = False
        self._taken = taken
        self._portal = portal
        self._route = route
        self._limits = first_token, idle
        self._watch: _Watch | None = None
        self._stage: _Stage | None = None
        self._number = 0
        self._going: Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._callers_loop: asyncio.AbstractEventLoop | None = None
        self._late: PythonTimeout | None = None

    def begin(self) -> None:
        """Begin; returns at once.

        Raises:
            PoolClosed: The runtime is closed.
        """
        with contextlib.suppress(RuntimeError):
            self._callers_loop = asyncio.get_running_loop()
        self._going = self._portal.begin(self._run)
        self._going.add_done_callback(lambda _: self.feed.finish(None, Cancelled("the stream was closed")))

    def cancel(self) -> None:
        """Stop the work, and wait for nothing. Safe to repeat, anywhere."""
        if self._going is None or self.feed.ended:
            return
        if self._task is None:
            self._going.cancel()
        else:
            self._portal.call_soon(self._task.cancel)

    def close(self) -> None:
        """Stop the work, and wait until it has ended."""
        self.cancel()
        if self._going is not None:
            self.feed.wait(_CLOSING)

    async def aclose(self) -> None:
        """``close`` for event loops."""
        self.cancel()
        if self._going is not None:
            with contextlib.suppress(Ended, TimeoutError):
                async with asyncio.timeout(_CLOSING):
                    while True:
                        await self.feed.atake()

    # On the runtime's loop

    async def _run(self) -> None:
        self._task = task = asyncio.current_task()
        assert task is not None
        self._watch = _Watch(*self._limits, self._stop(task))
        try:
            result = await steps.arun(self._taken, self._portal, self)
        except asyncio.CancelledError:
            self.feed.finish(None, self._told(self._late or Cancelled("the stream was closed")))
            if self._late is None:
                raise
        except BaseException as error:  # noqa: BLE001 (it is raised where the stream is read)
            self.feed.finish(None, self._told(error))
        else:
            self.feed.finish(result)
        finally:
            self._watch.end()

    def _stop(self, task: asyncio.Task[Any]) -> Callable[[str, float], None]:
        def stop(name: str, limit: float) -> None:
            what = "nothing of the answer came" if name == "first_token_timeout" else "nothing more came"
            self._late = PythonTimeout(
                f"{what} within {limit:g} s, and the call was stopped; raise {name}=... if it needs longer",
                details={"phase": "running", "elapsed": limit, "killed": False, "limit": name},
            )
            task.cancel()

        return stop

    def _told(self, error: BaseException) -> BaseException:
        if isinstance(error, DspexError) and self._stage is not None:
            error.details.setdefault("so_far", {n: "".join(t) for n, t in self._stage.texts.items()})
            error.for_request(self._stage.request_id)
        return error

    async def aask(self, question: Question) -> Answer:
        """See ``steps.Asks``: the stage of a program, listened to."""
        self._number += 1
        assert self._watch is not None
        self._stage = stage = _Stage(self.feed, self._watch, self._number, question.request_id)
        prepared = await self._route.aprepare(question)
        if question.is_last:
            self.content, self.last_stage = prepared.content, self._number
            self.has_one_output = prepared.one_output
        answer = await self._route.aanswer(replace(prepared, flow=stage, loop=self._callers_loop))
        if question.is_last and not stage.texts:
            self.has_one_output = len(answer.outputs) == 1
            self.content = next(reversed(answer.outputs), None)
        stage.finish(answer.outputs)
        return answer

    def is_content(self, delta: Delta) -> bool:
        """Whether a piece is one of the response's one text."""
        return delta.field == self.content and delta.stage == self.last_stage

    async def afind(self, question: Question) -> Found:
        """See ``steps.Asks``."""
        return await self._route.afind(question)

    async def abuild(self, question: Question, *, dump: bool = False) -> Any:
        """See ``steps.Asks``."""
        return await self._route.abuild(question, dump=dump)

    # On the reader's thread

    def _granted(self, more: int) -> None:
        stage = self._stage
        if stage is not None:
            self._portal.call_soon(stage.granted, more)


class _Stage:
    """What one stage tells; see ``pool.work.Flow``.

    Attributes:
        texts: The pieces of each output so far.
        request_id: The call's name.
    """

    def __init__(self, feed: Feed, watch: _Watch, number: int, request_id: str) -> None:
        self.texts: dict[str, list[str]] = {}
        self.request_id = request_id
        self._feed = feed
        self._watch = watch
        self._number = number
        self._grant: Callable[[int], None] | None = None
        self._left = 0
        self._again = _LOST

    def begun(self, worker: int, grant: Callable[[int], None]) -> int:
        """A worker has it, for the first time or again."""
        if self._grant is None:
            self._feed.put(Started(self.request_id, worker, self._number))
        else:
            self._feed.put(Status(self._again, self._number))
        self._again = _LOST
        self._watch.came()
        self._grant = grant
        self._left = WINDOW
        return WINDOW

    def again(self, why: str) -> None:
        """It is given to a worker once more, and this is why."""
        self._again = why

    def granted(self, more: int) -> None:
        """So many deltas were read."""
        self._left += more
        self._watch.waits_for_reader = False
        if self._grant is not None:
            self._grant(more)

    def came(self, chunk: Chunk) -> None:
        """The worker has told something."""
        self._watch.came(is_delta=chunk.kind == "delta")
        number = self._number
        match chunk.kind:
            case "delta":
                self._left -= 1
                self._watch.waits_for_reader = self._left <= 0
                self.texts.setdefault(chunk.name, []).append(chunk.text)
                self._feed.put(Delta(chunk.name, chunk.text, number), counted=True)
            case "status":
                self._feed.put(Status(chunk.text, number))
            case "tool_call":
                self._feed.put(ToolCall(chunk.name, _decoded(chunk.value) or {}))
            case "tool_result":
                self._feed.put(ToolResult(chunk.name, _decoded(chunk.value), chunk.text or None, number))
            case "usage":
                self._feed.put(msgspec.msgpack.decode(chunk.value, type=Usage))

    def finish(self, outputs: dict[str, Any]) -> None:
        """Tell what did not come piecewise: what is no text, and the outputs of programs that tell none."""
        for name, value in outputs.items():
            text, came = as_text(value), "".join(self.texts.get(name, ()))
            if text != came and text.startswith(came):
                self.texts.setdefault(name, []).append(text[len(came) :])
                self._feed.put(Delta(name, text[len(came) :], self._number))


class _Watch:
    """Stops a call of which nothing comes.

    Args:
        first: Seconds within which the first delta has to come; None is no limit.
        idle: Seconds within which something has to come after what came last; None is no limit.
        stop: Told which limit was passed, and how long it is.

    Attributes:
        waits_for_reader: Whether nothing comes because nobody reads.
    """

    def __init__(self, first: float | None, idle: float | None, stop: Callable[[str, float], None]) -> None:
        self.waits_for_reader = False
        self._idle = idle
        self._stop = stop
        self._last: float | None = None
        self._loop = asyncio.get_running_loop()
        self._first = (
            None if first is None else self._loop.call_later(first, stop, "first_token_timeout", first)
        )
        self._timer: asyncio.TimerHandle | None = None

    def came(self, *, is_delta: bool = False) -> None:
        """Something came."""
        self._last = time.monotonic()
        if is_delta and self._first is not None:
            self._first.cancel()
        if self._idle is not None and self._timer is None:
            self._timer = self._loop.call_later(self._idle, self._look)

    def _look(self) -> None:
        assert self._idle is not None
        assert self._last is not None
        if self.waits_for_reader:
            self._last = time.monotonic()
        left = self._last + self._idle - time.monotonic()
        if left <= 0:
            self._stop("idle_timeout", self._idle)
        else:
            self._timer = self._loop.call_later(left, self._look)

    def end(self) -> None:
        """The call has ended."""
        for timer in (self._first, self._timer):
            if timer is not None:
                timer.cancel()


def _decoded(value: msgspec.Raw) -> Any:
    return None if value == NOTHING else decode(value)
