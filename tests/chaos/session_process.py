"""A service with sessions, in a process of its own: ``python -m tests.chaos.session_process STORE BASE_URL``.

Each line that it reads is something to do, as JSON; it does many at once, and tells what each came to on a
line of its own.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import dspex

ROOT = Path(__file__).parents[2]


class Service:
    """What the process does, by name."""

    def __init__(self, runtime: dspex.Runtime) -> None:
        self._adapter = runtime.adapter(timeout=60.0)

    async def chat(self, session: str, message: str, timeout: float = 60.0) -> dict[str, Any]:
        """Say something in a session."""
        opened = await self._adapter.asession(session)
        answer = await opened.achat(message, timeout=timeout)
        return {"reply": answer.reply, "recorded": answer.recorded}

    async def add(self, session: str, times: int) -> list[int]:
        """Count a variable up, so many times at once."""
        opened = await self._adapter.asession(session)
        adding = (opened.aupdate("count", lambda value: value + 1, 0) for _ in range(times))
        return list(await asyncio.gather(*adding))

    async def put(self, session: str, name: str, value: Any) -> None:
        """Set a variable."""
        await (await self._adapter.asession(session)).aset(name, value)

    async def create(self, session: str, name: str) -> str:
        """Make a program."""
        opened = await self._adapter.asession(session)
        program = await opened.acreate_program("question -> reply", name=name, instructions="version-one")
        return str(program.id)

    async def change(self, session: str, name: str, instructions: str) -> int:
        """Make another version of a program."""
        program = await (await self._adapter.asession(session)).aprogram(name)
        return int(await program.achange(instructions=instructions))

    async def execute(self, session: str, program: str, question: str) -> dict[str, Any]:
        """Run a program."""
        answer = await self._adapter.aexecute_program(program, {"question": question}, session_id=session)
        return {"reply": answer.reply, "recorded": answer.recorded}

    async def largest_file(self, size: int | None) -> None:
        """Have no file that is written grow above a size, as on a full disk."""
        most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (most if size is None else size, most))


async def _do(service: Service, asked: dict[str, Any]) -> None:
    told: dict[str, Any] = {"number": asked["number"]}
    try:
        told["value"] = await getattr(service, asked["do"])(**asked["args"])
    except dspex.DspexError as error:
        told["error"] = error.code
        told["message"] = error.message
    except Exception as error:
        told["error"] = f"{type(error).__name__}: {error}"
    print(json.dumps(told), flush=True)


async def main(store: str, base_url: str) -> None:
    """Serve until the input ends."""
    lm = dspex.LM("openai/x", base_url=base_url)
    pools = {"general": dspex.PoolOptions(workers=1)}
    async with dspex.Runtime(lm, pools=pools, store=store) as runtime:
        service = Service(runtime)
        print(json.dumps({"number": 0}), flush=True)
        async with asyncio.TaskGroup() as doing:
            while line := await asyncio.to_thread(sys.stdin.readline):
                doing.create_task(_do(service, json.loads(line)))


class Process:
    """Such a process, for a test.

    Args:
        store: Its store.
        base_url: Its provider.
    """

    def __init__(self, store: str, base_url: str) -> None:
        self._running = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.session_process", store, base_url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._told: dict[int, dict[str, Any]] = {}
        self._news = threading.Condition()
        self._asked = 0
        self._ended = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._wait(0)

    def _read(self) -> None:
        assert self._running.stdout is not None
        for line in self._running.stdout:
            told = json.loads(line)
            with self._news:
                self._told[told["number"]] = told
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def ask(self, do: str, **args: Any) -> int:
        """Have it do something; the number is for ``result``."""
        assert self._running.stdin is not None
        self._asked += 1
        self._running.stdin.write(json.dumps({"number": self._asked, "do": do, "args": args}) + "\n")
        self._running.stdin.flush()
        return self._asked

    def _wait(self, number: int) -> dict[str, Any]:
        with self._news:
            assert self._news.wait_for(lambda: number in self._told or self._ended, 90.0)
            assert number in self._told, "the process has ended"
            return self._told[number]

    def result(self, number: int) -> Any:
        """What something came to."""
        told = self._wait(number)
        assert "error" not in told, told
        return told["value"]

    def error(self, number: int) -> str:
        """The code of the error that something came to."""
        code = self._wait(number)["error"]
        assert isinstance(code, str)
        return code

    def do(self, do: str, **args: Any) -> Any:
        """Have it do something, and wait for what that comes to."""
        return self.result(self.ask(do, **args))

    def kill(self) -> None:
        """SIGKILL it."""
        self._running.kill()
        self._end()

    def close(self) -> None:
        """Have it end as a service does."""
        assert self._running.stdin is not None
        self._running.stdin.close()
        self._running.wait(60)
        self._end()

    def _end(self) -> None:
        self._running.wait(60)
        self._reader.join()
        for pipe in (self._running.stdin, self._running.stdout):
            assert pipe is not None
            pipe.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
