"""Every failure that dspex reports, one class per code.

::

    DspexError
    ├── Refused                  nothing ran; correct the call
    │   ├── ModuleNotFound       module_not_found
    │   ├── InvalidSignature     invalid_signature
    │   ├── InvalidInput         invalid_input
    │   ├── InvalidOption        invalid_option
    │   ├── UnknownProvider      unknown_provider
    │   ├── LMNotConfigured      lm_not_configured
    │   ├── UnknownProgram       unknown_program
    │   ├── UnknownSession       unknown_session
    │   ├── SessionExpired       session_expired
    │   ├── PayloadTooLarge      payload_too_large
    │   ├── BudgetExceeded       budget_exceeded
    │   ├── RateLimited          rate_limited          retryable
    │   └── NotAllowed           not_allowed
    ├── PoolError                the pool could not run it, or lost it
    │   ├── PoolSaturated        pool_saturated        retryable
    │   ├── QueueTimeout         queue_timeout         retryable
    │   ├── PoolUnhealthy        pool_unhealthy        retryable
    │   ├── PoolClosed           pool_closed
    │   ├── WorkerLost           worker_lost           retryable
    │   └── PoisonCall           poison_call
    ├── CallError                the call itself failed
    │   ├── PythonTimeout        python_timeout
    │   ├── Cancelled            cancelled
    │   ├── PythonError          python_error
    │   ├── ToolError            tool_error
    │   ├── SandboxError         sandbox_error
    │   ├── SandboxMissing       sandbox_missing
    │   ├── ParseError           parse_error
    │   └── ResultTooLarge       result_too_large
    ├── LMError                  the language model's side failed
    │   ├── LMAuth               lm_auth
    │   ├── LMBilling            lm_billing
    │   ├── LMRateLimited        lm_rate_limited       retryable
    │   ├── LMTimeout            lm_timeout            retryable
    │   ├── LMUnavailable        lm_unavailable        retryable
    │   ├── LMContextWindow      lm_context_window
    │   ├── LMInvalidRequest     lm_invalid_request
    │   ├── LMUnsupported        lm_unsupported
    │   └── LMCircuitOpen        lm_circuit_open       retryable
    └── StateError               sessions and their store
        ├── StoreError           store_error           retryable
        ├── SessionQuota         session_quota
        └── Conflict             conflict              retryable

Errors are data: each one crosses a process boundary as ``to_wire()`` and is rebuilt from the table
of codes by ``from_wire()``. Nothing is pickled on the wire; pickling and copying an error by hand
work as well, and keep every field.
"""

from __future__ import annotations

from typing import Any

from dspex.errors.root import DspexError as DspexError
from dspex.errors.root import rebuild


class Refused(DspexError):
    """The call was refused before anything ran; correct it and call again."""

    code = "refused"


class ModuleNotFound(Refused):
    """No module of that name may be run here."""

    code = "module_not_found"


class InvalidSignature(Refused):
    """The signature is malformed or names a type that is not allowed."""

    code = "invalid_signature"


class InvalidInput(Refused):
    """An input is missing, unknown, of the wrong type, or cannot be sent."""

    code = "invalid_input"


class InvalidOption(Refused):
    """An option is unknown, or its value is not one that it takes."""

    code = "invalid_option"


class UnknownProvider(Refused):
    """No provider of that name is known."""

    code = "unknown_provider"


class LMNotConfigured(Refused):
    """No language model, or no key for it; ``details["variable"]`` names what to set."""

    code = "lm_not_configured"


class UnknownProgram(Refused):
    """No program has that id in this session."""

    code = "unknown_program"


class UnknownSession(Refused):
    """No session has that id."""

    code = "unknown_session"


class SessionExpired(Refused):
    """The session existed and its time is over."""

    code = "session_expired"


class PayloadTooLarge(Refused):
    """What was to be sent is larger than the limit."""

    code = "payload_too_large"


class BudgetExceeded(Refused):
    """The call would go over a budget of tokens or money."""

    code = "budget_exceeded"


class RateLimited(Refused):
    """The caller asked too often; ``retry_after`` says when to ask again."""

    code = "rate_limited"
    retryable = True


class NotAllowed(Refused):
    """What was asked for is not among what the operator allows."""

    code = "not_allowed"


class PoolError(DspexError):
    """The pool could not run the call, or lost it."""

    code = "pool_error"


class PoolSaturated(PoolError):
    """The queue is full; ``retry_after`` says when to try again."""

    code = "pool_saturated"
    retryable = True


class QueueTimeout(PoolError):
    """No worker was free within ``queue_timeout``; the call never ran."""

    code = "queue_timeout"
    retryable = True


class PoolUnhealthy(PoolError):
    """Workers do not start; ``details["cause"]`` is the last reason."""

    code = "pool_unhealthy"
    retryable = True


class PoolClosed(PoolError):
    """The pool is closed, or was opened in another process before a fork."""

    code = "pool_closed"


class WorkerLost(PoolError):
    """The worker died while it ran the call, and the call could not be run again."""

    code = "worker_lost"
    retryable = True


class PoisonCall(PoolError):
    """The call killed its worker twice and is not tried again."""

    code = "poison_call"


class CallError(DspexError):
    """The call ran, or waited to, and failed."""

    code = "call_error"


class PythonTimeout(CallError):
    """The deadline passed; ``details``: phase (queued or running), elapsed seconds, killed."""

    code = "python_timeout"


class Cancelled(CallError):
    """The caller went away and the work was stopped."""

    code = "cancelled"


class PythonError(CallError):
    """An exception in user code; ``details``: type, message, frames."""

    code = "python_error"


class ToolError(CallError):
    """A tool that was declared fatal failed."""

    code = "tool_error"


class SandboxError(CallError):
    """Generated code failed in its sandbox."""

    code = "sandbox_error"


class SandboxMissing(CallError):
    """No sandbox is installed for generated code."""

    code = "sandbox_missing"


class ParseError(CallError):
    """The model's text has not the outputs that the signature asks for; it is in ``details``."""

    code = "parse_error"


class ResultTooLarge(CallError):
    """The result is larger than the limit."""

    code = "result_too_large"


class LMError(DspexError):
    """The language model, or the way to it, failed."""

    code = "lm_error"


class LMAuth(LMError):
    """The provider refused the key."""

    code = "lm_auth"


class LMBilling(LMError):
    """The provider refused for reasons of payment or quota."""

    code = "lm_billing"


class LMRateLimited(LMError):
    """The provider is limiting the rate of requests."""

    code = "lm_rate_limited"
    retryable = True


class LMTimeout(LMError):
    """One request took longer than the profile's own ``timeout``."""

    code = "lm_timeout"
    retryable = True


class LMUnavailable(LMError):
    """The provider could not be reached, or failed."""

    code = "lm_unavailable"
    retryable = True


class LMContextWindow(LMError):
    """The prompt is longer than the model's context window."""

    code = "lm_context_window"


class LMInvalidRequest(LMError):
    """The provider refused the request itself."""

    code = "lm_invalid_request"


class LMUnsupported(LMError):
    """The model or its provider cannot do what was asked."""

    code = "lm_unsupported"


class LMCircuitOpen(LMError):
    """The endpoint failed so often that it is left alone for a while."""

    code = "lm_circuit_open"
    retryable = True


class StateError(DspexError):
    """Sessions, programs, or the store that keeps them."""

    code = "state_error"


class StoreError(StateError):
    """The store is locked, full or gone."""

    code = "store_error"
    retryable = True


class SessionQuota(StateError):
    """No more sessions may be created."""

    code = "session_quota"


class Conflict(StateError):
    """Somebody else changed the same thing at the same time."""

    code = "conflict"
    retryable = True


def _tree(root: type[DspexError]) -> dict[str, type[DspexError]]:
    table = {root.code: root}
    for child in root.__subclasses__():
        table |= _tree(child)
    return table


#: Every code and its class.
BY_CODE: dict[str, type[DspexError]] = _tree(DspexError)


def from_wire(fields: dict[str, Any]) -> DspexError:
    """The error that ``to_wire()`` described; a code this version does not know gives the root class."""
    code = fields.get("code")
    return rebuild(BY_CODE.get(code, DspexError) if isinstance(code, str) else DspexError, fields)
