"""Between a worker and the callers of calls that run: functions of theirs, and what streams tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dspex.errors import NotAllowed
from dspex.pool.work import Work
from dspex.wire.blobs import Blob
from dspex.wire.messages import Chunk, Credit, Spans, ToolCall, ToolResult


class CallbackRoute:
    """The way between one worker and those whose calls it runs.

    Args:
        in_flight: What the worker runs, by number.
        send: Sends it a message.
        strayed: Told of what was dropped, because the attempt that it belonged to is over.
    """

    def __init__(
        self,
        in_flight: Mapping[int, Work],
        send: Callable[[ToolResult | Credit, Blob | None], None],
        strayed: Callable[[], None],
    ) -> None:
        self._in_flight = in_flight
        self._send = send
        self._strayed = strayed

    def asked(self, message: ToolCall, blob: Blob | None) -> None:
        """The worker wants a function called."""
        work = self._in_flight.get(message.call)
        if work is None or work.ended:
            if blob is not None:
                blob.close()
            self._strayed()
            return
        if work.callbacks is None:
            if blob is not None:
                blob.close()
            refusal = NotAllowed(f"the call has no functions of its caller's, and so no {message.tool!r}")
            self._send(ToolResult(message.call, message.number, error=refusal.to_wire()), None)
            return

        def answer(result: ToolResult, beside: Blob | None) -> None:
            # The worker's own number of the call, so one that is run elsewhere by now is not meant.
            if self._in_flight.get(message.call) is work and not work.ended:
                self._send(result, beside)
            else:
                if beside is not None:
                    beside.close()
                self._strayed()

        if not work.callbacks.call(message, message.args if blob is None else blob, answer):
            work.repeatable = False

    # Streams

    def begun(self, worker: int, number: int, work: Work) -> int | None:
        """The worker is given a call; how many deltas it may send, None where nobody reads any."""

        def grant(more: int) -> None:
            if self._in_flight.get(number) is work and not work.ended:
                self._send(Credit(number, more), None)

        return None if work.flow is None else work.flow.begun(worker, grant)

    def told(self, chunk: Chunk) -> None:
        """The worker tells something of a call that streams."""
        work = self._in_flight.get(chunk.id)
        if work is None or work.flow is None or work.ended:
            self._strayed()
            return
        if chunk.kind == "delta":
            work.repeatable = False  # what its caller has read cannot be taken back
        work.flow.came(chunk)

    # Traces

    def traced(self, message: Spans) -> None:
        """The worker tells what went on in a call."""
        work = self._in_flight.get(message.call)
        if work is not None and work.trace is not None:
            work.trace.came(message.spans)
