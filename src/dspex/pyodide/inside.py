"""What runs inside Pyodide: takes a block of code, runs it, and says what came of it.

Nothing here is trusted by the process outside: code that runs beside it can change all of it. It is sent
into Pyodide as it stands here, so it imports nothing of dspex; ``plain`` serves the other sandbox as well.
"""

from __future__ import annotations

import builtins
import io
import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

_DEPTH = 100
_FILE = "<exec>"


class _Submitted(BaseException):
    """Ends a block by its final output."""


def plain(value: Any, depth: int = _DEPTH) -> Any:
    """A value as data that JSON has: what is none of it becomes text.

    Args:
        value: Anything.
        depth: How deep what is in it may lie; what lies deeper becomes text.
    """
    if value is None or type(value) in {str, bool, int, float}:
        return value
    if depth > 0:
        if isinstance(value, dict):
            return {
                key if isinstance(key, str) else str(key): plain(item, depth - 1)
                for key, item in value.items()
            }
        if isinstance(value, set | frozenset):
            try:
                value = sorted(value)
            except TypeError:
                value = list(value)
        if isinstance(value, list | tuple):
            return [plain(item, depth - 1) for item in value]
    for kind in (str, bool, int, float):
        if isinstance(value, kind):
            return kind(value)
    return str(value) if isinstance(value, BaseException) else _text(value)


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 (the class may do anything here)
        return f"({type(value).__name__}: {type(error).__name__})"


class Printed(io.TextIOBase):
    """What a block has printed, as far as it may.

    Args:
        most: Characters that are kept.
    """

    def __init__(self, most: int) -> None:
        self._pieces: list[str] = []
        self._left = most
        self._cut = 0

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        kept = text[: self._left]
        if kept:
            self._pieces.append(kept)
            self._left -= len(kept)
        self._cut += len(text) - len(kept)
        return len(text)

    def text(self) -> str:
        """All that was kept, and how much was not."""
        end = f"\n[{self._cut} more characters were cut off]" if self._cut else ""
        return "".join(self._pieces) + end


def declare(name: str, parameters: list[dict[str, Any]]) -> str:
    """The source of a function of these parameters that passes its arguments on by name."""
    listed, passed = [], []
    for parameter in parameters:
        spelled = parameter["name"]
        kind = parameter.get("kind", "")
        if kind == "**":
            listed.append(f"**{spelled}")
            passed.append(f"**{spelled}")
            continue
        if kind == "keyword" and "*" not in listed:
            listed.append("*")
        annotation = {None: "", "NoneType": ": type(None)"}.get(parameter.get("type"), ": {type}")
        default = " = _dspex_left_out" if parameter.get("optional") else ""
        if "default" in parameter:
            default = f" = _dspex_json.loads({json.dumps(parameter['default'])!r})"
        listed.append(spelled + annotation.format(**parameter) + default)
        passed.append(f"{spelled}={spelled}")
    return f"def {name}({', '.join(listed)}):\n    return _dspex_call({name!r}, dict({', '.join(passed)}))\n"


class Session:
    """The blocks of one conversation, which share their names.

    Args:
        names: Where the blocks run.
        exchange: Sends a line out and gives the line that answers it.
    """

    def __init__(self, names: dict[str, Any], exchange: Callable[[str], str]) -> None:
        self._names = names
        self._exchange = exchange
        self._left_out = object()
        self._run = ""

    def _call(self, name: str, arguments: dict[str, Any]) -> Any:
        if name == "SUBMIT":
            raise _Submitted(arguments)
        given = {key: value for key, value in arguments.items() if value is not self._left_out}
        asked = json.dumps({"id": self._run, "call": name, "arguments": plain(given)})
        answer = json.loads(self._exchange(asked))
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"]

    def _declare(self, functions: list[dict[str, Any]]) -> None:
        scope = {"_dspex_call": self._call, "_dspex_left_out": self._left_out, "_dspex_json": json}
        for function in functions:
            exec(declare(function["name"], function["parameters"]), scope)  # noqa: S102 (inside the sandbox)
            self._names[function["name"]] = scope[function["name"]]

    async def answer(self, line: str) -> str:
        """Run what a line asks for, and give the line that says what came of it."""
        asked = json.loads(line)
        self._run = asked["id"]
        printed = Printed(asked["most"])
        streams, sys.stdout, sys.stderr = (sys.stdout, sys.stderr), printed, Printed(0)
        try:
            self._declare(asked.get("functions", []))
            self._names.update(asked.get("variables", {}))
            value = await _evaluate(asked["code"], self._names)
            # As in DSPy's own sandbox: the value of the last expression, or else what was printed.
            came = {"value": printed.text() if value is None else plain(value)}
            said = _line(self._run, came, asked["largest"])
        except _Submitted as submitted:
            said = _line(self._run, {"final": plain(submitted.args[0])}, asked["largest"])
        except BaseException as error:  # noqa: BLE001 (whatever it is, the model is told)
            said = _line(self._run, {"error": failure(error)}, asked["largest"])
        finally:
            sys.stdout, sys.stderr = streams
        return said


async def _evaluate(code: str, names: dict[str, Any]) -> Any:
    from pyodide.code import eval_code_async

    return await eval_code_async(code, names, filename=_FILE)


def _line(run: str, came: dict[str, Any], largest: int) -> str:
    line = json.dumps({"id": run, **came})
    if len(line) <= largest:
        return line
    text = f"what the code gave has {len(line)} characters, over the limit of {largest}; give less"
    return json.dumps({"id": run, "error": {"type": "ValueError", "args": [text], "message": text}})


def failure(error: BaseException) -> dict[str, Any]:
    """An exception as DSPy tells it: its class, its arguments, and its text with the block's own frames."""
    if isinstance(error, SyntaxError):
        text = "".join(traceback.format_exception_only(error)).strip()
    else:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == _FILE]
        head = (
            ["Traceback (most recent call last):\n", *traceback.format_list(frames[-20:])] if frames else []
        )
        text = "".join([*head, *traceback.format_exception_only(error)]).strip()
    try:
        args = plain(list(error.args))
    except BaseException:  # noqa: BLE001 (of a class that the code made)
        args = []
    return {"type": type(error).__name__, "args": args, "message": text[:4000]}


def start(exchange: Callable[[str], str]) -> Callable[[str], Any]:
    """Begin a conversation; called once in each sandbox, after it has started from its snapshot."""
    import random

    random.seed()  # every sandbox would begin with the snapshot's numbers
    main = sys.modules["__main__"].__dict__
    main["__builtins__"] = builtins
    main.update(
        io=io, json=json, sys=sys
    )  # DSPy's own sandbox leaves them there, and models have come to use them
    return Session(main, exchange).answer
