"""What programs of the user's own give back that cannot be sent, or that fights being sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import dspex
from tests.user_runtime import provider, runtime, serving

__all__ = ["provider", "runtime", "serving"]  # fixtures

LOUD = "tests.typed_programs.Loud"


@pytest.fixture(scope="module")
def showing() -> Iterator[dspex.Runtime]:
    with dspex.Runtime(
        pools={"general": dspex.PoolOptions(workers=1, grace=0.3)},
        settings=dspex.Settings(allow_modules=("tests.typed_programs",), show_unsendable=True, file=False),
    ) as opened:
        yield opened


def ask(runtime: dspex.Runtime, name: str, **inputs: Any) -> dspex.Response:
    return runtime.adapter().generate(module=f"tests.typed_programs:{name}", inputs=inputs)


@pytest.fixture(scope="module")
def quiet() -> Iterator[dspex.Runtime]:
    with dspex.Runtime(
        pools={"general": dspex.PoolOptions(workers=1, grace=0.3)},
        settings=dspex.Settings(
            allow_modules=("tests.typed_programs",), max_result=64 * 1024 * 1024, file=False
        ),
    ) as opened:
        yield opened


@pytest.mark.parametrize("how", ["slow", "fail"])
def test_nothing_of_it_is_asked(quiet: dspex.Runtime, how: str) -> None:
    """If this failed, an object of a user's could hang or break the answer that it is a part of."""
    got = ask(quiet, "Unsendables", how=how)
    assert got.good == "yes"
    assert got.lock == dspex.Unsendable("_thread.lock")
    assert got.loud == dspex.Unsendable(LOUD)
    assert got.deep == {"a": [1, (dspex.Unsendable(LOUD), 2)]}
    assert got.listed == [1, 2]
    assert got.mapped == {"a": 1}
    assert got.tool["func"] == dspex.Unsendable("function")
    assert got.to_dict()["outputs"]["lock"] == {"type_name": "_thread.lock"}


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("short", "Loud()"),
        ("huge", "x" * 500 + "…"),
        ("odd", "?\0"),
        ("fail", "<its repr failed with RuntimeError>"),
    ],
)
def test_its_repr_is_there_where_it_is_asked_for(showing: dspex.Runtime, how: str, text: str) -> None:
    """If this failed, nobody could find out what the value was that did not come, or it would fill a log."""
    got = ask(showing, "Unsendables", how=how)
    assert got.loud == dspex.Unsendable(LOUD, text)
    assert got.deep["a"][1][0] == got.loud
    assert got.lock.text.startswith("<unlocked _thread.lock")


def test_a_repr_that_never_ends_ends_with_its_call(showing: dspex.Runtime) -> None:
    """If this failed, one such object would hold a worker for ever."""
    with pytest.raises(dspex.PythonTimeout):
        showing.adapter(timeout=0.3).generate(
            module="tests.typed_programs:Unsendables", inputs={"how": "slow"}
        )
    assert ask(showing, "Unsendables", how="short").good == "yes"


@pytest.mark.parametrize("of", ["lists", "dicts", "texts", "bytes"])
def test_a_bomb_is_found_before_it_is_written_down(quiet: dspex.Runtime, of: str) -> None:
    """If this failed, a few bytes of a program's would take all memory of the machine on their way out."""
    with pytest.raises(dspex.ResultTooLarge, match="over the limit of 67,108,864"):
        ask(quiet, "Bomb", of=of)


def test_one_that_contains_itself_is_told_as_such(quiet: dspex.Runtime) -> None:
    """If this failed, somebody would raise a limit for a result that has no end."""
    with pytest.raises(dspex.ResultTooLarge, match="it contains itself"):
        ask(quiet, "Bomb", of="itself")


def test_the_setting_takes_a_truth_value() -> None:
    """If this failed, `show_unsendable = "no"` would show."""
    with pytest.raises(dspex.InvalidOption, match="show_unsendable"):
        dspex.Settings(show_unsendable="no", file=False)  # type: ignore[arg-type]
