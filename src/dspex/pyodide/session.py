"""One conversation with a sandbox: blocks of code go in, what came of them comes out.

The process at the other end is in the hands of the code that it runs. So every line of its is a claim: it
is bounded in size and time, has to be what was asked for, and decides nothing but what the model is told.
"""

from __future__ import annotations

import json
import os
import resource
import secrets
import select
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dspex.errors import PythonTimeout
from dspex.process.tether import Tethered
from dspex.pyodide import start
from dspex.pyodide.outcome import Ended, Outcome
from dspex.types import SandboxRules

# What the process has of data before any code runs: Deno's own, and the heap that Pyodide starts with.
_OWN_DATA = 768 * 1024 * 1024
_START_LIMIT = 30.0  # seconds; it takes 0.5
_FILES = 64
_BLOCK = 1 << 18
_CLOCK = os.sysconf("SC_CLK_TCK")

Call = Callable[[str, dict[str, Any]], dict[str, Any]]


class Session:
    """A sandbox, started by its first block.

    Args:
        rules: What its code may take.
        deadline: Monotonic second at which the call ends; None never.
    """

    def __init__(self, rules: SandboxRules, deadline: float | None) -> None:
        self._rules = rules
        self._deadline = deadline
        # JSON writes a character in up to 12, and beside the text there is little.
        self._longest = 12 * rules.output + 4096
        self._process: Tethered | None = None
        self._read = bytearray()

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process, if it does not run.

        Raises:
            SandboxMissing: It is not installed.
            PythonTimeout: The deadline passed.
            Ended: It did not start.
        """
        if self._process is not None:
            return
        deno, snapshot = start.found(self._left(_START_LIMIT))
        self._process = Tethered(start.command(Path(deno), snapshot), start.environment())
        self._read.clear()
        most = _OWN_DATA + self._rules.memory
        # From outside, before any code is sent: nothing has to run in the child for it.
        for kind, limit in (
            (resource.RLIMIT_DATA, most),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_NOFILE, _FILES),
        ):
            resource.prlimit(self._process.pid, kind, (limit, limit))
        said = self._exchange(b"", self._left(_START_LIMIT))[0]
        if json.loads(said) != {"ready": True}:
            raise self._end("RuntimeError", "the sandbox did not start")

    def run(
        self,
        code: str,
        *,
        variables: Mapping[str, Any],
        functions: Sequence[Mapping[str, Any]],
        call: Call,
    ) -> Outcome:
        """Run a block of code.

        Args:
            code: The block.
            variables: JSON-ready values by the names that the block has for them.
            functions: Name and parameters of each function that it can call and did not know before.
            call: Calls one of these, and gives what the block is told: JSON-ready data as ``value``, or as
                ``error`` what it is to raise.

        Raises:
            SandboxMissing: It is not installed.
            PythonTimeout: The deadline passed.
            Ended: The block took more than it may, or broke the sandbox.
        """
        self.start()
        number = secrets.token_hex(8)
        asked = {
            "id": number,
            "code": code,
            "variables": variables,
            "functions": functions,
            "most": self._rules.output,
            "largest": self._longest,
        }
        line = json.dumps(asked).encode()
        left = self._rules.seconds
        self._limit_cpu()
        try:
            while True:
                answer, took = self._exchange(line, left)
                left -= took
                said = self._understood(answer, number)
                if "call" not in said:
                    return self._outcome(said)
                line = json.dumps(call(*self._called(said))).encode()
        except BaseException:
            # In the middle of an exchange it would take the next block for an answer.
            self.close()
            raise

    def close(self) -> None:
        """End the process; safe to repeat."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def _understood(self, line: bytes, number: str) -> dict[str, Any]:
        try:
            said = json.loads(line)
            if isinstance(said, dict) and said.pop("id", None) == number:
                return said
        except (ValueError, RecursionError):
            pass
        raise self._end("RuntimeError", "the code has broken the sandbox")

    def _called(self, said: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        name, arguments = said.get("call"), said.get("arguments")
        if isinstance(name, str) and isinstance(arguments, dict):
            return name, arguments
        raise self._end("RuntimeError", "the code has broken the sandbox")

    def _outcome(self, said: dict[str, Any]) -> Outcome:
        try:
            return msgspec.convert(said, Outcome, strict=False)
        except msgspec.ValidationError:
            raise self._end("RuntimeError", "the code has broken the sandbox") from None

    def _left(self, most: float) -> float:
        """Seconds that something may take, which would take that many at most.

        Raises:
            PythonTimeout: There are none.
        """
        if self._deadline is None:
            return most
        left = self._deadline - time.monotonic()
        if left <= 0:
            self.close()
            raise PythonTimeout("the deadline passed while generated code was run")
        return min(left, most)

    def _limit_cpu(self) -> None:
        """A second line: a process that nobody can kill any more does not compute for ever."""
        assert self._process is not None
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
            used = (int(stat[11]) + int(stat[12])) / _CLOCK
            most = int(used + 4 * self._rules.seconds + 10)
            hard = resource.prlimit(self._process.pid, resource.RLIMIT_CPU)[1]
            resource.prlimit(self._process.pid, resource.RLIMIT_CPU, (most, hard))
        except OSError:
            pass  # it has ended, which is found out next

    def _exchange(self, line: bytes, limit: float) -> tuple[bytes, float]:
        """Send a line, if there is one, and wait for one.

        Args:
            line: What is sent.
            limit: Seconds that the answer may take.

        Returns:
            The answer, and how long it took.
        """
        assert self._process is not None
        unsent = memoryview(line + b"\n") if line else memoryview(b"")
        began = time.monotonic()
        poll = select.poll()
        poll.register(self._process.stdout, select.POLLIN)
        if unsent:
            poll.register(self._process.stdin, select.POLLOUT)
        searched = 0
        while (end := self._read.find(b"\n", searched)) < 0 or unsent:
            searched = len(self._read)
            if searched > self._longest + 4096:
                raise self._end("ValueError", "the code gave more than it may")
            took = time.monotonic() - began
            if took >= limit:
                self._left(limit)
                text = f"the code ran for longer than {self._rules.seconds:g} s"
                raise self._end("TimeoutError", text)
            for descriptor, _ in poll.poll(self._left(limit - took) * 1000 + 1):
                if descriptor == self._process.stdin:
                    unsent = self._sent(unsent)
                    if not unsent:
                        poll.unregister(descriptor)
                else:
                    self._receive()
        answer = bytes(self._read[:end])
        del self._read[: end + 1]
        return answer, time.monotonic() - began

    def _sent(self, unsent: memoryview) -> memoryview:
        assert self._process is not None
        try:
            return unsent[os.write(self._process.stdin, unsent[:_BLOCK]) :]
        except BlockingIOError:
            return unsent
        except BrokenPipeError:
            raise self._died() from None

    def _receive(self) -> None:
        assert self._process is not None
        try:
            block = os.read(self._process.stdout, _BLOCK)
        except BlockingIOError:
            return
        if not block:
            raise self._died()
        self._read += block

    def _died(self) -> Ended:
        return self._end("MemoryError", "the code took more memory than it may, or broke the sandbox")

    def _end(self, kind: str, text: str) -> Ended:
        self.close()
        return Ended(kind, text)
