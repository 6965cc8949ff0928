"""The errors are the promise of SPEC.md's table, and survive every way in which one may travel."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import re
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import dspex
from dspex import errors
from dspex.errors import BY_CODE, DspexError, from_wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# SPEC.md's table as it stands there: group → codes, with R behind those that are retryable.
TABLE = {
    "Refused": """module_not_found, invalid_signature, invalid_input, invalid_option, unknown_provider,
        lm_not_configured, unknown_program, unknown_session, session_expired, payload_too_large,
        budget_exceeded, rate_limited R, not_allowed""",
    "PoolError": """pool_saturated R, queue_timeout R, pool_unhealthy R, pool_closed, worker_lost R,
        poison_call""",
    "CallError": """python_timeout, cancelled, python_error, tool_error, sandbox_error, sandbox_missing,
        parse_error, result_too_large""",
    "LMError": """lm_auth, lm_billing, lm_rate_limited R, lm_timeout R, lm_unavailable R, lm_context_window,
        lm_invalid_request, lm_unsupported, lm_circuit_open R""",
    "StateError": "store_error R, session_quota, conflict R",
}
PROMISED = {
    code: (group, retryable == "R")
    for group, codes in TABLE.items()
    for code, _, retryable in (entry.strip().partition(" ") for entry in codes.split(","))
}
DETAILS: dict[str, Any] = {
    "variable": "OPENAI_API_KEY",
    "id": 7,
    "error": {"type": "Boom", "frames": [["a.py", 3, "é\u0000"], None, True, 2.5]},
}
CANARY = "sk-canary-4711"


def family(root: type[DspexError] = DspexError) -> Iterator[type[DspexError]]:
    """Every class of the module, parents first."""
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from family(child)


CLASSES = list(family())
LEAVES = [kind for kind in CLASSES if not any(child in CLASSES for child in kind.__subclasses__())]


def full(kind: type[DspexError]) -> DspexError:
    """An error with every field away from its default."""
    return kind(
        "say what to do",
        details=copy.deepcopy(DETAILS),
        retry_after=1.5,
        request_id="r-1",
        retryable=not kind.retryable,
    )


def plain(kind: type[DspexError]) -> DspexError:
    """An error with nothing but its message."""
    return kind("say what to do")


def over_msgpack(fields: dict[str, Any]) -> Any:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(fields))


def over_json(fields: dict[str, Any]) -> Any:
    return msgspec.json.decode(msgspec.json.encode(fields))


def over_stdlib_json(fields: dict[str, Any]) -> Any:
    return json.loads(json.dumps(fields))


def pickled(protocol: int) -> Callable[[DspexError], Any]:
    return lambda error: pickle.loads(pickle.dumps(error, protocol))


WAYS: dict[str, Callable[[DspexError], Any]] = {
    "wire": lambda error: from_wire(error.to_wire()),
    "msgpack": lambda error: from_wire(over_msgpack(error.to_wire())),
    "json": lambda error: from_wire(over_json(error.to_wire())),
    "stdlib json": lambda error: from_wire(over_stdlib_json(error.to_wire())),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{f"pickle {protocol}": pickled(protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", [full, plain])
def test_every_error_keeps_its_class_and_every_field(
    make: Callable[[type[DspexError]], DspexError], way: str
) -> None:
    """A caller in another process would get another error than the one that happened."""
    for kind in CLASSES:
        before = make(kind)
        after = WAYS[way](before)
        assert type(after) is kind
        assert after is not before
        for name in ("message", "details", "retry_after", "request_id", "retryable", "code", "args"):
            assert getattr(after, name) == getattr(before, name), name
        assert after.args == ("say what to do",)
        assert after.to_wire() == before.to_wire()
        assert (str(after), repr(after)) == (str(before), repr(before))


def test_a_deep_copy_shares_nothing() -> None:
    """One caller that edits its error's details would edit another's."""
    before = full(errors.PythonError)
    copy.deepcopy(before).details["error"]["type"] = "other"
    assert before.details == DETAILS


def test_notes_survive_pickling() -> None:
    """What a caller added to an error would be lost on the way through a process pool."""
    error = errors.ToolError("no")
    error.add_note("while testing")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["while testing"]


def test_the_codes_are_those_of_the_specification() -> None:
    """A documented code would be missing, in another group, or wrongly retryable."""
    groups = {kind.__name__: kind for kind in DspexError.__subclasses__() if kind in CLASSES}
    assert list(groups) == list(TABLE)
    found = {
        kind.code: (group, kind.retryable)
        for group, parent in groups.items()
        for kind in parent.__subclasses__()
        if kind in CLASSES
    }
    assert found == PROMISED
    assert {kind.code for kind in LEAVES} == PROMISED.keys()


def test_codes_are_unique_and_named_after_their_classes() -> None:
    """A code could name two causes, or one that nobody can guess from the class."""
    assert len({kind.code for kind in CLASSES}) == len(CLASSES)
    assert {kind.code: kind for kind in CLASSES} == BY_CODE
    for kind in CLASSES:
        if kind is not DspexError:
            spaced = re.sub(r"(?<=LM)(?=[A-Z])|(?<=[a-z])(?=[A-Z])", "_", kind.__name__)
            assert kind.code == spaced.lower()


def test_every_class_can_be_imported_from_the_package() -> None:
    """A user could not name in an `except` what the package raises."""
    for kind in CLASSES:
        assert getattr(dspex, kind.__name__) is kind


@pytest.mark.parametrize(
    "fields", [{"code": "of_a_later_version", "message": "m", "details": {"a": 1}}, {"message": "m"}]
)
def test_an_unknown_code_gives_the_root_class(fields: dict[str, Any]) -> None:
    """An older caller could not read the error of a newer worker."""
    error = from_wire(fields)
    assert type(error) is DspexError
    assert error.message == "m"
    assert error.details == fields.get("details", {})


@pytest.mark.parametrize("code", [None, 7, ["lm_auth"], {"lm_auth": 1}])
def test_a_code_that_is_no_text_gives_the_root_class(code: object) -> None:
    """A broken worker's answer would raise in the supervisor, and its caller would wait for ever."""
    assert type(from_wire({"code": code, "message": "m"})) is DspexError


def test_the_docstring_shows_the_real_tree() -> None:
    """The tree at the top of the module would mislead its readers."""
    drawn = re.findall(r"^[ ]{4}([ │├└─]*)(\w+)(?:[ ]{2,}(.*))?$", inspect.getdoc(errors) or "", re.MULTILINE)
    shown: list[tuple[str, int, list[str]]] = []
    for branches, name, rest in drawn:
        kind = getattr(errors, name)
        marks = rest.split() if kind in LEAVES else []
        shown.append((name, len(branches) // 4, marks))

    def walk(kind: type[DspexError], depth: int) -> Iterator[tuple[str, int, list[str]]]:
        marks = [kind.code] + ["retryable"] * kind.retryable if kind in LEAVES else []
        yield kind.__name__, depth, marks
        for child in kind.__subclasses__():
            if child in CLASSES:
                yield from walk(child, depth + 1)

    assert shown == list(walk(DspexError, 0))


@pytest.mark.parametrize("code", PROMISED)
def test_an_error_is_caught_by_its_group_and_by_the_root(code: str) -> None:
    """`except dspex.LMError` would let one of the group through."""
    group = getattr(errors, PROMISED[code][0])
    others = tuple(getattr(errors, name) for name in TABLE if name != group.__name__)
    for wanted in (group, DspexError, Exception):
        with pytest.raises(wanted):
            raise BY_CODE[code]("m")
    assert not issubclass(BY_CODE[code], others)


def test_details_stay_out_of_the_texts() -> None:
    """A key that came along in the details of an error would reach a log."""
    for kind in CLASSES:
        error = kind("m", details={"header": f"Bearer {CANARY}"}, request_id="r-1")
        assert CANARY not in f"{error!r} {error!s} {error.args} {[error]}"
        assert repr(error) == f"{kind.__name__}('m', code={kind.code!r})"


def test_every_class_says_what_it_means_in_a_sentence() -> None:
    """Help on an error would say nothing."""
    for kind in CLASSES:
        assert kind.__doc__ != Exception.__doc__
        assert (kind.__doc__ or "").strip().split("\n")[0].endswith(".")


def test_the_first_request_id_stays() -> None:
    """An error that passes through an outer call would be filed under the wrong one."""
    error = errors.LMTimeout("m")
    assert error.for_request("r-1") is error
    assert error.for_request("r-2").request_id == "r-1"


def test_retryable_can_be_set_for_one_error_only() -> None:
    """One error that is worth another try would make its whole class so."""
    assert errors.LMAuth("m", retryable=True).retryable
    assert not errors.WorkerLost("m", retryable=False).retryable
    assert not errors.LMAuth("m").retryable
    assert errors.WorkerLost("m").retryable
