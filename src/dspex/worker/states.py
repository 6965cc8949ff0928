"""A saved state put into a program, once it is sure that it is that program's.

DSPy saves neither names nor types of fields, and puts what was saved of the first field into the first field,
whichever that is by now. So a program whose fields have changed since would run with another's descriptions,
without a word.
"""

from __future__ import annotations

import re
from typing import Any

import dspy
import msgspec

from dspex.errors import InvalidOption
from dspex.worker import faults

# DSPy's words for a task that nobody has described.
_DEFAULT = re.compile(r"Given the fields (.*), produce the fields (.*)\.")
_QUOTED = re.compile(r"`([^`]+)`")
_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")


def load(name: str, module: Any, encoded: bytes) -> None:
    """Put a saved state into a program that was made for it.

    Args:
        name: What the program is called.
        module: The ``dspy.Module``; it is not to be used when this raises.
        encoded: What ``dspex.program.saved.read`` gave.

    Raises:
        InvalidOption: It is not the state of this program; the message says which predictor differs, and how.
        PythonError: The program has a ``load_state`` of its own, which failed.
    """
    saved = msgspec.msgpack.decode(encoded)
    if _has_its_own(module):
        _call(name, module, saved)
        return
    optional: frozenset[str] = getattr(type(module), "may_be_lacking", frozenset())
    predictors = {
        key: predictor for key, predictor in module.named_parameters() if key in saved or key not in optional
    }
    _compare_names(name, predictors, saved)
    for predictor_name, predictor in predictors.items():
        part = saved[predictor_name]
        if isinstance(predictor, dspy.Predict) and type(predictor).load_state is dspy.Predict.load_state:
            _Comparison(name, predictor_name, predictor.signature, part).check()
            part = {"traces": [], "train": [], "lm": None, **part}
        _call(name, predictor, part)


def _has_its_own(module: Any) -> bool:
    stock = (dspy.Module.load_state, dspy.Predict.load_state)
    return type(module).load_state not in stock


def _call(name: str, owner: Any, part: Any) -> None:
    try:
        owner.load_state(part)
    except BaseException as error:
        raise faults.python_error(f"loading its state into {name} failed: ", error) from error


def _compare_names(name: str, predictors: dict[str, Any], saved: dict[str, Any]) -> None:
    lacking = [one for one in predictors if one not in saved]
    unknown = [one for one in saved if one not in predictors]
    if lacking or unknown:
        differs = [f"it lacks {', '.join(lacking)}"] if lacking else []
        differs += [f"it has {', '.join(unknown)}, which the program has not"] if unknown else []
        raise InvalidOption(
            f"the state is not of {name} as it is now: {'; '.join(differs)}. The program's predictors are "
            f"{', '.join(predictors) or 'none'}",
            details={
                "option": "state",
                "module": name,
                "missing": lacking,
                "unknown": unknown,
                "known": list(predictors),
            },
        )


class _Comparison:
    """What was saved of a predictor, beside the predictor.

    Args:
        module: What the program is called.
        predictor: The predictor's name.
        signature: Its ``dspy.Signature``.
        part: What was saved of it.
    """

    def __init__(self, module: str, predictor: str, signature: Any, part: Any) -> None:
        self._module = module
        self._predictor = predictor
        self._signature = signature
        self._part = part
        self._names = list(signature.fields)

    def check(self) -> None:
        """Refuse what was saved of another predictor, or of this one when it had other fields.

        Raises:
            InvalidOption: It was.
        """
        if not isinstance(self._part, dict) or "signature" not in self._part:
            raise self._refused("nothing of a predictor was saved by that name")
        saved = self._part["signature"]
        if len(saved["fields"]) != len(self._names):
            listed = ", ".join(self._names)
            raise self._refused(
                f"{len(saved['fields'])} fields were saved, and it has {len(self._names)} ({listed})",
                expected=self._names,
            )
        for name, field in zip(self._names, saved["fields"], strict=True):
            self._check_field(name, field)
        self._check_instructions(saved["instructions"])
        self._check_demos()

    def _check_field(self, name: str, saved: dict[str, str]) -> None:
        """A field is known again by its name, its prefix or its description: an optimizer leaves one."""
        own = self._signature.fields[name].json_schema_extra
        prefix, description = saved["prefix"], saved["description"]
        placeholder = _PLACEHOLDER.fullmatch(description)
        others = [
            other
            for other in self._names
            if other != name and self._signature.fields[other].json_schema_extra["prefix"] == prefix
        ]
        if placeholder is not None:
            same = placeholder[1] == name
        else:
            same = prefix == own["prefix"] or (description == own["desc"] and not others)
        if not same:
            was = placeholder[1] if placeholder else (others[0] if others else prefix.rstrip(":"))
            raise self._refused(
                f"in the place of its field {name!r} was saved one that was {was!r}",
                field=name,
                expected={"prefix": own["prefix"], "description": own["desc"]},
                found={"prefix": prefix, "description": description},
            )

    def _check_instructions(self, saved: str) -> None:
        """Instructions may be anything, but DSPy's own name the fields."""
        default = _DEFAULT.fullmatch(saved.strip())
        if default is None:
            return
        sides = (self._signature.input_fields, self._signature.output_fields)
        for text, own, side in zip(default.groups(), sides, ("input", "output"), strict=True):
            for name in _QUOTED.findall(text):
                if name not in own:
                    raise self._refused(
                        f"its instructions were saved with an {side} {name!r}, and it has none",
                        expected=list(own),
                        found=saved,
                    )

    def _check_demos(self) -> None:
        """Demos of the trainset may lack any field; those that this predictor has made do not."""
        for number, demo in enumerate(self._part["demos"]):
            own = demo.get("augmented") is True
            sides = (self._signature.input_fields, self._signature.output_fields)
            if own and any(side and demo.keys().isdisjoint(side) for side in sides):
                raise self._refused(
                    f"demo {number} was made by a predictor with other fields "
                    f"({', '.join(name for name in demo if name != 'augmented')})",
                    expected=self._names,
                    found=list(demo),
                )

    def _refused(self, reason: str, **details: Any) -> InvalidOption:
        return InvalidOption(
            f"the state is not of {self._module} as it is now: predictor {self._predictor!r}: {reason}; load "
            "it into the version of the program that it was saved from, or optimize this one",
            details={"option": "state", "module": self._module, "predictor": self._predictor, **details},
        )
