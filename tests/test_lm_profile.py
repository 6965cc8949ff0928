"""`LM`: what is refused, which two are the same, and what a worker is told."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest

from dspex import DSPyAdapter
from dspex.errors import InvalidOption, UnknownProvider
from dspex.lm.profile import LM
from dspex.lm.providers import PROVIDERS
from dspex.types import LMSpec, Retry


def refused(**options: Any) -> InvalidOption:
    with pytest.raises(InvalidOption) as error:
        LM(**{"model": "openai/gpt-5-mini", **options})
    return error.value


# What is refused


@pytest.mark.parametrize(
    "model", ["", "  ", "gpt-5-mini", "openai/", None, 5, True, b"openai/x", ["openai/x"]]
)
def test_a_model_is_a_provider_and_a_name(model: object) -> None:
    """A typing error would be found by a worker, after a fork and an import."""
    assert refused(model=model).details == {"option": "model"}


def test_an_unknown_provider_is_refused_with_the_nearest() -> None:
    """A user would have to search the documentation for how his provider is called."""
    with pytest.raises(UnknownProvider, match="did you mean 'openai'") as error:
        LM("opnai/gpt-5-mini")
    assert error.value.details == {"provider": "opnai", "known": list(PROVIDERS)}


def test_a_local_model_is_not_written_with_a_slash() -> None:
    """`local/qwen` would be taken for a provider and asked for at an address that is no address."""
    with pytest.raises((InvalidOption, UnknownProvider)):
        LM("local/qwen")


def test_an_engine_of_ones_own_may_have_any_provider() -> None:
    """A gateway that dspex does not know could not be used."""
    assert LM("gateway/x", engine="shop.gateway:Engine").model == "gateway/x"


@pytest.mark.parametrize(
    "value", [True, "0.5", -0.1, math.nan, math.inf, [0.5], pytest.param(10**400, id="huge")]
)
def test_a_temperature_is_a_number(value: object) -> None:
    """A provider would refuse the request, call by call, in words of its own."""
    assert refused(temperature=value).details == {"option": "temperature"}


@pytest.mark.parametrize("value", [True, "30", 0, -1, math.nan, math.inf])
def test_a_timeout_is_a_positive_number(value: object) -> None:
    """Every request would time out at once, or none ever."""
    assert refused(timeout=value).details == {"option": "timeout"}


@pytest.mark.parametrize("value", [True, False, "100", 0, -1, 1.5, 100.0])
def test_the_most_tokens_are_a_whole_number(value: object) -> None:
    """`max_tokens=True` would ask for answers of one token."""
    assert refused(max_tokens=value).details == {"option": "max_tokens"}


def test_an_unknown_adapter_is_refused_with_the_known_ones() -> None:
    """A typing error would be found by a worker."""
    error = refused(adapter="jsn")
    assert error.details == {"option": "adapter"}
    assert all(name in error.message for name in ("auto", "chat", "json", "xml", "two_step"))
    assert LM("local", adapter="shop.adapters:Terse").adapter == "shop.adapters:Terse"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("base_url", 5),
        ("base_url", b"http://x"),
        ("adapter", None),
        ("adapter", 5),
        ("engine", 5),
        ("engine", "no_import_path"),
        ("extraction_lm", "openai/gpt-5-mini"),
        ("schema", "yes"),
        ("retry", 3),
        ("retry", None),
    ],
)
def test_every_other_option_is_checked_as_well(option: str, value: object) -> None:
    """A wrong value would fail as an `AttributeError`, or in a worker in the middle of a call."""
    assert refused(**{option: value}).details == {"option": option}


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": 0},
        {"attempts": True},
        {"attempts": "3"},
        {"wait": math.nan},
        {"wait": -1},
        {"max_wait": -1},
    ],
)
def test_retry_is_checked_as_well(options: dict[str, Any]) -> None:
    """A wrong number would fail in a worker, after a request that had failed."""
    with pytest.raises(InvalidOption):
        LM("openai/x", retry=Retry(**options))


@pytest.mark.parametrize("value", ["", 5, True, b"key", ["key"], "env:"])
def test_a_key_is_text_and_is_not_repeated(value: object) -> None:
    """A wrong key would be sent as it is, or be shown in the error that refuses it."""
    error = refused(api_key=value)
    assert error.details == {"option": "api_key"}
    assert repr(value) not in error.message or value == "env:"


@pytest.mark.parametrize("name", ["api_base", "num_retries", "model_type", "provider", "headers", "messages"])
def test_what_belongs_to_the_connection_is_no_parameter(name: str) -> None:
    """An option of DSPy's would silently change what dspex promises: caching, retries, the endpoint."""
    error = refused(**{name: "x"})
    assert error.details == {"option": name}
    assert name in error.message


def test_a_parameter_is_a_plain_value() -> None:
    """A worker could not be told of it."""
    assert "plain values" in refused(logit_bias=object()).message
    assert LM("openai/x", top_p=0.5, stop=["a"]).params == {"top_p": 0.5, "stop": ["a"]}


def test_an_empty_base_url_is_not_the_providers_own() -> None:
    """`base_url=os.environ.get("GATEWAY", "")` would send prompts, and the key, past the gateway."""
    assert refused(base_url="").details == {"option": "base_url"}


@pytest.mark.parametrize("params", [{"seed": 10**30}, {"logit_bias": {"a": [2**80]}}], ids=str)
def test_a_number_that_no_message_holds_is_refused(params: dict[str, Any]) -> None:
    """An `OverflowError` would say nothing of the parameter, nor of its place in a settings file."""
    assert refused(**params).details == {"option": "params"}


# Which two are the same


def test_two_that_say_the_same_are_one() -> None:
    """Each call would open connections of its own, and limits would hold for each by itself."""

    def make() -> LM:
        second = LM("openai/gpt-5-mini", temperature=0.0)
        return LM(
            "openai/gpt-5",
            api_key="env:K",
            base_url="http://h/v1",
            max_tokens=5,
            extraction_lm=second,
            retry=Retry(attempts=2),
            top_p=0.5,
            stop=["a"],
        )

    assert make() == make()
    assert hash(make()) == hash(make())
    assert len({make(), make(), copy.deepcopy(make())}) == 1
    assert LM("openai/x", base_url="http://h/v1/") == LM("openai/x", base_url="http://h/v1")
    assert LM("openai/x", top_p=1, n=2) == LM("openai/x", n=2, top_p=1)
    assert LM("openai/x") != "openai/x"


def test_a_whole_number_of_seconds_is_the_same_as_its_float() -> None:
    """`timeout=30` and `timeout=30.0` would be two profiles with two stores of connections."""
    assert LM("openai/x", timeout=30, temperature=0) == LM("openai/x", timeout=30.0, temperature=0.0)


@pytest.mark.parametrize(
    "other",
    [
        {"api_key": "a"},
        {"base_url": "http://other"},
        {"temperature": 0.0},
        {"max_tokens": 6},
        {"timeout": 1.0},
        {"adapter": "json"},
        {"extraction_lm": LM("openai/y")},
        {"engine": "a:B"},
        {"schema": False},
        {"retry": Retry(attempts=1)},
        {"top_p": 0.5},
        {"model": "openai/y"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_two_that_differ_in_anything_are_two(other: dict[str, Any]) -> None:
    """A call would go out with another profile's key, limits or answers."""
    assert LM("openai/x") != LM(**{"model": "openai/x", **other})


# What the adapter makes of it


@pytest.mark.parametrize("provider", [None, 5, ["openai"], "", b"openai"])
@pytest.mark.parametrize("more", [{}, {"engine": "litellm"}])
def test_a_provider_that_is_no_name_is_refused_with_the_list(provider: Any, more: dict[str, Any]) -> None:
    """A `TypeError` would come from inside dspex, or requests go to a provider called None."""
    with pytest.raises(UnknownProvider, match="Known: openai") as caught:
        DSPyAdapter().configure(provider, model="x", **more)
    json.dumps(caught.value.to_wire())


@pytest.mark.parametrize("model", [5, ["x"], "", b"x", True])
@pytest.mark.parametrize("provider", ["openai", "local"])
def test_a_model_that_is_no_text_is_refused(provider: str, model: Any) -> None:
    """The provider would be asked for a model called `['x']`."""
    with pytest.raises(InvalidOption, match="model has to be text") as caught:
        DSPyAdapter().configure(provider, model=model)
    assert caught.value.details == {"option": "model"}


def test_the_local_model_may_be_called_local() -> None:
    """A file called `local` would be searched."""
    configure = DSPyAdapter().configure
    assert configure("local", model="local") == configure("local") == LM("local")
    assert configure("local", model="/m.gguf") == configure("local", model="local:/m.gguf")


def test_a_model_may_be_called_as_its_provider() -> None:
    """It could not be configured."""
    assert DSPyAdapter().configure("mistral", model="mistral") == LM("mistral/mistral")


# What a worker is told


def test_local_has_settings_of_its_own() -> None:
    """The embedded model would answer differently each time, or be cut off, or not keep to its schema."""
    lm = LM("local")
    assert (lm.is_local, lm.local_path) == (True, None)
    spec = lm.spec("key", "http://127.0.0.1:1")
    assert spec == LMSpec(
        model="local/model",
        name="local",
        api_key="key",
        base_url="http://127.0.0.1:1",
        temperature=0.0,
        max_tokens=1024,
        adapter="json",
    )
    assert LM("local:/m.gguf").local_path == "/m.gguf"
    assert LM("local:/a:b.gguf").local_path == "/a:b.gguf"
    assert LM("local:/m.gguf").spec("k", "u").model == "local/model"


def test_what_the_user_says_comes_before_the_settings_of_local() -> None:
    """An explicit value would be replaced by a default."""
    spec = LM("local", temperature=0.7, max_tokens=1, adapter="chat").spec("k", "u")
    assert (spec.temperature, spec.max_tokens, spec.adapter) == (0.7, 1, "chat")


def test_a_spec_has_all_that_was_said() -> None:
    """An option would be accepted and then forgotten."""
    second = LM("openai/y").spec("k2", None)
    lm = LM(
        "openai/x",
        api_key="env:K",
        base_url="http://h/",
        temperature=0,
        max_tokens=9,
        timeout=3.0,
        adapter="two_step",
        extraction_lm=LM("openai/y"),
        engine="a:B",
        schema=True,
        retry=Retry(attempts=1),
        top_p=0.5,
    )
    assert lm.spec("k1", lm.base_url, second) == LMSpec(
        model="openai/x",
        api_key="k1",
        base_url="http://h",
        temperature=0,
        max_tokens=9,
        timeout=3.0,
        adapter="two_step",
        extraction=second,
        schema=True,
        engine="a:B",
        retry=Retry(attempts=1),
        params={"top_p": 0.5},
    )
    plain = LM("openai/x").spec("k", None)
    assert plain == LMSpec(model="openai/x", api_key="k")
