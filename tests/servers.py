"""A server process of a guide's: started, asked over HTTP, stopped."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import psutil

from tests.processes import alive, descendants, until
from tests.provider import Provider

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


class Server:
    """A command that serves HTTP while its ``with`` block runs.

    Args:
        command: What to run, after the interpreter's name; it listens on a free port of 127.0.0.1.
        log: Where it logs to, its address among the rest.
        provider: Whom its model's requests go to.
        folder: Where it is started.
        prefix: A command that runs it, ``unshare`` for one.
        variables: Environment variables besides.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        provider: Provider,
        *,
        folder: Path = ROOT,
        prefix: Sequence[str] = (),
        **variables: str,
    ) -> None:
        self._command = [*prefix, sys.executable, *command]
        self._log = log
        self._folder = folder
        self._environment = {**os.environ, **model(provider), **variables}
        self.process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        with self._log.open("wb") as file:
            self.process = subprocess.Popen(
                self._command, cwd=self._folder, env=self._environment, stdout=file, stderr=file
            )
        try:
            until(lambda: "http://127.0.0.1:" in self.log or self.process.poll() is not None, 60)
            assert self.process.poll() is None, self.log
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        family = self.family()
        self.process.kill()
        self.process.wait()
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self._log.read_text(errors="replace")

    @property
    def url(self) -> str:
        """Its address."""
        found = re.search(r"http://127\.0\.0\.1:\d+", self.log)
        assert found is not None, self.log
        return found[0]

    def family(self) -> list[int]:
        """All that it has started."""
        return descendants(self.process.pid)

    @property
    def first(self) -> int:
        """The process that serves, which is not the one started here when another command runs it."""
        serving = [self.process.pid, *self.family()]
        return next(pid for pid in serving if psutil.Process(pid).cmdline()[1:2] == ["-m"])

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop; its exit status, once it and all that it had started are gone."""
        family = self.family()
        self.process.send_signal(number)
        status = self.process.wait(30)
        until(lambda: not any(alive(pid) for pid in family))
        return status


def model(provider: Provider) -> dict[str, str]:
    """The environment in which an example asks the tests' provider."""
    return {"DSPEX_LM": "openai/model", "LM_BASE_URL": provider.base_url, "OPENAI_API_KEY": "k"}
