"""Which calls may be answered from a cache, and how one is."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.metadata
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from dspex.errors import PythonTimeout
from dspex.lm.cache import Cache, CacheStats, Entry, Memory
from dspex.lm.cache_file import CacheFile
from dspex.pool.work import Done
from dspex.program.importpath import is_path
from dspex.telemetry.bus import Bus
from dspex.telemetry.events import CacheHit, CacheMiss, CacheStored
from dspex.types import LMSpec, Retry

if TYPE_CHECKING:
    from dspex.lm.profile import LM
    from dspex.runtime.call import Prepared
    from dspex.runtime.models import Resolved
    from dspex.settings import Settings

# Why a model stopped when it had not said all: asked again it may.
_CUT = frozenset({"length", "content_filter"})
# LMs whose identity is remembered.
_IDENTITIES = 1024


class Caches:
    """The caches of one runtime: that in memory, and one for each file that an LM names.

    Args:
        settings: How large they are, and for how long an answer is good.
        bus: Told of hits, of misses, and of what is kept.
    """

    def __init__(self, settings: Settings, bus: Bus) -> None:
        self._settings = settings
        self._bus = bus
        # One for all: each cache has its own salt, so that none finds what another one keeps.
        self._memory = Memory(settings.cache_size, settings.cache_ttl)
        self._caches: dict[Path | None, Cache] = {}
        self._identities: dict[int, bytes] = {}

    async def through(
        self,
        prepared: Prepared,
        inputs: object,
        lm: LM,
        resolved: Resolved,
        pool: str,
        ask: Callable[[], Awaitable[Done]],
    ) -> Done:
        """Answer a call from a cache, or ask and keep the answer; as the caller wants it.

        Args:
            prepared: The call.
            inputs: Its encoded inputs.
            lm: Its LM.
            resolved: The same, with all that was looked up.
            pool: Name of its pool: what is preloaded there may have a part in the answer.
            ask: Asks it.

        Raises:
            DspexError: What the call ended with.
        """
        if not isinstance(inputs, bytes) or not wanted(prepared, lm):
            return await ask()
        cache = self._of(lm, outlives=not _runs_own_code(prepared, resolved.spec))
        question = prepared.question
        parts = (
            prepared.fingerprint,
            inputs,
            question.caller.tenant.encode(),
            self._identity(resolved),
            question.sandbox.encode(),
            pool.encode(),
            _versions(),
        )
        try:
            # A file may take its time; memory needs no look at the clock.
            left = question.left() if cache.outlives else None
            key, entry = await asyncio.wait_for(_found(cache, parts), left)
        except TimeoutError:
            raise _late(prepared) from None
        if entry is not None:
            return self._hit(prepared, entry, resolved)
        done: Done | None = None

        async def asked() -> Entry | None:
            nonlocal done
            cache.missed()
            if self._bus.wants(CacheMiss):
                self._bus.emit(CacheMiss(request_id=prepared.request_id, module=prepared.module))
            done = await ask()
            kept = _entry(done)
            if kept is not None and cache.put(key, kept) and self._bus.wants(CacheStored):
                self._bus.emit(CacheStored(request_id=prepared.request_id, bytes=len(kept.value)))
            return kept

        if prepared.flow is not None:  # each listener hears his own
            await asked()
        else:
            # Who waits does not wait behind a batch.
            flight = key + bytes([question.caller.batch])
            try:
                entry = await cache.together(flight, asked, question.left)
            except TimeoutError:
                raise _late(prepared) from None
            if done is None and entry is not None:
                return self._hit(prepared, entry, resolved)
            if done is None:
                await asked()  # what the other one has may not be given to others
        assert done is not None
        return done

    def _hit(self, prepared: Prepared, entry: Entry, resolved: Resolved) -> Done:
        if self._bus.wants(CacheHit):
            self._bus.emit(CacheHit(request_id=prepared.request_id, module=prepared.module))
        if prepared.flow is not None:
            prepared.flow.begun(0, lambda _: None)
        value, asked = msgspec.Raw(entry.value), resolved.spec.asked
        return Done(value, [], 0, 0, 0.0, 0.0, cached=True, model=entry.model, asked=asked)

    def _identity(self, resolved: Resolved) -> bytes:
        found = self._identities.get(resolved.number)
        if found is None:
            if len(self._identities) >= _IDENTITIES:
                self._identities.clear()
            found = self._identities[resolved.number] = _identity(resolved.spec)
        return found

    def _of(self, lm: LM, *, outlives: bool) -> Cache:
        kept_in = lm.cache if isinstance(lm.cache, str) and outlives else None
        path = None if kept_in is None else Path(kept_in).expanduser().absolute()
        cache = self._caches.get(path)
        if cache is None:
            settings = self._settings
            kept = None if path is None else CacheFile(path, settings.cache_file_size, settings.cache_ttl)
            cache = self._caches[path] = Cache(self._memory, kept)
        return cache

    @property
    def stats(self) -> CacheStats:
        """How they stand, together."""
        found = [cache.stats for cache in list(self._caches.values())]
        hits, misses = sum(one.hits for one in found), sum(one.misses for one in found)
        return CacheStats(hits, misses, *self._memory.counted)

    async def aclose(self) -> None:
        """Let go of them."""
        for cache in self._caches.values():
            await cache.aclose()


def wanted(prepared: Prepared, lm: LM) -> bool:
    """Whether a call may be answered from a cache.

    Never one with tools or other functions, whose effects would be missing, nor one of a program that may do
    what is not to be repeated, nor one that is looked into. Else if it was asked for, or the caller has set
    ``temperature=0`` himself, so that he expects the same answer.
    """
    question = prepared.question
    if lm.cache is False or question.tools or prepared.tools or question.debug or not prepared.repeatable:
        return False
    second = lm.extraction_lm
    if second is not None and second.cache is False:
        return False
    if lm.cache is not None:
        return True
    if second is not None and second.temperature:
        return False
    temperature = question.options.get("temperature", lm.temperature)
    return temperature is not None and temperature == 0


def _identity(spec: LMSpec) -> bytes:
    """All of an LM that an answer may depend on, credentials included."""

    def bare(spec: LMSpec) -> LMSpec:
        second = None if spec.extraction is None else bare(spec.extraction)
        # The embedded model has another port and another key each time that it starts.
        here = {"api_key": None, "base_url": None} if spec.model.startswith("local/") else {}
        return msgspec.structs.replace(
            spec, extraction=second, retry=Retry(), gate=0, limited=False, timeout=None, **here
        )

    return msgspec.msgpack.encode(bare(spec), order="deterministic")


async def _found(cache: Cache, parts: tuple[bytes, ...]) -> tuple[bytes, Entry | None]:
    """The key of what an answer depends on, and the answer if there is one."""
    key = await cache.key(*parts)
    return key, await cache.find(key)


def _runs_own_code(prepared: Prepared, spec: LMSpec) -> bool:
    """Whether an answer depends on code of the user's, which may be another after a restart."""
    specs = (spec,) if spec.extraction is None else (spec, spec.extraction)
    own_lm = any(":" in one.adapter or one.engine is not None for one in specs)
    reward = prepared.question.options.get("reward")
    return own_lm or is_path(prepared.module) or isinstance(reward, str)


@functools.cache
def _versions() -> bytes:
    """What turns a program into prompts, and answers into outputs."""
    found = []
    for name in ("dspex", "dspy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return "\n".join(found).encode()


def _entry(done: Done) -> Entry | None:
    """An answer that may be given to others; None of one that was cut off, or is too large to be kept."""
    if not isinstance(done.value, msgspec.Raw) or any(one.finish in _CUT for one in done.requests):
        return None
    model = next((one.model for one in reversed(done.requests) if one.status == "ok"), None)
    return Entry(bytes(done.value), model)


def _late(prepared: Prepared) -> PythonTimeout:
    return PythonTimeout(
        "the call did not end in its time: it has waited for the cache, or for another call that asks the "
        "same; raise timeout=... if it needs longer",
        details={
            "phase": "running",
            "elapsed": round(time.monotonic() - prepared.started, 3),
            "killed": False,
        },
    )
