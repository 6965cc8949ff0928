"""A supervisor on a full disk: ``python -m tests.chaos.full_disk`` prints what became of its calls."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import dspex
from tests.chaos.figures import back_to, ends, pids
from tests.provider import Provider

MiB = 1024 * 1024


def is_full() -> bool:
    """Whether a small file cannot be written where temporary files go."""
    try:
        Path(os.environ["TMPDIR"], "more").write_bytes(b"x" * 8192)
    except OSError:
        return True
    return False


async def main() -> dict[str, object]:
    """Answer, pass a large value, write errors, and replace a lost worker."""
    settings = dspex.Settings(allow_modules=("tests.chaos.commands",))
    with Provider(record=False) as provider:
        lm = dspex.LM("openai/x", base_url=provider.base_url)
        pools = {"general": dspex.PoolOptions(workers=2)}
        async with dspex.Runtime(lm, pools=pools, settings=settings) as runtime:
            adapter, pool = runtime.adapter(timeout=60.0), runtime.pool("general")

            async def ask(number: int) -> None:
                answer = await adapter.agenerate(f"q{number}")
                assert answer.response == f"q{number}"

            await back_to(runtime, 2)
            asked = await ends(50, 8, ask)
            large = await pool.aexecute("echo", {"data": b"x" * (2 * MiB)})
            wrote = await ends(4, 4, lambda _: _write(pool))
            os.kill(pids(runtime)[0], signal.SIGKILL)
            await ends(50, 8, ask)
            await back_to(runtime, 2)
            again = await ends(50, 8, ask)
            return {
                "full": is_full(),
                "asked": asked,
                "large": len(large["data"]),
                "wrote": wrote,
                "again": again,
            }


async def _write(pool: dspex.Bridge) -> None:
    await pool.aexecute("chaos.write_error", {"text": "x" * 100_000})


if __name__ == "__main__":
    found = json.dumps(asyncio.run(main()))
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(found)
    else:
        sys.stdout.write(found + "\n")
