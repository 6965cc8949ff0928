"""The server itself: where it listens, and how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator
from types import FrameType

import uvicorn
from fastapi import FastAPI

from dspex.errors import InvalidOption
from dspex.server.connection import Connection

_log = logging.getLogger("dspex.server")
# Seconds that a connection without a request is kept.
_KEEP_ALIVE = 75
# Seconds that requests have to be answered when their calls were ended.
_LAST_WORDS = 2


class Server(uvicorn.Server):
    """Stops on a signal when what was accepted has ended; a second signal stops it at once.

    Args:
        app: What it serves, as ``create_app`` makes it.
        host: The address that it listens on.
        port: The port; 0 is any that is free.
        drain: Seconds that requests have to end when it stops.
    """

    def __init__(self, app: FastAPI, host: str, port: int, drain: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http=Connection,
                access_log=False,  # the edge's own line has the request's id
                log_config=None,
                server_header=False,
                proxy_headers=False,  # anybody can write those
                ws="none",
                timeout_keep_alive=_KEEP_ALIVE,
                # What has not ended in time is ended in `shutdown`; this is for what still does not.
                timeout_graceful_shutdown=_LAST_WORDS,
            )
        )
        self._app = app
        self._drain = drain

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """As uvicorn's, but the signal is not sent once more at the end: what was asked for has been done."""
        if threading.current_thread() is not threading.main_thread():  # signals are not for others
            yield
            return
        with _on_signals(self.handle_exit):
            yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let requests end that were accepted; those that do not in time are answered with 503."""
        left = len(self.server_state.tasks)
        if left:
            _log.info(
                "stopping: %d under way may end within %g s; once more stops at once", left, self._drain
            )
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()  # at once where no request is under way, else after its answer
        if not await self._all_ended(self._drain):
            _log.warning("%d have not ended, and are ended now", len(self.server_state.tasks))
            await self._app.state.dspex.runtime.aclose()
            await self._all_ended(_LAST_WORDS, patient=True)
        await super().shutdown(sockets)
        if (
            self.force_exit
        ):  # uvicorn leaves it out then, and the application would be cut off in its lifespan
            await self.lifespan.shutdown()

    async def _all_ended(self, seconds: float, *, patient: bool = False) -> bool:
        end = time.monotonic() + seconds
        while self.server_state.connections or self.server_state.tasks:
            if time.monotonic() >= end or (self.force_exit and not patient):
                return False
            await asyncio.sleep(0.02)
        return True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Stop, at once when it was asked before."""
        self._app.state.dspex.stopping = True
        self.force_exit = self.should_exit
        self.should_exit = True


@contextlib.contextmanager
def leaving_on_signals() -> Generator[None, None, None]:
    """Have a signal cancel this task, and end the block as if nothing were wrong: leaving was asked for.

    For what a server does before it listens and after; in between it has its own way of stopping.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    came: list[int] = []

    def leave(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        # Not an exception from here: it would end whatever the loop does at this moment.
        loop.call_soon_threadsafe(task.cancel)

    try:
        with _on_signals(leave):
            yield
    except asyncio.CancelledError:
        if not came:
            raise
        _log.info("stopped by %s", signal.Signals(came[0]).name)


@contextlib.contextmanager
def _on_signals(handler: Callable[[int, FrameType | None], None]) -> Generator[None, None, None]:
    asked = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # `nohup`, and a shell that starts a job in the background, ignore some for good reason.
    heard = [number for number in asked if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def check_address(host: str, key: object) -> None:
    """Refuse to be asked from elsewhere without a key.

    Raises:
        InvalidOption: The address can be reached from elsewhere, and there is no key.
    """
    if key is None and not is_loopback(host):
        raise InvalidOption(
            f"{host} can be reached from elsewhere, and whoever reaches it could run programs: set a key "
            "(--key env:DSPEX_SERVER_KEY), or listen on 127.0.0.1",
            details={"option": "host"},
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
