"""The events: one frozen type per thing that happens, a file for each subject."""

from dspex.telemetry.events.base import (
    Event,
)
from dspex.telemetry.events.calls import (
    BatchFinished,
    BatchStarted,
    CacheEvent,
    CacheHit,
    CacheMiss,
    CacheStored,
    CallEvent,
    CallFinished,
    CallQueued,
    CallStarted,
)
from dspex.telemetry.events.lms import (
    BreakerChanged,
    BudgetRefused,
    FellBack,
    LMRequestFinished,
    LocalModelProgress,
)
from dspex.telemetry.events.sessions import (
    SessionCreated,
    SessionEnded,
    SessionEvent,
    SessionQuotaNear,
)
from dspex.telemetry.events.workers import (
    PoolClosing,
    PoolEvent,
    PoolFailed,
    PoolRecovered,
    PoolResized,
    WorkerDraining,
    WorkerEvent,
    WorkerGone,
    WorkerReady,
    WorkerStarted,
    ZygoteLost,
    ZygoteStarted,
)

__all__ = [
    "BatchFinished",
    "BatchStarted",
    "BreakerChanged",
    "BudgetRefused",
    "CacheEvent",
    "CacheHit",
    "CacheMiss",
    "CacheStored",
    "CallEvent",
    "CallFinished",
    "CallQueued",
    "CallStarted",
    "Event",
    "FellBack",
    "LMRequestFinished",
    "LocalModelProgress",
    "PoolClosing",
    "PoolEvent",
    "PoolFailed",
    "PoolRecovered",
    "PoolResized",
    "SessionCreated",
    "SessionEnded",
    "SessionEvent",
    "SessionQuotaNear",
    "WorkerDraining",
    "WorkerEvent",
    "WorkerGone",
    "WorkerReady",
    "WorkerStarted",
    "ZygoteLost",
    "ZygoteStarted",
]
