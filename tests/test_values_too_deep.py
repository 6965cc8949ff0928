"""Values that are too deep, too large or without end."""

from __future__ import annotations

import contextlib
from datetime import date
from typing import Any

import msgspec
import pytest

from dspex.errors import InvalidInput, ResultTooLarge
from dspex.wire.values import MAX_DEPTH, decode
from tests.values import Box, Late, Point, Tagged, encode, encode_result, model, travel


def nested(levels: int, wrap: Any) -> Any:
    """A number inside that many containers."""
    value: Any = 1
    for _ in range(levels):
        value = wrap(value)
    return value


WRAPS: list[Any] = [lambda inner: [inner], lambda inner: {"k": inner}, lambda inner: (inner,), Point, Tagged]
WRAPS += [lambda inner: frozenset({inner}), lambda inner: {date.min: inner}]
WRAPS += [lambda inner: Box.model_construct(content=inner)]


@pytest.mark.parametrize("wrap", WRAPS, ids=range(len(WRAPS)))
def test_depth(wrap: Any) -> None:
    """A deep value would overflow the stack, or one that is allowed would be refused."""
    deepest = encode(nested(MAX_DEPTH, wrap))
    assert encode(decode(deepest.data, deepest.types)) == deepest
    assert decode(deepest.data) is not None
    too_deep = nested(MAX_DEPTH + 1, wrap)
    with pytest.raises(InvalidInput, match="cannot be sent: it is nested deeper than 200 levels") as caught:
        encode(too_deep)
    assert len(str(caught.value)) < 1_000
    with pytest.raises(ResultTooLarge, match="deeper than 200"):
        encode_result([too_deep])


def test_more_than_messagepack_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value beyond 4 GiB would raise an error of msgspec's at the caller."""

    def pack(_: Any) -> bytes:
        raise msgspec.EncodeError("Can't encode strings longer than 2**32 - 1")

    monkeypatch.setattr("dspex.wire.pieces.pack", pack)
    with pytest.raises(InvalidInput, match="larger than 4 GiB"):
        encode("x")
    with pytest.raises(ResultTooLarge, match="larger than 4 GiB"):
        encode_result("x")


def test_a_value_that_contains_itself() -> None:
    """A cycle would be sent for ever, or its place would not be told."""
    loop: dict[str, Any] = {"a": [1]}
    loop["a"].append({"back": loop})
    looped = model(1)
    looped.tags = (looped,)
    late = Late(1)
    late.given = {"me": late}
    for value, path in (({"x": loop}, ".x.a[1].back"), (looped, ".tags[0]"), ([late], "[0].given.me")):
        with pytest.raises(InvalidInput) as caught:
            encode(value, where="inputs")
        assert str(caught.value) == f"inputs{path}: cannot be sent: it contains itself"
        with pytest.raises(ResultTooLarge, match="contains itself"):
            encode_result(value)


def test_little_stack_left() -> None:
    """A caller that is deep in calls itself would not be told why a value of allowed depth is refused."""
    value = nested(MAX_DEPTH, WRAPS[2])
    outcomes: set[str] = set()

    def descend() -> None:
        # A `RecursionError` also comes where too little is left to call anything at all.
        with contextlib.suppress(RecursionError):
            descend()
        try:
            outcomes.add(f"sent {len(encode(value).data)}")
        except InvalidInput as error:
            outcomes.add(str(error))
        except RecursionError:
            pass

    descend()
    assert outcomes == {
        f"sent {len(encode(value).data)}",
        "value: cannot be sent: it is nested too deep for what is left of the stack",
    }


def test_one_object_twice_is_no_cycle() -> None:
    """A value that is merely shared would be refused."""
    shared = [Point(1)]
    assert travel([shared, shared, {"a": shared}]) == [shared, shared, {"a": shared}]
