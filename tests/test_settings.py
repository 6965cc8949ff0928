"""Options: a wrong value is refused where it is given, by its name, and a right one is kept as it is."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest

from dspex.errors import InvalidOption
from dspex.settings import MiB, PoolOptions, Settings

WHOLE = {"workers": 1, "slots": 1, "max_queue": 0, "max_reruns": 0}
SECONDS = ("grace", "queue_timeout")
NAMES = ("pass_env", "preload")
NO_NUMBERS = [True, False, "4", "", [4], (4,), {}, object(), b"4", 4j]


def refused(owner: Any, option: str, value: object) -> str:
    """The message of the refusal, which names the option in every way that it can be asked for."""
    with pytest.raises(InvalidOption) as error:
        owner(**{option: value})
    assert error.value.details == {"option": option}
    assert json.loads(json.dumps(error.value.to_wire())) == error.value.to_wire()
    assert error.value.message.startswith(f"{owner.__name__}.{option} has to be ")
    return error.value.message


def test_the_defaults_are_those_that_are_documented() -> None:
    """A pool that nobody configured would behave other than its documentation says."""
    options = PoolOptions()
    assert (options.workers, options.slots, options.max_queue, options.queue_timeout) == (
        None,
        64,
        1000,
        None,
    )
    assert (options.grace, options.max_reruns, options.pass_env, options.preload) == (0.5, 3, (), ())
    settings = Settings()
    assert (settings.allow_modules, settings.python, settings.local_model) == ((), None, None)
    assert settings.max_payload == settings.max_result == 512 * MiB


@pytest.mark.parametrize("value", [*NO_NUMBERS, -1, 1.0, 2.5, math.nan, math.inf])
@pytest.mark.parametrize("option", WHOLE)
def test_a_count_is_a_whole_number(option: str, value: object) -> None:
    """A pool would start `True` workers, or fail in its middle with a `TypeError`."""
    message = refused(PoolOptions, option, value)
    assert message.endswith(f"a whole number of at least {WHOLE[option]}, not {value!r}")


@pytest.mark.parametrize("option", ["workers", "slots"])
def test_a_pool_needs_one_of_each(option: str) -> None:
    """A pool of no workers would let every call wait for its deadline."""
    assert refused(PoolOptions, option, 0).endswith("at least 1, not 0")


def test_a_zero_that_is_meant_is_kept() -> None:
    """An explicit 0 would be eaten by a default: no queue and no reruns could not be asked for."""
    options = PoolOptions(max_queue=0, max_reruns=0, grace=0, queue_timeout=0.0)
    assert (options.max_queue, options.max_reruns, options.grace, options.queue_timeout) == (0, 0, 0, 0.0)


@pytest.mark.parametrize("value", [*NO_NUMBERS, -1, -0.001, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("option", SECONDS)
def test_seconds_are_a_finite_number(option: str, value: object) -> None:
    """A deadline would never come, or a comparison with NaN would decide on a kill."""
    assert refused(PoolOptions, option, value).endswith(f"a number of seconds, not {value!r}")


@pytest.mark.parametrize("option", ["slots", "max_queue", "max_reruns", "grace"])
def test_none_is_refused_where_it_means_nothing(option: str) -> None:
    """`None` would reach a comparison and fail far from where it was given."""
    refused(PoolOptions, option, None)


@pytest.mark.parametrize("option", ["workers", "queue_timeout"])
def test_none_is_kept_where_it_means_something(option: str) -> None:
    """The default could not be written down."""
    make: Any = PoolOptions
    assert getattr(make(**{option: None}), option) is None


@pytest.mark.parametrize(
    "value", ["HOME", b"HOME", "", [1], ["HOME", None], (b"HOME",), [["HOME"]], None, 5, True, object()]
)
@pytest.mark.parametrize(
    ("owner", "option"), [(PoolOptions, "pass_env"), (PoolOptions, "preload"), (Settings, "allow_modules")]
)
def test_names_are_a_list_of_text(owner: Any, option: str, value: object) -> None:
    """`preload="mlflow"` would be taken for six modules, `m`, `l`, `f` ..."""
    assert refused(owner, option, value).endswith(f"a list of names, not {value!r}")


@pytest.mark.parametrize("make", [list, tuple, iter, dict.fromkeys, lambda names: (name for name in names)])
def test_any_iterable_of_names_is_kept_as_a_tuple(make: Any) -> None:
    """Names would be lost, or could be changed after they were checked."""
    names = ["HOME", "HF_TOKEN"]
    assert PoolOptions(pass_env=make(names)).pass_env == ("HOME", "HF_TOKEN")
    assert PoolOptions(preload=make(names)).preload == ("HOME", "HF_TOKEN")
    assert Settings(allow_modules=make(names)).allow_modules == ("HOME", "HF_TOKEN")


@pytest.mark.parametrize("value", [*NO_NUMBERS, None, 0, 1023, -1, 1e9, math.nan])
def test_the_largest_payload_is_a_whole_number_of_bytes(value: object) -> None:
    """Every call would be refused as too large, or none."""
    assert refused(Settings, "max_payload", value).endswith(f"at least 1024, not {value!r}")


@pytest.mark.parametrize("value", [5, True, b"/usr/bin/python3", ["python3"], ""])
@pytest.mark.parametrize("option", ["python", "local_model"])
def test_a_path_is_text(option: str, value: object) -> None:
    """A wrong path would fail when the first worker starts, with an error that names no option."""
    refused(Settings, option, value)


@pytest.mark.parametrize("owner", [PoolOptions, Settings])
def test_an_unknown_option_is_refused(owner: Any) -> None:
    """A typing error would be a silent default."""
    with pytest.raises(TypeError, match="wokers"):
        owner(wokers=3)
    with pytest.raises(TypeError):
        owner(3)


@pytest.mark.parametrize("options", [PoolOptions(), Settings()])
def test_options_cannot_be_changed_afterwards(options: Any) -> None:
    """A value could get past its check."""
    name = options.__struct_fields__[0]
    with pytest.raises(AttributeError):
        setattr(options, name, -1)


def test_options_are_values() -> None:
    """Two pools of the same preparation would not share a zygote."""
    one = PoolOptions(workers=2, preload=["shop"])
    assert one == PoolOptions(workers=2, preload=("shop",))
    assert hash(one) == hash(PoolOptions(workers=2, preload=("shop",)))
    assert msgspec.structs.replace(one, slots=1) == PoolOptions(workers=2, preload=("shop",), slots=1)
    with pytest.raises(InvalidOption):
        msgspec.structs.replace(one, slots=0)


def test_what_a_settings_file_holds_is_checked_as_well() -> None:
    """Options from a file would get past the checks that those from code go through."""
    assert msgspec.convert({"preload": ["shop"]}, PoolOptions) == PoolOptions(preload=("shop",))
    for wrong in ({"slots": 0}, {"slots": True}, {"wokers": 3}, {"preload": "shop"}):
        with pytest.raises((InvalidOption, msgspec.ValidationError)):
            msgspec.convert(wrong, PoolOptions)
