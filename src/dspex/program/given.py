"""What a signature that is not text comes down to, put together field by field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from dspex.errors import InvalidSignature
from dspex.program import signature
from dspex.program.annotations import Spelling, refused
from dspex.program.fieldtypes import Type
from dspex.program.schemas import Schemas
from dspex.program.shapes import Keys
from dspex.program.signature import MAX_FIELDS, Field, Signature, fault_of_name, fault_of_type, type_of

Side = Literal["input", "output"]


class Given(msgspec.Struct, frozen=True):
    """A signature as it travels, and what of it stays with the caller.

    Attributes:
        signature: The checked signature.
        inputs: The caller's own type of each input that a worker cannot check.
        outputs: The caller's own type of each output that a worker cannot make.
    """

    signature: Signature
    inputs: Mapping[str, Any] = {}
    outputs: Mapping[str, Any] = {}


class Draft:
    """A signature that is being put together."""

    def __init__(self) -> None:
        keys = Keys()
        self._spelling = Spelling(keys)
        self._schemas = Schemas(keys)
        self._fields: dict[Side, list[Field]] = {"input": [], "output": []}
        self._own: dict[Side, dict[str, Any]] = {"input": {}, "output": {}}
        self._seen: dict[str, str] = {}

    def annotated(self, annotation: Any, path: str) -> tuple[str, bool]:
        """The spelling of a type of the caller's code, and whether there is a class of his in it."""
        spelled = self._spelling.of(annotation, path)
        return spelled, self._spelling.has_classes(spelled)

    def described(self, schema: dict[str, Any], path: str, name: str, definitions: Mapping[str, Any]) -> str:
        """The spelling of a type that a JSON Schema describes."""
        return self._schemas.of(schema, path, "".join(word.title() for word in name.split("_")), definitions)

    def add(self, side: Side, field: Field, path: str, own: Any = None) -> None:
        """Add a field.

        Args:
            side: Whether it goes in or comes out.
            field: The field.
            path: Where it stands, for messages.
            own: The caller's own type, where a worker has only data of it.

        Raises:
            InvalidSignature: It cannot be one.
        """
        if not isinstance(field.name, str):
            raise refused(path, f"a field is named by text, not {type(field.name).__name__}")
        reason = fault_of_name(field.name, side, self._seen)
        if reason is None and len(self._seen) >= MAX_FIELDS:
            reason = f"a signature has at most {MAX_FIELDS} fields"
        if reason is not None:
            raise refused(path, reason)
        kind = self._read(field.type, path)
        reason = fault_of_type(field.name, kind, side)
        if reason is not None:
            raise refused(path, reason)
        self._seen[field.name] = kind.name
        self._fields[side].append(msgspec.structs.replace(field, type=kind.spelled()))
        if own is not None:
            self._own[side][field.name] = own

    def _read(self, text: str, path: str) -> Type:
        try:
            return type_of(text, tuple(sorted(self._spelling.keys | self._schemas.spellings)))
        except InvalidSignature as error:
            raise InvalidSignature(
                f"{path}: {error.message}", details={**error.details, "path": path}
            ) from None

    def made(self, instructions: str | None) -> Given:
        """The signature, checked.

        Raises:
            InvalidSignature: It has no inputs or no outputs, or is too large as a whole.
        """
        inputs, outputs = tuple(self._fields["input"]), tuple(self._fields["output"])
        for side, fields in (("inputs", inputs), ("outputs", outputs)):
            if not fields:
                raise refused(side, f"a signature has at least one of its {side}")
        own = self._spelling.shapes()
        shapes = (*own, *self._schemas.shapes(len(own)))
        checked = signature.of(Signature(inputs, outputs, instructions, shapes))
        return Given(checked, self._own["input"], self._own["output"])
