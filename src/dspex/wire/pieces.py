"""MessagePack in pieces: large bytes stay where they are, instead of being copied into one whole."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.msgpack import Ext

from dspex.wire.codes import pack

#: Bytes from which a part is a piece of its own. Above 65,535 MessagePack has one form of header each.
LARGE = 128 * 1024
# Where large parts are looked for: in containers with this many parts at most, this deep.
_WIDE = 32
_MAY_BE_LARGE = frozenset({bytes, Ext, dict, list})
_DEEP = 3
_MAP, _LIST, _BYTES, _EXT = b"\xdf", b"\xdd", b"\xc6", b"\xc9"


def pack_in_pieces(root: Any) -> list[bytes]:
    """What ``b"".join(...)`` of makes the MessagePack form of a tree of lists, dicts, extensions and scalars.

    Raises:
        msgspec.EncodeError: A part is larger than 4 GiB.
    """
    if not _has_large(root, _DEEP):
        return [pack(root)]
    packer = _Packer()
    packer.add(root, _DEEP)
    packer.flush()
    return packer.pieces


def _has_large(node: Any, deep: int) -> bool:
    kind = type(node)
    if kind is bytes:
        return len(node) >= LARGE
    if kind is Ext:
        return len(node.data) >= LARGE
    if (kind is dict or kind is list) and deep and len(node) <= _WIDE:
        for part in node.values() if kind is dict else node:
            if type(part) in _MAY_BE_LARGE and _has_large(part, deep - 1):
                return True
    return False


class _Packer:
    """Collects the pieces; what is small is gathered between them."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self._small = bytearray()

    def add(self, node: Any, deep: int) -> None:
        if not _has_large(node, deep):
            self._small += pack(node)
        elif type(node) is bytes:
            self._large(_BYTES + _size(node), node)
        elif type(node) is Ext:
            self._large(_EXT + _size(node.data) + node.code.to_bytes(1, signed=True), bytes(node.data))
        elif type(node) is dict:
            self._small += _MAP + _size(node)
            for key, part in node.items():
                self._small += pack(key)
                self.add(part, deep - 1)
        else:
            self._small += _LIST + _size(node)
            for part in node:
                self.add(part, deep - 1)

    def _large(self, head: bytes, body: bytes) -> None:
        self._small += head
        self.flush()
        self.pieces.append(body)

    def flush(self) -> None:
        if self._small:
            self.pieces.append(bytes(self._small))
            self._small.clear()


def _size(node: Any) -> bytes:
    try:
        return len(node).to_bytes(4)
    except OverflowError:
        raise msgspec.EncodeError("a part is larger than 4 GiB") from None
