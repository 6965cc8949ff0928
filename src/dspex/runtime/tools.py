"""Runs the functions of one call's caller, where they may block, and answers the worker that wants them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import TYPE_CHECKING, Any

import msgspec

from dspex.errors import DspexError, InvalidInput, NotAllowed, ToolError
from dspex.program.toolspec import CallersTool, check_edited
from dspex.runtime.functions import Functions
from dspex.runtime.toolerrors import Denied, NoVerdict, told
from dspex.tools import Allow, Deny, ToolRequest
from dspex.wire.blobs import Blob
from dspex.wire.messages import NOTHING, ToolCall, ToolResult
from dspex.wire.payloads import Payload, discard, store, take
from dspex.wire.values import encode

if TYPE_CHECKING:
    from dspex.telemetry.spans import CallSpans

Answer = Callable[[ToolResult, Blob | None], None]


class _Run:
    """One call of a tool.

    Attributes:
        tool: The tool.
        message: Who wants it called.
        answer: Told what it gave.
        context: The context variables that it sees.
        task: What runs it, if it is async.
        is_over: Whether nobody waits for it any more.
        approval: What its approval said.
        edited: Its arguments, if they were edited.
    """

    __slots__ = ("answer", "approval", "context", "edited", "is_over", "message", "task", "tool")

    def __init__(self, tool: CallersTool, message: ToolCall, answer: Answer, context: Context) -> None:
        self.tool = tool
        self.context = context
        self.message = message
        self.answer = answer
        self.task: asyncio.Task[None] | None = None
        self.is_over = False
        self.approval = ""
        self.edited: dict[str, Any] | None = None


class CallTools:
    """The tools of one call; made on the supervisor's loop, where it is asked.

    Args:
        tools: The tools.
        functions: Where they run.
        context: The context variables of whoever made the call.
        loop: The caller's event loop, for async functions; None where he has none.
        largest: The most bytes that a result may have.
        request_id: The call's name.
        trace: The call's spans, in which its tools run; None when nobody traces it.
    """

    def __init__(
        self,
        tools: Mapping[str, CallersTool],
        functions: Functions,
        context: Context,
        loop: asyncio.AbstractEventLoop | None,
        largest: int,
        request_id: str,
        trace: CallSpans | None = None,
    ) -> None:
        self._tools = tools
        self._functions = functions
        self._context = context
        self._callers_loop = loop
        self._largest = largest
        self._request_id = request_id
        self._trace = trace
        self._home = asyncio.get_running_loop()
        self._runs: set[_Run] = set()

    def call(self, message: ToolCall, args: msgspec.Raw | Blob, answer: Answer) -> bool:
        """See ``pool.work.Callbacks``."""
        tool = self._tools.get(message.tool)
        if tool is None:
            discard(args)
            refusal = NotAllowed(f"the call has no tool {message.tool!r}")
            answer(ToolResult(message.call, message.number, error=refusal.to_wire()), None)
            return True
        context = self._context if self._trace is None else self._trace.entered(self._context, message.span)
        run = _Run(tool, message, answer, context)
        self._runs.add(run)
        try:
            if _is_async(tool.function) or _is_async(tool.approve):
                self._start(run, args)
            else:
                own = context.copy()
                self._functions.threads.run(lambda: own.run(self._in_thread, run, args))
        except ToolError as error:
            discard(args)
            error.details = {**error.details, "tool": tool.spec.name, "fatal": True}
            self._answer(run, error, None)
        return tool.spec.idempotent or tool.spec.path is not None

    def stop(self) -> None:
        """See ``pool.work.Callbacks``. An async function is cancelled; a thread runs on, for nobody."""
        for run in self._runs:
            run.is_over = True
            if run.task is not None:
                with contextlib.suppress(RuntimeError):  # its loop is closed
                    run.task.get_loop().call_soon_threadsafe(run.task.cancel)
        self._runs = set()

    # Where it runs

    def _in_thread(self, run: _Run, args: msgspec.Raw | Blob) -> None:
        """All of it, where nothing in it is async as far as can be seen."""
        try:
            if run.is_over:
                discard(args)
                return
            given = take(args)
            arguments = given
            if run.tool.approve is not None:
                verdict = run.tool.approve(self._request(run, given))
                if inspect.isawaitable(verdict):
                    self._start(run, given, verdict=verdict)
                    return
                arguments = _judge(run, verdict, given)
            value = None
            if run.tool.function is not None and not run.is_over:
                value = run.tool.function(**run.tool.parsed(arguments))
                if inspect.isawaitable(value):
                    self._start(run, arguments, value=value)
                    return
        except BaseException as error:  # noqa: BLE001 (whatever it is, the worker has to hear of it)
            self._failed(run, error)
        else:
            self._returned(run, value)

    def _start(self, run: _Run, args: Any, **awaited: Any) -> None:
        """Go on, or begin, on the loop of the function."""
        loop = run.tool.loop or self._callers_loop or self._functions.loop()
        coroutine = self._on_loop(run, args, **awaited)
        context = run.context.copy()

        def begin() -> None:
            if run.is_over:
                coroutine.close()
                return
            run.task = loop.create_task(coroutine, context=context)

        try:
            loop.call_soon_threadsafe(begin)
        except RuntimeError:
            coroutine.close()
            raise ToolError("the event loop of whoever made the call is closed") from None

    async def _on_loop(self, run: _Run, args: Any, *, verdict: Any = None, value: Any = None) -> None:
        try:
            if value is not None:
                self._returned(run, await value)
                return
            given = take(args) if isinstance(args, msgspec.Raw | Blob) else args
            arguments = given
            if run.tool.approve is not None:
                if verdict is None:
                    verdict = await self._called(run, run.tool.approve, self._request(run, given))
                elif inspect.isawaitable(verdict):
                    verdict = await verdict
                arguments = _judge(run, verdict, given)
            found = None
            if run.tool.function is not None:
                found = await self._called(run, run.tool.function, **run.tool.parsed(arguments))
        except BaseException as error:
            self._failed(run, error)
            if isinstance(error, asyncio.CancelledError) and run.is_over:
                raise
        else:
            self._returned(run, found)

    async def _called(self, run: _Run, function: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """What a function gives that may be async, or may block."""
        if _is_async(function):
            return await function(*args, **named)
        found = await self._blocking(run, functools.partial(function, *args, **named))
        return await found if inspect.isawaitable(found) else found

    def _blocking(self, run: _Run, function: Callable[[], Any]) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Any] = loop.create_future()
        context = run.context.copy()

        def settle(value: Any, error: BaseException | None) -> None:
            if ended.done():
                return
            if error is None:
                ended.set_result(value)
            else:
                # A future does not take every exception as it is.
                ended.set_exception(_Carried(error))

        def job() -> None:
            value, failure = None, None
            try:
                value = context.run(function)
            except BaseException as error:  # noqa: BLE001 (told where it is waited for)
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(settle, value, failure)

        self._functions.threads.run(job)
        return ended

    def _request(self, run: _Run, given: Any) -> ToolRequest:
        return ToolRequest(run.tool.spec.name, dict(given), self._request_id)

    # What it gives

    def _returned(self, run: _Run, value: Any) -> None:
        name = run.tool.spec.name
        try:
            pieces, _ = encode(_as_json(value), where=f"what the tool {name} returned")
            _check_size(name, sum(map(len, pieces)), self._largest)
            stored: Payload = store(pieces)
        except Exception as error:  # noqa: BLE001 (what it gave may do anything when it is looked at)
            self._failed(run, error)
            return
        self._tell(run, None, stored)

    def _failed(self, run: _Run, error: BaseException) -> None:
        if isinstance(error, _Carried):
            error = error.error
        if run.is_over and isinstance(error, asyncio.CancelledError):
            return
        self._tell(run, told(run.tool, error), None)

    def _tell(self, run: _Run, error: DspexError | None, value: Payload | None) -> None:
        with contextlib.suppress(RuntimeError):  # the runtime is closed, and its loop with it
            self._home.call_soon_threadsafe(self._answer, run, error, value)

    def _answer(self, run: _Run, error: DspexError | None, value: Payload | None) -> None:
        self._runs.discard(run)
        if run.is_over:
            if value is not None:
                discard(value)
            return
        run.is_over = True
        call, number = run.message.call, run.message.number
        edited = NOTHING if run.edited is None else msgspec.Raw(b"".join(encode(run.edited)[0]))
        if error is not None:
            try:
                run.answer(ToolResult(call, number, NOTHING, error.to_wire(), run.approval, edited), None)
            except Exception:  # noqa: BLE001 (its details are the user's, and may be what cannot be sent)
                bare = {"code": error.code, "message": ascii(error.message)[:2000]}
                run.answer(ToolResult(call, number, NOTHING, bare, run.approval), None)
            return
        blob = value if isinstance(value, Blob) else None
        plain = msgspec.Raw(value) if isinstance(value, bytes) else NOTHING
        run.answer(ToolResult(call, number, plain, None, run.approval, edited), blob)


class _Carried(Exception):
    """An exception of a function, on its way through a future."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


def _is_async(function: Any) -> bool:
    """Whether calling it gives a coroutine, as far as can be seen without doing so."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.iscoroutinefunction(function):
        return True
    return inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004 (its own method)


def _judge(run: _Run, verdict: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments that a verdict lets the tool be called with.

    Raises:
        Denied: It may not be called.
        TypeError: It is no verdict.
    """
    if verdict is False:
        verdict = Deny()
    if isinstance(verdict, Deny):
        run.approval = "denied"
        raise Denied(verdict.reason)
    if verdict is True or (isinstance(verdict, Allow) and verdict.arguments is None):
        run.approval = "allowed"
        return given
    if not isinstance(verdict, Allow):
        raise NoVerdict(
            f"the approve of the tool {run.tool.spec.name} gives Allow(), Deny(reason), True or False, "
            f"not {type(verdict).__name__}"
        )
    edited = check_edited(run.tool, verdict.arguments)
    encode(edited, where=f"arguments of {run.tool.spec.name}")
    run.edited = edited
    run.approval = "edited"
    return edited


def _check_size(name: str, size: int, largest: int) -> None:
    if size > largest:
        raise InvalidInput(
            f"what the tool {name} returned has {size:,} bytes, over the limit of {largest:,}; return less, "
            "or raise Settings(max_payload=...)"
        )


def _as_json(value: Any, depth: int = 2) -> Any:
    """What pydantic would make of a model, by its own rules, where a class would not be known there."""
    if hasattr(value, "model_dump") and hasattr(type(value), "model_validate"):
        return value.model_dump(mode="json")
    if depth and type(value) is list:
        return [_as_json(item, depth - 1) for item in value]
    if depth and type(value) is dict:
        return {key: _as_json(item, depth - 1) for key, item in value.items()}
    return value


def by_name(tools: tuple[CallersTool, ...]) -> dict[str, CallersTool]:
    """Those that the worker may ask for: the caller's own, and those whose calls somebody agrees to."""
    return {tool.spec.name: tool for tool in tools if tool.function is not None or tool.approve is not None}
