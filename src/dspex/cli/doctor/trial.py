"""A worker is started, asked and lost, in processes of their own, as a program would do it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import tempfile
import time
from pathlib import Path
from typing import BinaryIO

import msgspec

from dspex.adapter.runtime import Runtime
from dspex.cli.doctor.finding import Finding
from dspex.errors import DspexError
from dspex.process.lifeline import arm
from dspex.process.spawn import Child, spawn
from dspex.settings import PoolOptions, Settings
from dspex.settings.environment import PREFIX

_START_LIMIT = 120.0  # seconds until the worker has answered
_END_LIMIT = 5.0  # seconds in which all is gone after its supervisor
_MEND = "mend what is broken above; if nothing is, report it with the output of  dspex doctor --json"


class Worked(msgspec.Struct, frozen=True):
    """What the supervisor in the trial tells.

    Attributes:
        worker: Pid of its worker.
        ready: Seconds until it was ready.
        ping: Seconds that its answer took.
        error: What went wrong instead.
    """

    worker: int = 0
    ready: float = 0.0
    ping: float = 0.0
    error: str | None = None


def worker(interpreter: str | None) -> Finding:
    """Whether a worker starts, answers, and ends with its supervisor.

    Args:
        interpreter: The workers' Python; None is this one.
    """
    with tempfile.TemporaryDirectory(prefix="dspex-doctor-") as folder, tempfile.TemporaryFile() as said:
        # It is killed in a moment: what it leaves for `dspex status` shall lie where it disturbs nobody.
        # Settings have been checked before, and here the machine is: of them only the interpreter counts.
        without = {name: text for name, text in os.environ.items() if not name.startswith(PREFIX)}
        environment = {**without, "XDG_RUNTIME_DIR": folder}
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        try:
            supervisor = spawn(
                "dspex.cli.doctor.trial",
                {"python": interpreter},
                descriptors={"report": write_end},
                env=environment,
                stderr=said.fileno(),
            )
        except OSError as error:
            os.close(read_end)
            return Finding("broken", f"no process can be started and watched: {error}", _MEND)
        finally:
            os.close(write_end)
        try:
            with os.fdopen(read_end, "rb", buffering=0) as report:
                worked = _told(report, said)
            if worked.error is not None:
                return Finding("broken", f"no worker starts and answers: {worked.error}", _MEND)
            return _lost(supervisor, worked)
        finally:
            supervisor.kill()
            supervisor.bury()


def _told(report: BinaryIO, said: BinaryIO) -> Worked:
    if not select.select([report], [], [], _START_LIMIT)[0]:
        return Worked(error=f"none did within {_START_LIMIT:g} s")
    if line := report.readline():
        return msgspec.json.decode(line, type=Worked)
    said.seek(0)
    last = said.read().decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
    return Worked(error=f"its supervisor ended: {last[0]}")


def _lost(supervisor: Child, worked: Worked) -> Finding:
    """Cut the supervisor's lifeline, and see that it, its zygote and its worker are gone."""
    zygote = _parent(worked.worker)
    if _parent(zygote) != supervisor.pid:
        raise ChildProcessError("the worker was gone before its supervisor")
    watched: list[int] = []
    try:
        watched += [os.pidfd_open(pid) for pid in (supervisor.pid, zygote, worked.worker)]
        supervisor.cut()
        began = time.monotonic()
        left = set(watched)
        while left and (rest := began + _END_LIMIT - time.monotonic()) > 0:
            left -= set(select.select(list(left), [], [], rest)[0])
        seconds = time.monotonic() - began
        for descriptor in left:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    finally:
        for descriptor in watched:
            os.close(descriptor)
    did = f"a worker was ready after {worked.ready:.1f} s, answered within {worked.ping * 1000:.1f} ms"
    if left:
        return Finding(
            "broken",
            f"{did}, and did not end with its supervisor: {len(left)} of {len(watched)} processes were left "
            f"after {_END_LIMIT:g} s (F_SETSIG on a pipe has no effect here)",
            "run it on a kernel that has it: Linux itself, and not an emulation of it",
        )
    return Finding(
        "ok", f"{did}, and was gone {seconds * 1000:.0f} ms after its supervisor's lifeline was cut"
    )


def _parent(pid: int) -> int:
    # The fields that follow the program's name, which is in brackets and may hold anything.
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def main(*, python: str | None, lifeline: int, report: int) -> None:
    """The supervisor in the trial: open a runtime, ask its worker, tell, and wait for the end."""
    arm(lifeline)
    began = time.monotonic()
    try:
        # An LM that is named and never asked, so that no other one is started here.
        lm = "openai/not-asked"
        settings = Settings(file=False, python=python, pools={"general": PoolOptions(workers=1)})
        with Runtime(lm, settings=settings, start_timeout=_START_LIMIT) as runtime:
            ready = time.monotonic() - began
            pool = runtime.pool("general")
            pool.execute("ping", timeout=10.0)
            began = time.monotonic()
            pool.execute("ping", timeout=10.0)
            ping = time.monotonic() - began
            (worker,) = runtime.stats().pools["general"].workers
            os.write(report, msgspec.json.encode(Worked(worker.pid, ready, ping)) + b"\n")
            signal.pause()
    except (DspexError, OSError) as error:
        os.write(report, msgspec.json.encode(Worked(error=str(error))) + b"\n")
