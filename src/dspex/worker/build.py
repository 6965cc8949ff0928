"""Programs and LMs, built once and kept while there is room. A worker may lose any of it at any time."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dspy
import msgspec

from dspex.errors import LMNotConfigured
from dspex.program.importpath import is_path
from dspex.program.signature import Field, Signature, default_instructions, resolve
from dspex.program.spec import ProgramSpec
from dspex.types import LMSpec
from dspex.worker.allowed import load_allowed
from dspex.worker.routing import build_lm
from dspex.worker.threads import Place
from dspex.worker.users import UserProgram, make

_PROGRAMS_KEPT = 256
# Bytes of their specs in all: a service may have a long instruction text for each of its callers.
_SPECS_KEPT = 4 * 1024 * 1024
_TYPES = {"dspy.History": dspy.History}
# What the catalogue names; nothing is looked up in DSPy by a caller's word.
_MODULES = {"dspy.Predict": dspy.Predict, "dspy.ChainOfThought": dspy.ChainOfThought}
_decode_spec = msgspec.msgpack.Decoder(ProgramSpec).decode


@dataclass(frozen=True, slots=True)
class Program:
    """A built program, shared by all calls of the worker that run it at once.

    Attributes:
        signature: As the caller declared it.
        module: The DSPy module.
        types: The Python type of each input that declares one.
        outputs: Names of the outputs in order, those that the module adds included.
    """

    signature: Signature
    module: Any
    types: dict[str, Any]
    outputs: tuple[str, ...]


class Programs:
    """The programs of a worker by fingerprint; the one not used for longest makes room."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, tuple[Program | UserProgram, int]] = OrderedDict()
        self._building: dict[bytes, asyncio.Lock] = {}
        self._size = 0

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, fingerprint: bytes) -> Program | UserProgram | None:
        """The program with this fingerprint, if it is there."""
        kept = self._kept.get(fingerprint)
        if kept is None:
            return None
        self._kept.move_to_end(fingerprint)
        return kept[0]

    def keep(self, fingerprint: bytes, program: Program | UserProgram, size: int) -> None:
        """Keep a program that was built from a spec of this size."""
        self._kept[fingerprint] = (program, size)
        self._size += size
        while len(self._kept) > 1 and (len(self._kept) > _PROGRAMS_KEPT or self._size > _SPECS_KEPT):
            self._size -= self._kept.popitem(last=False)[1][1]

    async def get(
        self, fingerprint: bytes, encoded: msgspec.Raw, place: Place, allow_modules: list[str]
    ) -> Program | UserProgram:
        """The program with this fingerprint, built from its spec if it is not there.

        Args:
            fingerprint: What it is kept by.
            encoded: Its spec.
            place: Where a program of the user's own is imported and made; calls that want the same one
                meanwhile wait for it.
            allow_modules: Where such a program may come from.
        """
        found = self.find(fingerprint)
        if found is not None:
            return found
        spec = _decode_spec(encoded)
        size = len(bytes(encoded))
        if not is_path(spec.module):
            program = build(spec)
            self.keep(fingerprint, program, size)
            return program
        lock = self._building.setdefault(fingerprint, asyncio.Lock())
        async with lock:
            try:
                found = self.find(fingerprint)
                if found is None:
                    found = await place.blocking(lambda: make(spec.module, allow_modules))
                    self.keep(fingerprint, found, size)
            finally:
                # Those that wait have the lock; who comes later finds the program, or makes a lock anew.
                self._building.pop(fingerprint, None)
        return found


def build(spec: ProgramSpec) -> Program:
    """Build the DSPy module that a spec describes."""
    signature = spec.declared
    module = _MODULES[spec.module](dspy_signature(signature), **spec.options)
    predictor = module if isinstance(module, dspy.Predict) else module.predict
    types = {field.name: resolve(field.type, _TYPES) for field in signature.inputs if field.typed}
    return Program(signature, module, types, tuple(predictor.signature.output_fields))


def dspy_signature(signature: Signature) -> Any:
    """The ``dspy.Signature`` class, made from fields and never from text: DSPy's parser imports."""
    fields: dict[str, tuple[Any, Any]] = {}
    for field in signature.inputs:
        # DSPy notes the absence of a type here, and then takes any value without a word.
        untyped = {} if field.typed else {"IS_TYPE_UNDEFINED": True}
        fields[field.name] = (resolve(field.type, _TYPES), dspy.InputField(**_description(field), **untyped))
    for field in signature.outputs:
        fields[field.name] = (resolve(field.type, _TYPES), dspy.OutputField(**_description(field)))
    with warnings.catch_warnings():
        # A field may be named like a method of the class (``json``, ``copy``); DSPy finds it all the same.
        warnings.simplefilter("ignore", UserWarning)
        # Without instructions DSPy would build the class twice to find out its own.
        instructions = signature.instructions or default_instructions(signature)
        return dspy.make_signature(fields, instructions)


def _description(field: Field) -> dict[str, str]:
    return {} if field.description is None else {"desc": field.description}


@dataclass(slots=True)
class _Built:
    lm: dspy.LM
    adapter: Any
    users: int = 0
    dropped: bool = False


class LMs:
    """The LMs that calls on this channel may name, each with its adapter, built when first used.

    Args:
        allow_modules: Where engines and adapters of the user may come from.
        closes: Whether connections are closed when an LM is dropped. They belong to the loop that made them,
            so a worker whose program has a loop of its own leaves that to the end of its process.
    """

    def __init__(self, allow_modules: list[str], *, closes: bool = True) -> None:
        self._allow_modules = allow_modules
        self._closes = closes
        self._specs: dict[int, LMSpec] = {}
        self._built: dict[int, _Built] = {}
        self._closing: set[asyncio.Future[None]] = set()

    def add(self, number: int, spec: LMSpec) -> None:
        """Take note of an LM."""
        self._specs[number] = spec

    def drop(self, number: int) -> None:
        """Forget an LM; its connections close when its last call has ended."""
        self._specs.pop(number, None)
        built = self._built.pop(number, None)
        if built is not None:
            built.dropped = True
            self._close_unused(built)

    @contextlib.contextmanager
    def using(self, number: int) -> Iterator[tuple[dspy.LM, Any]]:
        """The LM of that number and its adapter; its connections stay open while a call is in here."""
        lm, adapter = self.get(number)
        built = self._built[number]
        built.users += 1
        try:
            yield lm, adapter
        finally:
            built.users -= 1
            self._close_unused(built)

    def _close_unused(self, built: _Built) -> None:
        # Idle connections keep themselves alive through their loop, so nothing else would close them.
        if built.dropped and not built.users and self._closes:
            for lm in {built.lm, getattr(built.adapter, "extraction_model", built.lm)}:
                closing = asyncio.ensure_future(_close(lm))
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        """Close all connections."""
        for number in list(self._specs):
            self.drop(number)
        if self._closing:
            await asyncio.wait(self._closing)

    def get(self, number: int) -> tuple[dspy.LM, Any]:
        """The LM of that number and its adapter."""
        if number not in self._built:
            if number not in self._specs:
                raise LMNotConfigured("the call names no language model")
            spec = self._specs[number]
            lm = build_lm(spec, self._allow_modules)
            self._built[number] = _Built(lm, self._adapter(spec, lm))
        built = self._built[number]
        return built.lm, built.adapter

    def _adapter(self, spec: LMSpec, lm: dspy.LM) -> Any:
        match spec.adapter:
            case "chat":
                return dspy.ChatAdapter()
            case "json":
                return dspy.JSONAdapter()
            case "xml":
                return dspy.XMLAdapter()
            case "two_step":
                second = build_lm(spec.extraction, self._allow_modules) if spec.extraction else lm
                return dspy.TwoStepAdapter(extraction_model=second)
        return load_allowed(spec.adapter, self._allow_modules)()

    def secrets(self) -> list[str]:
        """The keys that this worker holds, for scrubbing what leaves it."""
        return [secret for spec in self._specs.values() for secret in spec.secrets]


async def _close(lm: dspy.LM) -> None:
    await lm._async_engine_spec.aclose()
    lm._engine_spec.close()  # used by programs that have no async form
