"""From a worker to the functions of its calls' callers, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dspex.errors import NotAllowed
from dspex.pool.work import Work
from dspex.wire.blobs import Blob
from dspex.wire.messages import ToolCall, ToolResult


class CallbackRoute:
    """The way between one worker and the functions of those whose calls it runs.

    Args:
        in_flight: What the worker runs, by number.
        send: Sends it a message.
        strayed: Told of what was dropped, because the attempt that it belonged to is over.
    """

    def __init__(
        self,
        in_flight: Mapping[int, Work],
        send: Callable[[ToolResult, Blob | None], None],
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
