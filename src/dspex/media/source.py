"""Where the bytes of a file come from: a path or an address, both read in the caller's process.

Only a function that is named for it reads anything. A text that comes from somewhere else can never be taken
for a path, and no worker reads or fetches what a caller names.
"""

from __future__ import annotations

import base64
import mimetypes
import os
import stat
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dspex.errors import InvalidInput

#: Bytes that a file may have, unless the caller says otherwise. As base64 it is a third larger, and what all
#: of a call may have is ``Settings(max_payload=...)``.
LARGEST = 256 * 1024 * 1024
# The first bytes of pictures, for those that come without a name.
_PICTURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
)
_LONGEST_SHOWN = 80


def refuse(message: str, **details: Any) -> InvalidInput:
    """The error for a value that cannot be made; the caller raises it."""
    return InvalidInput(message, details=details)


def shown(text: object) -> str:
    """A text as messages show it: short, and never the data of a file."""
    text = str(text)
    return ascii(text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…")


def read(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """The bytes of a file.

    Args:
        path: A regular file.
        max_bytes: The most bytes that it may have.

    Raises:
        InvalidInput: There is no such file, it is none that can be read, or it is larger.
    """
    name = os.fspath(path)
    try:
        # Without waiting: to open a pipe would otherwise take until somebody writes to it.
        with open(name, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise refuse(f"{shown(name)} is not a regular file", path=shown(name))
            if found.st_size > max_bytes:
                raise _too_large(shown(name), max_bytes)
            data = file.read(max_bytes + 1)
    except IsADirectoryError:
        raise refuse(f"{shown(name)} is a directory; name a file", path=shown(name)) from None
    except FileNotFoundError:
        raise refuse(
            f"there is no file {shown(name)} as seen from {shown(Path.cwd())}", path=shown(name)
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise refuse(f"{shown(name)} cannot be read: {reason}", path=shown(name)) from error
    if len(data) > max_bytes:  # it grew meanwhile, or never said how large it is
        raise _too_large(shown(name), max_bytes)
    return data


def fetch(url: str, timeout: float, max_bytes: int) -> tuple[bytes, str | None]:
    """What an address answers, and the media type that it says.

    Args:
        url: An http or https address.
        timeout: Seconds that the server may be silent.
        max_bytes: The most bytes that the answer may have.

    Raises:
        InvalidInput: It is no such address, it does not answer well, or the answer is larger.
    """
    if not is_address(url):
        raise refuse(f"an http or https address is downloaded, not {shown(url)}", url=shown(url))
    # Put together by hand: the usual opener would follow to `file:` and `ftp:` as well.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    try:
        with opener.open(urllib.request.Request(url), timeout=timeout) as answer:  # noqa: S310 (see above)
            kind = answer.headers.get_content_type() if answer.headers.get("Content-Type") else None
            data: bytes = answer.read(max_bytes + 1)
    except urllib.error.HTTPError as error:
        error.close()
        raise refuse(f"{shown(url)} answered with status {error.code}", url=shown(url)) from None
    except (OSError, ValueError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", None) or error
        raise refuse(f"{shown(url)} cannot be downloaded: {reason}", url=shown(url)) from error
    if len(data) > max_bytes:
        raise _too_large(shown(url), max_bytes)
    return data, kind


def is_address(text: str, *others: str) -> bool:
    """Whether it is an http or https address, or one with another of these schemes."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in {"http", "https", *others} and bool(parts.netloc)


def kind_of(name: str | os.PathLike[str]) -> str | None:
    """The media type that a file's name says, as DSPy finds it; None when it says none."""
    return mimetypes.guess_type(os.fspath(name))[0]


def picture_of(data: bytes) -> str | None:
    """The media type of a picture by its first bytes; None when it is no picture that is known here."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for start, kind in _PICTURES if data.startswith(start)), None)


def as_bytes(data: object, what: str) -> bytes:
    """Bytes-like data as bytes.

    Raises:
        InvalidInput: It is something else.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise refuse(f"{what} takes bytes, not {type(data).__name__}")
    return bytes(data)


def base64_of(data: bytes) -> str:
    """The bytes as base64 text."""
    return base64.b64encode(data).decode("ascii")


def data_url(data: bytes, kind: str) -> str:
    """The bytes as a ``data:`` URL."""
    return f"data:{kind};base64,{base64_of(data)}"


def _too_large(what: str, max_bytes: int) -> InvalidInput:
    return refuse(
        f"{what} has more than {max_bytes:,} bytes; send less, or raise max_bytes=... and, for the call, "
        "Settings(max_payload=...)",
        limit=max_bytes,
    )
