"""The turns that are open: each is closed once, whatever becomes of the call and of whoever waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from dspex.errors import DspexError, PythonTimeout
from dspex.runtime.sessions import Sessions

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from sqlalchemy import Connection

    from dspex.session.turns import Closing, Opened, Opening

T = TypeVar("T")
_log = logging.getLogger("dspex.session")
# Seconds of waiting for another process after which it is looked whether that lives, and again.
_LOOK = 1.0
# Seconds that closing waits for turns to be closed.
_LAST_TURNS = 5.0


class OpenTurns:
    """The open turns of a runtime, by the names of their calls. Lives on its loop.

    Calls that read the history of a session take turns: in this process in the order in which they came, and
    among processes by a lease in the session's row.

    Args:
        sessions: The way to the sessions in the store.
    """

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._lines: weakref.WeakValueDictionary[tuple[str, str], asyncio.Lock] = (
            weakref.WeakValueDictionary()
        )
        self._opening: dict[str, asyncio.Task[Opened]] = {}
        self._opened: dict[str, tuple[Opened, asyncio.Lock | None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: set[str] = set()
        self._left: set[asyncio.Task[bool]] = set()  # a loop does not keep its tasks alive

    @property
    def open_calls(self) -> int:
        """How many calls have a turn that is not closed, or are about to."""
        return len(self._opening)

    async def open(self, make: Callable[[], Opening], deadline: float | None, began: float) -> Opened:
        """Open a turn; ``close`` has to follow, also when this fails or is cancelled.

        Args:
            make: What is to be opened; it is made when it is its turn, and once more for each attempt.
            deadline: Monotonic second until which to wait; None for ever.
            began: Monotonic second at which the call was asked.

        Raises:
            PythonTimeout: It was not its turn in time.
            UnknownSession: There is no such session.
            SessionExpired: There was one.
            StoreError: The store cannot be used.
        """
        first, self._loop = make(), asyncio.get_running_loop()
        task = asyncio.create_task(self._open(make, first.tenant, first.session_id, first.lease is not None))
        self._opening[first.request_id] = task
        try:
            async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
                return await asyncio.shield(task)
        except TimeoutError:
            raise _too_late(first.session_id, began) from None

    async def _open(self, make: Callable[[], Opening], tenant: str, session_id: str, leased: bool) -> Opened:
        line = self._lines.setdefault((tenant, session_id), asyncio.Lock()) if leased else None
        if line is not None:
            await line.acquire()
        pause, look = 0.005, time.monotonic() + _LOOK
        opened = None
        try:
            while opened is None:
                opening = make()
                opened, cancelled = await _to_its_end(self._sessions.write(_opens(opening)))
                if opened is not None:
                    self._opened[opening.request_id] = (opened, line)
                    if leased:
                        self._sessions.keep_lease(opening.request_id)
                if cancelled:
                    raise asyncio.CancelledError
                if opened is None:  # another process has the lease
                    await asyncio.sleep(pause)
                    pause = min(pause * 1.5, 0.1) * random.uniform(0.8, 1.2)
                    if time.monotonic() > look:
                        await self._sessions.bury()
                        look = time.monotonic() + _LOOK
        finally:
            if opened is None and line is not None:
                line.release()
        return opened

    async def close(self, request_id: str, how: Callable[[Opened], Closing]) -> bool:
        """Close a turn, whatever became of its opening. What goes wrong is logged, for the call has ended.

        Args:
            request_id: The call's name.
            how: How it has ended.

        Returns:
            Whether it is written.
        """
        return await asyncio.shield(asyncio.create_task(self._close(request_id, how)))

    def leave(self, request_id: str, how: Callable[[Opened], Closing]) -> None:
        """Have a turn closed that nobody waits for any more, unless it is already.

        From any thread; does not wait.
        """
        loop = self._loop
        if loop is None:
            return

        def begin() -> None:
            if request_id in self._opening and request_id not in self._closing:
                self._left.add(task := loop.create_task(self._close(request_id, how)))
                task.add_done_callback(self._left.discard)

        with contextlib.suppress(RuntimeError):  # the loop is closed, and the store with it
            loop.call_soon_threadsafe(begin)

    async def _close(self, request_id: str, how: Callable[[Opened], Closing]) -> bool:
        self._closing.add(request_id)
        opening = self._opening.get(request_id)
        if opening is not None and not opening.done():
            opening.cancel()
            await asyncio.wait([opening])
        opened, line = self._opened.pop(request_id, (None, None))
        try:
            if opened is None:
                return False
            closing = replace(how(opened), leased=line is not None)
            return await self._sessions.write(_closes(closing))
        except DspexError as error:
            _log.warning(
                "the turn of call %s could not be written: %s",
                request_id,
                error.message,
                extra={"request_id": request_id},
            )
            return False
        finally:
            self._sessions.let_lease(request_id)
            if line is not None:
                line.release()
            self._opening.pop(request_id, None)
            self._closing.discard(request_id)

    async def aclose(self) -> None:
        """Wait a while for turns whose calls have ended to be closed."""
        end = time.monotonic() + _LAST_TURNS
        # The callers close them, each on a thread or a loop of his own.
        while self._opening and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        for opening in self._opening.values():
            opening.cancel()


def _opens(opening: Opening) -> Callable[[Connection], Opened | None]:
    def work(connection: Connection) -> Opened | None:
        from dspex.session import turns

        return turns.open_turn(connection, opening)

    return work


def _closes(closing: Closing) -> Callable[[Connection], bool]:
    def work(connection: Connection) -> bool:
        from dspex.session import turns

        return turns.close_turn(connection, closing)

    return work


async def _to_its_end(work: Coroutine[Any, Any, T]) -> tuple[T, bool]:
    """Do something that is not to be cut off, and whether somebody tried to."""
    task, cancelled = asyncio.ensure_future(work), False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    return task.result(), cancelled


def _too_late(session_id: str, began: float) -> PythonTimeout:
    elapsed = time.monotonic() - began
    return PythonTimeout(
        f"the turn of the session {session_id!r} could not begin within {elapsed:.3g} s: calls that read its "
        "history run one after the other, and the store has to answer",
        details={"phase": "queued", "elapsed": round(elapsed, 3), "killed": False},
    )
