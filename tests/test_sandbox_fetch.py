"""How Pyodide's files are fetched when the registry misbehaves."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from dspex.errors import SandboxMissing
from dspex.pyodide import files


def test_a_registry_that_speaks_no_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a broken proxy would end ``dspex sandbox`` with a traceback that says nothing to do."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"nonsense\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "*")
        with pytest.raises(SandboxMissing, match="NPM_CONFIG_REGISTRY"):
            files.fetch()
        thread.join()
