"""A signature with a history, to be named by its import path."""

from __future__ import annotations

import os

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # before DSPy, which would download it

import dspy


class Talk(dspy.Signature):  # type: ignore[misc]  # DSPy has no types
    """Answer in the mood of what was said before."""

    history: dspy.History = dspy.InputField()
    message: str = dspy.InputField()
    reply: str = dspy.OutputField()
