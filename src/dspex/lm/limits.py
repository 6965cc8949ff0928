"""What one LM was asked in the last minute, and when it may be asked again."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass

from dspex.errors import LMCircuitOpen
from dspex.types import Limits

MINUTE = 60.0
# Seconds that a request may be under way before its provider counts it.
_TRANSIT = 1.0
_NEWEST = 0.1
# Tokens that an answer is expected to have before one has come.
_FIRST_GUESS = 256


@dataclass(eq=False, slots=True)
class Permit:
    """The right to send one request.

    Attributes:
        tokens: What the request is expected to cost.
        probe: Whether it is the one that tries an endpoint which was left alone.
    """

    tokens: int
    probe: bool = False


class Ask:
    """A running call's request that waits for a permit."""

    __slots__ = ("grant", "refuse", "tokens")

    def __init__(
        self, tokens: int, grant: Callable[[Permit], None], refuse: Callable[[LMCircuitOpen], None]
    ) -> None:
        self.tokens = tokens
        self.grant = grant
        self.refuse = refuse


class Usual:
    """What requests of one LM usually cost, the latest counting most.

    Attributes:
        prompt: Tokens sent; 0.0 before the first answer.
        answer: Tokens generated.
    """

    def __init__(self) -> None:
        self.prompt = self.answer = 0.0

    @property
    def expected(self) -> int:
        """Tokens that an answer is expected to have."""
        return int(self.answer) or _FIRST_GUESS

    def learn(self, prompt: int, answer: int) -> None:
        """Take note of what one has cost."""
        share = _NEWEST if self.prompt else 1.0
        self.prompt += (prompt - self.prompt) * share
        self.answer += (answer - self.answer) * share


class Minute:
    """Requests and tokens of the last 60 seconds.

    A permit counts from the moment it is given. Its 60 seconds begin when its request was sent, so that
    the provider, who counts when the request arrives, never sees more than the limit in any 60 seconds.

    Args:
        limits: What is allowed; only the two limits per minute are looked at here.
    """

    def __init__(self, limits: Limits) -> None:
        self._requests = limits.requests_per_minute
        self._tokens = limits.tokens_per_minute
        self._sent: list[tuple[float, int]] = []  # a heap: when it stops to count, tokens
        self._sent_tokens = 0
        self._open = 0
        self._open_tokens = 0

    def wait(self, now: float, tokens: int) -> float:
        """Seconds until a request may be sent, as far as known now.

        Returns:
            0 for at once; infinity if not before one of those that are under way has ended.
        """
        while self._sent and self._sent[0][0] <= now:
            self._sent_tokens -= heapq.heappop(self._sent)[1]
        fits = self._requests is None or self._open + len(self._sent) < self._requests
        if fits and self._tokens is not None:
            fits = self._open_tokens + self._sent_tokens + min(tokens, self._tokens) <= self._tokens
        if fits:
            return 0.0
        return self._sent[0][0] - now if self._sent else math.inf

    def take(self, tokens: int) -> Permit:
        """Count one more request."""
        self._open += 1
        # One that is larger than the limit is sent alone, once all the others are a minute old.
        permit = Permit(tokens if self._tokens is None else min(tokens, self._tokens))
        self._open_tokens += permit.tokens
        return permit

    def settle(self, permit: Permit, sent: float | None, ended: float, tokens: int | None) -> None:
        """Take note of what became of a permit.

        Args:
            permit: The permit.
            sent: Monotonic second at which the request was sent; None if it never was.
            ended: Monotonic second at which its end was known.
            tokens: What it cost; None leaves the estimate.
        """
        self._open -= 1
        self._open_tokens -= permit.tokens
        if sent is not None:
            cost = permit.tokens if tokens is None else tokens
            heapq.heappush(self._sent, (min(ended, sent + _TRANSIT) + MINUTE, cost))
            self._sent_tokens += cost

    def counted(self, now: float) -> tuple[int, int]:
        """Requests and tokens that count now; changes nothing, so any thread may ask."""
        recent = [tokens for until, tokens in list(self._sent) if until > now]
        return self._open + len(recent), self._open_tokens + sum(recent)
