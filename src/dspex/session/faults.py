"""What goes wrong in a database, as one error of ours: no statement, no value and no password in it."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from dspex.errors import StoreError


def store_error(error: BaseException, where: str) -> StoreError:
    """The error that a caller gets.

    Args:
        error: What SQLAlchemy, the driver or the system raised.
        where: The store, as it may be shown.
    """
    return StoreError(
        f"the store ({where}) cannot be used: {_reason(error)}",
        details={"store": where, "cause": type(error).__name__},
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, DBAPIError) and error.orig is not None:
        state = getattr(error.orig, "sqlstate", None)
        if state is not None:  # PostgreSQL's texts may quote values
            return f"{type(error.orig).__name__} ({state})"
        return str(error.orig)
    if isinstance(error, SQLAlchemyError):
        return type(error).__name__
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return type(error).__name__
