"""OpenTelemetry: whether calls are traced, and in what. Nothing of it is imported until somebody uses it."""

from __future__ import annotations

import importlib.metadata
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dspex.errors import InvalidOption

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer

    from dspex.telemetry.spans import CallSpans

_log = logging.getLogger("dspex.telemetry")


def current() -> Context | None:
    """What a call that is made here belongs in; None where OpenTelemetry is not in use."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry import context

    return context.get_current()


@contextmanager
def inside(where: Context | None) -> Iterator[None]:
    """Have what is done in this block belong in another place than this thread's own; None is this one's."""
    if where is None:
        yield
        return
    from opentelemetry import context

    token = context.attach(where)
    try:
        yield
    finally:
        context.detach(token)


class Tracing:
    """Whether and how the calls of one runtime are traced.

    Args:
        wanted: The settings' ``traces``: None when the application has a tracer provider; True insists that
            there can be one.
        content: Whether spans have what was said.

    Attributes:
        failed: How many times the application's tracer provider raised, which costs no call anything.

    Raises:
        InvalidOption: It is wanted, and OpenTelemetry is not installed.
    """

    def __init__(self, wanted: bool | None = None, *, content: bool = False) -> None:
        self._wanted = wanted
        self._content = content
        self.failed = 0
        self._made: tuple[Any, Tracer] | None = None
        if wanted:
            try:
                import opentelemetry.trace  # noqa: F401 (so that it is found)
            except ImportError:
                raise InvalidOption(
                    "traces=True needs OpenTelemetry: run  pip install 'dspex[otel]' opentelemetry-sdk",
                    details={"option": "traces", "extra": "otel"},
                ) from None

    def tracer(self) -> Tracer | None:
        """Makes spans; None when nobody wants any."""
        api = sys.modules.get("opentelemetry.trace")
        if api is None or self._wanted is False:
            return None
        provider = api.get_tracer_provider()
        if isinstance(provider, api.ProxyTracerProvider | api.NoOpTracerProvider):
            return None  # the application has set none
        if self._made is None or self._made[0] is not provider:
            self._made = provider, api.get_tracer("dspex", _version(), provider)
        return self._made[1]

    def call(
        self, parent: Context | None, name: str, attributes: Mapping[str, Any], started: float
    ) -> CallSpans | None:
        """The spans of a call; None when nobody wants any.

        Args:
            parent: What it belongs in, as ``current`` gave it to whoever asked.
            name: Its name.
            attributes: What is known of it.
            started: Monotonic second at which it was asked.
        """
        tracer = self.tracer()
        if tracer is None:
            return None
        from dspex.telemetry.spans import CallSpans

        try:
            return CallSpans(self._failure, tracer, parent, name, attributes, started, content=self._content)
        except Exception:  # noqa: BLE001 (a sampler or a processor is code of the application's)
            self._failure()
            return None

    def _failure(self) -> None:
        self.failed += 1
        if self.failed == 1:
            _log.exception("a span was lost: the application's tracer provider failed; this is told once")

    @contextmanager
    def block(
        self, parent: Context | None, name: str, attributes: Mapping[str, Any], started: float
    ) -> Iterator[Context | None]:
        """One span around several calls, which ends with the block and fails with it; as of ``call``.

        Yields:
            What those calls belong in.
        """
        spans = self.call(parent, name, attributes, started)
        if spans is None:
            yield parent
            return
        try:
            yield spans.within
        except BaseException as error:
            spans.end(code_of(error), {})
            raise
        spans.end(None, {})


def code_of(error: BaseException) -> str:
    """What an error is called in ``error.type``: its code, or its class."""
    code = getattr(error, "code", None)
    if isinstance(code, str):
        return code
    return (
        "cancelled"
        if type(error).__name__ in {"CancelledError", "GeneratorExit"}
        else type(error).__qualname__
    )


def _version() -> str | None:
    try:
        return importlib.metadata.version("dspex")
    except importlib.metadata.PackageNotFoundError:  # run from its sources
        return None
