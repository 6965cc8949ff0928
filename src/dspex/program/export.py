"""A program as one JSON document, for another machine or a repository: no keys, no pickles, no code."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import msgspec

from dspex.errors import InvalidOption, InvalidSignature
from dspex.program import signature as signatures
from dspex.program.document import FORMAT, Document, Made, StageDocument
from dspex.program.importpath import is_path
from dspex.program.saved import LONGEST
from dspex.program.saved import read as read_state
from dspex.program.signature import Signature
from dspex.types import LMReference
from dspex.wire.values import WireError, decode, encode

#: The key that tells such a document from any other.
MARK = "dspex_program"
_STAGE = frozenset(StageDocument.__struct_fields__)
_LARGEST = 16 * 1024 * 1024


def exported(document: Document, name: str | None) -> dict[str, Any]:
    """A program as JSON-ready data.

    Args:
        document: The program.
        name: Its name, if it has one.
    """
    whole: dict[str, Any] = {MARK: FORMAT, "name": name}
    if document.signature is not None:
        whole["signature"] = _signature(document.signature)
    if document.lm is not None:
        whole["lm"] = _lm(document.lm)
    whole["stages"] = [_stage(stage) for stage in document.stages]
    return whole


def _stage(stage: StageDocument) -> dict[str, Any]:
    told: dict[str, Any] = {"module": stage.module}
    if stage.signature is not None:
        told["signature"] = _signature(stage.signature)
    if stage.instructions is not None:
        told["instructions"] = stage.instructions
    if stage.options:
        told["options"] = _value(stage.options)
    if stage.tools is not None:
        told["tools"] = stage.tools
    if stage.sandbox != "auto":
        told["sandbox"] = stage.sandbox
    if stage.lm is not None:
        told["lm"] = _lm(stage.lm)
    if stage.demos:
        told["demos"] = _value(stage.demos)
    if stage.state:
        told["state"] = msgspec.msgpack.decode(stage.state)
    return told


def _signature(signature: Signature) -> Any:
    """As text where that says all of it, else field by field."""
    if signatures.parse(signature.text) == signature.with_instructions(None):
        text = signature.text
        return (
            text if signature.instructions is None else {"text": text, "instructions": signature.instructions}
        )
    return {"fields": msgspec.json.decode(msgspec.json.encode(signature))}


def _lm(lm: LMReference) -> dict[str, Any]:
    if lm.held is not None:
        return {"model": lm.model}  # with a key that is not stored, so it has to be given again
    told: dict[str, Any] = msgspec.to_builtins(lm)
    return told


def _value(encoded: bytes) -> Any:
    """As JSON where that says all of it, else as the bytes that travel."""
    value = decode(encoded)
    try:
        plain = msgspec.json.decode(msgspec.json.encode(value))
    except (TypeError, ValueError, msgspec.MsgspecError):
        plain = None
    if plain is not None and b"".join(encode(plain)[0]) == encoded:
        return plain
    return {"encoded": base64.b64encode(encoded).decode()}


# Back


def imported(given: Any) -> tuple[Made, str | None]:
    """The program of a document, and its name. Its stages are still to be checked as those of a new one.

    Raises:
        InvalidOption: It is no such document; the message names the place.
        InvalidSignature: One of its signatures is none.
    """
    if not isinstance(given, Mapping) or MARK not in given:
        raise _refused(f"it is no program that was exported: there is no {MARK!r}")
    if given[MARK] != FORMAT:
        raise _refused(f"it is written in form {given[MARK]!r}, and this version reads {FORMAT}")
    if len(msgspec.json.encode(dict(given), enc_hook=repr)) > _LARGEST:
        raise _refused(f"it has more than {_LARGEST:,} bytes")
    _known(given, {MARK, "name", "signature", "lm", "stages"}, "it")
    stages = given.get("stages")
    if not isinstance(stages, list) or not stages:
        raise _refused("stages is a list of at least one")
    name = given.get("name")
    if name is not None and not isinstance(name, str):
        raise _refused("name is text")
    document = Document(
        _signature_of(given.get("signature"), "signature"),
        tuple(_stage_of(stage, f"stages[{number}]") for number, stage in enumerate(stages)),
        _lm_of(given.get("lm"), "lm"),
    )
    if document.signature is None and not is_path(document.stages[0].module):
        raise _refused("signature is missing")
    return Made(document), name


def _stage_of(stage: Any, place: str) -> StageDocument:
    if not isinstance(stage, Mapping):
        raise _refused(f"{place} is no object")
    _known(stage, _STAGE, place)
    tools = stage.get("tools")
    if tools is not None and not (isinstance(tools, list) and all(isinstance(one, str) for one in tools)):
        raise _refused(f"{place}.tools is a list of names and import paths")
    texts = {name: stage.get(name) for name in ("module", "instructions", "sandbox")}
    if not all(isinstance(text, str) for name, text in texts.items() if text is not None or name == "module"):
        raise _refused(f"{place}: module, instructions and sandbox are text")
    state = stage.get("state")
    return StageDocument(
        stage["module"],
        _signature_of(stage.get("signature"), f"{place}.signature"),
        stage.get("instructions"),
        _encoded(stage.get("options"), dict, f"{place}.options"),
        tools,
        stage.get("sandbox", "auto"),
        _lm_of(stage.get("lm"), f"{place}.lm"),
        _encoded(stage.get("demos"), list, f"{place}.demos"),
        b"" if state is None else read_state(state).encoded,
    )


def _signature_of(given: Any, place: str) -> Signature | None:
    if given is None:
        return None
    try:
        if isinstance(given, str):
            return signatures.parse(given)
        if isinstance(given, Mapping) and "text" in given:
            _known(given, {"text", "instructions"}, place)
            return signatures.of(signatures.parse(given["text"]).with_instructions(given.get("instructions")))
        if isinstance(given, Mapping) and "fields" in given:
            _known(given, {"fields"}, place)
            return signatures.of(msgspec.convert(given["fields"], Signature))
    except InvalidSignature as error:
        raise InvalidSignature(
            f"{place}: {error.message}", details={**error.details, "path": place}
        ) from None
    except (msgspec.ValidationError, TypeError, AttributeError) as error:
        raise _refused(f"{place}: {error}") from None
    raise _refused(f"{place} is no signature")


def _lm_of(given: Any, place: str) -> LMReference | None:
    if given is None:
        return None
    try:
        lm = msgspec.convert(given, LMReference)
    except msgspec.ValidationError as error:
        raise _refused(f"{place}: {error}") from None
    if lm.held is not None:
        raise _refused(f"{place}.held is of no use to another process")
    return None if lm.name is None and lm.options is None else lm


def _encoded(given: Any, kind: type, place: str) -> bytes:
    if given is None:
        return b""
    if isinstance(given, Mapping) and given.keys() == {"encoded"}:
        try:
            data = base64.b64decode(given["encoded"], validate=True)
            value = decode(data)
        except (TypeError, ValueError, WireError):
            raise _refused(f"{place} cannot be read") from None
    else:
        value, data = given, b"".join(encode(given, where=place)[0])
    if not isinstance(value, kind):
        raise _refused(f"{place} is no {'object' if kind is dict else 'list'}")
    if len(data) > LONGEST:
        raise _refused(f"{place} has more than {LONGEST:,} bytes")
    return data if value else b""


def _known(given: Mapping[str, Any], names: frozenset[str] | set[str], place: str) -> None:
    if unknown := sorted(map(str, given.keys() - names)):
        raise _refused(f"{place} has {', '.join(unknown)}; there are only {', '.join(sorted(names))}")


def _refused(reason: str) -> InvalidOption:
    return InvalidOption(f"the document cannot be imported: {reason}", details={"option": "document"})
