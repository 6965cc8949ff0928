"""How Pyodide's files are fetched when the registry misbehaves."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import socket
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dspex.errors import SandboxMissing
from dspex.pyodide import files
from tests import shell
from tests.sandboxes import need


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


def test_what_is_named_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, an archive that is not Pyodide, or none at all, would be unpacked and run."""
    wrong = tmp_path / "pyodide.tgz"
    wrong.write_bytes(b"something else")
    for given, said in ((wrong, "is not Pyodide"), (tmp_path / "none.tgz", "cannot be read")):
        ran = shell.dspex("sandbox", "--from", str(given), XDG_CACHE_HOME=str(tmp_path / "cache"))
        assert ran.returncode == 1
        assert said in ran.stderr
        assert not ran.stdout
    need("deno")
    ran = shell.dspex("sandbox", "--from", str(wrong))
    assert ran.returncode == 1, "it is looked at although Pyodide is there"


def test_no_network(tmp_path: Path) -> None:
    """If this failed, an operator behind a wall would not be told what to do."""
    registry = {"NPM_CONFIG_REGISTRY": "http://127.0.0.1:9", "no_proxy": "*"}
    ran = shell.dspex("sandbox", "--json", XDG_CACHE_HOME=str(tmp_path), **registry)
    assert ran.returncode == 1
    told = json.loads(ran.stdout or ran.stderr)["error"]
    assert told["code"] == "sandbox_missing"
    assert "--from" in told["message"]


def test_what_is_there_is_not_fetched_again() -> None:
    """If this failed, each start of a service would wait for the registry."""
    need("deno")
    ran = shell.dspex("sandbox", "--json", NPM_CONFIG_REGISTRY="http://127.0.0.1:9")
    assert ran.returncode == 0, ran.stderr
    assert Path(json.loads(ran.stdout)["directory"]).is_dir()


def test_two_at_once_fetch_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, workers of one machine would unpack over each other."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    archive = tmp_path / "tiny.tgz"
    with tarfile.open(archive, "w:gz") as made:
        for name in files.PYODIDE.files:
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = 4
            made.addfile(entry, io.BytesIO(b"tiny"))
    release = dataclasses.replace(files.PYODIDE, sha512=hashlib.sha512(archive.read_bytes()).hexdigest())
    fetched: list[files.Release] = []

    def download(asked: files.Release) -> bytes:
        fetched.append(asked)
        return archive.read_bytes()

    monkeypatch.setattr(files, "_download", download)
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(files.fetch, release=release) for _ in range(8)]
        assert len({place.result() for place in asked}) == 1
    assert fetched == [release]
    assert files.present(release)
