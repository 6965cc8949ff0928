"""A signature in whatever form a caller has it: text, a dict, a class, an import path.

======================  ===================================================================================
text                    ``"question -> answer: int"``, see ``dspex.program.signature``
a dict                  ``{"inputs": {...}, "outputs": {...}, "instructions": "..."}``, see ``dictform``
a ``dspy.Signature``    the class object; DSPy is not imported for it
a pydantic model        its fields are the outputs, its docstring the instructions, the input is ``prompt``
an import path          ``"shop.types:QA"``, a class of either kind that a worker loads
======================  ===================================================================================
"""

from __future__ import annotations

import re
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import msgspec

from dspex.errors import InvalidSignature
from dspex.program import classform, dictform, signature
from dspex.program.given import Given
from dspex.program.signature import Signature

_KEPT = 512
# A larger one is read anew each time: to keep it would cost more.
_LONGEST_KEPT = 64 * 1024


class _Kept:
    """Dict forms that were read before, by their JSON; used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given: OrderedDict[tuple[bytes, tuple[int, ...]], tuple[Given, list[Any]]] = OrderedDict()
        self._classes: weakref.WeakKeyDictionary[type, tuple[Any, Given]] = weakref.WeakKeyDictionary()

    def dict_form(self, given: Mapping[str, Any]) -> Given:
        """The signature that a dict gives."""
        held: list[Any] = []

        def by_identity(part: Any) -> Any:
            # Held as long as its number is in a key, so that no other object gets that number.
            held.append(part)
            return "\0"

        try:
            encoded = msgspec.json.encode(given, enc_hook=by_identity)
        except (RecursionError, TypeError, ValueError, msgspec.MsgspecError):
            return dictform.read(given)  # which says what is wrong with it
        key = encoded, tuple(map(id, held))
        with self._lock:
            kept = self._given.get(key)
            if kept is not None:
                self._given.move_to_end(key)
                return kept[0]
        made = dictform.read(given)
        if len(encoded) <= _LONGEST_KEPT:
            with self._lock:
                self._given[key] = (made, held)
                if len(self._given) > _KEPT:
                    self._given.popitem(last=False)
        return made

    def of_class(self, kind: type) -> Given:
        """The signature that a class is."""
        state = classform.state_of(kind)
        kept = self._classes.get(kind)
        # The instructions and descriptions of a class can be set later.
        if kept is not None and kept[0] == state:
            return kept[1]
        made = classform.read(kind)
        with self._lock:
            self._classes[kind] = (state, made)
        return made


_kept = _Kept()
# Text with a colon and an arrow is a signature itself.
_PATH = re.compile(r"[^\s:>,\[\]'\"]+:[^\s:>,\[\]'\"]+")


def is_path(given: object) -> bool:
    """Whether a signature is meant as an import path."""
    return isinstance(given, str) and _PATH.fullmatch(given) is not None and "->" not in given


def read(given: Any) -> Given:
    """A signature in any form but an import path.

    Raises:
        InvalidSignature: It is none; ``details`` has the ``position`` in a text, or the ``path`` to the place
            in anything else.
    """
    if isinstance(given, str | Signature):
        return Given(signature.of(given))
    if isinstance(given, Mapping):
        return _kept.dict_form(given)
    if isinstance(given, type):
        return _kept.of_class(given)
    raise InvalidSignature(
        "a signature is text such as 'question -> answer', a dict with inputs and outputs, a dspy.Signature "
        f"class, a pydantic model or an import path, not {type(given).__name__}"
    )
