"""(h) ProgramOfThought: dspex's sandboxes against plain DSPy's, on a provider that answers at once."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from tests.provider import Provider, Reply, Request, fields

from bench.measure import Row, fresh, row, side_by_side

SIGNATURE = "question -> answer"
CODE = "```python\nSUBMIT({'answer': sum(n * n for n in range(1000))})\n```"
# What DSPy's runner imports from deno.land, so that it can be measured where that is not reached.
_READ_LINES = """
export async function* readLines(reader) {
  const decoder = new TextDecoder(); let rest = ""; const block = new Uint8Array(65536);
  for (;;) {
    const count = await reader.read(block); if (count === null) return;
    const lines = (rest + decoder.decode(block.subarray(0, count), { stream: true })).split("\\n");
    rest = lines.pop(); yield* lines;
  }
}
"""


def _reply(request: Request) -> Reply:
    if "code_output" in request.prompt.user:
        return fields(reasoning="It was computed.", answer="332833500")
    return fields(reasoning="Compute it.", generated_code=CODE)


def _of_dspex(base_url: str, sandbox: Any, calls: int) -> list[float]:
    import dspex

    lm = dspex.LM("openai/x", base_url=base_url, api_key="k")
    pools = {"general": dspex.PoolOptions(workers=1)}
    with dspex.Runtime(lm, pools=pools, settings=dspex.Settings(file=False)) as runtime:
        adapter = runtime.adapter()
        module = "ProgramOfThought"

        def once() -> None:
            got = adapter.generate("q", module=module, signature=SIGNATURE, sandbox=sandbox)
            assert got.trajectory[0]["error"] is None

        return [_timed(once) for _ in range(calls)]


def _of_dspy(base_url: str, calls: int) -> list[float]:
    import dspy
    from deno import find_deno_bin
    from dspy.primitives import python_interpreter

    deno = find_deno_bin()
    runner = Path(python_interpreter.__file__).with_name("runner.js")
    cache = python_interpreter.PythonInterpreter._query_deno_dir(deno)
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder, "lines.mjs")
        lines.write_text(_READ_LINES)
        imports = Path(folder, "imports.json")
        imports.write_text(
            f'{{"imports": {{"https://deno.land/std@0.186.0/io/mod.ts": "{lines.as_uri()}"}}}}'
        )
        command = [
            deno, "run", "--no-config", "--no-lock", "--node-modules-dir=false", f"--import-map={imports}",
            f"--allow-read={runner},{cache},{folder}", str(runner),
        ]  # fmt: skip
        lm = dspy.LM("openai/x", api_base=base_url, api_key="k", cache=False, engine="lm15")
        program = dspy.ProgramOfThought(
            SIGNATURE,
            interpreter_factory=lambda: python_interpreter.PythonInterpreter(deno_command=list(command)),
        )
        with dspy.context(lm=lm):
            return [_timed(lambda: program(question="q")) for _ in range(calls)]


def _timed(run: Any) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main(kind: str, base_url: str, calls: int) -> list[float]:
    """Seconds of each call."""
    return _of_dspy(base_url, calls) if kind == "dspy" else _of_dspex(base_url, kind, calls)


def _run(kind: str, base_url: str) -> list[float]:
    return list(fresh("bench.sandbox", kind=kind, base_url=base_url, calls=3))


def rows(rounds: int) -> list[Row]:
    """The first call, and those after it. Everything that is fetched once has been fetched."""
    from dspex.pyodide import start

    start.prepare()
    with Provider(_reply) as provider:
        base = provider.base_url
        fresh("bench.sandbox", kind="dspy", base_url=base, calls=1)  # it fetches Pyodide into Deno's cache
        kinds: dict[str, Any] = {kind: partial(_run, kind, base) for kind in ("dspy", "auto", "deno")}
        runs: dict[str, Any] = side_by_side(rounds, kinds)
    first = {kind: [1 / one[0] for one in found] for kind, found in runs.items()}
    later = {kind: [1 / min(one[1:]) for one in found] for kind, found in runs.items()}
    name = "ProgramOfThought"
    return [
        row(f"{name}, later calls, auto / PythonInterpreter", later["auto"], later["dspy"], "/s", ">= 20"),
        row(f"{name}, first call, deno / PythonInterpreter", first["deno"], first["dspy"], "/s", ">= 3"),
        row(f"{name}, first call, auto / PythonInterpreter", first["auto"], first["dspy"], "/s"),
        row(f"{name}, later calls, deno / PythonInterpreter", later["deno"], later["dspy"], "/s"),
    ]
