"""Programs that give back more than plain data: ``Settings(allow_modules=["tests.typed_programs"])``."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import dspy
from dspy.adapters.types.document import Document


def _name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


class Kinds(dspy.Module):  # type: ignore[misc]
    """Says what it was given, and gives typed values back."""

    def forward(self, image: Any, many: list[Any], code: Any) -> Any:
        """No request."""
        return dspy.Prediction(
            kinds=[_name(image), _name(many[0]), _name(code)],
            image=image,
            nested={"a": (dspy.Code["java"](code="y"), Document(data="t"))},
            why=dspy.Reasoning(content="Since."),
        )


class Loud:
    """Fails, or takes for ever, whatever it is asked."""

    def __init__(self, how: str = "fail") -> None:
        self.how = how

    def _ask(self) -> Any:
        if self.how == "slow":
            time.sleep(3600)
        raise RuntimeError("canary")

    def __repr__(self) -> str:
        if self.how == "short":
            return "Loud()"
        if self.how == "huge":
            return "x" * 50_000_000
        if self.how == "odd":
            return "\ud800\x00"
        return str(self._ask())

    def __str__(self) -> str:
        return str(self._ask())

    def __len__(self) -> int:
        return int(self._ask())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._ask())

    def __bool__(self) -> bool:
        return bool(self._ask())

    def __eq__(self, other: object) -> bool:
        return bool(self._ask())

    def __hash__(self) -> int:
        return int(self._ask())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._ask()


class LoudList(list[Any]):
    """A list that lies about what it holds."""

    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError("canary")

    def __len__(self) -> int:
        return 2**60

    def __getitem__(self, key: Any) -> Any:
        raise RuntimeError("canary")


class LoudDict(dict[Any, Any]):
    """A dict that never ends."""

    def items(self) -> Any:
        while True:
            pass

    def __iter__(self) -> Iterator[Any]:
        while True:
            pass

    def keys(self) -> Any:
        return iter(self)


class Unsendables(dspy.Module):  # type: ignore[misc]
    """Gives back what cannot be sent, and what is hard to send."""

    def forward(self, how: str = "slow") -> Any:
        """No request."""
        return dspy.Prediction(
            lock=threading.Lock(),
            loud=Loud(how),
            deep={"a": [1, (Loud(how), 2)]},
            listed=LoudList([1, 2]),
            mapped=LoudDict(a=1),
            tool=dspy.Tool(_name),
            good="yes",
        )


class Bomb(dspy.Module):  # type: ignore[misc]
    """Gives back little that would be very much once it is written down."""

    def forward(self, of: str) -> Any:
        """No request."""
        if of == "lists":
            value: Any = ["x"]
            for _ in range(40):
                value = [value] * 10
        elif of == "dicts":
            value = {"x": 1}
            for _ in range(40):
                value = {"a": value, "b": value}
        elif of == "itself":
            value = ["x" * 1_000_000]
            value.append(value)
        elif of == "texts":
            value = ["x" * 1_000_000] * 1_000_000
        else:
            value = [b"x" * 1_000_000] * 1_000_000
        return dspy.Prediction(value=value)


class Back(dspy.Module):  # type: ignore[misc]
    """Gives back what it was given, under names that mean something elsewhere."""

    def forward(self, value: Any, error: Any = None, type: Any = None) -> Any:  # noqa: A002
        """No request."""
        return dspy.Prediction(value=value, error=error, type=type, completions=1)
