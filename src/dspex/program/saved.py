"""The saved state of a program, as DSPy's ``module.save("x.json")`` writes it.

It is read where the call is made: workers need no access to files, and each call carries the one state that
it runs with. Whether it fits the program is seen in a worker, which has the program.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from dspex.errors import InvalidOption, PayloadTooLarge

_log = logging.getLogger("dspex.program")
#: Bytes of a saved state, at most: it goes with each call.
LONGEST = 4 * 1024 * 1024
#: By this name goes the state of a program that is one predictor itself.
ALONE = "self"
# What DSPy keeps of a predictor. Its loader sets every other name as an attribute, whatever that overwrites.
_PREDICTOR = frozenset({"traces", "train", "demos", "signature", "fields", "lm"})
# What it keeps for optimizers alone.
_OF_OPTIMIZERS = ("traces", "train")

#: What a caller may give as a state.
Given = str | os.PathLike[str] | Mapping[str, Any]


class Saved(msgspec.Struct, frozen=True):
    """A state that was read.

    Attributes:
        encoded: MessagePack of a dict from the names of predictors to what was saved of them.
    """

    encoded: bytes

    def __repr__(self) -> str:
        return f"Saved({len(self.encoded):,} bytes)"


def read(given: Given) -> Saved:
    """A state from the file that ``module.save("x.json")`` wrote, or from what ``module.dump_state()`` gives.

    Raises:
        InvalidOption: There is no such file, or it holds no such state.
        PayloadTooLarge: It has more than 4 MiB.
    """
    if isinstance(given, Mapping):
        return _of(_plain(given), "the state given")
    if not isinstance(given, str | os.PathLike):
        raise _refused(f"state is a path or a dict, not {type(given).__name__}")
    path = Path(given)
    where = f"the state in {str(path)!r}"
    try:
        if path.is_dir() or path.suffix in {".pkl", ".pickle"}:
            raise _refused(
                f"{where} is a pickle, and to load one runs whatever code it holds; save the state as JSON: "
                "module.save('program.json')"
            )
        if path.exists() and not path.is_file():
            raise _refused(f"{where} is no file")
        with path.open("rb") as file:
            data = file.read(LONGEST + 1)
    except OSError as error:
        raise _refused(f"{where} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a path with U+0000
        raise _refused(f"{where} cannot be read: {error}") from error
    if len(data) > LONGEST:
        raise _too_large(where, path.stat().st_size)
    try:
        return _of(msgspec.json.decode(data), where)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _refused(f"{where} is no JSON: {error}") from error


def _plain(given: Mapping[str, Any]) -> Any:
    try:
        encoded = msgspec.json.encode(given if isinstance(given, dict) else dict(given))
    except (TypeError, ValueError, RecursionError, UnicodeError) as error:
        raise _refused(
            f"the state given is no JSON data: {error}; give what module.dump_state() gives"
        ) from error
    if len(encoded) > LONGEST:
        raise _too_large("the state given", len(encoded))
    return msgspec.json.decode(encoded)


def _of(saved: Any, where: str) -> Saved:
    if not isinstance(saved, dict):
        raise _refused(f"{where} is no state of a program, which is a JSON object")
    by_name = {name: part for name, part in saved.items() if name != "metadata"}
    if isinstance(by_name.get("signature"), dict) and isinstance(by_name.get("demos"), list):
        by_name = {ALONE: by_name}  # of a Predict itself
    left_out = []
    cleared: dict[str, Any] = {}
    for name, part in by_name.items():
        if isinstance(part, dict):
            if part.get("lm") is not None:
                left_out.append(name)
            rest = {key: value for key, value in part.items() if key != "lm"}
            cleared[name] = _predictor(name, rest, where) if isinstance(rest.get("signature"), dict) else rest
        else:
            cleared[name] = part
    if not cleared:
        raise _refused(f"{where} has no predictor")
    if left_out:
        _log.warning(
            "%s has language models, which are not taken over (%s): a program asks the LM of its call",
            where,
            ", ".join(left_out),
        )
    try:
        return Saved(msgspec.msgpack.encode(cleared))
    except (OverflowError, UnicodeError) as error:
        raise _refused(f"{where} cannot be sent: {error}") from error


def _predictor(name: str, part: dict[str, Any], where: str) -> dict[str, Any]:
    """What was saved of a predictor, in the form that it is checked in."""
    if unknown := sorted(part.keys() - _PREDICTOR):
        raise _refused(f"{where} has {', '.join(unknown)} of {name!r}, which is not of a predictor's state")
    signature = part["signature"]
    fields = signature.get("fields")
    if (
        not isinstance(signature.get("instructions"), str)
        or not isinstance(fields, list)
        or not all(_is_field(field) for field in fields)
    ):
        raise _refused(f"{where} has a signature of {name!r} that DSPy did not save")
    demos = part.get("demos", [])
    if not isinstance(demos, list) or not all(isinstance(demo, dict) for demo in demos):
        raise _refused(f"{where} has demos of {name!r} that are not a list of objects")
    kept = {key: value for key, value in part.items() if key not in _OF_OPTIMIZERS}
    return {**kept, "demos": demos}


def _is_field(field: Any) -> bool:
    return isinstance(field, dict) and all(
        isinstance(field.get(name), str) for name in ("prefix", "description")
    )


def _too_large(where: str, size: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"{where} has {size:,} bytes, and at most {LONGEST:,} go with a call; save fewer or shorter demos",
        details={"size": size, "limit": LONGEST},
    )


def _refused(reason: str) -> InvalidOption:
    return InvalidOption(reason, details={"option": "state"})
