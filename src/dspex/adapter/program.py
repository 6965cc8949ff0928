"""A stored program, as its users have it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from dspex.adapter.base import UNSET
from dspex.adapter.batched import Batched
from dspex.adapter.itemwise import Options, Whole, of_document, opener
from dspex.adapter.outcomes import Open
from dspex.adapter.response import Response
from dspex.adapter.stream import AsyncStream, Stream
from dspex.batch.batch import Items
from dspex.errors import Conflict, InvalidOption
from dspex.program import document as documents
from dspex.program.document import Document, Made
from dspex.program.export import exported
from dspex.program.saved import Given
from dspex.runtime import drafts
from dspex.runtime.steps import Call, OnLoop, Steps
from dspex.runtime.stored import info_of
from dspex.session.records import ProgramInfo

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from dspex.adapter.adapter import DSPyAdapter
    from dspex.session.programs import Current, Stored

_TRIES = 20


class Program(Batched):
    """A program in the store: any worker runs it, and it is there when this process is not.

    ``adapter.create_program(...)`` and ``session.create_program(...)`` make one. Calling it runs its current
    version: ``program(question="Why?")``, or with a prompt, ``program("Why?")``. It may be used from any
    thread, and there may be any number of objects for one program, in any number of processes.

    Attributes:
        id: Its id.
        name: Its name, if it has one.
        session_id: Its session.
        version: The version that calls ran when this object last heard of it.
    """

    def __init__(self, adapter: DSPyAdapter, tenant: str, current: Current) -> None:
        self.id = current.id
        self.name = current.name
        self.session_id = current.session_id
        self.version = current.version
        self._adapter = adapter
        self._tenant = tenant
        if current.anonymous:
            adapter._open.core.sessions.hold(self, tenant, current.session_id)

    def __repr__(self) -> str:
        return f"Program({self.name or self.id!r}, version={self.version})"

    # Calls

    def __call__(self, prompt: Any = None, /, **inputs: Any) -> Response:
        """Run it, and wait for its outputs.

        Args:
            prompt: Fills the one input that is not given by name.
            **inputs: Inputs by field name.

        Raises:
            UnknownProgram: It was deleted.
            SessionExpired: Its session was not used for longer than its ``ttl``.
            DspexError: As of ``adapter.generate``.
        """
        self._adapter._open.portal.refuse_loop("acall")
        return self._heard(
            self._adapter.execute_program(self.id, inputs, prompt=prompt, tenant=self._tenant or None)
        )

    async def acall(self, prompt: Any = None, /, **inputs: Any) -> Response:
        """The same for event loops. Cancelling it stops the work."""
        return self._heard(
            await self._adapter.aexecute_program(self.id, inputs, prompt=prompt, tenant=self._tenant or None)
        )

    def stream(self, prompt: Any = None, /, **inputs: Any) -> Stream:
        """Run it and hear what happens while it runs; see ``adapter.stream``."""
        return self._adapter.stream_program(self.id, inputs, prompt=prompt, tenant=self._tenant or None)

    def astream(self, prompt: Any = None, /, **inputs: Any) -> AsyncStream:
        """``stream`` for event loops. Not a coroutine."""
        return self._adapter.astream_program(self.id, inputs, prompt=prompt, tenant=self._tenant or None)

    def _opener(self, items: Items, how: dict[str, Any]) -> Open:
        adapter, tenant = self._adapter, self._tenant or None

        async def whole() -> Whole:
            _, made = await adapter._atake(self._current())
            return of_document(adapter, made.document, None, self.name)

        def steps(prompt: Any, inputs: Any) -> Steps[Response]:
            asked = adapter._asked(inputs, prompt, UNSET, None, False, tenant, "batch")
            return adapter._execute(self.id, None, asked)

        return opener(adapter, items, whole, steps, Options.of(how))

    def _heard(self, response: Response) -> Response:
        self.version = response.program_version or self.version
        return response

    # Versions

    def change(self, **changes: Any) -> int:
        """Make a new version, which calls run from now on; those that run end with theirs. The old one stays.

        Args:
            **changes: What is said anew, as of ``create_program``: ``instructions``, ``demos``, ``modules``,
                ``signature``, ``lm``, ``tools``, ``options``, ``state``, ``sandbox``.

        Returns:
            Its number.

        Raises:
            Refused: Something in it is wrong; nothing changes.
            Conflict: Others changed it again and again.
            RuntimeError: Called on the runtime's own event loop; await ``achange`` there.
        """
        return self._adapter._take(self._change(changes), "achange")

    async def achange(self, **changes: Any) -> int:
        """``change`` for event loops."""
        return await self._adapter._atake(self._change(changes))

    def rollback(self, version: int) -> int:
        """Have calls run another version; those after it stay, too.

        Returns:
            Its number.

        Raises:
            InvalidOption: There is no such version.
            RuntimeError: Called on the runtime's own event loop; await ``arollback`` there.
        """
        return self._adapter._take(self._rollback(version), "arollback")

    async def arollback(self, version: int) -> int:
        """``rollback`` for event loops."""
        return await self._adapter._atake(self._rollback(version))

    def info(self) -> ProgramInfo:
        """What is known of it, with the numbers of its versions.

        Raises:
            UnknownProgram: It was deleted.
            RuntimeError: Called on the runtime's own event loop; await ``ainfo`` there.
        """
        return self._adapter._take(self._info(), "ainfo")

    async def ainfo(self) -> ProgramInfo:
        """``info`` for event loops."""
        return await self._adapter._atake(self._info())

    # Documents

    def export(self, version: int | None = None) -> dict[str, Any]:
        """It as one JSON document, which ``adapter.import_program`` reads: no keys, no pickles, no code.

        Args:
            version: Which version; None is the current one.

        Raises:
            InvalidOption: There is no such version.
            RuntimeError: Called on the runtime's own event loop; await ``aexport`` there.
        """
        return self._adapter._take(self._export(version), "aexport")

    async def aexport(self, version: int | None = None) -> dict[str, Any]:
        """``export`` for event loops."""
        return await self._adapter._atake(self._export(version))

    def save(self, path: str | Path) -> None:
        """Write what DSPy's ``module.save("x.json")`` would write: plain DSPy loads it.

        Raises:
            InvalidOption: It has several stages; ``export()`` writes those.
            OSError: The file cannot be written.
            RuntimeError: Called on the runtime's own event loop; await ``asave`` there.
        """
        self._adapter._take(self._save(path), "asave")

    async def asave(self, path: str | Path) -> None:
        """``save`` for event loops."""
        await self._adapter._atake(self._save(path))

    def load(self, state: Given) -> int:
        """Make a new version with a state that DSPy's ``module.save("x.json")`` wrote; see ``change``.

        Raises:
            InvalidOption: It is not the state of this program.
            RuntimeError: Called on the runtime's own event loop; await ``aload`` there.
        """
        return self._adapter._take(self._load(state), "aload")

    async def aload(self, state: Given) -> int:
        """``load`` for event loops."""
        return await self._adapter._atake(self._load(state))

    def delete(self) -> None:
        """Delete it with all its versions. Its turns stay.

        Raises:
            UnknownProgram: It was deleted before.
            RuntimeError: Called on the runtime's own event loop; await ``adelete`` there.
        """
        self._adapter._take(self._delete(), "adelete")

    async def adelete(self) -> None:
        """``delete`` for event loops."""
        await self._adapter._atake(self._delete())

    # Steps

    @property
    def _core(self) -> Any:
        return self._adapter._open.core

    def _current(self) -> Steps[tuple[int, Made]]:
        core = self._adapter._open.core
        found: tuple[Current, Document] = yield OnLoop(
            lambda: core.programs.current(self._tenant, self.id, self.session_id)
        )
        return found[0].version, core.programs.made(self.id, found[1])

    def _change(self, changes: Mapping[str, Any]) -> Steps[int]:
        core = self._adapter._open.core
        for _ in range(_TRIES):
            based_on, before = yield from self._current()
            made: Made = yield from drafts.changed(core, before, changes)
            number = yield from self._added(based_on, made)
            if number is not None:
                core.programs.hold(self.id, made.tools)
                self.version = number
                return number
        raise Conflict(f"the program {self.id!r} was changed by others {_TRIES} times meanwhile; try again")

    def _added(self, based_on: int, made: Made) -> Steps[int | None]:
        encoded = documents.encoded(made.document)

        def work(connection: Connection) -> int | None:
            from dspex.session import programs

            return programs.add_version(connection, self._tenant, self.id, based_on, encoded, time.time())

        number: int | None = yield OnLoop(lambda: self._core.sessions.write(work))
        return number

    def _rollback(self, version: int) -> Steps[int]:
        if isinstance(version, bool) or not isinstance(version, int):
            raise InvalidOption(f"a version is a number, not {version!r}", details={"option": "version"})

        def work(connection: Connection) -> None:
            from dspex.session import programs

            programs.roll_back(connection, self._tenant, self.id, version, time.time())

        yield OnLoop(lambda: self._core.sessions.write(work))
        self.version = version
        return version

    def _stored(self) -> Steps[Stored]:
        def work(connection: Connection) -> Stored:
            from dspex.session import programs

            return programs.stored(connection, self._tenant, self.id, time.time())

        found: Stored = yield OnLoop(lambda: self._core.sessions.read(work))
        return found

    def _info(self) -> Steps[ProgramInfo]:
        stored = yield from self._stored()
        self.version = stored.version
        return info_of(stored, self.session_id)

    def _export(self, version: int | None) -> Steps[dict[str, Any]]:
        stored = yield from self._stored()
        wanted = stored.version if version is None else version
        for number, _, encoded in stored.versions:
            if number == wanted:
                return exported(documents.decoded(encoded), self.name)
        known = [number for number, _, _ in stored.versions]
        raise InvalidOption(
            f"the program has no version {version}; it has {', '.join(map(str, known))}",
            details={"option": "version", "known": known},
        )

    def _save(self, path: str | Path) -> Steps[None]:
        _, made = yield from self._current()
        if len(made.document.stages) > 1:
            raise InvalidOption(
                "DSPy saves one module, and this program has several stages; export() gives all of them as "
                "one JSON document",
                details={"option": "path"},
            )
        state = yield from self._adapter._dump(made)
        data = msgspec.json.format(msgspec.json.encode(state), indent=2)
        yield Call(lambda: Path(path).write_bytes(data))

    def _load(self, state: Given) -> Steps[int]:
        _, made = yield from self._current()
        tried = yield from drafts.changed(self._core, made, {"state": state, "demos": None})
        yield from self._adapter._dump(tried)  # a worker sees whether it fits
        number = yield from self._change({"state": state, "demos": None})
        return number

    def _delete(self) -> Steps[None]:
        def work(connection: Connection) -> None:
            from dspex.session import programs

            programs.remove(connection, self._tenant, self.id, time.time())

        yield OnLoop(lambda: self._core.sessions.write(work))
        self._core.programs.forget(self.id)
