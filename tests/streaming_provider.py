"""A provider whose replies come in pieces, slowly, until the client leaves."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import msgspec

_CONTENT = "[[ ## answer ## ]]\nIn the city of Paris\n\n[[ ## completed ## ]]"


class StreamingProvider:
    """Answers the field ``answer`` while its ``with`` block runs.

    Attributes:
        asked: How many requests came.
        left: How many clients left before the end.
        pause: Seconds before each piece.
    """

    def __init__(self) -> None:
        self.asked = self.left = 0
        self.pause = 0.0
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                provider.asked += 1
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                try:
                    for line in _lines():
                        time.sleep(provider.pause)
                        self.wfile.write(line)
                except (BrokenPipeError, ConnectionResetError):
                    provider.left += 1

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.base_url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _lines() -> list[bytes]:
    pieces = [_CONTENT[at : at + 5] for at in range(0, len(_CONTENT), 5)]
    deltas: list[dict[str, Any]] = [
        {"index": 0, "delta": {"content": piece}, "finish_reason": None} for piece in pieces
    ]
    deltas.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    told = [b"data: " + msgspec.json.encode({**chunk, "choices": [one]}) + b"\n\n" for one in deltas]
    return [*told, b"data: [DONE]\n\n"]
