"""Each provider, end to end: the request that arrives, where the key goes, and what is said when it fails."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

import pytest

import dspex
from dspex import LM, DSPyAdapter, Retry
from dspex.lm.providers import PROVIDERS
from tests.provider import Provider, Request, fault, html, redirected

KEY = "canary-key-4711"
SECRET = "canary-secret-4712"
CONVERSE = "/model/us.anthropic.claude-haiku-4-5-20251001-v1%3A0/converse"
CLAUDE = "us.anthropic.claude-haiku-4-5-20251001-v1:0"
REGION: dict[str, Any] = {"aws_region_name": "eu-west-1"}
PROJECT: dict[str, Any] = {"vertex_project": "shop-1", "vertex_location": "europe-west1"}


@dataclass(frozen=True)
class Case:
    """A provider as a user configures it, and the request that has to come of it."""

    model: str
    path: str
    header: str = "authorization"
    value: str = f"Bearer {KEY}"
    address: str = "base_url"
    options: dict[str, Any] = field(default_factory=dict)
    query: str = ""
    tokens: str = "max_tokens"  # where the most tokens stand in the body, with dots

    def lm(self, url: str, **more: Any) -> LM:
        known: dict[str, Any] = {"api_key": KEY, "retry": Retry(attempts=1), "max_tokens": 77}
        return LM(self.model, base_url=url, **{**known, **self.options, **more})

    def at(self, provider: Provider, **more: Any) -> LM:
        return self.lm(getattr(provider, self.address), **more)


CHAT = "/v1/chat/completions"
GEMINI = "generationConfig.maxOutputTokens"
VERTEX = "/v1/projects/shop-1/locations/europe-west1/publishers"
CASES = [
    Case("openai/x", CHAT, tokens="max_completion_tokens"),
    Case("anthropic/x", "/v1/messages", "x-api-key", KEY),
    Case("gemini/x", "/v1beta/models/x:generateContent", "x-goog-api-key", KEY, "gemini_url", tokens=GEMINI),
    Case("azure/x", "/openai/v1/chat/completions", "api-key", KEY, "origin", tokens="max_completion_tokens"),
    Case(
        "azure/x",
        "/openai/deployments/x/chat/completions",
        "api-key",
        KEY,
        "origin",
        {"api_version": "2024-10-21"},
        "api-version=2024-10-21",
        "max_completion_tokens",
    ),
    *[
        Case(f"{name}/x", CHAT)
        for name in (
            *("groq", "deepseek", "openrouter", "xai", "mistral", "together", "fireworks"),
            *("ollama", "vllm", "lm_studio", "openai_compatible"),
        )
    ],
    Case(f"bedrock/{CLAUDE}", CONVERSE, address="origin", options=REGION, tokens="inferenceConfig.maxTokens"),
    Case(
        "vertex/gemini-x",
        f"{VERTEX}/google/models/gemini-x:generateContent",
        address="origin",
        options=PROJECT,
        tokens=GEMINI,
    ),
    Case(
        "vertex/claude-x",
        f"{VERTEX}/anthropic/models/claude-x:rawPredict",
        address="origin",
        options=PROJECT,
    ),
    Case("openai/x", CHAT, options={"engine": "litellm"}, tokens="max_completion_tokens"),
]
EACH = pytest.mark.parametrize(
    "case", CASES, ids=lambda case: "-".join([case.model.partition(":")[0], *case.options])
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
    """No test sees the keys of whoever runs it."""
    for row in PROVIDERS.values():
        names = [*row.variables, *row.base_url_variables]
        for name in (*names, *(name for option in row.options for name in option.variables)):
            monkeypatch.delenv(name, raising=False)


def at(body: Any, place: str) -> Any:
    for name in place.split("."):
        body = body[name]
    return body


def places(request: Request, secret: str) -> list[str]:
    """Where in a request a secret is."""
    found = [name for name, value in request.headers.items() if secret in value]
    rest = {"path": request.path, "query": request.query, "body": json.dumps(request.body)}
    return found + [name for name, text in rest.items() if secret in text]


def failure(adapter: DSPyAdapter, lm: LM) -> dspex.DspexError:
    with pytest.raises(dspex.DspexError) as caught:
        adapter.generate("Where?", lm=lm)
    shown = f"{caught.value} {caught.value.to_wire()}"
    assert KEY not in shown
    assert SECRET not in shown
    return caught.value


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


# Clouds


def test_a_request_to_bedrock_is_signed(adapter: DSPyAdapter, provider: Provider) -> None:
    """Bedrock could be used with a bearer token alone, or the secret key itself would be sent."""
    lm = LM(
        f"bedrock/{CLAUDE}",
        base_url=provider.origin,
        aws_access_key_id="AKCANARY",
        aws_secret_access_key=SECRET,
        aws_session_token=KEY,
        **REGION,
    )
    assert adapter.generate("Where?", lm=lm).response == "Where?"
    [request] = provider.requests
    assert request.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKCANARY/")
    assert "/eu-west-1/bedrock/aws4_request" in request.headers["authorization"]
    assert places(request, KEY) == ["x-amz-security-token"]
    assert places(request, SECRET) == []
    provider.reply = lambda request: fault(403, message=f"{SECRET} is no key")
    assert failure(adapter, lm).code == "lm_auth"


class _Tokens(BaseHTTPRequestHandler):
    """Gives an access token for a refresh token, as Google does."""

    asked: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.asked.append(self.rfile.read(int(self.headers["content-length"])).decode())
        body = json.dumps({"access_token": KEY, "expires_in": 3600}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize("as_file", [True, False], ids=["file", "text"])
def test_vertex_is_asked_with_a_token_for_the_credentials(
    adapter: DSPyAdapter, provider: Provider, as_file: bool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vertex could be used with a token that ends within the hour alone."""
    with HTTPServer(("127.0.0.1", 0), _Tokens) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        credentials = json.dumps(
            {
                "type": "authorized_user",
                "client_id": "shop",
                "client_secret": "secret",
                "refresh_token": SECRET,
                "token_uri": f"http://127.0.0.1:{server.server_port}/token",
            }
        )
        if as_file:
            (tmp_path / "google.json").write_text(credentials)
            credentials = str(tmp_path / "google.json")
        lm = LM("vertex/gemini-x", base_url=provider.origin, vertex_credentials=credentials, **PROJECT)
        _Tokens.asked.clear()
        assert adapter.generate("Where?", lm=lm).response == "Where?"
        assert adapter.generate("Where?", lm=lm).response == "Where?"
        server.shutdown()
    assert len(_Tokens.asked) == 1
    assert f"refresh_token={SECRET}" in _Tokens.asked[0]
    for request in provider.requests:
        assert places(request, KEY) == ["authorization"]
        assert places(request, SECRET) == []


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
