"""A program that is called again and again, and whose saved state changes while it is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from dspex.adapter.outcomes import AsyncOutcomes, Ended, Outcomes
from dspex.adapter.response import Response
from dspex.adapter.stream import AsyncStream, Stream
from dspex.adapter.versions import Version, Versions
from dspex.batch.batch import Items
from dspex.errors import InvalidOption
from dspex.lm.profile import LM
from dspex.program.saved import Given, Saved
from dspex.program.signature import Signature
from dspex.runtime.caller import Priority, caller
from dspex.runtime.question import Question

if TYPE_CHECKING:
    from dspex.adapter.adapter import DSPyAdapter


class LoadedProgram:
    """A module with its arguments, its options and its state; ``adapter.program(...)`` gives one.

    Calling it runs it, as ``adapter.generate`` does: ``program(question="Why?")``, or with a prompt,
    ``program("Why?")``. It may be called from any thread; each call runs with one version from beginning to
    end.

    Attributes:
        module: Name of the module.
    """

    def __init__(self, adapter: DSPyAdapter, module: str, how: dict[str, Any]) -> None:
        for name in ("prompt", "inputs"):
            if name in how:
                raise InvalidOption(f"{name} is given to the program when it is called")
        self.module = module
        self._adapter = adapter
        self._how = how
        self._versions: Versions[Saved | None] = Versions()

    def __repr__(self) -> str:
        return f"LoadedProgram({self.module!r}, version={self.version})"

    @property
    def version(self) -> int:
        """Number of the version that a call made now runs with: 1 at first, one more with each swap."""
        return self._versions.current.number

    # Calls

    def __call__(self, prompt: Any = None, /, **inputs: Any) -> Response:
        """Run it, and wait for its outputs.

        Args:
            prompt: Fills the one input that is not given by name.
            **inputs: Inputs by field name.

        Raises:
            DspexError: As of ``adapter.generate``.
        """
        self._adapter._open.portal.refuse_loop("acall")
        version = self._versions.current
        response = self._adapter.generate(prompt, **self._call(version, inputs))
        response.program_version = version.number
        return response

    async def acall(self, prompt: Any = None, /, **inputs: Any) -> Response:
        """The same for event loops."""
        version = self._versions.current
        response = await self._adapter.agenerate(prompt, **self._call(version, inputs))
        response.program_version = version.number
        return response

    def stream(self, prompt: Any = None, /, **inputs: Any) -> Stream:
        """Run it and hear what happens while it runs; see ``adapter.stream``."""
        version = self._versions.current
        return self._adapter.stream(prompt, **self._call(version, inputs))._of_version(version.number)

    def astream(self, prompt: Any = None, /, **inputs: Any) -> AsyncStream:
        """``stream`` for event loops."""
        version = self._versions.current
        return self._adapter.astream(prompt, **self._call(version, inputs))._of_version(version.number)

    @overload
    def batch(self, items: Items, *, as_completed: Literal[True], **how: Any) -> Outcomes: ...

    @overload
    def batch(self, items: Items, *, as_completed: Literal[False] = False, **how: Any) -> list[Ended]: ...

    @overload
    def batch(self, items: Items, *, as_completed: bool, **how: Any) -> list[Ended] | Outcomes: ...

    def batch(self, items: Items, *, as_completed: bool = False, **how: Any) -> list[Ended] | Outcomes:
        """Run many items through it; ``how`` is what ``adapter.batch`` takes. All run with one version."""
        found: list[Ended] | Outcomes = self._adapter.batch(
            items, as_completed=as_completed, **self._calls(how)
        )
        return found

    def abatch(self, items: Items, **how: Any) -> AsyncOutcomes:
        """``batch`` for event loops."""
        return self._adapter.abatch(items, **self._calls(how))

    def _calls(self, how: dict[str, Any]) -> dict[str, Any]:
        call = {**self._call(self._versions.current, {}), **how}
        del call["inputs"]
        return call

    def _call(self, version: Version[Saved | None], inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **self._how,
            "module": self.module,
            "inputs": inputs,
            "options": {**(self._how.get("options") or {}), "state": version.held},
        }

    # Versions

    def swap(self, state: Given | None) -> int:
        """Go on with another state, while calls run.

        It is read, and the program is built with it in a worker, beside the one that is in use. If it fits,
        calls made from now on run with it; those that run end with the state that they began with. If it does
        not, or cannot be read, nothing changes.

        Args:
            state: The JSON file that ``module.save("x.json")`` wrote, what ``module.dump_state()`` gives, or
                None for the program as it is in code.

        Returns:
            The number of the new version.

        Raises:
            InvalidOption: The state is not of this program; the message says what differs.
            DspexError: The program could not be built.
            RuntimeError: Called on the runtime's own event loop; await ``aswap`` there.
        """
        return self._load(state, "aswap")

    async def aswap(self, state: Given | None) -> int:
        """``swap`` for event loops."""
        runtime = self._adapter._open
        saved = None if state is None else await asyncio.to_thread(runtime.states.read, state)
        question = self._asked(saved, **self._how)
        await self._adapter._route.abuild(question)
        return self._versions.add(saved)

    def rollback(self) -> int:
        """Go back to the version before, of which the last eight are kept; no worker is asked.

        Returns:
            Its number.

        Raises:
            InvalidOption: There is none.
        """
        return self._versions.back()

    def _load(self, state: Given | None, twin: str) -> int:
        runtime = self._adapter._open
        saved = None if state is None else runtime.states.read(state)
        question = self._asked(saved, **self._how)
        self._adapter._route.build(question, twin)
        return self._versions.add(saved)

    def _asked(
        self,
        state: Saved | None,
        *,
        signature: str | Signature | None = None,
        options: Mapping[str, Any] | None = None,
        lm: LM | str | None = None,
        tools: Sequence[Any] | None = None,
        sandbox: str = "auto",
        debug: bool = False,
        tenant: str | None = None,
        priority: Priority = "interactive",
        **more: Any,
    ) -> Question:
        """What a call asks, but for its inputs, with this state."""
        adapter = self._adapter
        timeout = more.pop("timeout", adapter._timeout)
        given = {**(options or {}), **more, "state": state}
        whose = caller(adapter._tenant if tenant is None else tenant, priority)
        return adapter._question(
            None, self.module, signature, None, lm, timeout, whose, given, tools, sandbox, debug
        )
