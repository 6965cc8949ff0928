"""The route of a description: from a signature, a module or an import path to what is known of it."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any

import msgspec

from dspex.errors import DspexError, InvalidSignature
from dspex.pool.work import Work
from dspex.program import catalogue, forms
from dspex.program.entries import ModuleEntry
from dspex.program.importpath import is_path, require_allowed
from dspex.program.spec import ProgramSpec, make
from dspex.runtime.call import PoolFor
from dspex.runtime.encoded import Programs
from dspex.wire.payloads import discard, encode_arguments, take

# A path.
_MAX_ARGUMENTS = 64 * 1024


class Asked(msgspec.Struct, frozen=True):
    """What has to be described, checked on the caller's thread.

    Attributes:
        entry: A module of the catalogue, of which nobody has to be asked.
        path: An import path.
        program: The encoded spec of a signature.
        request_id: The request's name, as in its errors.
    """

    entry: ModuleEntry | None = None
    path: str | None = None
    program: bytes = b""
    request_id: str = ""


def read(what: Any, programs: Programs, allow_modules: tuple[str, ...]) -> Asked:
    """What a caller wants described.

    Raises:
        Refused: It is nothing that can be.
    """
    number = secrets.token_hex(8)
    try:
        if isinstance(what, type) and not hasattr(what, "__pydantic_fields__"):
            what = f"{what.__module__}:{what.__qualname__}"
        if isinstance(what, str) and (forms.is_path(what) or (is_path(what) and "->" not in what)):
            require_allowed(what, allow_modules)
            return Asked(path=what, request_id=number)
        if isinstance(what, str) and "->" not in what:
            return Asked(catalogue.find(what), request_id=number)
        spec: ProgramSpec = make("dspy.Predict", forms.read(what).signature)
        return Asked(program=programs.encoded(spec)[0], request_id=number)
    except DspexError as error:
        raise error.for_request(number)  # noqa: B904 (it is the same error)


async def send(asked: Asked, pool_for: PoolFor, deadline: float | None) -> dict[str, Any]:
    """Have a worker describe it, on the runtime's loop.

    Raises:
        DspexError: Whatever went wrong, with ``request_id`` set.
    """
    args = {"path": asked.path} if asked.path is not None else {}
    stored, _ = encode_arguments(args, _MAX_ARGUMENTS, where="args")
    assert not isinstance(stored, list)
    try:
        # What is imported for it runs alone, as a program of that module would.
        pool = pool_for(isolated=asked.path is not None)
        work = Work("describe", stored, deadline, repeatable=True)
        done = await pool.execute(replace(work, program=asked.program) if asked.program else work)
    except DspexError as error:
        raise error.for_request(asked.request_id)  # noqa: B904 (it is the same error)
    finally:
        discard(stored)
    told = take(done.value)
    if not isinstance(told, dict):
        raise InvalidSignature("a worker described nothing").for_request(asked.request_id)
    return told
