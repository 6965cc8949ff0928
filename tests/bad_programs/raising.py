"""Fails while it is imported."""


def _fail() -> None:
    raise ZeroDivisionError("at import")


_fail()
