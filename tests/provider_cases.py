"""Providers as users configure them, the requests that have to come of it, and what a failed one says."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

import dspex
from dspex import LM, DSPyAdapter, Retry
from dspex.lm.providers import PROVIDERS
from tests.provider import Provider, Request

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


def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a test see no key of whoever runs it."""
    for row in PROVIDERS.values():
        names = [*row.variables, *row.base_url_variables]
        for name in (*names, *(name for option in row.options for name in option.variables)):
            monkeypatch.delenv(name, raising=False)
