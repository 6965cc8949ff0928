"""How good an answer is: rewards that need no code, and what a caller's own reward is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec


class Reward(msgspec.Struct, frozen=True):
    """A reward that is worked out beside the program, without asking the caller: 1.0 or 0.0.

    Make one with ``Reward.exact_match``, ``Reward.contains`` or ``Reward.json_schema``.

    Attributes:
        kind: Which of them.
        field: The output that is looked at; None is the last.
        expected: What it is compared with: a value, or a JSON Schema.
    """

    kind: Literal["exact_match", "contains", "json_schema"]
    field: str | None = None
    expected: Any = None

    @classmethod
    def exact_match(cls, expected: Any, *, field: str | None = None) -> Reward:
        """1.0 when an output is what is expected.

        Texts are compared as DSPy's ``EM`` does, without regard to case, punctuation and articles; a list of
        texts is met by any of them. Other values have to be equal.

        Args:
            expected: The value, JSON-ready.
            field: The output; None is the last.
        """
        return cls("exact_match", field, expected)

    @classmethod
    def contains(cls, expected: str, *, field: str | None = None) -> Reward:
        """1.0 when a text is in an output, whatever the case; in one that is not text, in its JSON.

        Args:
            expected: The text.
            field: The output; None is the last.
        """
        return cls("contains", field, expected)

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any], *, field: str | None = None) -> Reward:
        """1.0 when an output fits a JSON Schema; text is read as JSON first.

        Args:
            schema: The schema. References to other documents are not followed.
            field: The output; None is the last.
        """
        return cls("json_schema", field, dict(schema))


class Prediction:
    """An attempt as a caller's own reward gets it: outputs as attributes and as items, as in DSPy.

    Args:
        outputs: Outputs by name.
    """

    __slots__ = ("_outputs",)

    def __init__(self, outputs: dict[str, Any]) -> None:
        self._outputs = outputs

    def __getitem__(self, name: str) -> Any:
        return self._outputs[name]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self._outputs[name]
        except KeyError:
            raise AttributeError(f"no output {name!r}; there are {', '.join(self._outputs)}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._outputs

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs)

    def __len__(self) -> int:
        return len(self._outputs)

    def keys(self) -> list[str]:
        """The names of the outputs."""
        return list(self._outputs)

    def items(self) -> list[tuple[str, Any]]:
        """Names and values."""
        return list(self._outputs.items())

    def get(self, name: str, default: Any = None) -> Any:
        """An output, or what stands for one that is missing."""
        return self._outputs.get(name, default)

    def toDict(self) -> dict[str, Any]:  # noqa: N802 (as in DSPy)
        """All of them."""
        return dict(self._outputs)

    def __repr__(self) -> str:
        return f"Prediction({', '.join(f'{name}={value!r}' for name, value in self._outputs.items())})"
