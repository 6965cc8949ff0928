"""What the store tells of sessions, programs and turns."""

from __future__ import annotations

from typing import Any

import msgspec

from dspex.types import Usage


class SessionInfo(msgspec.Struct, frozen=True):
    """One session.

    Attributes:
        id: Its id, of which each tenant has its own.
        tenant: Whose it is; None when nobody said.
        created: When it was made, in seconds since 1970.
        used: When it was last used.
        expires: When it ends unless it is used before; None never.
        ttl: Seconds that it lives after each use; None for ever.
        record: What is kept of its turns: ``all``, ``shape`` or ``none``.
        metadata: What it was made with.
        turns: How many turns it has had.
        programs: How many programs it has.
        anonymous: Whether it was made for a program that was given no session.
    """

    id: str
    tenant: str | None
    created: float
    used: float
    expires: float | None
    ttl: float | None
    record: str
    metadata: dict[str, Any]
    turns: int
    programs: int
    anonymous: bool = False


class ProgramInfo(msgspec.Struct, frozen=True):
    """One program of a session.

    Attributes:
        id: Its id.
        name: Its name, if it has one.
        session_id: Its session.
        version: The version that calls run.
        versions: The numbers of all versions, in order.
        created: When it was made, in seconds since 1970.
        modules: The modules of its stages.
        signature: Its signature as text; None for a program of the user's own.
    """

    id: str
    name: str | None
    session_id: str
    version: int
    versions: list[int]
    created: float
    modules: list[str]
    signature: str | None


class Turn(msgspec.Struct, frozen=True):
    """One call in a session.

    Attributes:
        number: Its number in the session, from 1.
        status: ``running``, ``ok``, ``failed``, ``cancelled``, or ``interrupted`` (the process that ran it is
            gone).
        program_id: The program; None when a module was called.
        version: The program's version.
        module: The module, of a program that of its last stage.
        inputs: Inputs by name; of each its shape where only that is kept, None where nothing is.
        outputs: Outputs by name, likewise.
        model: The model that answered.
        usage: Tokens of all LM requests.
        cost: US dollars; None when the price is not known.
        attempts: How many workers it was given to.
        error: ``code`` and ``message`` of what it failed with; else None.
        started: When it began, in seconds since 1970.
        seconds: How long it took; None when it has not ended.
        request_id: The call's name.
    """

    number: int
    status: str
    program_id: str | None
    version: int | None
    module: str
    inputs: dict[str, Any] | None
    outputs: dict[str, Any] | None
    model: str | None
    usage: Usage
    cost: float | None
    attempts: int
    error: dict[str, str] | None
    started: float
    seconds: float | None
    request_id: str


class Insights(msgspec.Struct, frozen=True):
    """What the turns of a session came to.

    Attributes:
        turns: How many there were, those that still run included.
        answered: How many were answered.
        failed: How many were not.
        errors: Those that failed, by the code of their error, as far as turns are kept.
        usage: Tokens of all of them.
        cost: US dollars of those whose price is known; None when none is.
        unpriced: How many have no known price.
        seconds: What all of them took.
        p50: Seconds within which half of those that are kept were answered; None without any.
        slowest: Seconds of the slowest; None without any.
    """

    turns: int
    answered: int
    failed: int
    errors: dict[str, int]
    usage: Usage
    cost: float | None
    unpriced: int
    seconds: float
    p50: float | None
    slowest: float | None

    @property
    def tokens(self) -> int:
        """All tokens, sent and generated."""
        return self.usage.total_tokens
