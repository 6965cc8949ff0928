"""Rewards by import path: ``allow_modules=["tests.rewarding"]``."""

from __future__ import annotations

from typing import Any


def short(args: dict[str, Any], prediction: Any) -> float:
    """Short answers are good ones."""
    return 1.0 if len(prediction.answer) <= len(args["question"]) else 0.25
