"""Programs as they travel, encoded once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import msgspec

from dspex.program.fingerprint import fingerprint
from dspex.program.spec import ProgramSpec

_PROGRAMS_KEPT = 1024
_LONGEST_KEPT = 16 * 1024
_BYTES_KEPT = 16 * 1024 * 1024


class Programs:
    """Encoded specs of programs that were called before, so that a repeated call does not make them again.

    Used from any thread. Specs with long texts are not kept, for a service may have one per caller; those
    with a saved state are, for the same one goes with call after call.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Any, ...], tuple[bytes, bytes]] = OrderedDict()
        self._size = 0

    def encoded(self, spec: ProgramSpec) -> tuple[bytes, bytes]:
        """The spec as it travels, and its fingerprint."""
        told = repr((spec.options, spec.tools, spec.sandbox))
        key = (spec.module, spec.signature, told, spec.arguments, spec.state, spec.demos)
        with self._lock:
            found = self._kept.get(key)
        if found is None:
            found = (msgspec.msgpack.encode(spec), fingerprint(spec))
            if spec.state or spec.demos or len(found[0]) <= _LONGEST_KEPT:
                with self._lock:
                    self._keep(key, found)
        return found

    def _keep(self, key: tuple[Any, ...], encoded: tuple[bytes, bytes]) -> None:
        self._size += len(encoded[0]) - len(self._kept.get(key, (b"",))[0])
        self._kept[key] = encoded
        while len(self._kept) > 1 and (len(self._kept) > _PROGRAMS_KEPT or self._size > _BYTES_KEPT):
            self._size -= len(self._kept.popitem(last=False)[1][0])
