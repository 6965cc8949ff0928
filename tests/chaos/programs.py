"""Programs and an adapter of a user's that hang, die and eat. Workers alone import this file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import time
from typing import Any

import dspy


class Hang(dspy.Module):  # type: ignore[misc]
    """Sleeps in its own code."""

    def forward(self, question: str) -> Any:
        time.sleep(3600)
        return dspy.Prediction(answer=question)


class Spin(dspy.Module):  # type: ignore[misc]
    """Computes for ever."""

    def forward(self, question: str) -> Any:
        while True:
            pass


class HoldGil(dspy.Module):  # type: ignore[misc]
    """Stays in one C call, with the GIL."""

    def forward(self, question: str) -> Any:
        re.match(r"(a|a)*$", "a" * 64 + "b")


class Swallow(dspy.Module):  # type: ignore[misc]
    """Refuses to be cancelled."""

    async def aforward(self, question: str) -> Any:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)


class Family(dspy.Module):  # type: ignore[misc]
    """Waits for a child, and has another in a session of its own."""

    def forward(self, pidfile: str) -> Any:
        hour = [sys.executable, "-c", "import time; time.sleep(3600)"]
        near = subprocess.Popen(hour)
        far = subprocess.Popen(hour, start_new_session=True)
        with open(pidfile, "a") as file:  # noqa: PTH123 (a program as users write them)
            file.write(f"{near.pid}\n{far.pid}\n")
        near.wait()


class Die(dspy.Module):  # type: ignore[misc]
    """Ends its process."""

    def forward(self, question: str) -> Any:
        os._exit(7)


class Eat(dspy.Module):  # type: ignore[misc]
    """Takes memory until somebody stops it, at most so many megabytes."""

    def forward(self, megabytes: int) -> Any:
        kept = []
        for _ in range(megabytes):
            kept.append(b"\xff" * 1024 * 1024)
            time.sleep(0.001)
        time.sleep(3600)
        return dspy.Prediction(answer=len(kept))


class Echo(dspy.Module):  # type: ignore[misc]
    """Answers at once."""

    def forward(self, question: str) -> Any:
        return dspy.Prediction(answer=question)


class Deadly(dspy.ChatAdapter):  # type: ignore[misc]
    """DSPy's own adapter, which dies of a certain text, as a broken C extension does."""

    def format(self, signature: Any, demos: Any, inputs: dict[str, Any]) -> Any:
        if any("poison" in str(value) for value in inputs.values()):
            os._exit(11)
        return super().format(signature, demos, inputs)
