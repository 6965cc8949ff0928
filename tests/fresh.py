"""Runs a function of a test file in a process of its own, for what holds for a whole process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_RUN = (
    "import importlib, json, sys; module = importlib.import_module(sys.argv[1]); "
    "print(json.dumps(getattr(module, sys.argv[2])()))"
)
_ROOT = Path(__file__).parents[1]


def fresh(function: Callable[[], Any], **variables: str) -> Any:
    """What the function returns, JSON-ready, in a new process with these environment variables besides."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, function.__module__, function.__qualname__],
        env={**os.environ, **variables},
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
