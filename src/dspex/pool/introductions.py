"""What a worker knows already: LMs, each told once and dropped when nobody uses it, and programs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

from dspex.lm.gates import Gates
from dspex.pool.work import Work
from dspex.wire.messages import DropLM, Message, UseLM, Watch

_LMS_KEPT = 256
_PROGRAMS_KEPT = 256


class Introductions:
    """What one worker was told of.

    Args:
        gates: The runtime's gates.
        send: Sends a message to the worker.
    """

    def __init__(self, gates: Gates, send: Callable[[Message], None]) -> None:
        self._gates = gates
        self._send = send
        self._known: OrderedDict[int, int] = OrderedDict()  # number → gate, the last used last
        self._programs: OrderedDict[bytes, None] = OrderedDict()  # the last used last

    def has_program(self, fingerprint: bytes) -> bool:
        """Whether it has this program built, as far as known here."""
        return fingerprint in self._programs

    def introduce(self, work: Work, running: Iterable[Work]) -> None:
        """Tell the worker of a call's LM, if it was not told before, and remember its program.

        Args:
            work: The call.
            running: What the worker runs, that call included.
        """
        self._note(work.fingerprint)
        if work.lm is None:
            return
        if work.lm_number in self._known:
            self._known.move_to_end(work.lm_number)
            return
        self._send(UseLM(work.lm_number, work.lm))
        for spec in (work.lm, work.lm.extraction):
            gate = self._gates.find(spec.gate) if spec is not None else None
            if gate is not None and gate.watched and not gate.limited:
                self._send(Watch(gate.number, on=True))
        self._known[work.lm_number] = work.lm.gate
        self._drop_old({call.lm_number for call in running})

    def _note(self, fingerprint: bytes) -> None:
        if fingerprint:
            self._programs[fingerprint] = None
            self._programs.move_to_end(fingerprint)
            if len(self._programs) > _PROGRAMS_KEPT:
                self._programs.popitem(last=False)

    def _drop_old(self, used: set[int]) -> None:
        """Have it close the connections of LMs that are too many, or whose profile has another key by now."""
        newest = {gate: number for number, gate in sorted(self._known.items())}
        old = [number for number, gate in self._known.items() if number < newest[gate]]
        old += list(self._known)[: max(0, len(self._known) - _LMS_KEPT)]
        # A drop may overtake a call that has not begun, so an LM in use stays until the next look.
        for number in {*old} - used:
            del self._known[number]
            self._send(DropLM(number))
