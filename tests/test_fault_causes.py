"""What stands behind an exception: several at once, one raised from another, a sandbox's."""

from __future__ import annotations

import dspy

from dspex.worker import faults
from tests.test_faults import KEY, checked, raised


def test_what_a_group_of_tasks_raises_keeps_its_code() -> None:
    """If this failed, a program that asks side by side in a TaskGroup would hide its provider's answer."""
    busy = dspy.LMRateLimitError("busy", retry_after=3.0)
    ours = checked(faults.translate(ExceptionGroup("tasks", [ExceptionGroup("inner", [busy]), busy])))
    assert (ours.code, ours.retry_after) == ("lm_rate_limited", 3.0)
    mixed = checked(faults.translate(ExceptionGroup("tasks", [busy, ValueError("no")])))
    assert (mixed.code, mixed.details["type"]) == ("python_error", "ExceptionGroup")


def test_an_exception_raised_from_an_lm_error_names_it() -> None:
    """If this failed, a program's own exception would hide that its provider was busy."""

    def wrap(kind: type[Exception]) -> None:
        try:
            raise dspy.LMRateLimitError(f"busy {KEY}" + "x" * 10_000, retry_after=3.0)
        except dspy.LMRateLimitError as error:
            raise kind("could not route") from error

    ours = checked(faults.translate(raised(wrap, RuntimeError), [KEY]))
    assert (ours.code, ours.message, ours.retryable) == (
        "python_error",
        "RuntimeError: could not route",
        False,
    )
    cause = ours.details["cause"]
    assert (cause["code"], cause["retryable"], cause["retry_after"]) == ("lm_rate_limited", True, 3.0)
    assert cause["message"].startswith("busy ***")
    assert len(cause["message"]) == 4000
    assert checked(faults.translate(raised(wrap, dspy.LMServerError))).code == "lm_unavailable"
    assert "cause" not in faults.translate(raised({}.__getitem__, "x")).details
    around = ValueError("a")
    around.__cause__ = around  # a circle
    assert "cause" not in faults.translate(around).details


def test_a_sandbox_that_failed_is_no_fault_of_the_program() -> None:
    """If this failed, code that a model wrote would look like code of the user's."""
    from dspy.primitives.code_interpreter import CodeExecutionError

    ours = checked(faults.translate(CodeExecutionError("NameError: x")))
    assert (ours.code, ours.message) == ("sandbox_error", "NameError: x")
