"""Tools of an operator's, loaded by workers: ``allow_modules=["tests.agent_tools"]``."""

from __future__ import annotations

import asyncio
import os
import time

import pydantic


class Order(pydantic.BaseModel):
    """An order."""

    item: str
    count: int = 1


def pid(text: str = "") -> str:
    """The process that this runs in."""
    return f"{text}{os.getpid()}"


async def slow_pid(seconds: float = 0.0) -> str:
    """The same, after a while."""
    await asyncio.sleep(seconds)
    return str(os.getpid())


def total(orders: list[Order]) -> int:
    """How many items there are in all."""
    assert all(isinstance(order, Order) for order in orders)
    return sum(order.count for order in orders)


def broken() -> None:
    """Raise."""
    raise LookupError("nothing here")


def hangs() -> None:
    """Never come back."""
    time.sleep(600)


def dies() -> None:
    """End the process."""
    os._exit(9)


def positional(text: str, /) -> str:
    """No tool."""
    return text


number = 3
