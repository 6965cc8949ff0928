"""DSPy adapters of an operator's own that end or block their worker on a word, for tests of poison."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import dspy


class Deadly(dspy.ChatAdapter):  # type: ignore[misc]
    """What a question says happens to the process: ``exit``, ``exit once PATH``, ``spin``."""

    def format(self, signature: Any, demos: Any, inputs: dict[str, Any]) -> Any:
        said = next(iter(inputs.values()))
        if said.startswith("exit once"):
            mark = Path(said.removeprefix("exit once "))
            if not mark.exists():
                mark.touch()
                os._exit(9)
        elif said.startswith("exit"):
            os._exit(9)
        elif said.startswith("spin"):
            while True:
                time.sleep(0)
        return super().format(signature, demos, inputs)
