"""The bridge's commands, the operator's own among them, and the values that come back from a real worker."""

from __future__ import annotations

import logging
import math
import queue
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import dspex
from dspex.worker.installed import installed
from tests.commands import Result


@pytest.fixture(scope="module")
def runtime() -> Iterator[dspex.Runtime]:
    with dspex.Runtime(
        pools={"general": dspex.PoolOptions(workers=1)},
        settings=dspex.Settings(allow_modules=("tests.commands",)),
    ) as running:
        yield running


@dataclass
class Call:
    """Named like a message of the channel's own."""

    id: int
    command: str
    deadline: float | None = None


class Lines(logging.Handler):
    """Hands on each record that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.records: queue.Queue[logging.LogRecord] = queue.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.put(record)

    def next(self) -> Any:
        return self.records.get(timeout=10)


@pytest.fixture
def lines() -> Iterator[Lines]:
    log, handler = logging.getLogger("dspex.output"), Lines()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield handler
    log.removeHandler(handler)
    log.setLevel(level)


# The worker's own


def test_ping_and_stats_answer(runtime: dspex.Runtime) -> None:
    """An operator could not see whether a worker lives, and what it does."""
    pool = runtime.pool()
    assert pool.execute("ping") == "pong"
    stats = pool.execute("get_stats")
    [worker] = runtime.stats().pools["general"].workers
    assert stats.keys() == {"pid", "in_flight", "done", "programs", "python", "dspy"}
    assert (stats["pid"], stats["in_flight"]) == (worker.pid, 0)
    assert pool.execute("get_stats")["done"] == stats["done"] + 1


def test_describe_tells_fields_and_schemas(runtime: dspex.Runtime) -> None:
    """A server in front could not say what a program takes and gives."""
    told = runtime.pool().execute(
        "describe",
        {
            "signature": "q: list[int], day: date -> mood: Literal['a', 'b'], any: Any",
            "module": "ChainOfThought",
        },
    )
    assert told["module"] == "dspy.ChainOfThought"
    assert told["instructions"] == "Given the fields `q`, `day`, produce the fields `mood`, `any`."
    assert {name: field["schema"] for name, field in told["inputs"].items()} == {
        "q": {"type": "array", "items": {"type": "integer"}},
        "day": {"type": "string", "format": "date"},
    }
    assert list(told["outputs"]) == ["reasoning", "mood", "any"]
    assert told["outputs"]["mood"]["schema"] == {"enum": ["a", "b"], "type": "string"}
    assert told["outputs"]["any"] == {"type": "Any", "schema": {}, "description": None, "required": True}


def test_describe_alone_lists_commands_and_modules(runtime: dspex.Runtime) -> None:
    """A caller could not find out what may be asked."""
    runtime.pool().execute("tests.add", {"a": 1})  # the operator's are known once one was asked for
    told = runtime.pool().execute("describe")
    assert told["modules"] == list(installed().modules)
    assert {"ping", "echo", "describe", "execute_module", "run", "get_stats", "tests.add"} <= set(
        told["commands"]
    )


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({"sig": "a -> b"}, dspex.InvalidInput),
        ({"signature": 5}, dspex.InvalidSignature),
        ({"signature": "a -> b", "module": "dspy.Predikt"}, dspex.ModuleNotFound),
        ({"signature": "reasoning -> b", "module": "ChainOfThought"}, dspex.InvalidSignature),
    ],
)
def test_describe_refuses_what_it_cannot_describe(
    runtime: dspex.Runtime, args: dict[str, Any], error: type[Exception]
) -> None:
    """A mistake would be described as something else, or as an error of the user's code."""
    with pytest.raises(error):
        runtime.pool().execute("describe", args)


ODD: list[Any] = [
    (1, "a", ()),
    {1, 2},
    frozenset({"a"}),
    b"\x00\xff",
    [True, 1, 1.0, -0.0, math.inf, 2**70, None],
    "U+0000 \x00 and \U0001f600",
    {"id": 1, "error": "none", "type": "Fault", "data": {}, "code": "worker_lost"},
    {1: "int key", (2, 3): "tuple key", None: 0},
    [[[[{"deep": [()]}]]]],
    Result(7, "is no error"),
    [Call(1, "echo"), {"call": Call(2, "shutdown", 0.0)}],
]


@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:30])
def test_echo_gives_back_what_it_was_given(runtime: dspex.Runtime, value: Any) -> None:
    """A value would change on its way, or be taken for a message of the channel."""
    back = runtime.pool().execute("echo", {"value": value})["value"]
    assert back == value
    assert repr(back) == repr(value)


def test_echo_gives_back_nan_and_ten_megabytes(runtime: dspex.Runtime) -> None:
    """A number that is none would become one, or a long text block the channel."""
    text = "xyzzy ü " * 1_250_000
    back = runtime.pool().execute("echo", {"nan": math.nan, "text": text})
    assert math.isnan(back["nan"])
    assert back["text"] == text


# The operator's


def test_an_operators_commands_run(runtime: dspex.Runtime) -> None:
    """What an operator registers could not be called."""
    pool = runtime.pool()
    assert pool.execute("tests.add", {"a": 1, "b": 2.5}) == 3.5
    assert pool.execute("tests.add", {"a": 1}) == 2
    assert pool.execute("tests.await", {"text": "ü"}) == ["ü", "awaited"]


@pytest.mark.parametrize("command", ["tests.fail", "tests.afail"])
@pytest.mark.parametrize(
    ("how", "type_", "message"),
    [
        ("value", "ValueError", "no good"),
        ("exit", "SystemExit", "3"),
        ("interrupt", "KeyboardInterrupt", ""),
        ("timeout", "TimeoutError", "too late"),
        ("cancelled", "CancelledError", "from inside"),
        ("mute", "Mute", None),
        ("stop", None, None),
    ],
)
def test_a_commands_exception_is_told_with_its_frames(
    runtime: dspex.Runtime, command: str, how: str, type_: str | None, message: str | None
) -> None:
    """A user would not learn what failed in his code and where, or would wait and lose the worker."""
    pid = runtime.pool().execute("get_stats")["pid"]
    with pytest.raises(dspex.PythonError) as caught:
        runtime.pool().execute(command, {"how": how}, timeout=1)
    details = caught.value.details
    if type_ is not None:
        assert details["type"] == type_
        names = [(Path(frame["file"]).name, frame["function"]) for frame in details["frames"]]
        assert names == [("commands.py", command.partition(".")[2]), ("commands.py", "_deeper")]
        assert details["frames"][-1]["source"] == "raise RAISED[how]()"
    if message is not None:
        assert details["message"] == message
    assert runtime.pool().execute("get_stats")["pid"] == pid


def test_a_message_that_is_not_text_is_still_told(runtime: dspex.Runtime) -> None:
    """Half a surrogate pair in an exception would leave its call without an answer."""
    with pytest.raises(dspex.PythonError, match="half a"):
        runtime.pool().execute("tests.fail", {"how": "surrogate"}, timeout=5)


def test_an_error_of_ours_keeps_its_code(runtime: dspex.Runtime) -> None:
    """A budget error raised in a command would come as an error of the user's code."""
    with pytest.raises(dspex.BudgetExceeded, match="too dear") as caught:
        runtime.pool().execute("tests.fail", {"how": "own"})
    assert caught.value.details == {"limit": 3}
    assert caught.value.retry_after == 2.0
    with pytest.raises(dspex.BudgetExceeded, match="too dear"):
        runtime.pool().execute("tests.fail", {"how": "unsendable"})


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_what_a_command_prints_is_logged(runtime: dspex.Runtime, lines: Lines, stream: str) -> None:
    """A print would break the channel, or be lost."""
    assert runtime.pool().execute("tests.say", {"text": "hello ü", "to": stream}) == "said"
    [worker] = runtime.stats().pools["general"].workers
    record = lines.next()
    assert (record.name, record.levelname, record.getMessage()) == ("dspex.output", "INFO", "hello ü")
    assert (record.worker, record.pid, record.stream) == (worker.number, worker.pid, stream)


def test_bytes_written_past_python_are_logged(runtime: dspex.Runtime, lines: Lines) -> None:
    """A C library that writes to descriptor 1 would be taken for the worker's answer."""
    assert runtime.pool().execute("tests.write", {"text": "one\ntwo %s\n"}) is None
    said = sorted((record.stream, record.getMessage()) for record in (lines.next() for _ in range(4)))
    assert said == [("stderr", "one"), ("stderr", "two %s"), ("stdout", "one"), ("stdout", "two %s")]


def test_an_unknown_command_is_refused(runtime: dspex.Runtime) -> None:
    """A misspelled command would wait, or be looked up among Python's own functions."""
    for name in ("tests.ad", "os.system", "__import__", ""):
        with pytest.raises(dspex.NotAllowed, match=r"Known: .*ping") as caught:
            runtime.pool().execute(name, {})
        assert caught.value.details == {"command": name}


@pytest.mark.parametrize("args", [{}, {"a": 1, "c": 2}, {"b": 1}])
def test_wrong_arguments_are_refused(runtime: dspex.Runtime, args: dict[str, Any]) -> None:
    """A wrong call would look like a mistake inside the command."""
    with pytest.raises(dspex.InvalidOption, match="argument") as caught:
        runtime.pool().execute("tests.add", args)
    assert caught.value.details == {"command": "tests.add"}


def test_what_cannot_be_sent_comes_as_a_marker(runtime: dspex.Runtime) -> None:
    """One socket in a result would cost the rest of it."""
    pool = runtime.pool()
    got = pool.execute("tests.result", {"what": "socket"})
    assert got["ok"] == 1
    assert isinstance(got["socket"], dspex.Unsendable)
    assert got["list"] == [1, dspex.Unsendable("tuple_iterator")]
    assert pool.execute("tests.result", {"what": "function"}) == dspex.Unsendable("function")
    assert pool.execute("tests.result", {"what": "record"}) == {"id": 1, "error": "none"}
    assert len(pool.execute("tests.result", {"what": "large"})) == 10_000_000
    with pytest.raises(dspex.ResultTooLarge, match="contains itself"):
        pool.execute("tests.result", {"what": "itself"})


def test_commands_of_a_module_that_is_not_allowed_do_not_run() -> None:
    """A module that happens to be imported in a worker would be open to every caller."""
    pools = {"general": dspex.PoolOptions(workers=1, preload=("tests.commands",))}
    with dspex.Runtime(pools=pools, settings=dspex.Settings(allow_modules=("tests.more",))) as runtime:
        with pytest.raises(dspex.NotAllowed, match=r"tests\.add"):
            runtime.pool().execute("tests.add", {"a": 1})
