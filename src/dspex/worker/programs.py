"""Programs, built once and kept while there is room. A worker may lose any of them at any time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

import msgspec

from dspex.program.importpath import is_path
from dspex.program.spec import ProgramSpec
from dspex.worker import demos, paths, states
from dspex.worker.build import build, imports
from dspex.worker.built import Runnable
from dspex.worker.signatures import shapes_of
from dspex.worker.threads import Place
from dspex.worker.users import make

_PROGRAMS_KEPT = 256
# Bytes of their specs in all: a service may have a long instruction text for each of its callers. One with
# the largest state has room beside the one that takes its place.
_SPECS_KEPT = 12 * 1024 * 1024
_decode_spec = msgspec.msgpack.Decoder(ProgramSpec).decode


class Programs:
    """The programs of a worker by fingerprint; the one not used for longest makes room."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, tuple[Runnable, int]] = OrderedDict()
        self._building: dict[bytes, asyncio.Lock] = {}
        self._size = 0

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, fingerprint: bytes) -> Runnable | None:
        """The program with this fingerprint, if it is there."""
        kept = self._kept.get(fingerprint)
        if kept is None:
            return None
        self._kept.move_to_end(fingerprint)
        return kept[0]

    def keep(self, fingerprint: bytes, program: Runnable, size: int) -> None:
        """Keep a program that was built from a spec of this size."""
        self._kept[fingerprint] = (program, size)
        self._size += size
        while len(self._kept) > 1 and (len(self._kept) > _PROGRAMS_KEPT or self._size > _SPECS_KEPT):
            self._size -= self._kept.popitem(last=False)[1][1]

    async def get(
        self, fingerprint: bytes, encoded: msgspec.Raw, place: Place, allow_modules: list[str]
    ) -> Runnable:
        """The program with this fingerprint, built from its spec if it is not there.

        Args:
            fingerprint: What it is kept by.
            encoded: Its spec.
            place: Where a program of the user's own is imported and made; calls that want the same one
                meanwhile wait for it.
            allow_modules: Where such a program may come from.
        """
        found = self.find(fingerprint)
        if found is not None:
            return found
        spec = _decode_spec(encoded)
        size = len(bytes(encoded))
        if not is_path(spec.module) and not imports(spec):
            if spec.signature is not None and spec.signature.path is not None:
                await place.blocking(lambda: _load_signature(spec, allow_modules))
            if spec.signature is not None and spec.signature.shapes:
                # Classes for them may take longer than a loop should stand still.
                await place.blocking(lambda: shapes_of(spec.declared))
            program = _built(spec, allow_modules)
            self.keep(fingerprint, program, size)
            return program
        lock = self._building.setdefault(fingerprint, asyncio.Lock())
        async with lock:
            try:
                found = self.find(fingerprint)
                if found is None:
                    found = await place.blocking(lambda: _made(spec, allow_modules))
                    self.keep(fingerprint, found, size)
            finally:
                # Those that wait have the lock; who comes later finds the program, or makes a lock anew.
                self._building.pop(fingerprint, None)
        return found


def _made(spec: ProgramSpec, allow_modules: list[str]) -> Runnable:
    if is_path(spec.module):
        return make(spec, allow_modules)
    _load_signature(spec, allow_modules)
    return _built(spec, allow_modules)


def _load_signature(spec: ProgramSpec, allow_modules: list[str]) -> None:
    if spec.signature is not None and spec.signature.path is not None:
        paths.load(spec.signature.path, allow_modules)


def _built(spec: ProgramSpec, allow_modules: list[str]) -> Runnable:
    program = build(spec, allow_modules)
    if spec.state:
        states.load(spec.module, program.module, spec.state)
    if spec.demos:
        demos.give(program, spec)
    return program
