"""The turns of a session: opened before a call is sent, and closed when it has ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import (
    Connection,
    Double,
    Integer,
    bindparam,
    case,
    exists,
    insert,
    or_,
    select,
    update,
)

from dspex.session.find import find
from dspex.session.tables import owners, sessions, turns
from dspex.types import Usage


@dataclass(frozen=True, slots=True)
class Opening:
    """A turn that is to be opened.

    Attributes:
        tenant: Whose session.
        session_id: The session.
        owner: The runtime that runs it.
        request_id: The call's name.
        program: The stored program; None for a module.
        version: Its version.
        module: The module.
        inputs: Its inputs, encoded; None when they are too large to be kept.
        shape: Their shapes, encoded.
        now: Seconds since 1970.
        until: When the call will have ended, at the latest; None is not known.
        lease: Until when the session's lease is to be had, for a call that reads the history; None for one
            that does not.
        recent: How many turns of the history to give.
    """

    tenant: str
    session_id: str
    owner: str
    request_id: str
    program: str | None
    version: int | None
    module: str
    inputs: bytes | None
    shape: bytes
    now: float
    until: float | None
    lease: float | None = None
    recent: int = 0


class Past(NamedTuple):
    """A turn of the history.

    Attributes:
        number: Its number in the session.
        inputs: Its encoded inputs.
        outputs: Its encoded outputs.
    """

    number: int
    inputs: bytes
    outputs: bytes


class Opened(NamedTuple):
    """A turn that is open.

    Attributes:
        session: The session's key.
        number: The turn's number.
        record: What the session keeps of turns.
        kept: Whether its inputs are kept, and not only their shapes.
        lm: The session's LM, as it is stored.
        history: The answered turns before it, the latest first.
        created: When the session was made, in seconds since 1970.
        budget: Its budget, as it is stored.
        spent: Tokens and US dollars that were spent of it.
    """

    session: int
    number: int
    record: str
    kept: bool
    lm: bytes | None
    history: list[Past]
    created: float = 0.0
    budget: bytes | None = None
    spent: tuple[int, float] = (0, 0.0)


# Statements are made once: to make one takes longer than to run it.
_NOW, _UNTIL = bindparam("b_now", type_=Double), bindparam("b_until", type_=Double)
_LATER = sessions.c.ttl + _NOW
_NEEDED = case((_LATER < _UNTIL, _UNTIL), else_=_LATER)
# Another call that runs may need it for longer still. When one ends, it is the ``ttl`` that counts again.
_OPENED = case((sessions.c.expires > _NEEDED, sessions.c.expires), else_=_NEEDED)
_OPEN = (
    update(sessions)
    .where(
        sessions.c.tenant == bindparam("b_tenant"),
        sessions.c.id == bindparam("b_id"),
        sessions.c.ended.is_(False),
        or_(sessions.c.expires.is_(None), sessions.c.expires > _NOW),
    )
    .values(turns=sessions.c.turns + 1, used=_NOW, expires=_OPENED)
    .returning(
        *(sessions.c[name] for name in ("key", "turns", "record", "lm")),
        *(sessions.c[name] for name in ("created", "budget", "spent_tokens", "spent_cost")),
    )
)
_OPEN_LEASED = _OPEN.where(
    or_(
        sessions.c.lease_owner.is_(None),
        # Calls of one runtime have taken turns before this, so its own is of a turn that could not be closed.
        sessions.c.lease_owner == bindparam("b_owner"),
        sessions.c.lease_until <= _NOW,
        ~exists(select(owners.c.id).where(owners.c.id == sessions.c.lease_owner)),
    )
).values(lease_owner=bindparam("b_owner"), lease_call=bindparam("b_call"), lease_until=bindparam("b_lease"))
_INSERT = insert(turns)
_RECENT = (
    select(turns.c.number, turns.c.inputs, turns.c.outputs)
    .where(
        turns.c.session == bindparam("b_session"),
        turns.c.number < bindparam("b_before"),
        turns.c.status == "ok",
        turns.c.recorded == "all",
    )
    .order_by(turns.c.number.desc())
    .limit(bindparam("b_most", type_=Integer))
)


def open_turn(connection: Connection, opening: Opening) -> Opened | None:
    """Open a turn: one statement looks after its session, has it live on and counts the turn.

    Returns:
        The turn; None when another call has the lease.

    Raises:
        UnknownSession: There is no such session.
        SessionExpired: There was one.
    """
    told = {
        "b_tenant": opening.tenant,
        "b_id": opening.session_id,
        "b_now": opening.now,
        "b_until": opening.until or 0.0,
    }
    if opening.lease is not None:
        told |= {
            "b_owner": opening.owner,
            "b_call": opening.request_id,
            "b_lease": opening.lease,
        }
    row = connection.execute(_OPEN if opening.lease is None else _OPEN_LEASED, told).one_or_none()
    if row is None:
        find(connection, opening.tenant, opening.session_id, opening.now)  # which says that there is none
        return None
    kept = opening.inputs is not None and row.record == "all"
    if row.record != "none":
        connection.execute(
            _INSERT,
            {
                "session": row.key,
                "number": row.turns,
                "owner": opening.owner,
                "status": "started",
                "request_id": opening.request_id,
                "program": opening.program,
                "version": opening.version,
                "module": opening.module,
                "recorded": "all" if kept else "shape",
                "inputs": opening.inputs if kept else opening.shape,
                "started": opening.now,
            },
        )
    history = recent(connection, row.key, opening.recent, before=row.turns) if opening.recent else []
    spent = (row.spent_tokens, row.spent_cost)
    return Opened(row.key, row.turns, row.record, kept, row.lm, history, row.created, row.budget, spent)


def recent(connection: Connection, session: int, most: int, *, before: int) -> list[Past]:
    """The answered turns of a session before one, the latest first.

    Args:
        connection: The store's.
        session: The session's key.
        most: How many to give.
        before: The number of that one.
    """
    rows = connection.execute(_RECENT, {"b_session": session, "b_most": most, "b_before": before})
    return [Past(row.number, row.inputs, row.outputs) for row in rows]


@dataclass(frozen=True, slots=True)
class Closing:
    """How a turn has ended.

    Attributes:
        opened: The turn.
        request_id: The call's name.
        owner: The runtime that ran it.
        status: ``ok``, ``failed`` or ``cancelled``.
        now: Seconds since 1970.
        seconds: How long it took.
        outputs: Its outputs, encoded; None when they are too large to be kept, or there are none.
        shape: Their shapes, encoded; None when there are none.
        model: The model that answered.
        usage: Tokens of all LM requests.
        cost: US dollars; None when the price is not known.
        asked: Whether an LM was asked at all.
        attempts: How many workers it was given to.
        error_code: The code of its error.
        error_message: What that says.
        leased: Whether it has the session's lease, which it gives back.
    """

    opened: Opened
    request_id: str
    owner: str
    status: str
    now: float
    seconds: float
    outputs: bytes | None = None
    shape: bytes | None = None
    model: str | None = None
    usage: Usage = Usage()  # noqa: RUF009 (it is frozen)
    cost: float | None = None
    asked: bool = False
    attempts: int = 0
    error_code: str | None = None
    error_message: str | None = None
    leased: bool = False


_COUNT = (
    update(sessions)
    .where(sessions.c.key == bindparam("b_session"), sessions.c.ended.is_(False))
    .values(
        used=_NOW,
        expires=_LATER,
        answered=sessions.c.answered + bindparam("b_answered"),
        failed=sessions.c.failed + bindparam("b_failed"),
        prompt_tokens=sessions.c.prompt_tokens + bindparam("b_prompt_tokens"),
        completion_tokens=sessions.c.completion_tokens + bindparam("b_completion_tokens"),
        cost=sessions.c.cost + bindparam("b_cost"),
        unpriced=sessions.c.unpriced + bindparam("b_unpriced"),
        seconds=sessions.c.seconds + bindparam("b_seconds"),
    )
)
_GIVE_BACK = (
    update(sessions)
    .where(
        sessions.c.key == bindparam("b_session"),
        sessions.c.lease_owner == bindparam("b_owner"),
        sessions.c.lease_call == bindparam("b_call"),
    )
    .values(lease_owner=None, lease_call=None, lease_until=None)
)
_OF_TURN = (
    turns.c.session == bindparam("b_session"),
    turns.c.number == bindparam("b_number"),
    turns.c.request_id == bindparam("b_call"),
    # Once. What was taken for interrupted, while its host did not answer, has ended after all.
    turns.c.status.in_(("started", "interrupted")),
)
_ENDS = (
    *("status", "outputs", "model", "prompt_tokens", "completion_tokens", "cost", "attempts", "seconds"),
    *("error_code", "error_message", "recorded"),
)
_CLOSE = update(turns).where(*_OF_TURN).values({name: bindparam(f"b_{name}") for name in _ENDS})


def close_turn(connection: Connection, closing: Closing) -> bool:
    """Close a turn, and count it.

    Returns:
        Whether it was there to be closed.
    """
    if closing.leased:
        connection.execute(
            _GIVE_BACK,
            {
                "b_session": closing.opened.session,
                "b_owner": closing.owner,
                "b_call": closing.request_id,
            },
        )
    if closing.opened.record != "none" and not _closed(connection, closing):
        return False
    ok, priced = closing.status == "ok", closing.cost is not None or not closing.asked
    counted = connection.execute(
        _COUNT,
        {
            "b_session": closing.opened.session,
            "b_now": closing.now,
            "b_answered": int(ok),
            "b_failed": int(not ok),
            "b_prompt_tokens": closing.usage.prompt_tokens,
            "b_completion_tokens": closing.usage.completion_tokens,
            "b_cost": closing.cost or 0.0,
            "b_unpriced": int(not priced),
            "b_seconds": closing.seconds,
        },
    )
    return counted.rowcount == 1


def _closed(connection: Connection, closing: Closing) -> bool:
    opened = closing.opened
    # What failed has no outputs; its inputs are kept as they were written.
    whole = opened.kept and (closing.shape is None or closing.outputs is not None)
    changed = connection.execute(
        _CLOSE,
        {
            "b_session": opened.session,
            "b_number": opened.number,
            "b_call": closing.request_id,
            "b_status": closing.status,
            "b_outputs": closing.outputs if whole else closing.shape,
            "b_recorded": "all" if whole else "shape",
            "b_model": closing.model,
            "b_prompt_tokens": closing.usage.prompt_tokens,
            "b_completion_tokens": closing.usage.completion_tokens,
            "b_cost": closing.cost,
            "b_attempts": closing.attempts,
            "b_error_code": closing.error_code,
            "b_error_message": closing.error_message,
            "b_seconds": closing.seconds,
        },
    )
    return changed.rowcount == 1
