"""Each provider, end to end: the request that arrives, where the key goes, and what is said when it fails."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

import dspex
from dspex import LM, DSPyAdapter, Retry
from dspex.testing.http import response
from tests.provider import Provider, Reply, fault, html, redirected
from tests.provider_cases import (
    CLAUDE,
    EACH,
    KEY,
    PROJECT,
    REGION,
    SECRET,
    Case,
    at,
    failure,
    no_variables,
    places,
)


@pytest.fixture(scope="module")
def adapter() -> Iterator[DSPyAdapter]:
    pools = {"general": dspex.PoolOptions(workers=1)}
    with dspex.Runtime(pools=pools) as runtime:
        yield runtime.adapter(timeout=60.0)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    no_variables(monkeypatch)


# The request


@EACH
def test_each_provider_is_asked_as_it_wants_to_be(
    adapter: DSPyAdapter, provider: Provider, case: Case
) -> None:
    """A provider would refuse the request, or the key would go where it is logged."""
    response = adapter.generate("Where?", signature="question -> answer", lm=case.at(provider))
    assert response.answer == "Where?"
    [request] = provider.requests
    assert (request.path, request.query) == (case.path, case.query)
    assert request.headers[case.header] == case.value
    assert places(request, KEY) == [case.header]
    assert request.model in {case.model.partition("/")[2], CLAUDE.replace(":", "%3A")}
    assert request.prompt.user.startswith("[[ ## question ## ]]\nWhere?")
    assert "answer" in request.prompt.system
    assert at(request.body, case.tokens) == 77
    assert "max_retries" not in request.body
    [told] = response.requests
    assert (told.status, told.retries, told.finish) == ("ok", 0, "stop")
    assert told.usage.prompt_tokens == request.prompt.words


# What goes wrong


@EACH
def test_a_key_that_is_refused_is_told_as_such(adapter: DSPyAdapter, provider: Provider, case: Case) -> None:
    """A wrong key would be told as a wrong request, or be shown."""
    provider.reply = lambda request: fault(401, message=f"no such key: {KEY}")
    error = failure(adapter, case.at(provider))
    assert error.code == "lm_auth"
    assert "api_key" in error.message


@EACH
@pytest.mark.parametrize(
    ("status", "code", "means"),
    [
        (402, None, "lm_billing"),
        (429, None, "lm_rate_limited"),
        (400, None, "lm_invalid_request"),
        (400, "context_length_exceeded", "lm_context_window"),
        (500, None, "lm_unavailable"),
        (503, None, "lm_unavailable"),
    ],
)
def test_what_a_provider_says_is_told_by_its_code(
    adapter: DSPyAdapter, provider: Provider, case: Case, status: int, code: str | None, means: str
) -> None:
    """What to do about a failure would depend on who is asked, and through which engine."""
    provider.reply = lambda request: fault(status, code=code)
    assert failure(adapter, case.at(provider)).code == means


@EACH
def test_a_model_that_is_not_there_is_told_as_such(
    adapter: DSPyAdapter, provider: Provider, case: Case
) -> None:
    """A typing error in a model's name would be tried again, or be told as one of the program's."""
    provider.reply = lambda request: fault(404)
    error = failure(adapter, case.at(provider, retry=Retry(attempts=3, wait=0.0)))
    assert error.code in {"lm_unsupported", "lm_invalid_request"}
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    "model", ["openai_compatible/m", "custom_openai/m", "vllm/m", "ollama/m", "openai/m"]
)
def test_an_address_without_its_path_is_told_as_such(
    adapter: DSPyAdapter, provider: Provider, model: str
) -> None:
    """The most common wrong address would give an empty message, with a name that the user never wrote."""
    provider.reply = lambda request: Reply(lambda _: response(404, b'{"detail":"Not Found"}'))
    error = failure(adapter, LM(model, base_url=provider.base_url))
    assert error.message.startswith(f"[{model}] HTTP 404; check base_url")
    assert "/v1" in error.message
    assert (error.code, error.retryable, error.details["model"]) == ("lm_invalid_request", False, model)
    assert error.details["requests"][0]["model"] == model


@EACH
def test_a_server_that_is_not_there_is_told_as_such(adapter: DSPyAdapter, case: Case) -> None:
    """A wrong address would be told as a failure of the program."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        path = {"base_url": "/v1", "gemini_url": "/v1beta", "origin": ""}[case.address]
        error = failure(adapter, case.lm(f"http://127.0.0.1:{closed.getsockname()[1]}{path}"))
    assert error.code == "lm_unavailable"
    assert "base_url" in error.message


@EACH
def test_no_redirect_is_followed(adapter: DSPyAdapter, provider: Provider, case: Case) -> None:
    """A gateway's answer could send the key, or the prompt, to any host."""
    with Provider() as other:
        provider.reply = lambda request: redirected(f"{other.origin}{case.path}")
        error = failure(adapter, case.at(provider))
        assert other.connections == 0
    assert error.code == "lm_unavailable"
    assert "base_url" in error.message
    assert len(provider.requests) == 1


@EACH
@pytest.mark.parametrize("status", [200, 404, 502])
def test_a_web_page_is_not_an_answer(
    adapter: DSPyAdapter, provider: Provider, case: Case, status: int
) -> None:
    """A sign-in page, or a gateway's error page, would be told as what the model had said."""
    provider.reply = lambda request: html(status)
    error = failure(adapter, case.at(provider))
    assert error.code == "lm_unavailable"
    assert "base_url" in error.message


# Options


@pytest.mark.parametrize(
    ("model", "engine"),
    [
        ("openai/x", None),
        ("anthropic/x", None),
        ("gemini/x", None),
        ("mistral/x", None),
        ("openai/x", "litellm"),
    ],
)
def test_headers_and_a_query_are_added(
    adapter: DSPyAdapter, provider: Provider, model: str, engine: str | None
) -> None:
    """A gateway that wants a header of its own could not be used."""
    url = provider.gemini_url if model.startswith("gemini") else provider.base_url
    more: dict[str, Any] = {"extra_headers": {"X-Shop": SECRET, "User-Agent": "shop"}, "engine": engine}
    if engine is None:
        more["extra_query"] = {"trace": "a b"}
    lm = LM(model, base_url=url, api_key=KEY, **more)
    assert adapter.generate("Where?", lm=lm).response == "Where?"
    [request] = provider.requests
    assert (request.headers["x-shop"], request.headers["user-agent"]) == (SECRET, "shop")
    assert request.query == ("" if engine else "trace=a+b")
    assert places(request, SECRET) == ["x-shop"]
    provider.reply = lambda request: fault(400, message=f"odd: {SECRET}")
    failure(adapter, lm)


@pytest.mark.parametrize("engine", [None, "litellm"])
def test_an_organization_is_told_to_openai(
    adapter: DSPyAdapter, provider: Provider, engine: str | None
) -> None:
    """Requests would be billed to the wrong organization of an account."""
    lm = LM("openai/x", base_url=provider.base_url, engine=engine, organization="org-1", project="proj-1")
    adapter.generate("Where?", lm=lm)
    headers = provider.requests[0].headers
    assert (headers["openai-organization"], headers["openai-project"]) == ("org-1", "proj-1")
    assert "org-1" not in json.dumps(provider.requests[0].body)


@EACH
@pytest.mark.parametrize("schema", [True, False])
def test_a_schema_is_sent_when_the_profile_says_so(
    adapter: DSPyAdapter, provider: Provider, case: Case, schema: bool
) -> None:
    """A server that enforces schemas could not be used as such, or one that does not would refuse."""
    adapter.generate("2", signature="sum -> total: int", lm=case.at(provider, adapter="json", schema=schema))
    body = json.dumps(provider.requests[0].body).replace("\\", "")  # Bedrock wants the schema as a text
    assert ('"properties": {"total"' in body) is schema


# Prices


@pytest.mark.parametrize(
    "model",
    [
        "openai/gpt-4o-mini",
        "anthropic/claude-sonnet-4-5",
        "gemini/gemini-2.5-flash",
        "groq/openai/gpt-oss-120b",
        "deepseek/deepseek-chat",
        "xai/grok-4.3",
        "mistral/mistral-small-latest",
        "together/meta-llama/Llama-3.3-70B-Instruct-Turbo",
        "fireworks/accounts/fireworks/models/llama-v3p3-70b-instruct",
        "azure/gpt-4o-mini",
        f"bedrock/{CLAUDE}",
        "vertex/gemini-2.5-flash",
    ],
)
def test_a_known_model_has_a_price(adapter: DSPyAdapter, provider: Provider, model: str) -> None:
    """Budgets and bills would miss a whole provider."""
    name = model.partition("/")[0]
    url = {"gemini": provider.gemini_url}.get(name, provider.base_url)
    if name in {"azure", "bedrock", "vertex"}:
        url = provider.origin
    options: dict[str, Any] = {"bedrock": REGION, "vertex": PROJECT}.get(name, {})
    response = adapter.generate("Where?", lm=LM(model, base_url=url, api_key=KEY, **options))
    assert response.cost is not None
    assert 0 < response.cost < 0.01


@EACH
def test_an_unknown_model_has_none(adapter: DSPyAdapter, provider: Provider, case: Case) -> None:
    """A model without a price would look free."""
    lm = LM(
        case.model.replace(CLAUDE, "converse/nobody-priced-this"),
        base_url=getattr(provider, case.address),
        api_key=KEY,
        **case.options,
    )
    assert adapter.generate("Where?", lm=lm).cost is None
