"""What a model is told of a tool, and how its arguments become those of the function.

What is told is what ``dspy.Tool`` would tell of the same function, byte for byte; it is found out here
because a caller needs no DSPy.
"""

from __future__ import annotations

import functools
import inspect
import re
import threading
import typing
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import msgspec

from dspex.errors import InvalidInput, InvalidOption
from dspex.program.importpath import is_path, split
from dspex.tools import Approve, Tool
from dspex.types import ToolSpec

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
# What modules call the tool that they bring themselves.
_TAKEN = {"dspy.ReAct": "finish", "dspy.ReActV2": "submit"}
# Values of these types are what pydantic would make of them.
_AS_THEY_ARE = (str, int, float, bool)


@dataclass(frozen=True, slots=True, eq=False)
class CallersTool:
    """A tool that was looked at.

    Attributes:
        spec: What the worker needs to know of it.
        function: What is called; None when a worker does that.
        types: The type of each parameter that has one.
        approve: Asked before each call.
        loop: The event loop that an async function belongs to; None is the caller's.
    """

    spec: ToolSpec
    function: Callable[..., Any] | None = None
    types: Mapping[str, Any] = field(default_factory=dict)
    approve: Approve | None = None
    loop: Any = None
    _wrappers: dict[str, Any] = field(default_factory=dict)

    def parsed(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as the function gets them: instances of its own types, validated as DSPy does.

        Raises:
            pydantic.ValidationError: One is not of its type.
        """
        made = {}
        for name, value in arguments.items():
            kind = self.types.get(name, Any)
            if kind is Any or (kind in _AS_THEY_ARE and type(value) is kind):
                made[name] = value
            else:
                made[name] = self._validated(name, kind, value)
        return made

    def _validated(self, name: str, kind: Any, value: Any) -> Any:
        import pydantic

        # As DSPy does, so that the model reads the same words of what was wrong; DSPy makes it for each call.
        wrapper: Any = self._wrappers.get(name)
        if wrapper is None:
            wrapper = self._wrappers[name] = pydantic.create_model("Wrapper", value=(kind, ...))
        try:
            return wrapper.model_validate({"value": value}).value
        except pydantic.ValidationError as error:
            raise error.with_traceback(None)  # noqa: B904 (where pydantic found it says nothing)


def look_at(tools: Sequence[Any], module: str) -> tuple[CallersTool, ...]:
    """The tools of a call, checked.

    Args:
        tools: Functions, ``Tool``s, import paths, ``dspy.Tool``s, and tools that were looked at before.
        module: Full name of the module that calls them.

    Raises:
        InvalidOption: One of them cannot be a tool.
        ModuleNotFound: An import path is none.
    """
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Sequence):
        raise InvalidOption(
            f"tools are a list of functions, not {type(tools).__name__}", details={"option": "tools"}
        )
    found = tuple(tool if isinstance(tool, CallersTool) else _look(tool) for tool in tools)
    names: set[str] = set()
    for tool in found:
        name = tool.spec.name
        if name == _TAKEN.get(module):
            raise _refuse(name, f"is what {module} calls its own last step; give it another name=")
        if name in names:
            raise _refuse(name, "is there twice; give one of them another name=")
        names.add(name)
    return found


def _look(given: Any) -> CallersTool:
    tool = given if isinstance(given, Tool) else Tool(given)
    if isinstance(tool.fn, str):
        return _by_path(tool, tool.fn)
    name, description, parameters, types, takes_any = _described(tool.fn)
    name = tool.name or name
    if name == "<lambda>":
        raise _refuse("<lambda>", "has no name; give it one with Tool(..., name=...)")
    if not _NAME.fullmatch(name) and not name.isidentifier():
        raise _refuse(
            name, "is no name for a tool: letters, digits, _ and - up to 64 are; give it another name="
        )
    spec = ToolSpec(
        name,
        tool.description or description,
        parameters,
        takes_any,
        None,
        tool.idempotent,
        tool.fatal,
        tool.approve is not None,
    )
    try:
        msgspec.msgpack.encode(spec)
    except (TypeError, ValueError, OverflowError) as error:
        raise _refuse(name, f"has a schema that cannot be sent: {error}") from None
    function: Any = tool.fn
    if _is_dspys(function):
        function = function.func
    return CallersTool(spec, function, types, tool.approve)


def _by_path(tool: Tool, path: str) -> CallersTool:
    if not is_path(path):
        raise InvalidOption(
            f"{path[:80]!a} names no tool; give a function, or a path such as 'package.module:function'",
            details={"option": "tools"},
        )
    _, name = split(path)
    spec = ToolSpec(
        tool.name or name,
        tool.description or "",
        {},
        False,
        path,
        tool.idempotent,
        tool.fatal,
        tool.approve is not None,
    )
    return CallersTool(spec, approve=tool.approve)


_Description = tuple[str, str, dict[str, Any], dict[str, Any], bool]
# Schemas take a millisecond, and most tools are given with every call.
_known: weakref.WeakKeyDictionary[Any, _Description] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def _described(fn: Any) -> _Description:
    """Name, description, schema and type of each parameter, and whether it takes any other."""
    if _is_dspys(fn):
        return fn.name, fn.desc or "", dict(fn.args or {}), dict(fn.arg_types or {}), bool(fn.has_kwargs)
    if not inspect.isfunction(fn):
        return _describe(fn)
    with _lock:
        known = _known.get(fn)
    if known is None:
        known = _describe(fn)
        with _lock:
            _known[fn] = known
    return known


def _is_dspys(fn: Any) -> bool:
    """Whether it is a ``dspy.Tool``, which is told by what it has: DSPy need not be here."""
    return all(hasattr(fn, name) for name in ("func", "desc", "args", "arg_types", "has_kwargs"))


def _describe(fn: Any) -> _Description:
    if isinstance(fn, type):
        raise _refuse(fn.__name__, "is a class; give a function, or an instance that can be called")
    inner = fn
    while isinstance(inner, functools.partial):
        inner = inner.func
    hinted = inner if inspect.isfunction(inner) or inspect.ismethod(inner) else inner.__call__
    name = getattr(inner, "__name__", type(inner).__name__)
    description = getattr(inner, "__doc__", None) or getattr(hinted, "__doc__", "") or ""
    parameters = signature_of(name, fn if isinstance(fn, functools.partial) else hinted)
    try:
        hints = typing.get_type_hints(hinted)
    except Exception as error:  # noqa: BLE001 (a name that is only there for a type checker, or worse)
        raise _refuse(name, f"has a type hint that cannot be read: {error}") from None
    schemas: dict[str, Any] = {}
    types: dict[str, Any] = {}
    for parameter in parameters.values():
        types[parameter.name] = hints.get(parameter.name, Any)
        schema = _schema(name, parameter.name, types[parameter.name])
        if parameter.default is not parameter.empty:
            schema["default"] = _json_default(parameter.default)
        schemas[parameter.name] = schema
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return name, description, schemas, types, takes_any


def signature_of(name: str, function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a function that can be a tool.

    Raises:
        InvalidOption: It takes arguments by position, or they cannot be found out.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        raise _refuse(name, "does not say what it takes; wrap it in a function that does") from None
    for parameter in parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
            raise _refuse(
                name,
                f"takes {stars}{parameter.name} by position, and a model gives arguments by name; wrap it in "
                "a function whose parameters have names",
            )
    return parameters


def _schema(tool: str, parameter: str, kind: Any) -> dict[str, Any]:
    if kind is Any:
        return {}
    import pydantic

    origin = typing.get_origin(kind) or kind
    try:
        if isinstance(origin, type) and issubclass(origin, pydantic.BaseModel):
            return _resolved(kind.model_json_schema())
        return _resolved(pydantic.TypeAdapter(kind).json_schema())
    except RecursionError:
        raise _refuse(tool, f"has a parameter {parameter!r} of a type that contains itself") from None
    except Exception as error:  # noqa: BLE001 (types of the user's say what they like)
        said = str(error).partition("\n")[0]
        raise _refuse(tool, f"has a parameter {parameter!r} whose type has no JSON Schema: {said}") from None


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with each reference replaced by what it refers to."""
    if "$defs" not in schema and "definitions" not in schema:
        return schema

    def resolve(part: Any) -> Any:
        if isinstance(part, dict):
            if "$ref" in part:
                return resolve(schema["$defs"][part["$ref"].split("/")[-1]])
            return {key: resolve(value) for key, value in part.items()}
        return [resolve(item) for item in part] if isinstance(part, list) else part

    found: dict[str, Any] = resolve(schema)
    found.pop("$defs", None)
    return found


def _json_default(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    from pydantic_core import to_jsonable_python

    try:
        return to_jsonable_python(value)
    except Exception:  # noqa: BLE001 (whatever it is, the model cannot write it)
        # DSPy shows its address in memory, which is another one in each process.
        return f"<{type(value).__name__}>"


def from_json_schema(
    schema: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Schema and type of each argument, from the JSON Schema of all of them as MCP has it."""
    definitions = schema.get("$defs", {})
    schemas = {
        name: _resolved({"$defs": definitions, **part}) if definitions else part
        for name, part in (schema.get("properties") or {}).items()
    }
    return schemas, {name: _TYPES.get(part.get("type"), Any) for name, part in schemas.items()}


_TYPES: dict[Any, Any] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "array": list,
    "object": dict,
}


def check_edited(tool: CallersTool, arguments: Any) -> dict[str, Any]:
    """Arguments that an approval has put in the place of the model's.

    Raises:
        InvalidInput: They are no arguments of this tool.
    """
    spec = tool.spec
    if not isinstance(arguments, Mapping) or not all(isinstance(name, str) for name in arguments):
        raise InvalidInput(f"Allow(arguments=...) of {spec.name} takes a dict by parameter name")
    unknown = [name for name in arguments if name not in spec.parameters]
    if unknown and not spec.takes_any and spec.path is None:
        raise InvalidInput(
            f"Allow(arguments=...) of {spec.name} has {', '.join(unknown)}, which it does not take"
        )
    return dict(arguments)


def _refuse(name: str, why: str) -> InvalidOption:
    return InvalidOption(
        f"the tool {name[:80]!a} {why}",
        details={"option": "tools", "tool": name[:80].encode("utf-8", "replace").decode()},
    )
