"""Files that a program is given: pictures, sound, documents.

Their fields are those of DSPy's types of the same names. A value holds its data as text, as providers are
sent it, and its ``repr`` never shows them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, Self

import msgspec
from msgspec.structs import force_setattr

from dspex.media.source import (
    LARGEST,
    as_bytes,
    base64_of,
    data_url,
    fetch,
    is_address,
    kind_of,
    picture_of,
    read,
    refuse,
    shown,
)

AnyPath = str | os.PathLike[str]
AnyBytes = bytes | bytearray | memoryview


class Image(msgspec.Struct, frozen=True):
    """A picture: an address that the provider opens, or the data themselves.

    Example:
        >>> Image("https://example.org/cat.png").url
        'https://example.org/cat.png'

    Attributes:
        url: An ``https:``, ``http:``, ``gs:`` or ``data:`` URL. An address is passed on to the provider as it
            is: neither this process nor a worker opens it.

    Raises:
        InvalidInput: It is no such URL. A path is none: see ``from_path``.
    """

    url: str

    def __post_init__(self) -> None:
        if not isinstance(self.url, str):
            raise refuse(
                f"an Image takes a URL, not {type(self.url).__name__}; use Image.from_path or "
                "Image.from_bytes"
            )
        url = self.url.strip()
        if not url.startswith("data:") and not is_address(url, "gs"):
            raise refuse(
                f"an Image takes an http, https, gs or data URL, not {shown(url)}; a file is read by "
                "Image.from_path"
            )
        force_setattr(self, "url", url)

    @classmethod
    def from_path(cls, path: AnyPath, *, mime_type: str | None = None, max_bytes: int = LARGEST) -> Self:
        """Read a picture from a file, here and now.

        Args:
            path: The file.
            mime_type: Its media type; None finds it by the file's name, or by its first bytes.
            max_bytes: The most bytes that it may have.

        Raises:
            InvalidInput: There is no such file, it is too large, or it is no picture.
        """
        data = read(path, max_bytes)
        kind = mime_type or kind_of(path) or picture_of(data)
        if kind is None or (mime_type is None and not kind.startswith("image/")):
            found = "is of no kind that is known" if kind is None else f"is {kind}, and no picture"
            raise refuse(f"{shown(path)} {found}; say mime_type='image/...' if it is one")
        return cls(data_url(data, kind))

    @classmethod
    def from_bytes(cls, data: AnyBytes, *, mime_type: str | None = None) -> Self:
        """A picture from its bytes.

        Args:
            data: What a file of it has.
            mime_type: Its media type; None finds it by the first bytes.

        Raises:
            InvalidInput: It is no picture that is known.
        """
        content = as_bytes(data, "Image.from_bytes")
        kind = mime_type or picture_of(content)
        if kind is None:
            raise refuse(
                "these bytes are no picture that is known; say mime_type='image/...' if they are one"
            )
        return cls(data_url(content, kind))

    @classmethod
    def from_url(cls, url: str, *, timeout: float = 30.0, max_bytes: int = LARGEST) -> Self:
        """Download a picture, here and now, for a provider that opens no addresses; as in DSPy.

        This reaches whatever this process reaches, addresses inside your network included: never use it on an
        address that a stranger gave. ``Image(url)`` passes an address on instead, and opens nothing.

        Args:
            url: An http or https address.
            timeout: Seconds that the server may be silent.
            max_bytes: The most bytes that it may have.

        Raises:
            InvalidInput: It cannot be downloaded, is too large, or is no picture.
        """
        data, said = fetch(url, timeout, max_bytes)
        kind = said if said is not None and said.startswith("image/") else picture_of(data)
        if kind is None:
            raise refuse(f"{shown(url)} is {said or 'of no kind that is known'}, and no picture")
        return cls(data_url(data, kind))

    def __repr__(self) -> str:
        return f"Image({_shown_url(self.url)})"


class Audio(msgspec.Struct, frozen=True):
    """Sound.

    Attributes:
        data: The bytes of the file as base64.
        audio_format: Its format, as providers name it (``"wav"``, ``"mp3"``).
    """

    data: str
    audio_format: str

    def __post_init__(self) -> None:
        if not isinstance(self.data, str) or not isinstance(self.audio_format, str):
            raise refuse(
                "an Audio takes base64 text and the name of a format; use Audio.from_path or Audio.from_bytes"
            )

    @classmethod
    def from_path(cls, path: AnyPath, *, audio_format: str | None = None, max_bytes: int = LARGEST) -> Self:
        """Read sound from a file, here and now.

        Args:
            path: The file.
            audio_format: Its format; None finds it by the file's name, as DSPy does.
            max_bytes: The most bytes that it may have.

        Raises:
            InvalidInput: There is no such file, it is too large, or it is no sound.
        """
        data = read(path, max_bytes)
        kind = kind_of(path) or ""
        if audio_format is None and not kind.startswith("audio/"):
            found = f"is {kind}, and no sound" if kind else "is of no kind that is known"
            raise refuse(f"{shown(path)} {found}; say audio_format='...' if it is sound")
        return cls(base64_of(data), audio_format or _format_of(kind))

    @classmethod
    def from_bytes(cls, data: AnyBytes, *, audio_format: str = "wav") -> Self:
        """Sound from the bytes of a file.

        Raises:
            InvalidInput: They are no bytes.
        """
        return cls(base64_of(as_bytes(data, "Audio.from_bytes")), audio_format)

    @classmethod
    def from_url(cls, url: str, *, timeout: float = 30.0, max_bytes: int = LARGEST) -> Self:
        """Download sound, here and now; ``Image.from_url`` says when not to.

        Raises:
            InvalidInput: It cannot be downloaded, is too large, or is no sound.
        """
        data, said = fetch(url, timeout, max_bytes)
        kind = said or kind_of(url) or "audio/wav"
        if not kind.startswith("audio/"):
            raise refuse(f"{shown(url)} is {kind}, and no sound")
        return cls(base64_of(data), _format_of(kind))

    def __repr__(self) -> str:
        return f"Audio(<{len(self.data):,} characters>, audio_format={self.audio_format!r})"


class File(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file of any kind, for providers that take one; one of its data or its id is given.

    Attributes:
        file_data: The data as a ``data:`` URL.
        file_id: The name that the provider gave to a file when it was uploaded to it.
        filename: What the model is told that it is called.
    """

    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None

    def __post_init__(self) -> None:
        for name in ("file_data", "file_id", "filename"):
            text = getattr(self, name)
            if text is not None and not isinstance(text, str):
                raise refuse(
                    f"{name} of a File is text, not {type(text).__name__}; use File.from_path or "
                    "File.from_bytes"
                )
            force_setattr(self, name, text.strip() if text is not None else None)
        if self.file_data is not None and not self.file_data.startswith("data:"):
            raise refuse(
                f"file_data of a File is a data URL, not {shown(self.file_data)}; a file is read by "
                "File.from_path"
            )
        if self.file_data is None and self.file_id is None and self.filename is None:
            raise refuse("a File needs file_data or file_id; a file is read by File.from_path")

    @classmethod
    def from_path(
        cls,
        path: AnyPath,
        *,
        filename: str | None = None,
        mime_type: str | None = None,
        max_bytes: int = LARGEST,
    ) -> Self:
        """Read a file, here and now.

        Args:
            path: The file.
            filename: What the model is told that it is called. DSPy takes the file's own name, and then no
                engine of its own can carry the file; so None tells none.
            mime_type: Its media type; None finds it by the file's name.
            max_bytes: The most bytes that it may have.

        Raises:
            InvalidInput: There is no such file, or it is too large.
        """
        kind = mime_type or kind_of(path) or "application/octet-stream"
        return cls(data_url(read(path, max_bytes), kind), filename=filename)

    @classmethod
    def from_bytes(
        cls, data: AnyBytes, *, filename: str | None = None, mime_type: str = "application/octet-stream"
    ) -> Self:
        """A file from its bytes.

        Raises:
            InvalidInput: They are no bytes.
        """
        return cls(data_url(as_bytes(data, "File.from_bytes"), mime_type), filename=filename)

    @classmethod
    def from_file_id(cls, file_id: str, filename: str | None = None) -> Self:
        """A file that was uploaded to the provider before."""
        return cls(file_id=file_id, filename=filename)

    def __repr__(self) -> str:
        parts = [_shown_url(self.file_data)] if self.file_data is not None else []
        parts += [
            f"{name}={getattr(self, name)!r}" for name in ("file_id", "filename") if getattr(self, name)
        ]
        return f"File({', '.join(parts)})"


class Document(msgspec.Struct, frozen=True):
    """A text that the model may cite; ``Citations`` are what it then cites.

    Attributes:
        data: The text; of a PDF its bytes as base64.
        title: What it is called.
        media_type: ``"text/plain"`` or ``"application/pdf"``.
        context: What the model is told about it and does not cite.
    """

    data: str
    title: str | None = None
    media_type: Literal["text/plain", "application/pdf"] = "text/plain"
    context: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.data, str):
            raise refuse(
                f"a Document takes text, not {type(self.data).__name__}; a PDF is read by Document.from_path"
            )
        if self.media_type not in {"text/plain", "application/pdf"}:
            raise refuse(f"a Document is text/plain or application/pdf, not {shown(self.media_type)}")

    @classmethod
    def from_path(
        cls, path: AnyPath, *, title: str | None = None, context: str | None = None, max_bytes: int = LARGEST
    ) -> Self:
        """Read a text in UTF-8, or a PDF, here and now.

        Args:
            path: The file.
            title: What it is called; None is the file's name.
            context: What the model is told about it.
            max_bytes: The most bytes that it may have.

        Raises:
            InvalidInput: There is no such file, it is too large, or it is neither.
        """
        data = read(path, max_bytes)
        name = Path(path).name if title is None else title
        if data.startswith(b"%PDF-"):
            return cls(base64_of(data), name, "application/pdf", context)
        try:
            return cls(data.decode(), name, "text/plain", context)
        except UnicodeDecodeError:
            raise refuse(f"{shown(path)} is neither text in UTF-8 nor a PDF") from None

    def __repr__(self) -> str:
        title = f"{self.title!r}, " if self.title else ""
        return f"Document({title}<{len(self.data):,} characters of {self.media_type}>)"


def _format_of(kind: str) -> str:
    return kind.partition("/")[2].removeprefix("x-")


def _shown_url(url: str) -> str:
    if not url.startswith("data:"):
        return shown(url)
    head, _, data = url.partition(",")
    return f"<{shown(head)[1:-1]}, {len(data):,} characters>"
