"""Something that takes several steps, written once for threads and for event loops.

It is a generator. What it yields is done for it, where that has to be done, and what came of it is sent
back; an error of a step is raised at the ``yield``. ``run`` drives it on a thread that waits, ``arun`` on an
event loop. What lies between the steps runs where the caller is, so that large values are made and read
there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from dspex.runtime.call import Answer
    from dspex.runtime.portal import Portal
    from dspex.runtime.question import Question
    from dspex.runtime.route import Found, Route

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OnLoop:
    """Await something on the runtime's loop; the ``yield`` gives its result.

    Attributes:
        work: Makes the coroutine.
    """

    work: Callable[[], Coroutine[Any, Any, Any]]


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask a question; the ``yield`` gives its ``Answer``."""

    question: Question


@dataclass(frozen=True, slots=True)
class Find:
    """Find out what has to be known of a question; the ``yield`` gives its ``Found``."""

    question: Question


@dataclass(frozen=True, slots=True)
class Build:
    """Have a worker build the program that a question names; the ``yield`` gives its predictors' names.

    Attributes:
        question: The question.
        dump: Whether to have what DSPy would save of it instead.
    """

    question: Question
    dump: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """Call a function of the caller's, where the caller is; an async one can only be called by ``arun``.

    Attributes:
        function: Takes nothing.
    """

    function: Callable[[], Any]


class Asks(Protocol):
    """The way of questions, as far as event loops use it: a ``Route``, or one that somebody listens to."""

    async def aask(self, question: Question) -> Answer:
        """See ``Route``."""

    async def afind(self, question: Question) -> Found:
        """See ``Route``."""

    async def abuild(self, question: Question, *, dump: bool = False) -> Any:
        """See ``Route``."""


Step = OnLoop | Ask | Find | Build | Call
Steps = Generator[Step, Any, T]


def run(steps: Steps[T], portal: Portal, route: Route | None, twin: str) -> T:
    """Take the steps on this thread, which is not the runtime's loop.

    Args:
        steps: The steps.
        portal: The way onto the runtime's loop.
        route: The way of questions; None where nothing is asked.
        twin: What has to be awaited instead on the runtime's loop.

    Raises:
        RuntimeError: Called on the runtime's own loop.
    """
    return _drive(steps, lambda step: _done(step, portal, route, twin))


async def arun(steps: Steps[T], portal: Portal, route: Asks | None) -> T:
    """``run`` for event loops."""
    result: Any = None
    error: BaseException | None = None
    while True:
        try:
            step = steps.throw(error) if error is not None else steps.send(result)
        except StopIteration as end:
            value: T = end.value
            return value
        result = error = None
        try:
            result = await _adone(step, portal, route)
        except BaseException as failure:  # noqa: BLE001 (it is raised where the step was asked for)
            error = failure


def _drive(steps: Steps[T], done: Callable[[Step], Any]) -> T:
    result: Any = None
    error: BaseException | None = None
    while True:
        try:
            step = steps.throw(error) if error is not None else steps.send(result)
        except StopIteration as end:
            value: T = end.value
            return value
        result = error = None
        try:
            result = done(step)
        except BaseException as failure:  # noqa: BLE001 (it is raised where the step was asked for)
            error = failure


def _done(step: Step, portal: Portal, route: Route | None, twin: str) -> Answer | Found | Any:
    if isinstance(step, OnLoop):
        return portal.run(step.work, twin)
    if isinstance(step, Call):
        result = step.function()
        if inspect.iscoroutine(result):
            result.close()
            raise TypeError(f"an async function cannot be called from here: `await {twin}(...)`")
        return result
    assert route is not None
    if isinstance(step, Build):
        return route.build(step.question, twin, dump=step.dump)
    return route.ask(step.question, twin) if isinstance(step, Ask) else route.find(step.question, twin)


async def _adone(step: Step, portal: Portal, route: Asks | None) -> Answer | Found | Any:
    if isinstance(step, OnLoop):
        return await portal.wait(step.work)
    if isinstance(step, Call):
        result = step.function()
        return await result if inspect.isawaitable(result) else result
    assert route is not None
    if isinstance(step, Build):
        return await route.abuild(step.question, dump=step.dump)
    return await (route.aask(step.question) if isinstance(step, Ask) else route.afind(step.question))
