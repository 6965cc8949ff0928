"""Modules that write code, through a real runtime: what they answer, how they fail, and what they leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import dspex
from tests.processes import alive, descendants, until
from tests.provider import Provider, fields, sequence
from tests.sandboxes import KINDS, need

SUM = "```python\nx = sum(range(10))\nSUBMIT({'answer': x})\n```"
LOOP = "```python\nwhile True:\n    pass\n```"


@pytest.fixture(scope="module")
def serving() -> Iterator[tuple[Provider, dspex.Runtime]]:
    for kind in KINDS:
        need(kind)
    with (
        Provider() as provider,
        dspex.Runtime(
            dspex.LM("openai/x", base_url=provider.base_url, api_key="k", retry=dspex.Retry(attempts=1)),
            pools={"general": dspex.PoolOptions(workers=1, grace=0.3)},
            settings=dspex.Settings(file=False, sandbox_seconds=3.0),
        ) as runtime,
    ):
        yield provider, runtime


def think(
    serving: tuple[Provider, dspex.Runtime], *codes: str, sandbox: Any = "auto", **more: Any
) -> dspex.Response:
    """A ProgramOfThought whose model writes these programs in turn."""
    provider, runtime = serving
    written = [fields(reasoning="r", generated_code=code) for code in codes]
    provider.reply = sequence(*written, fields(reasoning="so", answer="45"))
    return runtime.adapter().generate(
        "q", module="ProgramOfThought", signature="question -> answer", sandbox=sandbox, **more
    )


@pytest.mark.parametrize("sandbox", ["auto", *KINDS])
def test_a_program_is_written_run_and_told(serving: tuple[Provider, dspex.Runtime], sandbox: str) -> None:
    """If this failed, ProgramOfThought would not run, or its code and output be lost."""
    got = think(serving, "1 / 0", SUM, sandbox=sandbox)
    assert got.outputs == {"reasoning": "so", "answer": "45"}
    assert got.trajectory == [
        {"code": "1 / 0", "output": None, "error": "ZeroDivisionError: ['division by zero']"},
        {"code": SUM[10:-4], "output": '{"output": {"answer": 45}}', "error": None},
    ]
    assert len(got.requests) == 3


def test_auto_takes_deno_for_what_monty_does_not_have(serving: tuple[Provider, dspex.Runtime]) -> None:
    """If this failed, a module of the standard library, or a yield, would fail though Deno is installed."""
    code = "import statistics\nSUBMIT(statistics.mean([1, 2]))"
    assert think(serving, code).trajectory[0]["output"] == '{"output": 1.5}'
    code = "def f():\n    yield 1\nSUBMIT(list(f()))"
    assert think(serving, code).trajectory[0]["output"] == '{"output": [1]}'
    # Once a block has run, what it made is where it was made.
    later = think(serving, "x = 1\n1 / 0", code, SUM).trajectory
    assert "does not yet support yield" in later[1]["error"]


def test_code_that_never_runs_well(serving: tuple[Provider, dspex.Runtime]) -> None:
    """If this failed, the model's own failure would look like one of the user's code."""
    with pytest.raises(dspex.SandboxError, match="in 2 tries, the last: ZeroDivisionError") as caught:
        think(serving, "1 / 0", "1 / 0", max_iters=2)
    assert [each["code"] for each in caught.value.details["attempts"]] == ["1 / 0"] * 2


@pytest.mark.parametrize("sandbox", KINDS)
def test_code_that_runs_for_ever_is_told_to_the_model(
    serving: tuple[Provider, dspex.Runtime], sandbox: str
) -> None:
    """If this failed, an endless loop would take the whole call, and the model could not mend it."""
    got = think(serving, LOOP, SUM, sandbox=sandbox)
    assert got.trajectory[0]["error"].startswith("TimeoutError")
    assert got.answer == "45"


@pytest.mark.parametrize("sandbox", KINDS)
def test_the_deadline_holds_while_code_runs(serving: tuple[Provider, dspex.Runtime], sandbox: str) -> None:
    """If this failed, generated code could run past its call's deadline."""
    with pytest.raises(dspex.PythonTimeout):
        think(serving, LOOP, sandbox=sandbox, timeout=0.8)
    assert think(serving, SUM, sandbox=sandbox).answer == "45"


@pytest.mark.parametrize("sandbox", KINDS)
def test_code_calls_the_callers_functions(serving: tuple[Provider, dspex.Runtime], sandbox: Any) -> None:
    """If this failed, CodeAct and RLM would have no tools, or run a copy of them somewhere else."""
    provider, runtime = serving
    seen = []

    def add(a: int, b: int = 1) -> int:
        """Adds."""
        seen.append(os.getpid())
        return a + b

    async def fail(why: str) -> None:
        raise ValueError(why)

    code = "print(add(1, b=2), add(4))\ntry:\n    fail('no')\nexcept RuntimeError as e:\n    print(e)"
    provider.reply = sequence(
        fields(generated_code=code, finished=True), fields(reasoning="so", answer="done")
    )
    adapter = runtime.adapter()
    got = adapter.generate(
        "q", module="CodeAct", signature="question -> answer", tools=[add, fail], sandbox=sandbox
    )
    assert got.answer == "done"
    assert got.trajectory["code_output_0"] == '"3 5\\nValueError: no\\n"'
    assert seen == [os.getpid()] * 2

    explore = "```python\nprint(context[:3], add(3))\n```"
    submit = "```python\nSUBMIT(answer=context[-3:])\n```"
    provider.reply = sequence(fields(reasoning="r", code=explore), fields(reasoning="r", code=submit))
    got = adapter.generate(
        inputs={"context": "abcdef", "question": "q"},
        module="RLM",
        signature="context, question -> answer",
        tools=[add],
        sandbox=sandbox,
    )
    assert got.answer == "def"
    assert [each["output"] for each in got.trajectory] == ["abc 4\n", "FINAL: {'answer': 'def'}"]


def test_what_is_no_sandbox_is_refused(serving: tuple[Provider, dspex.Runtime]) -> None:
    """If this failed, code could run with all that this user may do, on a caller's word."""
    with pytest.raises(dspex.NotAllowed, match="allow_local_interpreter"):
        think(serving, SUM, sandbox="local")
    with pytest.raises(dspex.InvalidOption, match="sandbox is one of"):
        think(serving, SUM, sandbox="docker")
    with pytest.raises(dspex.InvalidOption, match="runs no code"):
        serving[1].adapter().generate("q", sandbox="monty")
    serving[0].requests.clear()


def _sandboxes() -> list[int]:
    found = []
    for pid in descendants(os.getpid()):
        try:
            name = psutil.Process(pid).name()
        except psutil.NoSuchProcess:
            continue
        if name in {"monty", "deno"}:
            found.append(pid)
    return found


@pytest.mark.parametrize("sandbox", KINDS)
def test_a_busy_sandbox_dies_with_its_worker(serving: tuple[Provider, dspex.Runtime], sandbox: str) -> None:
    """If this failed, generated code would compute on for ever after its worker was killed."""
    import threading

    def busy() -> None:
        with pytest.raises(dspex.DspexError):
            think(serving, LOOP, LOOP, LOOP, sandbox=sandbox, timeout=20)

    thread = threading.Thread(target=busy)
    thread.start()
    until(lambda: _sandboxes() and psutil.Process(_sandboxes()[0]).cpu_times().user > 0)
    (pid,) = _sandboxes()
    os.kill(psutil.Process(pid).ppid(), signal.SIGKILL)
    until(lambda: not alive(pid))
    serving[0].reply = lambda _: fields(reasoning="r", generated_code="1 / 0")
    thread.join(30)
    assert not thread.is_alive()


_SUPERVISOR = """
import sys, dspex
with dspex.Runtime(dspex.LM("openai/x", base_url=sys.argv[1], api_key="k"),
                   pools={"general": dspex.PoolOptions(workers=1)},
                   settings=dspex.Settings(file=False, sandbox_seconds=600.0)) as runtime:
    runtime.adapter(timeout=None).generate(
        "q", module="ProgramOfThought", signature="question -> answer", sandbox=sys.argv[2])
"""


@pytest.mark.parametrize("sandbox", KINDS)
def test_a_busy_sandbox_dies_with_its_supervisor(
    serving: tuple[Provider, dspex.Runtime], sandbox: str, tmp_path: Path
) -> None:
    """If this failed, a service that is killed would leave generated code running on the machine."""
    provider = serving[0]
    provider.reply = lambda _: fields(reasoning="r", generated_code=LOOP)
    script = tmp_path / "supervisor.py"
    script.write_text(_SUPERVISOR)
    child = subprocess.Popen([sys.executable, str(script), provider.base_url, sandbox])
    try:

        def busy() -> list[int]:
            found = []
            for pid in descendants(child.pid):
                try:
                    process = psutil.Process(pid)
                    if process.name() == sandbox and process.cpu_times().user > 0.2:
                        found.append(pid)
                except psutil.NoSuchProcess:
                    continue
            return found

        until(busy, 60)
        all_of_it = descendants(child.pid)
        child.kill()
        until(lambda: not any(map(alive, all_of_it)))
    finally:
        child.kill()
        child.wait()
