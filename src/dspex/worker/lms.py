"""The LMs that calls name, each with its adapter: built when first used, closed when nobody uses it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dspy

from dspex.errors import InvalidOption, LMNotConfigured
from dspex.types import LMSpec
from dspex.worker import faults
from dspex.worker.allowed import load_allowed
from dspex.worker.routing import build_lm


@dataclass(slots=True)
class _Built:
    lm: dspy.LM
    adapter: Any
    users: int = 0
    dropped: bool = False


class LMs:
    """The LMs that calls on this channel may name, each with its adapter, built when first used.

    Args:
        allow_modules: Where engines and adapters of the user may come from.
        closes: Whether connections are closed when an LM is dropped. They belong to the loop that made them,
            so a worker whose program has a loop of its own leaves that to the end of its process.
    """

    def __init__(self, allow_modules: list[str], *, closes: bool = True) -> None:
        self._allow_modules = allow_modules
        self._closes = closes
        self._specs: dict[int, LMSpec] = {}
        self._built: dict[int, _Built] = {}
        self._closing: set[asyncio.Future[None]] = set()

    def add(self, number: int, spec: LMSpec) -> None:
        """Take note of an LM."""
        self._specs[number] = spec

    def drop(self, number: int) -> None:
        """Forget an LM; its connections close when its last call has ended."""
        self._specs.pop(number, None)
        built = self._built.pop(number, None)
        if built is not None:
            built.dropped = True
            self._close_unused(built)

    @contextlib.contextmanager
    def using(self, number: int) -> Iterator[tuple[dspy.LM, Any]]:
        """The LM of that number and its adapter; its connections stay open while a call is in here."""
        lm, adapter = self.get(number)
        built = self._built[number]
        built.users += 1
        try:
            yield lm, adapter
        finally:
            built.users -= 1
            self._close_unused(built)

    def _close_unused(self, built: _Built) -> None:
        # Idle connections keep themselves alive through their loop, so nothing else would close them.
        if built.dropped and not built.users and self._closes:
            for lm in {built.lm, getattr(built.adapter, "extraction_model", built.lm)}:
                closing = asyncio.ensure_future(_close(lm))
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        """Close all connections."""
        for number in list(self._specs):
            self.drop(number)
        if self._closing:
            await asyncio.wait(self._closing)

    def get(self, number: int) -> tuple[dspy.LM, Any]:
        """The LM of that number and its adapter."""
        if number not in self._built:
            if number not in self._specs:
                raise LMNotConfigured("the call names no language model")
            spec = self._specs[number]
            lm = build_lm(spec, self._allow_modules)
            self._built[number] = _Built(lm, self._adapter(spec, lm))
        built = self._built[number]
        return built.lm, built.adapter

    def _adapter(self, spec: LMSpec, lm: dspy.LM) -> Any:
        match spec.adapter:
            case "chat":
                return dspy.ChatAdapter()
            case "json":
                return dspy.JSONAdapter()
            case "xml":
                return dspy.XMLAdapter()
            case "two_step":
                second = build_lm(spec.extraction, self._allow_modules) if spec.extraction else lm
                return dspy.TwoStepAdapter(extraction_model=second)
        return _users_adapter(spec.adapter, load_allowed(spec.adapter, self._allow_modules))

    def secrets(self) -> list[str]:
        """The keys that this worker holds, for scrubbing what leaves it."""
        return [secret for spec in self._specs.values() for secret in spec.secrets]


def _users_adapter(path: str, found: Any) -> Any:
    """A DSPy adapter of the user's own.

    Raises:
        InvalidOption: It is no class of that kind.
        PythonError: Its constructor failed, or needs arguments.
    """
    if not isinstance(found, type) or not issubclass(found, dspy.Adapter):
        raise InvalidOption(
            f"LM(adapter={path!r}) is no DSPy adapter: name a subclass of dspy.Adapter, such as of "
            "dspy.ChatAdapter, that is made without arguments",
            details={"option": "adapter"},
        )
    try:
        return found()
    except BaseException as error:
        raise faults.python_error(
            f"the constructor of {path}, called without arguments, failed: ", error
        ) from error


async def _close(lm: dspy.LM) -> None:
    await lm._async_engine_spec.aclose()
    lm._engine_spec.close()  # used by programs that have no async form
