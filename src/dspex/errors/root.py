"""The root of all errors, and how one travels."""

from __future__ import annotations

from typing import Any, ClassVar, Self


class DspexError(Exception):
    """The root of every error that dspex raises.

    Attributes:
        code: Stable name of the cause, for programs (``"python_timeout"``).
        message: One or two sentences for people, saying what to do next.
        retryable: Whether the same call may succeed later without a change.
        retry_after: Seconds to wait before trying again, where that is known.
        details: JSON-ready facts about this failure.
        request_id: The call that failed, as in ``Response.request_id``.
    """

    code: ClassVar[str] = "error"
    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        details: dict[str, Any] | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = {} if details is None else details
        self.retry_after = retry_after
        self.request_id = request_id
        if retryable is not None:
            self.retryable = retryable

    def to_wire(self) -> dict[str, Any]:
        """This error as JSON-ready data, without a traceback."""
        return {
            "code": self.code,
            "message": self.message,
            "retryable": self.retryable,
            "retry_after": self.retry_after,
            "details": self.details,
            "request_id": self.request_id,
        }

    def for_request(self, request_id: str) -> Self:
        """This same error, marked with the call it belongs to if it was not yet."""
        self.request_id = self.request_id or request_id
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, (type(self), self.to_wire()), self.__dict__.copy()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r}, code={self.code!r})"


def rebuild(kind: type[DspexError], fields: dict[str, Any]) -> DspexError:
    """The error of a class that ``to_wire()`` described."""
    return kind(
        fields.get("message", ""),
        details=fields.get("details"),
        retry_after=fields.get("retry_after"),
        request_id=fields.get("request_id"),
        retryable=fields.get("retryable"),
    )
