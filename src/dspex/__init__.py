"""DSPy programs in a supervised pool of worker processes, behind one LM-adapter interface.

>>> import dspex
>>> with dspex.Runtime(lm="openai/gpt-5-mini") as runtime:          # doctest: +SKIP
...     r = runtime.adapter().generate("What is 2 + 2?", signature="question -> answer")
...     r.answer
"""

from __future__ import annotations

import logging as _logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dspex.adapter.adapter import DSPyAdapter
    from dspex.adapter.capabilities import Capabilities
    from dspex.adapter.described import Described, DescribedField, DescribedOption
    from dspex.adapter.loaded import LoadedProgram
    from dspex.adapter.named import NamedProgram
    from dspex.adapter.outcomes import AsyncOutcomes, Outcomes
    from dspex.adapter.program import Program
    from dspex.adapter.response import Response, StageResult, Timing
    from dspex.adapter.runtime import Runtime
    from dspex.adapter.session.session import Session
    from dspex.adapter.stream import AsyncStream, Final, Stream
    from dspex.batch.outcome import BatchProgress, Outcome
    from dspex.errors import (
        BudgetExceeded,
        CallError,
        Cancelled,
        Conflict,
        DspexError,
        InvalidInput,
        InvalidOption,
        InvalidSignature,
        LMAuth,
        LMBilling,
        LMCircuitOpen,
        LMContextWindow,
        LMError,
        LMInvalidRequest,
        LMNotConfigured,
        LMRateLimited,
        LMTimeout,
        LMUnavailable,
        LMUnsupported,
        ModuleNotFound,
        NotAllowed,
        ParseError,
        PayloadTooLarge,
        PoisonCall,
        PoolClosed,
        PoolError,
        PoolSaturated,
        PoolUnhealthy,
        PythonError,
        PythonTimeout,
        QueueTimeout,
        RateLimited,
        Refused,
        ResultTooLarge,
        SandboxError,
        SandboxMissing,
        SessionExpired,
        SessionQuota,
        StateError,
        StoreError,
        ToolError,
        UnknownProgram,
        UnknownProvider,
        UnknownSession,
        WorkerLost,
    )
    from dspex.lm.profile import LM
    from dspex.media.files import Audio, Document, File, Image
    from dspex.media.text import Code, Reasoning
    from dspex.media.turns import Citation, Citations, History, ToolCall, ToolCalls
    from dspex.pool.stats import BreakerStats, BudgetStats, LMStats, PoolStats, RuntimeStats, WorkerStats
    from dspex.program.document import Stage
    from dspex.program.signature import Field, Signature
    from dspex.rewards import Prediction, Reward
    from dspex.runtime.told import Delta, Started, Status, ToolResult
    from dspex.session.records import Insights, ProgramInfo, SessionInfo, Turn
    from dspex.settings import PoolOptions, Settings
    from dspex.telemetry.events import (
        BatchFinished,
        BatchStarted,
        BreakerChanged,
        BudgetRefused,
        CacheEvent,
        CacheHit,
        CacheMiss,
        CacheStored,
        CallEvent,
        CallFinished,
        CallQueued,
        CallStarted,
        Event,
        FellBack,
        LMRequestFinished,
        LocalModelProgress,
        PoolClosing,
        PoolEvent,
        PoolFailed,
        PoolRecovered,
        PoolResized,
        SessionCreated,
        SessionEnded,
        SessionEvent,
        SessionQuotaNear,
        WorkerDraining,
        WorkerEvent,
        WorkerGone,
        WorkerReady,
        WorkerStarted,
        ZygoteLost,
        ZygoteStarted,
    )
    from dspex.telemetry.insights import Insight
    from dspex.tools import Allow, Deny, MCPServer, Tool, ToolRecord, ToolRequest
    from dspex.types import (
        Breaker,
        Budget,
        FallenBack,
        Limits,
        LMRequest,
        LMSpec,
        Retry,
        Usage,
        command,
        module,
    )
    from dspex.wire.values import Unsendable

# Where each name lives. Nothing is imported before it is used: `import dspex` loads neither asyncio nor
# pydantic, and never DSPy.
_HOMES = {
    "dspex.adapter.adapter": "DSPyAdapter",
    "dspex.adapter.capabilities": "Capabilities",
    "dspex.adapter.loaded": "LoadedProgram",
    "dspex.adapter.named": "NamedProgram",
    "dspex.adapter.outcomes": "AsyncOutcomes Outcomes",
    "dspex.adapter.program": "Program",
    "dspex.adapter.described": "Described DescribedField DescribedOption",
    "dspex.adapter.response": "Response StageResult Timing",
    "dspex.adapter.runtime": "Runtime",
    "dspex.adapter.session.session": "Session",
    "dspex.adapter.stream": "AsyncStream Final Stream",
    "dspex.batch.outcome": "BatchProgress Outcome",
    "dspex.errors": (
        "BudgetExceeded CallError Cancelled Conflict DspexError InvalidInput InvalidOption InvalidSignature "
        "LMAuth LMBilling LMCircuitOpen LMContextWindow LMError LMInvalidRequest LMNotConfigured "
        "LMRateLimited LMTimeout LMUnavailable LMUnsupported ModuleNotFound NotAllowed ParseError "
        "PayloadTooLarge PoisonCall PoolClosed PoolError PoolSaturated PoolUnhealthy PythonError "
        "PythonTimeout QueueTimeout RateLimited Refused ResultTooLarge SandboxError SandboxMissing "
        "SessionExpired SessionQuota StateError StoreError ToolError UnknownProgram UnknownProvider "
        "UnknownSession WorkerLost"
    ),
    "dspex.lm.profile": "LM",
    "dspex.media.files": "Audio Document File Image",
    "dspex.media.text": "Code Reasoning",
    "dspex.media.turns": "Citation Citations History ToolCall ToolCalls",
    "dspex.pool.stats": "BreakerStats BudgetStats LMStats PoolStats RuntimeStats WorkerStats",
    "dspex.program.document": "Stage",
    "dspex.program.signature": "Field Signature",
    "dspex.rewards": "Prediction Reward",
    "dspex.runtime.told": "Delta Started Status ToolResult",
    "dspex.session.records": "Insights ProgramInfo SessionInfo Turn",
    "dspex.settings": "PoolOptions Settings",
    "dspex.telemetry.events": (
        "BatchFinished BatchStarted BreakerChanged BudgetRefused CacheEvent CacheHit CacheMiss CacheStored "
        "CallEvent CallFinished CallQueued CallStarted Event FellBack LMRequestFinished "
        "LocalModelProgress PoolClosing PoolEvent PoolFailed PoolRecovered PoolResized SessionCreated "
        "SessionEnded SessionEvent SessionQuotaNear WorkerDraining WorkerEvent WorkerGone WorkerReady "
        "WorkerStarted ZygoteLost ZygoteStarted"
    ),
    "dspex.telemetry.insights": "Insight",
    "dspex.tools": "Allow Deny MCPServer Tool ToolRecord ToolRequest",
    "dspex.types": "Breaker Budget FallenBack LMRequest LMSpec Limits Retry Usage command module",
    "dspex.wire.values": "Unsendable",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

# Who sets up no logging is shown no line: what concerns him comes as an error.
_logging.getLogger("dspex").addHandler(_logging.NullHandler())

__version__ = "0.1.0"
__all__ = [
    "LM",
    "Allow",
    "AsyncOutcomes",
    "AsyncStream",
    "Audio",
    "BatchFinished",
    "BatchProgress",
    "BatchStarted",
    "Breaker",
    "BreakerChanged",
    "BreakerStats",
    "Budget",
    "BudgetExceeded",
    "BudgetRefused",
    "BudgetStats",
    "CacheEvent",
    "CacheHit",
    "CacheMiss",
    "CacheStored",
    "CallError",
    "CallEvent",
    "CallFinished",
    "CallQueued",
    "CallStarted",
    "Cancelled",
    "Capabilities",
    "Citation",
    "Citations",
    "Code",
    "Conflict",
    "DSPyAdapter",
    "Delta",
    "Deny",
    "Described",
    "DescribedField",
    "DescribedOption",
    "Document",
    "DspexError",
    "Event",
    "FallenBack",
    "FellBack",
    "Field",
    "File",
    "Final",
    "History",
    "Image",
    "Insight",
    "Insights",
    "InvalidInput",
    "InvalidOption",
    "InvalidSignature",
    "LMAuth",
    "LMBilling",
    "LMCircuitOpen",
    "LMContextWindow",
    "LMError",
    "LMInvalidRequest",
    "LMNotConfigured",
    "LMRateLimited",
    "LMRequest",
    "LMRequestFinished",
    "LMSpec",
    "LMStats",
    "LMTimeout",
    "LMUnavailable",
    "LMUnsupported",
    "Limits",
    "LoadedProgram",
    "LocalModelProgress",
    "MCPServer",
    "ModuleNotFound",
    "NamedProgram",
    "NotAllowed",
    "Outcome",
    "Outcomes",
    "ParseError",
    "PayloadTooLarge",
    "PoisonCall",
    "PoolClosed",
    "PoolClosing",
    "PoolError",
    "PoolEvent",
    "PoolFailed",
    "PoolOptions",
    "PoolRecovered",
    "PoolResized",
    "PoolSaturated",
    "PoolStats",
    "PoolUnhealthy",
    "Prediction",
    "Program",
    "ProgramInfo",
    "PythonError",
    "PythonTimeout",
    "QueueTimeout",
    "RateLimited",
    "Reasoning",
    "Refused",
    "Response",
    "ResultTooLarge",
    "Retry",
    "Reward",
    "Runtime",
    "RuntimeStats",
    "SandboxError",
    "SandboxMissing",
    "Session",
    "SessionCreated",
    "SessionEnded",
    "SessionEvent",
    "SessionExpired",
    "SessionInfo",
    "SessionQuota",
    "SessionQuotaNear",
    "Settings",
    "Signature",
    "Stage",
    "StageResult",
    "Started",
    "StateError",
    "Status",
    "StoreError",
    "Stream",
    "Timing",
    "Tool",
    "ToolCall",
    "ToolCalls",
    "ToolError",
    "ToolRecord",
    "ToolRequest",
    "ToolResult",
    "Turn",
    "UnknownProgram",
    "UnknownProvider",
    "UnknownSession",
    "Unsendable",
    "Usage",
    "WorkerDraining",
    "WorkerEvent",
    "WorkerGone",
    "WorkerLost",
    "WorkerReady",
    "WorkerStarted",
    "WorkerStats",
    "ZygoteLost",
    "ZygoteStarted",
    "command",
    "module",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'dspex' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
