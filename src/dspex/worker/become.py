"""From a fresh fork of the zygote to a worker that serves its channel."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import random
import resource
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

from dspex.process import lifeline, limits
from dspex.wire.messages import WorkerOptions
from dspex.worker import isolated
from dspex.worker.isolated import MainThread
from dspex.worker.main import Worker

_log = logging.getLogger("dspex.worker")


def become_worker(
    sock: socket.socket, life: int, output: int, errors: int, parent: int, options: WorkerOptions
) -> NoReturn:
    """Turn a fresh fork of the zygote into a worker; never returns.

    Args:
        sock: The worker's end of its channel.
        life: The read end of its lifeline.
        output: Where its standard output goes.
        errors: Where its standard error goes.
        parent: The zygote's pid.
        options: What the supervisor told.
    """
    status = 1
    try:
        os.setsid()
        lifeline.die_with_parent(parent)
        lifeline.arm(life)
        lifeline.become_subreaper()
        limits.be_expendable()
        if options.max_memory is not None:
            limits.limit_data(options.max_memory)
        _reset_signals()
        _reseed()
        _redirect(output, errors)
        for module in options.late_preload:
            importlib.import_module(module)
        if options.isolated:
            isolated.live(sock, options, _main)
        asyncio.run(_main(sock, options))
        status = 0
    except BaseException:  # noqa: BLE001 (whatever it was, a worker must not run on as a zygote)
        _log.exception("the worker failed")
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        # Never by the interpreter's own exit: that would wait for threads that may not end.
        os._exit(status)


async def _main(sock: socket.socket, options: WorkerOptions, main_thread: MainThread | None = None) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(options.slots + 16, thread_name_prefix="dspex-loop"))
    await Worker(sock, options, main_thread).serve()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in (
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGHUP,
        signal.SIGCHLD,
        signal.SIGUSR1,
        signal.SIGUSR2,
    ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())


def _reseed() -> None:
    random.seed()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


def _redirect(output: int, errors: int) -> None:
    """Standard output and error are the user's: pipes that the supervisor reads line by line."""
    os.dup2(output, 1)
    os.dup2(errors, 2)
    os.close(output)
    os.close(errors)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard) if soft < hard else (soft, hard))
