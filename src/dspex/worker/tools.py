"""Tools as programs have them: the functions of their caller, and those that a worker loads itself."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import dspy

from dspex.errors import DspexError, InvalidOption, ModuleNotFound, NotAllowed, ToolError
from dspex.program.importpath import require_allowed, split
from dspex.program.toolspec import signature_of
from dspex.types import ToolSpec
from dspex.worker import engine, faults, genai
from dspex.worker.allowed import load_allowed
from dspex.worker.callbacks import CallbackFailed, Returned
from dspex.worker.dspy_compat import ToolFailed
from dspex.worker.spans import Span, Spans, error_type
from dspex.worker.threads import in_thread

# As many frames as DSPy shows a model.
_FRAMES = 5
_TEXT_KEPT = 16_000


def as_tools(specs: Sequence[ToolSpec], allow_modules: Sequence[str]) -> list[dspy.Tool]:
    """The tools of a program. Those that go by import path are imported, which may block.

    Raises:
        NotAllowed: The operator did not allow one of them.
        ModuleNotFound: There is no such function.
        InvalidOption: One of them cannot be a tool.
        PythonError: Its module failed.
    """
    return [_callers(spec) if spec.path is None else _loaded(spec, allow_modules) for spec in specs]


def as_functions(specs: Sequence[ToolSpec], allow_modules: Sequence[str]) -> list[Callable[..., Any]]:
    """The same as plain functions, for programs without an event loop; they block until they are done."""
    return [_blocking(spec, allow_modules) for spec in specs]


class _Checked(dspy.Tool):  # type: ignore[misc]
    """A tool whose refused arguments are told and recorded like any other failure of it."""

    def _validate_and_parse_args(self, **arguments: Any) -> Any:
        try:
            return super()._validate_and_parse_args(**arguments)
        except ValueError as error:
            said = "".join(traceback.format_exception_only(error)).strip()
            _record(ToolSpec(self.name, self.desc or "", {}), arguments, _Begun(), "error", said)
            raise ToolFailed(said) from error


def _callers(spec: ToolSpec) -> dspy.Tool:
    def call_back(**arguments: Any) -> Any:
        if _is_on_loop():
            return _recorded(spec, arguments, functools.partial(_awaited, spec))
        return _recorded_blocking(spec, arguments, functools.partial(_asked, spec))

    any_type = dict.fromkeys(spec.parameters, Any)  # the caller makes them what they have to be
    made = _Checked(
        call_back,
        name=spec.name,
        desc=spec.description or None,
        args=dict(spec.parameters),
        arg_types=any_type,
    )
    made.has_kwargs = spec.takes_any
    return made


def _loaded(spec: ToolSpec, allow_modules: Sequence[str]) -> dspy.Tool:
    function = load(spec, allow_modules)
    made = _Checked(function, name=spec.name, desc=spec.description or None)

    def call(**arguments: Any) -> Any:
        if _is_on_loop():
            return _recorded(spec, arguments, functools.partial(_run_awaited, spec, made, function))
        return _recorded_blocking(spec, arguments, functools.partial(_run, spec, made, function))

    made.func = call
    return made


def load(spec: ToolSpec, allow_modules: Sequence[str]) -> Callable[..., Any]:
    """The function that a spec's path names.

    Raises:
        NotAllowed: The operator did not allow it.
        ModuleNotFound: There is none.
        InvalidOption: It cannot be a tool.
        PythonError: Its module failed.
    """
    path = spec.path or ""
    require_allowed(path, allow_modules)
    module, name = split(path)
    try:
        function: Any = load_allowed(path, list(allow_modules))
    except AttributeError as error:
        raise ModuleNotFound(f"the module {module} has no {name!r}", details={"module": path}) from error
    except DspexError:
        raise
    except BaseException as error:
        raise faults.python_error(f"importing {module!r} for a tool failed: ", error) from error
    if not callable(function) or isinstance(function, type):
        raise InvalidOption(f"{path} is no function", details={"option": "tools", "tool": spec.name})
    # What a module imports for its own use is not on offer.
    home = getattr(function, "__module__", None)
    if isinstance(home, str) and home != module:
        try:
            require_allowed(f"{home}:{name}", allow_modules)
        except NotAllowed:
            raise NotAllowed(
                f"{path} comes from {home}, which is not allowed", details={"path": path}
            ) from None
    plain = inspect.isfunction(function) or inspect.ismethod(function)
    signature_of(spec.name, function if plain else function.__call__)
    return function  # type: ignore[no-any-return]


def _blocking(spec: ToolSpec, allow_modules: Sequence[str]) -> Callable[..., Any]:
    if spec.path is None:
        wanted = functools.partial(_asked, spec)
        doc = spec.description
    else:
        function = load(spec, allow_modules)
        wanted = functools.partial(_run, spec, None, function)
        doc = spec.description or function.__doc__ or ""

    def call(*positional: Any, **arguments: Any) -> Any:
        named = dict(zip(spec.parameters, positional, strict=False)) if positional else {}
        return _recorded_blocking(spec, {**named, **arguments}, wanted)

    call.__name__ = call.__qualname__ = spec.name
    call.__doc__ = doc
    return call


def _is_on_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


# What a call of a tool does


async def _awaited(spec: ToolSpec, arguments: dict[str, Any]) -> Returned:
    scope = engine.scope_of_call()
    assert scope.callbacks is not None
    found: Returned = await scope.callbacks.call(scope, spec.name, arguments)
    return found


def _asked(spec: ToolSpec, arguments: dict[str, Any]) -> Returned:
    scope = engine.scope_of_call()
    assert scope.callbacks is not None
    found: Returned = scope.callbacks.call_from_thread(scope, spec.name, arguments)
    return found


async def _run_awaited(
    spec: ToolSpec, tool: dspy.Tool, function: Callable[..., Any], arguments: dict[str, Any]
) -> Returned:
    agreed = await _awaited(spec, arguments) if spec.approve else Returned(None)
    given = arguments if agreed.edited is None else tool._validate_and_parse_args(**agreed.edited)
    try:
        if inspect.iscoroutinefunction(function):
            value = await function(**given)
        else:
            value = await in_thread(None, functools.partial(function, **given))
            value = await value if inspect.isawaitable(value) else value
    except Exception as error:
        raise _failed(spec, error, agreed) from error
    return Returned(value, agreed.approval, agreed.edited)


def _run(
    spec: ToolSpec, tool: dspy.Tool | None, function: Callable[..., Any], arguments: dict[str, Any]
) -> Returned:
    agreed = _asked(spec, arguments) if spec.approve else Returned(None)
    given = arguments if agreed.edited is None else agreed.edited
    if tool is not None and agreed.edited is not None:
        given = tool._validate_and_parse_args(**agreed.edited)
    try:
        value = function(**given)
        if inspect.iscoroutine(value):
            value = asyncio.run(value)
    except Exception as error:
        raise _failed(spec, error, agreed) from error
    return Returned(value, agreed.approval, agreed.edited)


def _failed(spec: ToolSpec, error: Exception, agreed: Returned) -> CallbackFailed:
    """What the caller's side would tell of the same failure."""
    translated = faults.translate(error)
    if faults.kind_of(error) is None and translated.code in {"python_error", "tool_error"}:
        kind, message = type(error).__qualname__, str(translated.details.get("message", translated.message))
        translated = ToolError(
            f"the tool {spec.name} failed: {kind}: {message}",
            details={
                "tool": spec.name,
                "type": kind,
                "message": message,
                "text": _shown(error),
                "fatal": spec.fatal,
            },
        )
    return CallbackFailed(translated, agreed.approval, agreed.edited)


def _shown(error: Exception) -> str:
    """An exception as DSPy shows it to a model, with the frames of the user's code alone."""
    trace = error.__traceback__
    while trace is not None and faults.is_not_users(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, trace, limit=_FRAMES)).strip()[
            :_TEXT_KEPT
        ]
    except Exception:  # noqa: BLE001 (a class of the user's may do anything when it is asked what it says)
        return type(error).__qualname__


# What is kept of it, and what the program gets


@dataclass(frozen=True, slots=True)
class _Begun:
    """When a tool was called, and in a call that is traced the span of that, and the call's spans."""

    at: float = field(default_factory=time.monotonic)
    span: Span | None = None
    spans: Spans | None = None


async def _recorded(spec: ToolSpec, arguments: dict[str, Any], run: Callable[[dict[str, Any]], Any]) -> Any:
    begun = _begun(spec, arguments)
    if begun.spans is not None:
        await begun.spans.told()
    try:
        returned = await run(arguments)
    except CallbackFailed as failed:
        return _settle_failure(spec, arguments, begun, failed)
    except Exception as error:
        _record(spec, arguments, begun, "error", str(error), kind=error_type(error))
        raise
    except BaseException as error:
        if begun.span is not None:
            begun.span.end(error_type(error))
        raise
    return _settle(spec, arguments, begun, returned)


def _recorded_blocking(
    spec: ToolSpec, arguments: dict[str, Any], run: Callable[[dict[str, Any]], Returned]
) -> Any:
    begun = _begun(spec, arguments)
    if begun.spans is not None:
        begun.spans.told_from_thread()
    try:
        returned = run(arguments)
    except CallbackFailed as failed:
        return _settle_failure(spec, arguments, begun, failed)
    except Exception as error:
        _record(spec, arguments, begun, "error", str(error), kind=error_type(error))
        raise
    except BaseException as error:
        if begun.span is not None:
            begun.span.end(error_type(error))
        raise
    return _settle(spec, arguments, begun, returned)


def _begun(spec: ToolSpec, arguments: dict[str, Any]) -> _Begun:
    scope = engine.scope_of_call()
    if scope.stream is not None:
        scope.stream.tool_call(spec.name, arguments)
    if (spans := scope.spans) is None:
        return _Begun()
    return _Begun(span=spans.begin(*genai.of_tool(spec, arguments, content=spans.content)), spans=spans)


def _settle(spec: ToolSpec, arguments: dict[str, Any], begun: _Begun, returned: Returned) -> Any:
    used = arguments if returned.edited is None else returned.edited
    _record(spec, used, begun, "ok", None, returned.approval, returned.value)
    return returned.value


def _settle_failure(spec: ToolSpec, arguments: dict[str, Any], begun: _Begun, failed: CallbackFailed) -> str:
    """What the model reads in the place of a result.

    Raises:
        Ended: The call is over.
        ToolFailed: The model is told as of any tool that raised.
    """
    error, details = failed.error, failed.error.details
    used = arguments if failed.edited is None else failed.edited
    if "denied" in details:
        _record(spec, used, begun, "denied", details["denied"])
        return error.message
    kind = str(details.get("type") or error.code)
    _record(spec, used, begun, "error", error.message, failed.approval, kind=kind)
    if error.code != ToolError.code:
        error.request_id = None  # that of another call, which the tool has made
        raise faults.Ended(error) from None
    if details.get("fatal"):
        kept = {name: value for name, value in details.items() if name not in {"fatal", "text"}}
        raise faults.Ended(ToolError(error.message, details=kept)) from None
    raise ToolFailed(details.get("text") or error.message) from None


def _record(
    spec: ToolSpec,
    arguments: dict[str, Any],
    begun: _Begun,
    status: str,
    error: str | None,
    approval: str = "",
    value: Any = None,
    *,
    kind: str = ToolError.code,
) -> None:
    scope = engine.scope_of_call()
    if scope.stream is not None:
        scope.stream.tool_result(spec.name, value, error)
    scope.tool_calls.append(
        {
            "tool": spec.name,
            "arguments": arguments,
            "seconds": time.monotonic() - begun.at,
            "status": status,
            "error": error,
            "approval": approval,
        }
    )
    if (spans := scope.spans) is not None:
        content = spans.content
        span = begun.span or spans.begin(*genai.of_tool(spec, arguments, content=content))
        span.set(**genai.of_result(arguments, value, status, approval, content=content))
        span.end(kind if status == "error" else None)
