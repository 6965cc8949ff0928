"""What calls have been like lately: by module, program and model, against the time before."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec

from dspex.telemetry.buckets import Percentiles
from dspex.telemetry.events import CallFinished

# Seconds of a slice, and how many are kept: two windows of the longest, and the slice that is being filled.
_SLICE = 10
_KEPT = 721
#: The window that is looked at unless another is named, in seconds.
WINDOW = 300.0
#: The longest window in seconds.
LONGEST = _SLICE * (_KEPT // 2)
# Modules, programs and models that a slice tells apart; the rest is counted together.
_TOLD_APART = 200
# And all slices together; then the oldest no longer tell them apart.
_MOST = 20_000
_OTHERS = ("others", "", None)

Key = tuple[str, str, str | None]


class Insight(msgspec.Struct, frozen=True):
    """Calls of one module, program and model.

    Attributes:
        module: Full name of the module.
        program: The first of its fingerprint.
        model: The model that was asked, as its LM is named; None when none was.
        calls: How many ended in the window.
        rate: How many a second.
        p50: Seconds that half of them took at most, to within 5 %; None without any.
        p95: The same of 95 in a hundred.
        p99: The same of 99 in a hundred.
        prompt_tokens: Tokens sent.
        completion_tokens: Tokens generated.
        cost: US dollars, as far as prices are known.
        errors: How many failed, by code.
        slowest: Where most of the time went: ``queue``, ``model`` or ``program``.
        cache_hits: The share of them that the cache answered.
        rate_change: The rate against that of the window before: 1.0 is the same; None without one.
        p50_change: The same of ``p50``.
    """

    module: str
    program: str
    model: str | None
    calls: int
    rate: float
    p50: float | None
    p95: float | None
    p99: float | None
    prompt_tokens: int
    completion_tokens: int
    cost: float
    errors: dict[str, int]
    slowest: str
    cache_hits: float
    rate_change: float | None
    p50_change: float | None


@dataclass(slots=True)
class _Sums:
    calls: int = 0
    hits: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    queued: float = 0.0
    lm: float = 0.0
    run: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)
    seconds: Percentiles = field(default_factory=Percentiles)

    def add(self, call: CallFinished) -> None:
        self.calls += 1
        self.hits += call.cached
        self.prompt_tokens += call.prompt_tokens
        self.completion_tokens += call.completion_tokens
        self.cost += call.cost or 0.0
        self.queued += call.queued
        self.lm += call.lm
        self.run += call.run
        self.seconds.add(call.total)
        if call.code != "ok":
            self.errors[call.code] += 1

    def merge(self, other: _Sums) -> None:
        for name in ("calls", "hits", "prompt_tokens", "completion_tokens", "cost", "queued", "lm", "run"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.errors.update(other.errors)
        self.seconds.merge(other.seconds)

    @property
    def slowest(self) -> str:
        # Requests side by side take longer together than the program that made them.
        parts = {
            "queue": self.queued,
            "model": min(self.lm, self.run),
            "program": max(0.0, self.run - self.lm),
        }
        return max(parts, key=parts.__getitem__)


class Insights:
    """Calls of the last two hours, in slices of ten seconds. Any thread may look.

    Args:
        now: The clock, in monotonic seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._slices: deque[tuple[int, dict[Key, _Sums]]] = deque(maxlen=_KEPT)
        self._sums = 0

    def hear(self, event: CallFinished) -> None:
        """Count a call that has ended."""
        number = int(self._now() // _SLICE)
        key: Key = (event.module, event.program, event.model)
        with self._lock:
            if not self._slices or self._slices[-1][0] != number:
                if len(self._slices) == _KEPT:
                    self._sums -= len(self._slices[0][1])
                self._slices.append((number, {}))
            slice_ = self._slices[-1][1]
            if key not in slice_ and len(slice_) >= _TOLD_APART:
                key = _OTHERS
            sums = slice_.get(key)
            if sums is None:
                sums = slice_[key] = _Sums()
                self._sums += 1
                if self._sums > _MOST:
                    self._fold_oldest()
            sums.add(event)

    def _fold_oldest(self) -> None:
        for index, (number, slice_) in enumerate(self._slices):
            if len(slice_) > 1 and index < len(self._slices) - 1:
                together = _Sums()
                for sums in slice_.values():
                    together.merge(sums)
                self._slices[index] = number, {_OTHERS: together}
                self._sums -= len(slice_) - 1
                return

    def over(self, window: float) -> list[Insight]:
        """The calls of a window that ends now, the most frequent first.

        Args:
            window: Seconds, from 10 to 3,600; taken up to a whole slice of ten, and what has passed of
                the slice that is being filled.
        """
        slices = max(1, -(-int(window) // _SLICE))
        now = self._now()
        newest = int(now // _SLICE)
        with self._lock:
            kept = list(self._slices)
            if kept:
                kept[-1] = kept[-1][0], _summed([kept[-1][1]])  # only this one still grows
        told = _summed(slice_ for number, slice_ in kept if newest - slices <= number <= newest)
        before = _summed(slice_ for number, slice_ in kept if newest - 2 * slices <= number < newest - slices)
        seconds = slices * _SLICE
        found = [
            _insight(key, sums, before.get(key), seconds + now % _SLICE, seconds)
            for key, sums in told.items()
        ]
        return sorted(found, key=lambda one: -one.calls)


def _summed(slices: Iterable[dict[Key, _Sums]]) -> dict[Key, _Sums]:
    summed: dict[Key, _Sums] = {}
    for slice_ in slices:
        for key, sums in slice_.items():
            summed.setdefault(key, _Sums()).merge(sums)
    return summed


def _insight(key: Key, sums: _Sums, before: _Sums | None, seconds: float, seconds_before: float) -> Insight:
    module, program, model = key
    rate = sums.calls / seconds
    p50 = sums.seconds.at(0.5)
    earlier = None if before is None else before.seconds.at(0.5)
    return Insight(
        module,
        program,
        model,
        sums.calls,
        rate,
        p50,
        sums.seconds.at(0.95),
        sums.seconds.at(0.99),
        sums.prompt_tokens,
        sums.completion_tokens,
        sums.cost,
        dict(sums.errors),
        sums.slowest,
        sums.hits / sums.calls,
        None if before is None else rate / (before.calls / seconds_before),
        p50 / earlier if p50 is not None and earlier else None,
    )
