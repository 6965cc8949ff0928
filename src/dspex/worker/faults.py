"""What a failure inside a worker is called outside, and what is told of it."""

from __future__ import annotations

import concurrent.futures
import importlib
import os
import re
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dspy.clients.engines.litellm_errors import to_lm15_error
from dspy.clients.errors import wrap_error
from dspy.utils import exceptions as dspy_errors

from dspex import errors
from dspex.errors import hidden
from dspex.worker import fault_table

_TEXT_KEPT = 4000
_PAYMENT_REQUIRED = 402
# What a server says of a path, or a method, that it does not have.
_NOT_THERE = frozenset({404, 405})
_METHOD_NOT_ALLOWED = 405
_WRONG_PLACE = "check base_url, if one is given (does it end in /v1?), and the model"
_UNREACHED = "check the server's address (base_url) and, behind a proxy, the variables *_PROXY and no_proxy"
_NOT_THE_API = (
    "what answered is not the provider's API but a web page, a redirect or the like: check base_url, and any "
    "gateway or proxy on the way"
)
_ADVICE: dict[type[errors.DspexError], str] = {
    errors.LMAuth: "check the key of this LM (api_key=..., or the provider's variable)",
    errors.LMRateLimited: "ask less at once, or raise LM(retry=Retry(attempts=...)) and the timeout",
}
# DSPy knows the big providers' words for it; these are llama.cpp's and vLLM's.
_TOO_LONG = re.compile(r"exceeds? the (available |maximum )?context|maximum context length", re.IGNORECASE)
# A page that is the whole message, but for LiteLLM's words before it, and what engines say of a reply that is
# none of the API's.
_PAGE = re.compile(
    r"(litellm\.\w+: )?(\w+: )?(\w+ - )?\s*(<(!doctype )?html|Error code: 3\d\d)"
    r"|.*(the reply \(HTTP \d+|Error converting to valid response|Empty or invalid response from)",
    re.IGNORECASE | re.DOTALL,
)
# LiteLLM gives a server that cannot be reached the status 500.
_NO_CONNECTION = re.compile(r"Connection error\.|Cannot connect|APIConnectionError")
_HERE = str(Path(__file__).parent) + os.sep
_THREADS = str(Path(concurrent.futures.__file__).parent) + os.sep
_DSPY = str(Path(dspy_errors.__file__).parents[1]) + os.sep
_IMPORT = ("<frozen importlib", str(Path(importlib.__file__).parent) + os.sep)


class Ended(BaseException):
    """Ends a call with an error, whatever its program catches.

    Attributes:
        error: The call's error.
    """

    def __init__(self, error: errors.DspexError) -> None:
        super().__init__(error.message)
        self.error = error


def kind_of(error: BaseException) -> type[errors.DspexError] | None:
    """The dspex class for a failure that keeps its own code; None for any exception of the user's code."""
    own = _refused(error)
    if own is not None:
        return type(own)
    row = fault_table.find(type(error))
    if type(error) is dspy_errors.LMUnexpectedError and error.__cause__ is not None:
        # DSPy did not know what the engine had raised; the table may.
        known = fault_table.find(type(error.__cause__))
        row = row if known == fault_table.PYTHON else known
    if row == fault_table.PYTHON:
        return None
    told = _as_dspy(error)
    if isinstance(row, str):
        row = fault_table.find(type(told))
        assert not isinstance(row, str)
    if not issubclass(row, errors.LMError):
        return row
    if _is_page(told):
        return errors.LMUnavailable
    if getattr(told, "status", None) == _METHOD_NOT_ALLOWED:
        return errors.LMInvalidRequest
    # Not every engine knows what "payment required" means.
    return errors.LMBilling if getattr(told, "status", None) == _PAYMENT_REQUIRED else row


def _refused(error: BaseException) -> errors.DspexError | None:
    """Why an LM request was not sent, where that is what DSPy did not expect: a budget, a breaker."""
    cause = error.__cause__ if type(error) is dspy_errors.LMUnexpectedError else None
    return cause if isinstance(cause, errors.DspexError) else None


def _as_dspy(error: BaseException) -> Any:
    """A failure with what DSPy's errors have: a status, a wait, a model. Engines have names of their own."""
    if isinstance(error, dspy_errors.DSPyError) or not isinstance(error, Exception):
        return error
    return wrap_error(to_lm15_error(error), model=getattr(error, "model", None) or "")


def _is_page(error: Any) -> bool:
    """Whether something else than the provider's API has answered."""
    status = getattr(error, "status", None)
    moved = isinstance(status, int) and 300 <= status < 400
    # Only the API gives a code; its message may quote a page.
    by_api = getattr(error, "provider_code", None) is not None
    return moved or (not by_api and _PAGE.match(_text(error.message)) is not None)


def _is_wrong_place(error: Any) -> bool:
    """Whether a server has answered that knows nothing of the API, or not there."""
    by_api = getattr(error, "provider_code", None) is not None
    return not _text(error.message).strip() or (not by_api and getattr(error, "status", None) in _NOT_THERE)


def translate(error: BaseException, secrets: Iterable[str] = ()) -> errors.DspexError:
    """The dspex error that says what ``error`` says.

    An exception of the user's own code becomes ``python_error`` with its type, message and frames.

    Args:
        error: What was raised while a call ran.
        secrets: Strings that must not leave the worker; a provider may repeat a key in its message.
    """
    if isinstance(error, MemoryError):
        # What its frames hold is what there was no room for; without it there is room to say so.
        traceback.clear_frames(error.__traceback__)
    return _cut(hidden.from_error(_translate(error), secrets))


def _translate(error: BaseException) -> errors.DspexError:
    if isinstance(error, Ended):
        return error.error
    if isinstance(error, errors.DspexError):
        return error
    if (own := _refused(error)) is not None:
        return own
    if isinstance(error, dspy_errors.AdapterParseError):
        return _parse_error(error)
    if isinstance(error, BaseExceptionGroup):
        return _of_group(error)
    kind = kind_of(error)
    if kind is errors.LMInvalidRequest and _TOO_LONG.search(_text(error)):
        kind = errors.LMContextWindow
    if kind is None:
        return python_error("", error)
    if kind is errors.SandboxError:
        return kind(_text(error), details={"type": type(error).__qualname__, "message": _text(error)})
    return _lm_error(kind, _as_dspy(error))


def _of_group(group: BaseExceptionGroup[Any]) -> errors.DspexError:
    """What a group of tasks raised: the first of failures that all keep their code, else the group."""
    leaves = list(_leaves(group))
    if all(_keeps_code(leaf) for leaf in leaves):
        return _translate(leaves[0])
    return python_error("", group)


def _leaves(group: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _keeps_code(error: BaseException) -> bool:
    return isinstance(error, errors.DspexError) or kind_of(error) is not None


def _cause_of(error: BaseException) -> dict[str, Any] | None:
    """The failure with a code of its own that an exception was raised ``from``, or None."""
    cause, seen = error.__cause__, {id(error)}
    while cause is not None and id(cause) not in seen:
        if _keeps_code(cause):
            told = _translate(cause)
            return {name: told.to_wire()[name] for name in ("code", "message", "retryable", "retry_after")}
        seen.add(id(cause))
        cause = cause.__cause__
    return None


def python_error(doing: str, error: BaseException) -> errors.PythonError:
    """An exception of the user's code, with where it was raised and what it was raised from.

    Args:
        doing: What was being done, to begin the message with.
        error: The exception.
    """
    text = _text(error)
    details: dict[str, Any] = {"type": type(error).__qualname__, "message": text, "frames": frames(error)}
    if (cause := _cause_of(error)) is not None:
        details["cause"] = cause
    return errors.PythonError(f"{doing}{type(error).__name__}: {text}", details=details)


def _lm_error(kind: type[errors.DspexError], error: Any) -> errors.DspexError:
    names = ("model", "provider", "provider_code", "status")
    facts = {name: value for name in names if (value := getattr(error, name, None)) is not None}
    # DSPy's own advice names settings that users of dspex do not have.
    text = _text(error).partition("\n\n  To fix:")[0] or type(error).__name__
    if not _text(error.message).strip() and "status" in facts:
        text = f"{text} HTTP {facts['status']}"
    advice = _ADVICE.get(kind)
    if _is_page(error):
        advice = _NOT_THE_API
    elif kind in {errors.LMInvalidRequest, errors.LMUnsupported} and _is_wrong_place(error):
        advice = _WRONG_PLACE
    elif kind is errors.LMUnavailable and (
        getattr(error, "status", None) is None or _NO_CONNECTION.search(text)
    ):
        advice = _UNREACHED
    return kind(
        f"{text}; {advice}" if advice else text,
        details=facts,
        retry_after=getattr(error, "retry_after", None),
    )


def _parse_error(error: Any) -> errors.ParseError:
    fields = error.signature.output_fields
    wanted, found = list(fields), list(error.parsed_result or {})
    missing = [name for name in wanted if name not in found]
    if missing:
        json = "" if error.adapter_name == "JSONAdapter" else "adapter='json', "
        message = (
            f"the model's text does not have the outputs {', '.join(missing)}; {json}a larger max_tokens or "
            "a stronger model may help"
        )
    else:
        types = ", ".join(f"{name}: {_type_name(info.annotation)}" for name, info in fields.items())
        message = (
            f"the model's text has its outputs, but not all are what was declared ({types}); say more in the "
            "signature, or take a stronger model"
        )
    return errors.ParseError(
        message,
        details={
            "text": str(error.lm_response),
            "adapter": error.adapter_name,
            "expected": wanted,
            "found": found,
        },
    )


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def _text(said: object) -> str:
    try:
        return str(said)
    except Exception:  # noqa: BLE001 (a class of the user's may do anything here)
        return "(what it says cannot be read)"


def _cut(error: errors.DspexError) -> errors.DspexError:
    error.message = error.message[:_TEXT_KEPT]
    error.args = (error.message,)
    for told in (error.details, error.details.get("cause")):
        if isinstance(told, dict):
            for name in ("text", "message"):
                if isinstance(told.get(name), str):
                    told[name] = told[name][:_TEXT_KEPT]
    return error


def frames(error: BaseException) -> list[dict[str, Any]]:
    """Where the user's code was, outermost first: file, line, function and source line of each frame.

    Frames of dspex, DSPy, imports and the thread pool are left out, unless nothing else remains. A file that
    is no Python has no frame, and its place is told instead.
    """
    found = list(traceback.extract_tb(error.__traceback__))
    users = [frame for frame in found if not is_not_users(frame.filename)]
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        source = (error.text or "").strip()
        users.append(traceback.FrameSummary(error.filename, error.lineno, "<module>", line=source))
    return [
        {"file": frame.filename, "line": frame.lineno, "function": frame.name, "source": frame.line or ""}
        for frame in (users or found[-3:])
    ]


def is_not_users(file: str) -> bool:
    """Whether code in that file is dspex's, DSPy's or Python's own machinery."""
    return file.startswith((_HERE, _DSPY, _THREADS, *_IMPORT))
