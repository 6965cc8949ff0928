"""A session's variables."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dspex.adapter.session.base import Base
from dspex.errors import Conflict, PayloadTooLarge
from dspex.runtime.steps import Call, OnLoop, Steps
from dspex.session.names import check
from dspex.wire.values import decode, encode

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from dspex.session.variables import Variable

_TRIES = 60


class Variables(Base):
    """The part of a session that has to do with variables.

    A variable has a name and a value of any kind that can be sent: what JSON has, and dates, ``Decimal``,
    bytes, ``dspex.Image`` …. An object of a class of yours comes back as plain data.
    """

    def get(self, name: str, default: Any = None) -> Any:
        """A variable's value.

        Args:
            name: Its name.
            default: What is given where there is none.

        Raises:
            UnknownSession: The session was deleted.
            SessionExpired: It was not used for longer than its ``ttl``.
            StoreError: The store cannot be used.
            RuntimeError: Called on the runtime's own event loop; await ``aget`` there.
        """
        return self._take(self._get(name, default), "aget")

    async def aget(self, name: str, default: Any = None) -> Any:
        """``get`` for event loops."""
        return await self._atake(self._get(name, default))

    def set(self, name: str, value: Any) -> None:
        """Give a variable a value, whatever it had.

        Args:
            name: Its name, text of 1 to 200 characters.
            value: Its value.

        Raises:
            InvalidInput: It cannot have that name, or the value cannot be stored.
            PayloadTooLarge: The value is larger than ``Settings(max_variable=...)``.
            UnknownSession: The session was deleted.
            SessionExpired: It was not used for longer than its ``ttl``.
            StoreError: The store cannot be used.
            RuntimeError: Called on the runtime's own event loop; await ``aset`` there.
        """
        self._take(self._set(name, value), "aset")

    async def aset(self, name: str, value: Any) -> None:
        """``set`` for event loops."""
        await self._atake(self._set(name, value))

    def update(self, name: str, fn: Callable[[Any], Any], default: Any = None) -> Any:
        """Change a variable so that nobody else's change is lost: 20 increments at once make 20.

        Args:
            name: Its name.
            fn: Given the value, gives the new one. It may be called several times, when somebody else has
                changed the variable meanwhile, so it should do nothing else. If it raises, nothing changes.
            default: What ``fn`` is given where there is none.

        Returns:
            The new value.

        Raises:
            Conflict: Others changed it again and again.
            DspexError: As of ``set``.
            RuntimeError: Called on the runtime's own event loop; await ``aupdate`` there.
        """
        return self._take(self._update(name, fn, default), "aupdate")

    async def aupdate(self, name: str, fn: Callable[[Any], Any], default: Any = None) -> Any:
        """``update`` for event loops; ``fn`` may be async."""
        return await self._atake(self._update(name, fn, default))

    def unset(self, name: str) -> bool:
        """Remove a variable.

        Returns:
            Whether it was there.

        Raises:
            DspexError: As of ``set``.
            RuntimeError: Called on the runtime's own event loop; await ``aunset`` there.
        """
        return self._take(self._unset(name), "aunset")

    async def aunset(self, name: str) -> bool:
        """``unset`` for event loops."""
        return await self._atake(self._unset(name))

    def variables(self) -> dict[str, Any]:
        """All variables by name.

        Raises:
            DspexError: As of ``get``.
            RuntimeError: Called on the runtime's own event loop; await ``avariables`` there.
        """
        return self._take(self._variables(), "avariables")

    async def avariables(self) -> dict[str, Any]:
        """``variables`` for event loops."""
        return await self._atake(self._variables())

    # Steps

    def _get(self, name: str, default: Any) -> Steps[Any]:
        check("a variable's name", name)
        now = time.time()

        def work(connection: Connection) -> Variable | None:
            from dspex.session import variables

            return variables.read(connection, self._tenant, self.id, name, now)

        stored: Variable | None = yield OnLoop(lambda: self._write(work))
        return default if stored is None else decode(stored.value)

    async def _stored(self, name: str) -> Variable | None:
        now = time.time()

        def work(connection: Connection) -> Variable | None:
            from dspex.session import variables

            return variables.read(connection, self._tenant, self.id, name, now, use=False)

        return await self._read(work)

    def _set(self, name: str, value: Any) -> Steps[None]:
        check("a variable's name", name)
        encoded = self._encoded(name, value)

        now = time.time()

        def work(connection: Connection) -> None:
            from dspex.session import variables

            variables.write(connection, self._tenant, self.id, name, encoded, now)

        yield OnLoop(lambda: self._write(work))

    def _update(self, name: str, fn: Callable[[Any], Any], default: Any) -> Steps[Any]:
        check("a variable's name", name)
        lines = self._adapter._open.core.sessions.updates
        place = lines.place((self._tenant, self.id, name))
        try:
            yield OnLoop(lambda: lines.wait(place))
            return (yield from self._changed(name, fn, default))
        finally:
            lines.leave(place)

    def _changed(self, name: str, fn: Callable[[Any], Any], default: Any) -> Steps[Any]:
        for attempt in range(_TRIES):
            stored: Variable | None = yield OnLoop(lambda: self._stored(name))
            before = default if stored is None else decode(stored.value)
            value = yield Call(lambda before=before: fn(before))  # type: ignore[misc]
            encoded = self._encoded(name, value)
            version = None if stored is None else stored.version
            pause = 0.0 if attempt == 0 else random.uniform(0, min(0.002 * 1.5**attempt, 0.25))
            swapped: bool = yield OnLoop(
                lambda encoded=encoded, version=version, pause=pause: self._swapped(  # type: ignore[misc]
                    name, encoded, version, pause
                )
            )
            if swapped:
                return decode(encoded)
        raise Conflict(
            f"the variable {name!r} was changed by others {_TRIES} times while this call tried to; try again",
            details={"variable": name},
        )

    async def _swapped(self, name: str, value: bytes, version: int | None, pause: float) -> bool:
        now = time.time()

        def work(connection: Connection) -> bool:
            from dspex.session import variables

            return variables.swap(connection, self._tenant, self.id, name, value, now, version=version)

        await asyncio.sleep(pause)
        return await self._write(work)

    def _unset(self, name: str) -> Steps[bool]:
        check("a variable's name", name)

        now = time.time()

        def work(connection: Connection) -> bool:
            from dspex.session import variables

            return variables.remove(connection, self._tenant, self.id, name, now)

        gone: bool = yield OnLoop(lambda: self._write(work))
        return gone

    def _variables(self) -> Steps[dict[str, Any]]:
        now = time.time()

        def work(connection: Connection) -> dict[str, bytes]:
            from dspex.session import variables

            return variables.everything(connection, self._tenant, self.id, now)

        stored: dict[str, bytes] = yield OnLoop(lambda: self._write(work))
        return {name: decode(value) for name, value in stored.items()}

    def _encoded(self, name: str, value: Any) -> bytes:
        encoded = b"".join(encode(value, where=f"the variable {name!r}")[0])
        limit = self._adapter._open.core.settings.max_variable
        if len(encoded) > limit:
            raise PayloadTooLarge(
                f"the variable {name!r} would have {len(encoded):,} bytes, and may have {limit:,}; store "
                "less, or raise Settings(max_variable=...)",
                details={"variable": name, "size": len(encoded), "limit": limit},
            )
        return encoded
