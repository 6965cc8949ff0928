"""The queue: a line for each gate, turns, what leaves it, and its bound."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dspex.lm.gate import Gate
from dspex.lm.profile import LM
from dspex.pool.queue import Queue
from dspex.pool.work import Work


class _Place:
    """A future as far as the queue looks at it."""

    def __init__(self) -> None:
        self.ended = False

    def done(self) -> bool:
        return self.ended


def work(lane: int = 0, name: str = "") -> Work:
    gate = None if lane == 0 else Gate(lane, LM("openai/x"), lambda: None, lambda _gate, _on: None)
    made = Work(name, b"", gate=gate)
    made.future = _Place()  # type: ignore[assignment]
    return made


def end(queue: Queue, one: Work) -> None:
    one.future.ended = True  # type: ignore[attr-defined]
    queue.leave()


def anyone(_: Work) -> bool:
    return True


def test_a_line_is_first_come_first_served() -> None:
    """Calls would overtake one another, and some would starve."""
    queue = Queue(10)
    calls = [work(name=str(n)) for n in range(4)]
    for call in calls:
        queue.append(call)
    assert [queue.pop(anyone) for _ in range(5)] == [*calls, None]


def test_lines_take_turns() -> None:
    """Thousand calls of one profile would come before one of another."""
    queue = Queue(10)
    for name in ("a1", "a2", "a3"):
        queue.append(work(1, name))
    queue.append(work(2, "b1"))
    queue.append(work(3, "c1"))
    order = [one.command for _ in range(5) if (one := queue.pop(anyone)) is not None]
    assert order == ["a1", "b1", "c1", "a2", "a3"]


def test_a_shut_line_keeps_no_other_waiting() -> None:
    """A profile at its limit would stop the whole pool."""
    queue = Queue(10)
    shut, free = work(1), work(2)
    queue.append(shut)
    queue.append(free)
    assert queue.pop(lambda one: one.lane != 1) is free
    assert queue.pop(lambda one: one.lane != 1) is None
    assert queue.has_line(work(1))
    assert not queue.has_line(work(2))
    assert len(queue) == 1


def test_who_was_put_back_is_next_in_its_line() -> None:
    """A call whose worker was lost would wait twice."""
    queue = Queue(1)
    first, lost = work(), work()
    queue.append(first)
    queue.put_back(lost)
    assert queue.full
    assert [queue.pop(anyone), queue.pop(anyone)] == [lost, first]


def test_a_line_of_ended_calls_is_no_line() -> None:
    """The next call would wait behind calls that are gone, and nothing would call it."""
    queue = Queue(10)
    gone = work()
    queue.append(gone)
    end(queue, gone)
    assert not queue.has_line(work())
    assert queue.pop(anyone) is None
    assert not queue.full


@given(st.lists(st.tuples(st.sampled_from(["append", "pop", "back", "end", "shut"]), st.integers(0, 3))))
def test_the_count_is_true_and_nobody_is_lost_or_served_twice(steps: list[tuple[str, int]]) -> None:
    """A wrong count would refuse calls for ever, or take more than the bound."""
    queue = Queue(8)
    waiting: list[Work] = []
    shut: set[int] = set()
    served: list[Work] = []
    for step, lane in steps:
        if step == "append" and not queue.full:
            waiting.append(work(lane))
            queue.append(waiting[-1])
        elif step == "back" and served:
            waiting.append(served.pop())
            queue.put_back(waiting[-1])
        elif step == "end" and waiting:
            end(queue, waiting.pop(lane % len(waiting)))
        elif step == "shut":
            shut ^= {lane}
        elif step == "pop":
            one = queue.pop(lambda one, shut=shut: one.lane not in shut)  # type: ignore[misc]
            if one is None:
                assert all(left.lane in shut for left in waiting)
            else:
                waiting.remove(one)
                served.append(one)
        assert len(queue) == len(waiting)
    assert sorted(map(id, queue.drain())) == sorted(map(id, waiting))
    assert len(queue) == 0


def test_memory_of_ended_calls_is_given_back() -> None:
    """A queue whose callers give up would keep all their arguments."""
    queue = Queue(10_000)
    calls = [work(number % 3) for number in range(1000)]
    for call in calls:
        queue.append(call)
    for call in calls[:-1]:
        end(queue, call)
    assert sum(len(line) for line in queue._lines.values()) < 50
    assert queue.pop(anyone) is calls[-1]
