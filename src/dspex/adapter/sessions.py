"""Sessions, as an adapter gives them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec

from dspex import checks
from dspex.adapter.base import UNSET, Base, Unset
from dspex.errors import PayloadTooLarge
from dspex.lm.profile import LM
from dspex.runtime import budgets
from dspex.runtime.steps import OnLoop, Steps
from dspex.session.names import check
from dspex.types import Budget
from dspex.wire.values import encode

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from dspex.adapter.adapter import DSPyAdapter
    from dspex.adapter.session.session import Session
    from dspex.session.records import SessionInfo

_LARGEST_METADATA = 64 * 1024
_MOST_LISTED = 1000
Record = Literal["all", "shape", "none"]


class Sessions(Base):
    """The part of an adapter that has to do with sessions."""

    def session(
        self,
        id: str | None = None,  # noqa: A002 (what everybody calls it)
        *,
        ttl: float | Unset | None = UNSET,
        metadata: Mapping[str, Any] | None = None,
        lm: LM | str | None = None,
        record: Record | None = None,
        budget: Budget | None = None,
    ) -> Session:
        """A session: made, or found again. What is given here holds from now on, what is not stays as it was.

        Args:
            id: Its id, text of 1 to 200 characters; another tenant's session of the same id is another
                session. None is a new one with an id that nobody can guess.
            ttl: Seconds that it lives after each use; 3,600 unless somebody says otherwise, None for ever.
                One that has expired is begun anew.
            metadata: What is to be known of it, any values that can be sent, up to 64 KiB.
            lm: The LM of its calls that name none. It is stored without a key: by the name of a profile, or
                with a reference to the key; one with a key's value has to be given again in another process.
            record: What is kept of its turns: ``"all"`` (the default), ``"shape"`` (types and sizes of inputs
                and outputs), or ``"none"`` (only how many there were, and what they cost).
            budget: What its calls may spend in its life; the settings' ``budgets`` unless somebody says so.

        Raises:
            InvalidInput: It cannot have that id.
            InvalidOption: An option has a value that it does not take.
            SessionQuota: There are as many sessions as there may be.
            StoreError: The store cannot be used.
            RuntimeError: Called on the runtime's own event loop; await ``asession`` there.
        """
        return self._take(self._session(id, ttl, metadata, lm, record, budget), "asession")

    async def asession(
        self,
        id: str | None = None,  # noqa: A002
        *,
        ttl: float | Unset | None = UNSET,
        metadata: Mapping[str, Any] | None = None,
        lm: LM | str | None = None,
        record: Record | None = None,
        budget: Budget | None = None,
    ) -> Session:
        """``session`` for event loops."""
        return await self._atake(self._session(id, ttl, metadata, lm, record, budget))

    def sessions(self, *, limit: int = 100, after: str | None = None) -> list[SessionInfo]:
        """This adapter's tenant's sessions, those used last first.

        Args:
            limit: The most to give, up to 1,000.
            after: The id of the last one that was given before.

        Raises:
            UnknownSession: There is none of the id ``after``.
            StoreError: The store cannot be used.
            RuntimeError: Called on the runtime's own event loop; await ``asessions`` there.
        """
        return self._take(self._sessions(limit, after), "asessions")

    async def asessions(self, *, limit: int = 100, after: str | None = None) -> list[SessionInfo]:
        """``sessions`` for event loops."""
        return await self._atake(self._sessions(limit, after))

    def _session(
        self,
        session_id: str | None,
        ttl: float | Unset | None,
        metadata: Mapping[str, Any] | None,
        lm: LM | str | None,
        record: Record | None,
        budget: Budget | None,
    ) -> Steps[Session]:
        from dspex.adapter.session.session import Session

        core, tenant = self._open.core, self._tenant or ""
        if session_id is not None:
            check("a session's id", session_id)
        given: dict[str, Any] = {}
        if not isinstance(ttl, Unset):
            given["ttl"] = _checked_ttl(ttl)
        if metadata is not None:
            given["metadata"] = _encoded(metadata)
        if lm is not None:
            given["lm"] = msgspec.msgpack.encode(core.models.stored(lm))
        if record is not None:
            if record not in {"all", "shape", "none"}:
                raise checks.refuse("record", "'all', 'shape' or 'none'", record)
            given["record"] = record
        if budget is not None:
            given["budget"] = budgets.encoded(checks.budget(budget))
        made: str = yield OnLoop(lambda: core.sessions.make_or_find(tenant, session_id, given))
        return Session(cast("DSPyAdapter", self), tenant, made)

    def _sessions(self, limit: int, after: str | None) -> Steps[list[SessionInfo]]:
        checks.whole_number("limit", limit, 1)
        core, tenant = self._open.core, self._tenant or ""
        if after is not None:
            check("a session's id", after)

        now = time.time()

        def work(connection: Connection) -> list[SessionInfo]:
            from dspex.session import sessions

            return sessions.listed(connection, tenant, now, min(limit, _MOST_LISTED), after)

        found: list[SessionInfo] = yield OnLoop(lambda: core.sessions.read(work))
        return found


def _checked_ttl(ttl: float | None) -> float | None:
    seconds = checks.number("ttl", ttl, 0.001, what="a number of seconds, or None", optional=True)
    if seconds is not None and not seconds < math.exp2(40):
        raise checks.refuse("ttl", "a number of seconds below 10^12, or None", ttl)
    return seconds


def _encoded(metadata: Mapping[str, Any]) -> bytes:
    if not isinstance(metadata, Mapping):
        raise checks.refuse("metadata", "a mapping of names to values", type(metadata))
    encoded = b"".join(encode(dict(metadata), where="metadata")[0])
    if len(encoded) > _LARGEST_METADATA:
        raise PayloadTooLarge(
            f"metadata of {len(encoded):,} bytes; a session has at most {_LARGEST_METADATA:,}. Keep the rest "
            "in variables",
            details={"size": len(encoded), "limit": _LARGEST_METADATA},
        )
    return encoded
