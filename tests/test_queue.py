"""The queue: lanes take turns, interactive calls go first, nobody starves, and the count is true."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

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


def work(gate: int = 0, name: str = "", *, tenant: str = "", batch: bool = False) -> Work:
    made = Work(
        name,
        b"",
        gate=Gate(gate, LM("openai/x"), "", lambda: None, lambda _gate, _on: None) if gate else None,
        tenant=tenant,
        batch=batch,
    )
    made.future = _Place()  # type: ignore[assignment]
    return made


def end(queue: Queue, one: Work) -> None:
    one.future.ended = True  # type: ignore[attr-defined]
    queue.leave(one)


def yes(_: Work) -> bool:
    return True


def pop(
    queue: Queue, may_begin: Callable[[Work], bool] = yes, has_share: Callable[[Work], bool] = yes
) -> Work | None:
    return queue.pop(has_share, may_begin)


def names(queue: Queue) -> list[str]:
    found = []
    while (one := pop(queue)) is not None:
        found.append(one.command)
    return found


def filled(*calls: Work) -> Queue:
    queue = Queue()
    for call in calls:
        queue.append(call)
    return queue


def test_a_line_is_first_come_first_served() -> None:
    """Calls would overtake one another, and some would starve."""
    assert names(filled(*(work(name=str(n)) for n in range(4)))) == ["0", "1", "2", "3"]


def test_lanes_take_turns() -> None:
    """Thousand calls of one tenant, or of one profile, would come before one of another."""
    many = [work(1, f"a{n}", tenant="a") for n in range(3)]
    queue = filled(*many, work(1, "b", tenant="b"), work(2, "other LM", tenant="a"))
    assert names(queue) == ["a0", "b", "other LM", "a1", "a2"]


def test_a_shut_gate_keeps_nobody_else_waiting() -> None:
    """A profile at its limit would stop the whole pool."""
    shut, free = work(1), work(2)
    queue = filled(shut, free)
    assert pop(queue, lambda one: one.lane.gate != 1) is free
    assert pop(queue, lambda one: one.lane.gate != 1) is None
    assert len(queue) == 1


def test_a_gate_that_refused_one_is_not_asked_for_the_next() -> None:
    """A small call would overtake a large one for ever, and a thousand tenants be asked for each slot."""
    asked = []

    def refuse(one: Work) -> bool:
        asked.append(one)
        return False

    queue = filled(*(work(1, tenant=str(n)) for n in range(100)))
    assert pop(queue, refuse) is None
    assert len(asked) == 1


def test_no_batch_call_takes_what_a_person_waits_for() -> None:
    """A large question would wait for ever behind small jobs of the same LM."""
    queue = filled(work(1, name="large"), *(work(1, name="small", batch=True) for _ in range(20)))
    assert [pop(queue, lambda one: one.command == "small") for _ in range(20)] == [None] * 20


def test_a_full_share_keeps_nobody_else_waiting() -> None:
    """A tenant that holds its part would keep the free slots from all others."""
    greedy, other = work(1, tenant="greedy"), work(1, tenant="other")
    queue = filled(greedy, other)
    assert pop(queue, has_share=lambda one: one.tenant != "greedy") is other
    assert pop(queue, has_share=lambda one: one.tenant != "greedy") is None
    assert pop(queue) is greedy


def test_interactive_calls_go_before_batch_calls() -> None:
    """A person would wait behind the nightly job."""
    queue = filled(
        *(work(name="batch", batch=True) for _ in range(3)), *(work(name="person") for _ in range(3))
    )
    assert names(queue) == ["person"] * 3 + ["batch"] * 3


def test_batch_calls_do_not_starve() -> None:
    """A steady stream of people would stop the nightly job for ever."""
    queue = filled(work(name="batch", batch=True))
    order = []
    for _ in range(8):
        queue.append(work(name="person"))
        one = pop(queue)
        assert one is not None
        order.append(one.command)
    assert order == ["person"] * 7 + ["batch"]


def test_batch_calls_go_when_no_other_may() -> None:
    """Slots would stay empty while there is something to do."""
    queue = filled(work(1, name="person"), work(2, name="batch", batch=True))
    one = pop(queue, lambda one: one.lane.gate == 2)
    assert one is not None
    assert one.batch


def test_who_was_put_back_is_next_in_its_line() -> None:
    """A call whose worker was lost would wait twice."""
    first, lost = work(), work()
    queue = filled(first)
    queue.put_back(lost)
    assert [pop(queue), pop(queue)] == [lost, first]


def test_who_blocks_whom() -> None:
    """A new call would overtake those who wait for the same, or wait for what is free."""
    queue = filled(work(1, tenant="a"))
    assert queue.blocks(work(1, tenant="a"))
    assert not queue.blocks(work(1, tenant="b")), "that gate has no limits: only the lane's share can be full"
    assert not queue.blocks(work(2, tenant="a"))
    limited = work(1, tenant="b")
    limited.gate.limited = True  # type: ignore[union-attr]
    assert queue.blocks(limited), "they wait for the same permits"
    assert pop(queue) is not None
    assert not queue.blocks(limited)


def opens(shut: set[int], one: Work) -> bool:
    return one.lane.gate not in shut


def shares(greedy: set[str], one: Work) -> bool:
    return one.tenant not in greedy


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["append", "pop", "back", "end", "shut", "greedy"]),
        st.integers(0, 2),
        st.sampled_from(["", "a", "b"]),
        st.booleans(),
    ),
    max_size=60,
)


@given(STEPS)
def test_the_count_is_true_and_nobody_is_lost_or_served_twice(
    steps: list[tuple[str, int, str, bool]],
) -> None:
    """A wrong count would refuse calls for ever, or take more than the bound."""
    queue = Queue()
    waiting: list[Work] = []
    shut: set[int] = set()
    greedy: set[str] = set()
    served: list[Work] = []
    for step, gate, tenant, batch in steps:
        if step == "append":
            waiting.append(work(gate, tenant=tenant, batch=batch))
            queue.append(waiting[-1])
        elif step == "back" and served:
            waiting.append(served.pop())
            queue.put_back(waiting[-1])
        elif step == "end" and waiting:
            end(queue, waiting.pop(gate % len(waiting)))
        elif step == "shut":
            shut ^= {gate}
        elif step == "greedy":
            greedy ^= {tenant}
        elif step == "pop":
            one = pop(queue, partial(opens, shut), partial(shares, greedy))
            if one is None:
                assert all(left.lane.gate in shut or left.tenant in greedy for left in waiting)
            else:
                waiting.remove(one)
                served.append(one)
        assert len(queue) == len(waiting)
        assert 0 <= queue.waiting_for_slot() <= len(queue)
    assert sorted(map(id, queue.drain())) == sorted(map(id, waiting))
    assert len(queue) == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), min_size=1, max_size=40))
def test_turns_are_fair(calls: list[tuple[str, bool]]) -> None:
    """Whoever sends more would get more, while others wait."""
    queue = filled(*(work(tenant=tenant, name=tenant, batch=batch) for tenant, batch in calls))
    left = Counter((tenant, batch) for tenant, batch in calls)
    got: Counter[tuple[str, bool]] = Counter()
    while (one := pop(queue)) is not None:
        key = (one.tenant, one.batch)
        left[key] -= 1
        got[key] += 1
        for other, waiting in left.items():
            if waiting and other[1] == one.batch:
                assert got[key] <= got[other] + 1, "nobody has two turns before another one has its first"


def test_memory_of_ended_calls_is_given_back() -> None:
    """A queue whose callers give up would keep all their arguments."""
    queue = Queue()
    calls = [work(number % 3) for number in range(1000)]
    for call in calls:
        queue.append(call)
    for call in calls[:-1]:
        end(queue, call)
    assert sum(len(line) for line in queue._interactive._lines.values()) < 50
    assert pop(queue) is calls[-1]
