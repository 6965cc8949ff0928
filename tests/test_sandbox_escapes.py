"""Code that tries to get out of its sandbox, or to take the machine with it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dspy.primitives.code_interpreter import CodeExecutionError

from dspex.errors import PythonTimeout
from dspex.worker.sandbox.interpreter import Interpreter
from tests.processes import alive, until
from tests.sandboxes import KINDS, SHORT, opened, refused

SECRET = "canary-4711"


@pytest.fixture(scope="module", params=KINDS)
def shared(request: pytest.FixtureRequest) -> Iterator[Interpreter]:
    with opened(request.param) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(shared: Interpreter) -> Iterator[Interpreter]:
    """One that still works after the test."""
    yield shared
    assert shared.execute("40 + 2") == 42


@pytest.fixture(scope="module")
def deno() -> Iterator[Interpreter]:
    with opened("deno") as sandbox:
        yield sandbox


@pytest.mark.parametrize(
    "code",
    [
        "open('{file}').read()",
        "import io\nio.open('{file}').read()",
        "import os\nos.listdir('{folder}')[0]",
        "import os\nos.read(os.open('{file}', 0), 100)",
        "import pathlib\npathlib.Path('{file}').read_text()",
        "import os\nos.environ['SANDBOX_SECRET']",
        "import os\nos.getenv('SANDBOX_SECRET').upper()",
        "import subprocess\nsubprocess.check_output(['id'])",
        "import os\nos.system('id') or 1 / 0",
        "import os\nos.fork()",
        "import ctypes\n1 / ctypes.CDLL(None).fopen(b'{file}', b'r')",
        "import multiprocessing\nmultiprocessing.Process(target=print).start()",
        "import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)",
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}/')",
        "import importlib\nimportlib.import_module('dspex').__version__",
        "[c for c in ().__class__.__base__.__subclasses__() if c.__name__ == 'Popen'][0](['id'])",
        "__import__('subprocess').run(['id'])",
        "open('/proc/self/environ').read()",
        "open('{folder}/made', 'w').write('x') and open('{file}')",
    ],
)
def test_nothing_of_the_machine_is_reached(
    sandbox: Interpreter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """If this failed, code that a model wrote would read keys, start programs, or reach the network."""
    monkeypatch.setenv("SANDBOX_SECRET", SECRET)
    file = tmp_path / "secret"
    file.write_text(SECRET)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        filled = code.replace("{file}", str(file)).replace("{folder}", str(tmp_path))
        told = refused(sandbox, filled.replace("{port}", str(port)))
        with pytest.raises(BlockingIOError):
            server.accept()
    assert SECRET not in told
    assert [each.name for each in tmp_path.iterdir()] == ["secret"]


_JS = """
import pyodide_js
_function = pyodide_js.constructor.constructor
def _js(text):
    try:
        return str(_function(text)())
    except BaseException as error:
        return "refused: " + str(error)
"""


@pytest.mark.parametrize(
    "text",
    [
        "return Deno.readTextFileSync('{file}')",
        "return Deno.env.get('SANDBOX_SECRET')",
        "return new Deno.Command('id').outputSync()",
        "return Deno.dlopen('libc.so.6', {})",
        "return process.env.SANDBOX_SECRET.length",
        "return process.binding('fs')",
        "return require('node:fs').readFileSync('{file}')",
        "return process.getBuiltinModule('node:fs').readFileSync('{file}').toString()",
        "return process.getBuiltinModule('node:child_process').execSync('id')",
        "return Deno.openSync('/proc/self/environ')",
        "return new Worker('data:text/javascript,1', {type: 'module'})",
    ],
)
def test_nothing_is_reached_by_javascript(
    deno: Interpreter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """If this failed, Python code could go by the JavaScript around it to what only Deno may do."""
    monkeypatch.setenv("SANDBOX_SECRET", SECRET)
    file = tmp_path / "secret"
    file.write_text(SECRET)
    told = deno.execute(f"{_JS}\n_js({text.replace('{file}', str(file))!r})")
    assert told.startswith("refused: "), told
    assert SECRET not in told


@pytest.mark.parametrize(
    "address",
    [
        "node:fs",
        "npm:lodash",
        "jsr:@std/io",
        "https://deno.land/std@0.186.0/io/mod.ts",
        "http://127.0.0.1:{port}/x.js",
        "file://{file}",
    ],
)
def test_no_module_is_imported(deno: Interpreter, tmp_path: Path, address: str) -> None:
    """If this failed, generated code could fetch a program, and tell the server what it knows by asking."""
    file = tmp_path / "secret.mjs"
    file.write_text(f"export default {SECRET!r}")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        wanted = address.replace("{file}", str(file)).replace("{port}", str(server.getsockname()[1]))
        opened = f"m.readFileSync ? m.readFileSync('{file}').toString() : m.default"
        code = f"""{_JS}
try:
    _found = await _function("return import({wanted!r}).then(m => {opened})")()
except BaseException as error:
    _found = "refused: " + str(error)
str(_found)
"""
        told = deno.execute(code)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert told.startswith("refused: "), told


BOMBS = {
    "time": "while True: pass",
    "memory": "x = []\nwhile True: x.append('x' * 1000000)",
    "one value": "x = 'x' * 4_000_000_000",
    "recursion": "def f(n): return f(n + 1)\nf(0)",
    "number": "10 ** 10 ** 9",
    "pattern": "import re\nre.match('(a+)+$', 'a' * 64 + 'b')\nwhile True: pass",
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_bomb_goes_off_inside(kind: str, bomb: str) -> None:
    """If this failed, one answer of a model would take a worker's memory, or its time, for ever."""
    with opened(kind, SHORT) as sandbox:
        sandbox.execute("1")
        told = refused(sandbox, BOMBS[bomb])
        assert told.startswith(("TimeoutError", "MemoryError", "RecursionError", "OverflowError")), told
        assert sandbox.execute("40 + 2") == 42


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("for _ in range(3000): print('x' * 100)", "more characters were cut off"),
        ("'x' * 1_000_000", "give less"),
        ("list(range(100_000))", "give less"),
    ],
)
def test_output_is_bounded(sandbox: Interpreter, code: str, said: str) -> None:
    """If this failed, a program that prints for ever would fill the worker and the model's next prompt."""
    try:
        told = sandbox.execute(code)
    except Exception as error:
        told = str(error)
    assert said in told
    assert len(told) < 20_000


@pytest.mark.parametrize(
    "code",
    [
        "print('{\"ready\": true}')",
        'print(\'{"id": "0", "value": "spoofed"}\')',
        "import sys\nsys.stdout.write('{\"final\": {}}\\n')\nNone",
        "import os\nos.write(1, b'{\"value\": 1}\\n' * 1000)\nprint('done')",
    ],
)
def test_what_is_printed_is_no_message(deno: Interpreter, code: str) -> None:
    """If this failed, a line of a program's output could be taken for the sandbox's own word."""
    assert isinstance(deno.execute(code), str)
    assert deno.execute("40 + 2") == 42


@pytest.mark.parametrize(
    "code",
    [
        "import sys\nsys.modules['_dspex_inside'].Session.answer = None\nsys.modules['json'].dumps = None",
        "import gc\nfor o in gc.get_objects():\n    if type(o).__name__ == 'Session': o._run = 'other'",
        "import builtins\nbuiltins.str = builtins.list = builtins.isinstance = None",
        "import sys, os\nsys.exit(3)",
        "raise KeyboardInterrupt",
        "import os\nos._exit(0)",
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        "import sys\nsys.stdout = None\nprint('x')",
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
    ],
)
def test_a_broken_sandbox_is_replaced(code: str) -> None:
    """If this failed, code that destroys what runs it would take the calls after it along."""
    with opened("deno", SHORT) as sandbox:
        told = [_tried(sandbox, code), _tried(sandbox, "1"), _tried(sandbox, "1")]
        assert all("lost" in each for each in told[1:] if each != "1"), told
        assert sandbox.execute("40 + 2") == 42


def _tried(sandbox: Interpreter, code: str) -> str:
    """What a block gives, or what the model is told instead."""
    try:
        return str(sandbox.execute(code))
    except (CodeExecutionError, SyntaxError) as error:
        return str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_the_deadline_of_the_call_ends_it(kind: str) -> None:
    """If this failed, generated code would run on when nobody waits for it any more."""
    with opened(kind, deadline=time.monotonic() + 1.5) as sandbox:
        with pytest.raises(PythonTimeout):
            _run_again(sandbox)


def _run_again(sandbox: Interpreter) -> None:
    for _ in range(10):
        with contextlib.suppress(CodeExecutionError):
            sandbox.execute("while True: pass")


def test_a_monty_process_has_nothing_of_the_workers() -> None:
    """If this failed, Monty's process would inherit keys, or the channel to the supervisor."""
    with opened("monty") as sandbox:
        sandbox.execute("1")
        session: Any = getattr(sandbox, "_session")  # noqa: B009
        pid = session.worker_pid
        assert (Path(f"/proc/{pid}/environ").read_bytes()) == b""
        assert os.getpgid(pid) == os.getpgrp()
    until(lambda: not alive(pid))


def test_values_come_as_they_are(sandbox: Interpreter) -> None:
    """If this failed, large numbers would kill a session, and control characters break the pipe."""
    values: tuple[Any, ...] = (
        2**70, -(2**53) - 1, 1.5, True, None, "\x00\x1b\n\r\u2028é😀", [1, [2.0, None]], {"a": {"b": []}},
    )  # fmt: skip
    for value in values:
        given = sandbox.execute("v", {"v": value})
        assert given == ("" if value is None else value)
        assert type(given) is type("" if value is None else value)
    assert sandbox.execute("(1, {2})") == [1, [2]]
    assert json.loads(json.dumps(sandbox.execute("{1: b'x'}"))) == {"1": "b'x'"}


def test_a_large_value_goes_in(sandbox: Interpreter) -> None:
    """If this failed, an input of megabytes could not be looked at by code, which is what RLM is for."""
    text = "é" * 2_000_000
    assert sandbox.execute("len(v)", {"v": text}) == len(text)
