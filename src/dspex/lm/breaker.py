"""The circuit breaker of one endpoint: it is left alone for a while when it fails again and again."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal
from weakref import WeakValueDictionary

from dspex.errors import LMCircuitOpen
from dspex.types import Breaker

if TYPE_CHECKING:
    from dspex.lm.profile import LM

State = Literal["closed", "open", "half_open"]

#: Ends of a request that say that the endpoint is not there.
FAILURES = frozenset({"lm_unavailable", "lm_timeout"})
# Ends that say that it is: it has answered, if only with a refusal.
_ANSWERS = frozenset(
    {
        *("ok", "lm_auth", "lm_billing", "lm_context_window", "lm_invalid_request", "lm_rate_limited"),
        "lm_unsupported",
    }
)
# Ends that are kept of one window, at most; then the oldest stop to count early.
_KEPT = 1000
# Seconds after which to come back while the one request that tries is under way.
_WHILE_PROBING = 1.0


class Circuit:
    """One endpoint's breaker. It only counts; whoever sends asks ``refusal`` first and tells ``ended``.

    Args:
        endpoint: The address, or the provider's name where it has its own.
        model: The model that is asked there.
        options: When it opens, and for how long.
        on_change: Called after each change of its state, with the circuit and why.
        clock: Gives the monotonic second.

    Attributes:
        endpoint: As given.
        model: As given.
        state: ``closed`` (requests go), ``open`` (none does) or ``half_open`` (one is let through).
    """

    def __init__(
        self,
        endpoint: str,
        model: str,
        options: Breaker,
        on_change: Callable[[Circuit, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.endpoint = endpoint
        self.model = model
        self.state: State = "closed"
        self._options = options
        self._on_change = on_change
        self._clock = clock
        self._ends: deque[tuple[float, bool]] = deque(maxlen=max(_KEPT, 2 * options.failures))
        self._until = 0.0
        self._probing = False

    @property
    def is_closed(self) -> bool:
        """Whether requests go without asking."""
        return self.state == "closed"

    def counted(self) -> tuple[int, int]:
        """Requests that ended in the window, and how many of them failed; any thread may ask."""
        since = self._clock() - self._options.window
        recent = [failed for at, failed in list(self._ends) if at > since]
        return len(recent), sum(recent)

    @property
    def opens_in(self) -> float | None:
        """Seconds until one request is let through; None when one may go now."""
        if self.state == "closed":
            return None
        wait = self._until - self._clock()
        if wait > 0:
            return round(wait, 3)
        return _WHILE_PROBING if self._probing else None

    def refusal(self) -> LMCircuitOpen | None:
        """The error of a request that must not be sent now; None when it may."""
        wait = self.opens_in
        if wait is None:
            return None
        return LMCircuitOpen(
            f"{self.model} at {self.endpoint} has failed again and again, and is left alone for a while; try "
            f"again in {wait:.3g} s, or give the profile fallbacks=(...)",
            details={"endpoint": self.endpoint, "model": self.model, "state": self.state},
            retry_after=wait,
        )

    def let_through(self) -> bool:
        """Take note that a request is let through, which ``refusal`` allowed.

        Returns:
            Whether it is the one that tries: ``ended`` has to be told so.
        """
        if self.state == "closed":
            return False
        self._probing = True
        if self.state == "open":
            self._become("half_open", "its pause is over: one request tries")
        return True

    def ended(self, status: str, *, probe: bool = False) -> None:
        """Take note of how a request ended.

        Args:
            status: ``"ok"``, or the code of its error.
            probe: Whether it is the one that ``let_through`` said tries.
        """
        failed, answered = status in FAILURES, status in _ANSWERS
        if probe:
            self._probing = False
        if self.state == "closed":
            if failed or answered:
                self._count(failed=failed)
        elif probe and failed:
            self._open(f"the one request that tried failed with {status}")
        elif probe and answered:
            self._ends.clear()
            self._become("closed", "the one request that tried was answered")

    def _count(self, *, failed: bool) -> None:
        now = self._clock()
        self._ends.append((now, failed))
        while self._ends and self._ends[0][0] <= now - self._options.window:
            self._ends.popleft()
        if not failed:
            return
        ended, failures = len(self._ends), sum(bad for _, bad in self._ends)
        if failures >= self._options.failures and failures >= self._options.share * ended:
            self._open(f"{failures} of {ended} requests failed within {self._options.window:g} s")

    def _open(self, cause: str) -> None:
        self._until = self._clock() + self._options.pause
        self._ends.clear()
        self._become("open", cause)

    def _become(self, state: State, cause: str) -> None:
        self.state = state
        self._on_change(self, cause)


class Circuits:
    """The breakers of a runtime: one for each endpoint, model and choice of numbers, shared by profiles.

    Args:
        on_change: Called after each change of the state of one, with it and why.
    """

    def __init__(self, on_change: Callable[[Circuit, str], None]) -> None:
        self._on_change = on_change
        # Their gates hold them.
        self._known: WeakValueDictionary[tuple[str, str, Breaker], Circuit] = WeakValueDictionary()

    def of(self, lm: LM) -> Circuit | None:
        """The breaker of a profile's endpoint; None when the profile wants none."""
        if lm.breaker is None:
            return None
        key = (lm.endpoint, lm.model, lm.breaker)
        circuit = self._known.get(key)
        if circuit is None:
            circuit = self._known[key] = Circuit(*key, self._on_change)
        return circuit

    def all(self) -> list[Circuit]:
        """All of them; any thread may look."""
        found = [reference() for reference in self._known.valuerefs()]
        return [circuit for circuit in found if circuit is not None]
