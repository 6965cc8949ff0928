"""What is traced, for tests: an exporter in memory, and an OTLP collector on the loopback interface."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from opentelemetry.util._once import Once

#: The page that tells of traces.
PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "tracing.md"
#: A span and what is in it, by name.
Tree = tuple[str, list[Any]]


@contextmanager
def provided(provider: TracerProvider) -> Iterator[TracerProvider]:
    """The application's tracer provider, which can be set once only in a process of its own."""
    trace._TRACER_PROVIDER, trace._TRACER_PROVIDER_SET_ONCE = None, Once()
    trace.set_tracer_provider(provider)
    try:
        yield provider
    finally:
        provider.shutdown()
        trace._TRACER_PROVIDER, trace._TRACER_PROVIDER_SET_ONCE = None, Once()


class Kept:
    """Spans that have ended, in memory."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def clear(self) -> None:
        self._exporter.clear()

    @property
    def all(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        found = self.named(name)
        assert len(found) == 1, [span.name for span in self.all]
        return found[0]

    def trees(self) -> list[Tree]:
        """All spans by what they are in; siblings by when they began."""
        spans = sorted(self.all, key=lambda span: (span.start_time or 0, span.end_time or 0))
        ids = {span.context.span_id for span in spans if span.context}

        def below(number: int | None) -> list[Tree]:
            return [
                (span.name, below(span.context.span_id))
                for span in spans
                if span.context and (_parent(span) if _parent(span) in ids else None) == number
            ]

        return below(None)


def _parent(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent is not None else None


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@contextmanager
def kept() -> Iterator[Kept]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provided(provider):
        yield Kept(exporter)


def failed(span: ReadableSpan) -> Any:
    """What a span failed with; None when it did not."""
    assert (span.status.status_code is StatusCode.ERROR) == ("error.type" in attributes(span))
    assert span.status.description is None
    return attributes(span).get("error.type")


def documented(column: int) -> set[str]:
    """What stands between backquotes in the tables of the page about traces; 0 is all of a row."""
    rows = [row.split("|") for row in PAGE.read_text().splitlines() if row.startswith("| `")]
    return {
        name for row in rows for name in re.findall("`([^`]+)`", "|".join(row) if not column else row[column])
    }


def is_documented(spans: Kept) -> None:
    """What was traced is on the page about traces."""
    kinds = {name.partition(" ")[0] for name in documented(1)}
    ours = [
        span
        for span in spans.all
        if span.instrumentation_scope and span.instrumentation_scope.name == "dspex"
    ]
    assert {span.name.partition(" ")[0] for span in ours} <= kinds
    said = {name for span in ours for name in attributes(span)}
    assert said <= documented(0), said - documented(0)


class Collector:
    """An OTLP collector over HTTP, which keeps what it is sent.

    Attributes:
        endpoint: Where spans are sent.
        spans: Those that came, with their service's name.
        bodies: The bytes of each request.
    """

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []
        self.bodies: list[bytes] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.take(body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}/v1/traces"

    def take(self, body: bytes) -> None:
        self.bodies.append(body)
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            names = {one.key: one.value.string_value for one in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [(names.get("service.name", ""), span) for span in scope.spans]

    def __enter__(self) -> Collector:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
