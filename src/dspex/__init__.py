"""DSPy programs in a supervised pool of worker processes, behind one LM-adapter interface.

>>> import dspex
>>> with dspex.Runtime(lm="openai/gpt-5-mini") as runtime:          # doctest: +SKIP
...     r = runtime.adapter().generate("What is 2 + 2?", signature="question -> answer")
...     r.answer
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dspex.adapter.adapter import DSPyAdapter
    from dspex.adapter.response import Response, Timing
    from dspex.adapter.runtime import Runtime
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
    from dspex.pool.stats import LMStats, PoolStats, RuntimeStats, WorkerStats
    from dspex.program.signature import Field, Signature
    from dspex.settings import PoolOptions, Settings
    from dspex.telemetry.events import (
        Event,
        LocalModelProgress,
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
    from dspex.tools import Allow, Deny, MCPServer, Tool, ToolRecord, ToolRequest
    from dspex.types import Limits, LMRequest, LMSpec, Retry, Usage, command, module
    from dspex.wire.values import Unsendable

# Where each name lives. Nothing is imported before it is used: `import dspex` loads neither asyncio nor
# pydantic, and never DSPy.
_HOMES = {
    "dspex.adapter.adapter": "DSPyAdapter",
    "dspex.adapter.response": "Response Timing",
    "dspex.adapter.runtime": "Runtime",
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
    "dspex.pool.stats": "LMStats PoolStats RuntimeStats WorkerStats",
    "dspex.program.signature": "Field Signature",
    "dspex.settings": "PoolOptions Settings",
    "dspex.telemetry.events": (
        "Event LocalModelProgress PoolClosing PoolEvent PoolFailed PoolRecovered PoolResized WorkerDraining "
        "WorkerEvent WorkerGone WorkerReady WorkerStarted ZygoteLost ZygoteStarted"
    ),
    "dspex.tools": "Allow Deny MCPServer Tool ToolRecord ToolRequest",
    "dspex.types": "LMRequest LMSpec Limits Retry Usage command module",
    "dspex.wire.values": "Unsendable",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__version__ = "0.1.0"
__all__ = [
    "LM",
    "Allow",
    "BudgetExceeded",
    "CallError",
    "Cancelled",
    "Conflict",
    "DSPyAdapter",
    "Deny",
    "DspexError",
    "Event",
    "Field",
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
    "LMSpec",
    "LMStats",
    "LMTimeout",
    "LMUnavailable",
    "LMUnsupported",
    "Limits",
    "LocalModelProgress",
    "MCPServer",
    "ModuleNotFound",
    "NotAllowed",
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
    "PythonError",
    "PythonTimeout",
    "QueueTimeout",
    "RateLimited",
    "Refused",
    "Response",
    "ResultTooLarge",
    "Retry",
    "Runtime",
    "RuntimeStats",
    "SandboxError",
    "SandboxMissing",
    "SessionExpired",
    "SessionQuota",
    "Settings",
    "Signature",
    "StateError",
    "StoreError",
    "Timing",
    "Tool",
    "ToolError",
    "ToolRecord",
    "ToolRequest",
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
