"""The gates of a runtime: which one an LM request has to pass."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import islice
from weakref import WeakValueDictionary

from dspex.lm.breaker import Circuit, Circuits
from dspex.lm.gate import Gate
from dspex.lm.profile import LM

_GATES_KEPT = 1024
# How many of the oldest are looked at when there are more.
_LOOKS = 4


class Gates:
    """The gates of a runtime. Two LMs that are equal have one; with limits they have one for each tenant.

    A gate that somebody holds, a call in a queue say, is found in any case; others are kept while there is
    room, and for as long as forgetting them would let too much through.

    Attributes:
        on_room: Called when a call that waits might begin.
        on_watch: Called with a gate and whether requests have to ask there, when that changes.
        on_refusal: Called when calls that wait may have to be refused: an endpoint is left alone, or a budget
            is spent.
        on_circuit: Called with a breaker that has changed its state, and why.
        circuits: The breakers.
    """

    def __init__(self) -> None:
        self.on_room: list[Callable[[], None]] = []
        self.on_watch: list[Callable[[Gate, bool], None]] = []
        self.on_refusal: list[Callable[[], None]] = []
        self.on_circuit: list[Callable[[Circuit, str], None]] = []
        self.circuits = Circuits(self._circuit_changed)
        self._kept: OrderedDict[tuple[LM, str], Gate] = OrderedDict()
        self._by_lm: WeakValueDictionary[tuple[LM, str], Gate] = WeakValueDictionary()
        self._by_number: WeakValueDictionary[int, Gate] = WeakValueDictionary()
        self._next = 1

    def of(self, lm: LM, tenant: str = "") -> Gate:
        """The gate of a profile, or that of a tenant's calls with it."""
        # Without limits there is only the provider's word that it is busy, and that holds for whoever asks.
        apart = lm.limits is not None and lm.limits.numbers and not lm.limits.across_tenants
        key = (lm, tenant if apart else "")
        gate = self._by_lm.get(key)
        if gate is None:
            circuit = self.circuits.of(lm)
            gate = Gate(self._next, lm, key[1], self._tell_room, self._tell_watch, circuit)
            self._next += 1
            self._by_lm[key] = self._by_number[gate.number] = gate
        self._kept[key] = gate
        self._kept.move_to_end(key)
        self._forget_oldest()
        return gate

    def _circuit_changed(self, circuit: Circuit, cause: str) -> None:
        for tell in self.on_circuit:
            tell(circuit, cause)
        for gate in [gate for gate in self if gate.circuit is circuit]:
            if not gate.limited and not gate.slowed:
                self._tell_watch(gate, gate.watched)
            if circuit.state != "half_open":  # that comes in the middle of giving a permit
                gate.serve()
        if circuit.state == "open":
            self.tell_refusal()

    def tell_refusal(self) -> None:
        """Have calls refused that wait and will not be let through."""
        for tell in list(self.on_refusal):
            tell()

    def find(self, number: int) -> Gate | None:
        """The gate of that number, if there is still one."""
        return self._by_number.get(number)

    def __iter__(self) -> Iterator[Gate]:
        # Any thread may look: the numbers are compared without running Python code.
        found = [reference() for reference in self._by_number.valuerefs()]
        return iter([gate for gate in found if gate is not None])

    def _forget_oldest(self) -> None:
        too_many = len(self._kept) - _GATES_KEPT
        for key, gate in list(islice(self._kept.items(), min(max(0, too_many), _LOOKS))):
            if not gate.idle:
                self._kept.move_to_end(key)
                continue
            del self._kept[key]
            if gate.slowed and not gate.limited:
                self._tell_watch(gate, False)

    def _tell_room(self) -> None:
        # Each pool is the first one in its turn, so that none takes all the room.
        self.on_room = self.on_room[1:] + self.on_room[:1]
        for tell in list(self.on_room):
            tell()

    def _tell_watch(self, gate: Gate, watched: bool) -> None:
        for tell in self.on_watch:
            tell(gate, watched)
