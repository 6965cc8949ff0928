"""What a program is once it is built, whoever wrote it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from dspex.program.signature import Signature
from dspex.worker.validate import check_inputs


class Runnable(Protocol):
    """A built program, shared by all calls of the worker that run it at once."""

    @property
    def module(self) -> Any:
        """The DSPy module."""

    @property
    def blocking(self) -> bool:
        """Whether it has no asynchronous form, and so runs where it may block."""

    @property
    def answers(self) -> tuple[Any, ...]:
        """The predictors whose outputs are the program's as they are, and so can be told as they come."""

    def check(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs as the program gets them.

        Raises:
            InvalidInput: One is missing, unknown or ill-typed.
        """

    def outputs_of(self, prediction: Any) -> tuple[str, ...]:
        """Names of the outputs in order, those that the module adds included.

        Raises:
            PythonError: The program returned something else than a prediction.
        """

    def told_by(self, prediction: Any) -> dict[str, Any]:
        """What a prediction tells besides its outputs, by the name that it has in the answer."""


_TOLD = "_dspex_told"


def telling(prediction: Any, **what: Any) -> Any:
    """The prediction, with what a module tells besides it; ``told`` has it then."""
    setattr(prediction, _TOLD, {**told(prediction), **what})
    return prediction


def told(prediction: Any) -> dict[str, Any]:
    """What was added with ``telling``."""
    return dict(vars(prediction).get(_TOLD, ()))


def nothing(_: Any) -> dict[str, Any]:
    """Of a module that tells nothing besides its outputs."""
    return {}


@dataclass(frozen=True, slots=True)
class Program:
    """A built module of the catalogue.

    Attributes:
        signature: As the caller declared it.
        types: The Python type of each input that declares one.
        module: The DSPy module.
        outputs: Names of the outputs in order, those that the module adds included.
        blocking: Whether it has no asynchronous form.
        tell: Takes from a prediction what it tells besides its outputs, by the name of the attribute of
            ``Response`` that is to have it (``{"trajectory": ...}``). Values are sent as outputs are. What
            DSPy's prediction does not have a module adds with ``telling``; this is then ``told``.
        generation: Options of LM requests that DSPy's constructor does not take.
        answers: The predictors whose outputs are the program's as they are.
    """

    signature: Signature
    types: dict[str, Any]
    module: Any
    outputs: tuple[str, ...]
    blocking: bool = False
    tell: Callable[[Any], dict[str, Any]] = nothing
    generation: dict[str, Any] = field(default_factory=dict)
    answers: tuple[Any, ...] = ()

    def check(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """See ``Runnable``."""
        return check_inputs(self.signature, self.types, inputs)

    def outputs_of(self, _: Any) -> tuple[str, ...]:
        """See ``Runnable``."""
        return self.outputs

    def told_by(self, prediction: Any) -> dict[str, Any]:
        """See ``Runnable``."""
        return self.tell(prediction)
