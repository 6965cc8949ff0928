"""What a call of a module brings beside its inputs: tools, and a reward."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dspex.errors import InvalidOption, ModuleNotFound
from dspex.program import catalogue
from dspex.program.importpath import require_allowed, shown
from dspex.program.installed import Catalogue
from dspex.program.options import inside
from dspex.program.rewards import CALLED
from dspex.program.toolspec import CallersTool, look_at
from dspex.rewards import Prediction
from dspex.runtime.tools import by_name
from dspex.types import ToolSpec


@dataclass(frozen=True, slots=True)
class Brought:
    """What a call brings, looked at.

    Attributes:
        entry: The module, together with the one that it runs inside.
        tools: Its tools as a worker needs them.
        functions: What the worker may ask of the caller, by name.
        shared: Whether the call may run beside others: what a worker loads it runs alone, so that it can be
            ended for it.
        repeatable: Whether it may run again when its worker was lost.
    """

    entry: catalogue.ModuleEntry
    tools: tuple[ToolSpec, ...]
    functions: Mapping[str, CallersTool]
    shared: bool
    repeatable: bool


def look(
    module: str,
    options: Mapping[str, Any],
    tools: Sequence[Any] | None,
    allow_modules: Collection[str],
    installed: Catalogue | None = None,
) -> Brought:
    """What a call of a module brings.

    Args:
        module: The module's name.
        options: Its options as they were given.
        tools: Its tools as they were given.
        allow_modules: Where what a worker loads may come from.
        installed: What of the table of modules is installed; None is all of it.

    Raises:
        ModuleNotFound: There is no such module, or this DSPy lacks it.
        InvalidOption: Tools are missing, or one of them cannot be one.
        NotAllowed: The settings do not allow an import path.
    """
    entry = catalogue.find(module)
    if installed is not None:
        installed.require(entry)
    name, reward = entry.name, None
    if entry.of is not None and isinstance(options, Mapping):
        inner = inside(entry, options.get("of"))
        if installed is not None:
            installed.require(inner)
        entry, name, reward = entry.around(inner), inner.name, options.get("reward")
    found = _tools(entry, name, tools, allow_modules)
    functions = by_name(found)
    paths = [tool.spec for tool in found if tool.spec.path is not None]
    loads = bool(paths)
    if isinstance(reward, str):
        try:
            require_allowed(reward, allow_modules)
        except ModuleNotFound:
            raise InvalidOption(
                f"the reward {shown(reward)} is no import path (package.module:function); built in are "
                "dspex.Reward.exact_match(...), .contains(...) and .json_schema(...)",
                details={"module": name, "option": "reward"},
            ) from None
        loads = True
    elif callable(reward):
        functions = {**functions, CALLED: _as_tool(reward)}
    return Brought(
        entry,
        tuple(tool.spec for tool in found),
        functions,
        entry.shared and not loads,
        entry.repeatable and all(tool.idempotent for tool in paths),
    )


def _tools(
    entry: catalogue.ModuleEntry, name: str, tools: Sequence[Any] | None, allow_modules: Collection[str]
) -> tuple[CallersTool, ...]:
    if tools is None:
        if "tools" in entry.needs:
            raise InvalidOption(
                f"{name} needs tools=[...], the functions that the model may have called",
                details={"module": name, "option": "tools"},
            )
        return ()
    found = look_at(tools, name)
    for tool in found:
        if tool.spec.path is not None:
            require_allowed(tool.spec.path, allow_modules)
    return found


def _as_tool(reward: Callable[..., Any]) -> CallersTool:
    """A reward is called back as a tool is; it judges and does nothing, so its call may run again."""
    called = getattr(reward, "__call__", reward)  # noqa: B004 (its own method may be async)
    function: Callable[..., Any]
    if inspect.iscoroutinefunction(reward) or inspect.iscoroutinefunction(called):

        async def function(args: dict[str, Any], prediction: dict[str, Any]) -> Any:
            return await reward(args, Prediction(prediction))

    else:

        def function(args: dict[str, Any], prediction: dict[str, Any]) -> Any:
            return reward(args, Prediction(prediction))

    return CallersTool(ToolSpec(CALLED, "", {}, idempotent=True), function)
