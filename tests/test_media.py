"""Typed values as a caller makes them: from a path, from bytes, from an address, and what is refused."""

from __future__ import annotations

import copy
import os
import pickle
import threading
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

import dspex

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 8
SECRET = b64encode(b"canary" * 99).decode()


def url(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{b64encode(data).decode()}"


def test_a_file_is_read_where_it_is_named(tmp_path: Path) -> None:
    """If this failed, a path would be read by another process, or with another type than its name says."""
    for name in ("a.png", "b.wav", "c.pdf", "d.txt", "e.bin"):
        (tmp_path / name).write_bytes(PNG)
    assert dspex.Image.from_path(tmp_path / "a.png").url == url(PNG, "image/png")
    assert dspex.Image.from_path(str(tmp_path / "e.bin"), mime_type="image/x").url == url(PNG, "image/x")
    assert dspex.Audio.from_path(tmp_path / "b.wav") == dspex.Audio(b64encode(PNG).decode(), "wav")
    assert dspex.Audio.from_path(tmp_path / "e.bin", audio_format="mp3").audio_format == "mp3"
    assert dspex.File.from_path(tmp_path / "c.pdf") == dspex.File(url(PNG, "application/pdf"))
    assert dspex.File.from_path(tmp_path / "e.bin", filename="x", mime_type="a/b").filename == "x"
    (tmp_path / "d.txt").write_text("Zoë")
    assert dspex.Document.from_path(tmp_path / "d.txt") == dspex.Document("Zoë", "d.txt")
    (tmp_path / "c.pdf").write_bytes(b"%PDF-1.7")
    paper = dspex.Document.from_path(tmp_path / "c.pdf", title="Paper", context="Old.")
    assert paper == dspex.Document(b64encode(b"%PDF-1.7").decode(), "Paper", "application/pdf", "Old.")


def test_bytes_say_themselves_what_they_are() -> None:
    """If this failed, an upload without a name could not be sent, or as a picture that it is not."""
    kinds = {
        PNG: "image/png",
        b"\xff\xd8\xff\xe0": "image/jpeg",
        b"GIF89a": "image/gif",
        b"RIFF\0\0\0\0WEBPVP8 ": "image/webp",
    }
    for data, kind in kinds.items():
        assert dspex.Image.from_bytes(data).url == url(data, kind)
    assert dspex.Image.from_bytes(bytearray(b"?"), mime_type="image/x").url == url(b"?", "image/x")
    assert dspex.Audio.from_bytes(b"x", audio_format="mp3") == dspex.Audio("eA==", "mp3")
    assert dspex.File.from_bytes(b"x").file_data == url(b"x", "application/octet-stream")
    assert dspex.File.from_file_id("f-1", "a.pdf") == dspex.File(file_id="f-1", filename="a.pdf")


#: Without its types, as callers without a type checker have it.
loose: Any = dspex
REFUSED: list[tuple[Any, str]] = [
    (lambda at: loose.Image.from_path(at / "none.png"), "there is no file"),
    (loose.Image.from_path, "is a directory"),
    (lambda at: loose.Image.from_path(at / "pipe"), "is not a regular file"),
    (lambda at: loose.Image.from_path(at / "text.txt"), r"text/plain, and no picture; say mime_type"),
    (lambda at: loose.Image.from_path(at / "text"), "of no kind that is known"),
    (lambda at: loose.Image.from_path("a\0b"), "cannot be read"),
    (lambda at: loose.Image.from_path(at / "text.txt", max_bytes=3), "more than 3 bytes"),
    (lambda at: loose.File.from_path("/proc/self/status", max_bytes=3), "more than 3 bytes"),
    (lambda at: loose.Audio.from_path(at / "text.txt"), "text/plain, and no sound; say audio_format"),
    (lambda at: loose.Document.from_path(at / "noise"), "neither text in UTF-8 nor a PDF"),
    (lambda at: loose.Image("/etc/passwd"), "a file is read by Image.from_path"),
    (lambda at: loose.Image("file:///etc/passwd"), "takes an http, https, gs or data URL"),
    (lambda at: loose.Image("https:"), "takes an http, https, gs or data URL"),
    (lambda at: loose.Image("http://["), "takes an http, https, gs or data URL"),
    (lambda at: loose.Image(b"x"), "use Image.from_path or Image.from_bytes"),
    (lambda at: loose.Image.from_bytes(b"hello"), "no picture that is known"),
    (lambda at: loose.Image.from_bytes("hello"), "takes bytes, not str"),
    (lambda at: loose.Audio(b"x", "wav"), "use Audio.from_path or Audio.from_bytes"),
    (lambda at: loose.File("/etc/passwd"), "a file is read by File.from_path"),
    (lambda at: loose.File(b"x"), "use File.from_path or File.from_bytes"),
    (lambda at: loose.File(), "needs file_data or file_id"),
    (lambda at: loose.Document(b"x"), "takes text, not bytes"),
    (lambda at: loose.Document("x", media_type="text/html"), "text/plain or application/pdf"),
    (lambda at: loose.Code(5), "Code is text, not int"),
    (lambda at: loose.Reasoning(None), "Reasoning is text, not NoneType"),
    (lambda at: loose.Image.from_url("file:///etc/passwd"), "an http or https address is downloaded"),
    (lambda at: loose.Audio.from_url("ftp://x/y.wav"), "an http or https address is downloaded"),
]


@pytest.mark.parametrize(("make", "why"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_made_is_refused(make: Any, why: str, tmp_path: Path) -> None:
    """If this failed, a text of a stranger would be read as a path, or nobody be told what to do instead."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "text").write_text("hello")
    (tmp_path / "noise").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(dspex.InvalidInput, match=why):
        make(tmp_path)


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    """If this failed, a missing right would look like something else."""
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(dspex.InvalidInput, match="cannot be read: Too many levels") as caught:
        dspex.File.from_path(tmp_path / "loop")
    assert "loop" in caught.value.details["path"]


def test_no_repr_shows_data() -> None:
    """If this failed, a log line would hold a whole file, or a private one."""
    shown = repr(
        [
            dspex.Image(f"data:image/png;base64,{SECRET}"),
            dspex.Audio(SECRET, "wav"),
            dspex.File(f"data:a/b;base64,{SECRET}", filename="x"),
            dspex.Document(SECRET, "Title"),
            dspex.Image("https://example.org/a.png"),
        ]
    )
    assert "canary" not in shown
    assert SECRET[:20] not in shown
    assert len(shown) < 400
    assert "'https://example.org/a.png'" in shown
    assert "image/png;base64, 792 characters" in shown


def test_code_and_reasoning_are_text() -> None:
    """If this failed, code could not be written to a file, or lose its language on a copy."""
    code = dspex.Code("x = 1", "python")
    assert (code, code.code, code.language, code + "\n") == ("x = 1", "x = 1", "python", "x = 1\n")
    assert type(code.code) is str
    for twin in (copy.deepcopy(code), pickle.loads(pickle.dumps(code))):
        assert (type(twin), twin, twin.language) == (dspex.Code, "x = 1", "python")
    why = dspex.Reasoning("since")
    assert (why, why.content, type(why.content), pickle.loads(pickle.dumps(why))) == (
        "since",
        "since",
        str,
        why,
    )


class _Web(BaseHTTPRequestHandler):
    """A picture, sound, redirects, and what is none of it."""

    def do_GET(self) -> None:
        where = {"/to": "/pic", "/out": "file:///etc/passwd", "/ftp": "ftp://127.0.0.1/x", "/loop": "/loop"}
        if self.path in where:
            self.send_response(302)
            self.send_header("Location", where[self.path])
            self.end_headers()
            return
        found = {"/pic": ("image/png", PNG), "/wav": ("audio/x-wav", b"x"), "/bare": ("", PNG)}
        kind, body = found.get(self.path, ("text/html", b"<html>"))
        self.send_response(404 if self.path == "/none" else 200)
        if kind:
            self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Web) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_download_is_asked_for_by_name(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a picture behind an address could not be had, or not as what it is."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert dspex.Image.from_url(f"{web}/pic").url == url(PNG, "image/png")
    assert dspex.Image.from_url(f"{web}/bare").url == url(PNG, "image/png")
    assert dspex.Image.from_url(f"{web}/to").url == url(PNG, "image/png")
    assert dspex.Audio.from_url(f"{web}/wav") == dspex.Audio("eA==", "wav")
    assert dspex.Image(f"{web}/pic").url == f"{web}/pic"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/none", "status 404"),
        ("/page", "is text/html, and no picture"),
        ("/out", "cannot be downloaded|status 302"),
        ("/ftp", "cannot be downloaded|status 302"),
        ("/loop", "status 302|cannot be downloaded"),
    ],
)
def test_a_download_stays_on_the_web(web: str, path: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a redirect would read a file of this machine, or a page be sent as a picture."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(dspex.InvalidInput, match=why):
        dspex.Image.from_url(web + path)


def test_a_download_has_a_limit(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a server could fill the memory of whoever asks it."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(dspex.InvalidInput, match="more than 8 bytes"):
        dspex.Image.from_url(f"{web}/pic", max_bytes=8)
    with pytest.raises(dspex.InvalidInput, match="cannot be downloaded"):
        dspex.Image.from_url("http://127.0.0.1:1/pic")
