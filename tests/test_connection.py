"""How a provider is reached: what a user may say of it, what is looked up, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from dspex import LM, DSPyAdapter
from dspex.errors import InvalidOption, LMNotConfigured, LMUnsupported, UnknownProvider
from dspex.lm.providers import PROVIDERS, find
from dspex.types import LMSpec
from dspex.worker import doors
from dspex.worker.routing import _Direct
from tests.provider_cases import no_variables

KEY = "canary-key-4711"
ROWS = list(PROVIDERS.values())
NEEDED: dict[str, dict[str, Any]] = {
    "azure": {"base_url": "https://shop.openai.azure.com"},
    "bedrock": {"aws_region_name": "eu-west-1"},
    "vertex": {"vertex_project": "shop-1"},
    "openai_compatible": {"base_url": "http://127.0.0.1:1/v1"},
}
AWS = {"AWS_ACCESS_KEY_ID": "AKCANARY", "AWS_SECRET_ACCESS_KEY": KEY, "AWS_REGION": "eu-west-1"}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    no_variables(monkeypatch)


def model(name: str) -> str:
    return "local" if name == "local" else f"{name}/x"


def resolved(lm: LM) -> LMSpec:
    """As the runtime resolves it."""
    key = lm.fetch_key()
    return lm.spec(key, lm.fetch_base_url(), None, lm.fetch_connection(key))


# What it is called


@pytest.mark.parametrize("name", [name for name in PROVIDERS if name != "local"])
def test_every_provider_can_be_configured(name: str) -> None:
    """A provider that the table lists could not be used."""
    config = {"api_key": KEY, **NEEDED.get(name, {})}
    for spelled in (name, find(name).prefix, *find(name).aliases):
        lm = DSPyAdapter().configure(spelled, model="x", **config)
        assert lm == LM(f"{spelled}/x", **config)
        spec = resolved(lm)
        assert spec.model == f"{find(name).prefix}/x"
        assert spec.litellm == (name == "bedrock")
    whole = DSPyAdapter().configure(name, model=f"{find(name).prefix}/x", **config)
    assert whole == LM(f"{find(name).prefix}/x", **config)
    again = DSPyAdapter().configure(name, model=f"{name}/x", **config)
    assert resolved(again) == resolved(LM(f"{name}/x", **config))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("together_ai", "together"),
        ("fireworks_ai", "fireworks"),
        ("vertex_ai", "vertex"),
        ("hosted_vllm", "vllm"),
        ("ollama_chat", "ollama"),
    ],
)
def test_litellms_names_are_understood(written: str, meant: str) -> None:
    """Whoever comes from DSPy would have to rename his models."""
    assert find(written) is find(meant)


def test_litellm_may_know_a_provider_that_the_table_does_not() -> None:
    """A hundred providers that DSPy users have could not be used."""
    with pytest.raises(UnknownProvider, match="engine='litellm'"):
        LM("cohere/command-r")
    lm = LM("cohere/command-r", engine="litellm", api_key=KEY)
    spec = resolved(lm)
    assert (spec.model, spec.api_key, spec.litellm, spec.engine) == ("cohere/command-r", KEY, True, None)
    assert DSPyAdapter().configure("cohere", model="command-r", engine="litellm", api_key=KEY) == lm


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("gpt-4o", "openai/gpt-4o"),
        ("claude-haiku-4-5", "anthropic/claude-haiku-4-5"),
        ("qwen3", "provider/name"),
    ],
)
def test_a_model_without_its_provider_is_refused_with_it(name: str, wanted: str) -> None:
    """A user would have to guess what is missing."""
    with pytest.raises(InvalidOption, match=wanted):
        LM(name)


# Where it is


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("openai", "https://api.openai.com/v1"),
        ("anthropic", "https://api.anthropic.com/v1"),
        ("gemini", "https://generativelanguage.googleapis.com/v1beta"),
        ("groq", "https://api.groq.com/openai/v1"),
        ("deepseek", "https://api.deepseek.com"),
        ("openrouter", "https://openrouter.ai/api/v1"),
        ("xai", "https://api.x.ai/v1"),
        ("mistral", "https://api.mistral.ai/v1"),
        ("together", "https://api.together.xyz/v1"),
        ("fireworks", "https://api.fireworks.ai/inference/v1"),
        ("vertex", "https://aiplatform.googleapis.com/v1/projects/shop-1/locations/global/publishers/google"),
        ("ollama", "http://localhost:11434/v1"),
        ("vllm", "http://localhost:8000/v1"),
        ("lm_studio", "http://localhost:1234/v1"),
    ],
)
def test_a_provider_without_a_base_url_is_asked_at_its_own(name: str, address: str) -> None:
    """A key, and a prompt, would go to a stranger."""
    spec = resolved(LM(model(name), api_key=KEY, **NEEDED.get(name, {})))
    engine = _Direct(spec, doors.find(spec))
    assert engine.router.lm(doors.find(spec).target).base_url.rstrip("/") == address
    engine.close()


@pytest.mark.parametrize("name", ["AZURE_API_BASE", "AZURE_OPENAI_ENDPOINT"])
def test_azures_address_may_be_in_a_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set as other tools expect it would not be found."""
    lm = LM("azure/x")
    with pytest.raises(LMNotConfigured, match="base_url='https://") as caught:
        lm.fetch_base_url()
    assert caught.value.details == {"variable": "AZURE_API_BASE"}
    monkeypatch.setenv(name, "https://shop.openai.azure.com/")
    monkeypatch.setenv("AZURE_API_KEY", KEY)
    spec = resolved(lm)
    assert (spec.base_url, spec.api_key) == ("https://shop.openai.azure.com", KEY)


@pytest.mark.parametrize("endpoint", ["", "/openai", "/openai/v1"])
@pytest.mark.parametrize(
    ("options", "address"),
    [({}, "/openai/v1"), ({"api_version": "2024-10-21"}, "/openai/deployments/x")],
)
def test_azures_address_may_be_written_as_the_console_shows_it(
    endpoint: str, options: dict[str, Any], address: str
) -> None:
    """Two of the three ways in which Azure itself writes it would lead to nothing."""
    root = "https://shop.openai.azure.com"
    spec = resolved(LM("azure/x", api_key=KEY, base_url=root + endpoint, **options))
    engine = _Direct(spec, doors.find(spec))
    assert engine.router.lm(doors.find(spec).target).base_url == root + address
    engine.close()


@pytest.mark.parametrize("name", ["ollama", "vllm", "lm_studio"])
def test_a_local_servers_address_may_lack_its_path(name: str) -> None:
    """`http://gpu:11434`, as other tools want it, would lead to nothing."""
    assert LM(f"{name}/x", base_url="http://gpu:1").fetch_base_url() == "http://gpu:1/v1"
    assert LM(f"{name}/x", base_url="http://gpu:1/llm/v1/").fetch_base_url() == "http://gpu:1/llm/v1"
    assert LM("openai/x", base_url="http://gpu:1").fetch_base_url() == "http://gpu:1"


def test_any_other_server_needs_its_address() -> None:
    """A request would go to nobody."""
    with pytest.raises(InvalidOption, match="needs base_url"):
        LM("openai_compatible/x")


# Who asks


@pytest.mark.parametrize("row", [row for row in ROWS if row.variables], ids=lambda row: str(row.name))
def test_each_variable_of_a_key_is_read_in_order(row: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is set as every tool expects it would not be found."""
    lm = LM(f"{row.name}/x", **({} if row.name == "azure" else NEEDED.get(row.name, {})))
    for number, name in reversed(list(enumerate(row.variables))):
        monkeypatch.setenv(name, f"{KEY}-{number}")
        assert lm.fetch_key() == f"{KEY}-{number}"


@pytest.mark.parametrize("row", [row for row in ROWS if row.name != "local"], ids=lambda row: str(row.name))
def test_no_variable_is_read_for_a_base_url(row: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator's key would be sent to whatever server a `base_url` names."""
    for name in (*row.variables, *(name for option in row.options for name in option.variables)):
        monkeypatch.setenv(name, KEY)
    lm = LM(f"{row.name}/x", **{**NEEDED.get(row.name, {}), "base_url": "https://elsewhere/v1"})
    if row.name in {"azure", "bedrock", "vertex"}:  # which nobody serves without a key
        with pytest.raises(LMNotConfigured, match="base_url"):
            resolved(lm)
    else:
        spec = resolved(lm)
        assert (spec.api_key, spec.connection.credentials) == ("none", ())


def test_access_keys_are_read_from_their_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bedrock could not be used as every AWS tool is."""
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    spec = resolved(LM("bedrock/x"))
    assert spec.api_key is None
    assert dict(spec.connection.options) == {"aws_region_name": "eu-west-1"}
    assert dict(spec.connection.credentials) == {
        "aws_access_key_id": "AKCANARY",
        "aws_secret_access_key": KEY,
    }
    assert KEY not in f"{spec!r} {spec.connection!r}"


@pytest.mark.parametrize(
    "options",
    [
        {"aws_access_key_id": "AKOTHER", "aws_secret_access_key": "other"},
        {"aws_profile_name": "shop"},
        {"credentials": "ambient"},
        {"api_key": "other"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_two_identities_are_not_mixed(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A customer's call would be signed, and paid, with the operator's key."""
    for name, value in {**AWS, "AWS_SESSION_TOKEN": KEY, "AWS_BEARER_TOKEN_BEDROCK": KEY}.items():
        monkeypatch.setenv(name, value)
    spec = resolved(LM("bedrock/x", **options))
    assert KEY not in {spec.api_key, *dict(spec.connection.credentials).values()}


HALVES = [
    ({"aws_access_key_id": "AKTENANT"}, "AWS_SECRET_ACCESS_KEY"),
    ({"aws_secret_access_key": "secret"}, "AWS_ACCESS_KEY_ID"),
    ({"aws_session_token": "token"}, "AWS_ACCESS_KEY_ID"),
    ({"aws_access_key_id": "AKTENANT", "aws_session_token": "token"}, "AWS_SECRET_ACCESS_KEY"),
]


@pytest.mark.parametrize(("half", "variable"), HALVES)
@pytest.mark.parametrize("more", [{}, {"aws_role_name": "arn:x"}, {"credentials": "ambient"}], ids=str)
def test_half_an_access_key_is_refused(
    half: dict[str, Any], variable: str, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A customer's call would be signed, and paid, by the identity that the machine has."""
    for name, value in {**AWS, "AWS_BEARER_TOKEN_BEDROCK": KEY}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LMNotConfigured, match=rf"pass LM\({variable.lower()}=") as caught:
        resolved(LM("bedrock/x", **half, **more))
    assert caught.value.details == {"variable": variable}
    assert "set AWS" not in caught.value.message, "no variable adds to what the user said"


@pytest.mark.parametrize(("half", "variable"), HALVES)
def test_half_an_access_key_in_variables_is_refused(
    half: dict[str, str], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forgotten variable would be told by the provider as a wrong key, after seconds."""
    for name, value in half.items():
        monkeypatch.setenv(name.upper(), value)
    with pytest.raises(LMNotConfigured, match=f"set {variable}, or pass") as caught:
        resolved(LM("bedrock/x", **NEEDED["bedrock"]))
    assert caught.value.details == {"variable": variable}


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("bedrock", "AWS_BEARER_TOKEN_BEDROCK"),
        ("vertex", "GOOGLE_APPLICATION_CREDENTIALS"),
        ("azure", "AZURE_API_KEY"),
    ],
)
def test_missing_credentials_name_their_variable(name: str, variable: str) -> None:
    """A user would not know what to set, or the request would go out as somebody else's."""
    options: dict[str, Any] = {} if name == "azure" else NEEDED[name]
    with pytest.raises(LMNotConfigured, match=variable) as caught:
        resolved(LM(f"{name}/x", **options))
    assert caught.value.details == {"variable": variable}


@pytest.mark.parametrize(
    ("name", "variable"), [("bedrock", "AWS_REGION"), ("vertex", "GOOGLE_CLOUD_PROJECT")]
)
def test_what_a_connection_needs_is_asked_for(
    name: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong region would be guessed, or the failure be told after a request."""
    with pytest.raises(LMNotConfigured, match=variable):
        resolved(LM(f"{name}/x", api_key=KEY))
    monkeypatch.setenv(variable, "there")
    assert "there" in dict(resolved(LM(f"{name}/x", api_key=KEY)).connection.options).values()


def test_a_file_of_credentials_that_cannot_be_read_is_told(tmp_path: Any) -> None:
    """The failure would be told as one of the program, with the file's content in it."""
    spec = resolved(LM("vertex/x", vertex_project="p", vertex_credentials=str(tmp_path / "nothing.json")))
    with pytest.raises(LMNotConfigured, match="vertex_credentials"):
        doors.find(spec)


def test_what_vertex_has_of_others_is_refused_with_the_way_to_it() -> None:
    """Google's own address would be asked for Meta's models, and answer that there are none."""
    spec = resolved(LM("vertex/meta/llama-4", api_key=KEY, **NEEDED["vertex"]))
    with pytest.raises(LMUnsupported, match="engine='litellm'"):
        doors.find(spec)
    assert resolved(LM("vertex/meta/llama-4", api_key=KEY, engine="litellm", **NEEDED["vertex"])).litellm


# Options


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("openai", "api_version", "2024-10-21"),
        ("openai", "aws_region_name", "eu-west-1"),
        ("groq", "organization", "org-1"),
        ("openai", "credentials", "ambient"),
        ("bedrock", "credentials", "mine"),
        ("bedrock", "aws_region_name", 5),
        ("azure", "api_version", ""),
        ("openai", "extra_headers", "X: y"),
        ("openai", "extra_headers", {"X": 1}),
        ("openai", "extra_headers", {"X y": "z"}),
        ("openai", "extra_headers", {"X": "keyring:shop"}),
        ("openai", "extra_query", {"x": "env:"}),
        ("bedrock", "aws_access_key_id", "file:"),
        ("openai", "extra_query", ["x"]),
        ("local", "extra_headers", {"X": "y"}),
        ("bedrock", "extra_query", {"x": "y"}),
    ],
)
def test_an_option_that_a_provider_does_not_take_is_refused(name: str, option: str, value: object) -> None:
    """It would be ignored, or sent to the model as a parameter of the request."""
    with pytest.raises(InvalidOption, match=option) as caught:
        LM(model(name), **{option: value})  # type: ignore[arg-type]
    assert caught.value.details == {"option": option}


@pytest.mark.parametrize(("theirs", "ours"), [("api_base", "base_url"), ("headers", "extra_headers")])
def test_an_option_that_has_another_name_here_is_refused_with_it(theirs: str, ours: str) -> None:
    """Whoever comes from DSPy would have to search for it."""
    with pytest.raises(InvalidOption, match=f"here it is {ours}"):
        LM("openai/x", **{theirs: "http://h"})  # type: ignore[arg-type]


def test_references_in_options_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway's key in a header would have to be written into the program."""
    monkeypatch.setenv("GATEWAY_KEY", KEY)
    lm = LM("openai/x", api_key="k", extra_headers={"X-Gateway": "env:GATEWAY_KEY"})
    assert dict(resolved(lm).connection.headers) == {"X-Gateway": KEY}
    assert KEY not in repr(lm)
    monkeypatch.setenv("GATEWAY_KEY", "rotated")
    assert dict(resolved(lm).connection.headers) == {"X-Gateway": "rotated"}


@pytest.mark.parametrize("value", [f"{KEY}\nX-Evil: 1", f"{KEY}\x00", f"{KEY}\u20ac"])
def test_a_header_that_cannot_be_sent_is_refused_and_not_repeated(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine would refuse it in words that hold it, as if the server could not be reached."""
    with pytest.raises(InvalidOption, match="cannot be sent") as refused:
        LM("openai/x", extra_headers={"X-Gateway": value})
    lm = LM("openai/x", api_key="k", extra_headers={"X-Gateway": "env:GATEWAY_KEY"})
    if "\0" not in value:  # which no variable can hold
        monkeypatch.setenv("GATEWAY_KEY", value)
        with pytest.raises(LMNotConfigured, match="the header X-Gateway holds a character") as missing:
            resolved(lm)
        assert KEY not in repr(missing.value)
    monkeypatch.setenv("GATEWAY_KEY", f"{KEY}\r\n")
    assert dict(resolved(lm).connection.headers) == {"X-Gateway": KEY}
    assert KEY not in repr(refused.value)
