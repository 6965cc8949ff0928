"""The bounded queue before the workers: who goes next."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable

from dspex.pool.work import Lane, Work

# Ended calls that may stay in the lines, with their arguments, before they are tidied.
_SLACK = 16
# Every so many turns are offered to batch calls first, so that a steady stream of others starves none.
_BATCH_TURN = 8


class _Lines:
    """The lines of one priority; each lane has one, first come first served, and they take turns."""

    def __init__(self) -> None:
        self._lines: OrderedDict[Lane, deque[Work]] = OrderedDict()
        self._gates: Counter[int] = Counter()  # how many lines each gate has

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, work: Work, *, first: bool) -> None:
        line = self._lines.get(work.lane)
        if line is None:
            line = self._lines[work.lane] = deque()
            self._gates[work.lane.gate] += 1
        if first:
            line.appendleft(work)
        else:
            line.append(work)

    def _drop(self, lane: Lane) -> None:
        del self._lines[lane]
        self._gates[lane.gate] -= 1
        if not self._gates[lane.gate]:
            del self._gates[lane.gate]

    def length(self, lane: Lane) -> int:
        return len(self._lines.get(lane, ()))

    def blocks(self, work: Work) -> bool:
        """Whether somebody here waits for what this call needs, and so goes before it."""
        if work.gate is not None and work.gate.watched:
            return work.lane.gate in self._gates
        return work.lane in self._lines

    def pop(
        self, has_share: Callable[[Work], bool], may_begin: Callable[[Work], bool], shut: set[int]
    ) -> Work | None:
        """The next who may begin.

        Args:
            has_share: As of ``Queue.pop``.
            may_begin: The same.
            shut: Gates that have refused somebody who comes before: a smaller call must not overtake a larger
                one. Those that refuse now are added.
        """
        found, empty = None, []
        for lane, line in self._lines.items():
            if lane.gate in shut:
                continue
            work = _first(line)
            if work is None:
                empty.append(lane)
            elif has_share(work):
                if may_begin(work):
                    found = lane
                    break
                shut.add(lane.gate)
                if self._gates.keys() <= shut:
                    break
        for lane in empty:
            self._drop(lane)
        return None if found is None else self._take(found)

    def _take(self, lane: Lane) -> Work:
        line = self._lines[lane]
        work = line.popleft()
        if line:
            self._lines.move_to_end(lane)
        else:
            self._drop(lane)
        return work

    def tidy(self) -> None:
        """Let go of those who have ended."""
        for lane, line in list(self._lines.items()):
            kept = deque(work for work in line if not work.ended)
            if kept:
                self._lines[lane] = kept
            else:
                self._drop(lane)

    def waiting_for_slot(self) -> int:
        found = 0
        for line in self._lines.values():
            work = _first(line)
            if work is not None and (work.gate is None or not work.gate.keeps_waiting()):
                found += len(line)
        return found

    def all(self) -> list[Work]:
        return [work for line in self._lines.values() for work in line if not work.ended]

    def take_all(self) -> list[Work]:
        lines = [work for line in self._lines.values() for work in line]
        for work in lines:
            work.waits = False
        waiting = [work for work in lines if not work.ended]
        self._lines.clear()
        self._gates.clear()
        return waiting


def _first(line: deque[Work]) -> Work | None:
    """The first in a line who still waits; those before it have ended and are let go of."""
    while line and line[0].ended:
        line.popleft()
    return line[0] if line else None


class Queue:
    """Calls that wait for a slot, for a permit of their LM, or for their lane's share.

    A lane is one tenant's calls with one LM. Lanes take turns, whatever their length, and a call that may
    not begin now keeps nobody of another lane waiting. Interactive calls go before batch calls, except for
    every eighth turn.

    A call that ended while it waited (its deadline passed, its caller left) is taken out of the count at
    once, and out of its line when its turn comes or when such calls are many.
    """

    def __init__(self) -> None:
        self._interactive = _Lines()
        self._batch = _Lines()
        self._turns = 0  # of interactive calls since the last batch call, while some wait
        self._waiting = 0
        self._ended = 0  # of those in the lines, those that have left; at most

    def __len__(self) -> int:
        return self._waiting

    def _lines_of(self, work: Work) -> _Lines:
        return self._batch if work.batch else self._interactive

    def blocks(self, work: Work) -> bool:
        """Whether others wait for what this call needs, and so go before it."""
        return bool(self._waiting) and (self._interactive.blocks(work) or self._batch.blocks(work))

    def length(self, work: Work) -> int:
        """About how many of a call's lane wait."""
        return self._interactive.length(work.lane) + self._batch.length(work.lane)

    def append(self, work: Work) -> None:
        """Put a new call at the end of its line."""
        self._lines_of(work).add(work, first=False)
        work.waits = True
        self._waiting += 1

    def put_back(self, work: Work) -> None:
        """Put a call whose worker was lost at the front of its line."""
        self._lines_of(work).add(work, first=True)
        work.waits = True
        self._waiting += 1

    def leave(self, work: Work) -> None:
        """Take note that a call has ended, which may have waited."""
        if not work.waits:
            return  # its end, or its worker's, came in the turn in which its caller left
        work.waits = False
        self._waiting -= 1
        self._ended += 1
        if self._ended > self._waiting + _SLACK:
            self._interactive.tidy()
            self._batch.tidy()
            self._ended = 0

    def pop(self, has_share: Callable[[Work], bool], may_begin: Callable[[Work], bool]) -> Work | None:
        """The next call that may begin, which is taken out.

        Args:
            has_share: Whether a call's lane may have one more slot.
            may_begin: Whether a call's LM may be asked now; asked of one who has a share, in each lane in
                turn, and it begins when the answer is yes.
        """
        order = (self._interactive, self._batch)
        shut: set[int] = set()
        for lines in reversed(order) if self._turns >= _BATCH_TURN - 1 else order:
            work = lines.pop(has_share, may_begin, shut)
            if work is not None:
                self._waiting -= 1
                work.waits = False
                self._turns = 0 if work.batch or not len(self._batch) else self._turns + 1
                return work
        return None

    def waiting_for_slot(self) -> int:
        """About how many could begin if slots were free; those whose LM may not be asked now could not."""
        found = self._interactive.waiting_for_slot() + self._batch.waiting_for_slot()
        return min(found, self._waiting)

    def all(self) -> list[Work]:
        """All that wait; they stay."""
        return [*self._interactive.all(), *self._batch.all()]

    def drain(self) -> list[Work]:
        """All that wait, a line after the other; the queue is empty afterwards."""
        self._waiting = self._ended = 0
        return [*self._interactive.take_all(), *self._batch.take_all()]
