"""Bedrock and Vertex with the credentials that clouds have in place of a key."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

import pytest

import dspex
from dspex import LM, DSPyAdapter
from tests.provider import Provider, fault
from tests.provider_cases import CLAUDE, KEY, PROJECT, REGION, SECRET, failure, no_variables, places

#: What a developer's home folder has.
AWS = """
[default]
aws_access_key_id = AKDEFAULT
aws_secret_access_key = canary-default
[shop]
aws_access_key_id = AKSHOP
aws_secret_access_key = canary-shop
"""


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DSPyAdapter]:
    home = tmp_path_factory.mktemp("home")
    (home / ".aws").mkdir()
    (home / ".aws" / "credentials").write_text(AWS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        with dspex.Runtime(pools={"general": dspex.PoolOptions(workers=1)}) as runtime:
            yield runtime.adapter(timeout=60.0)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    no_variables(monkeypatch)


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


@pytest.mark.parametrize(
    ("options", "who"),
    [({"credentials": "ambient"}, "AKDEFAULT"), ({"aws_profile_name": "shop"}, "AKSHOP")],
    ids=["ambient", "profile"],
)
def test_the_workers_may_find_an_identity_by_themselves(
    adapter: DSPyAdapter, provider: Provider, options: dict[str, Any], who: str
) -> None:
    """A role of the machine, or a developer's profile, could not be used, or the wrong one would be."""
    lm = LM(f"bedrock/{CLAUDE}", base_url=provider.origin, **options, **REGION)
    assert adapter.generate("Where?", lm=lm).response == "Where?"
    [request] = provider.requests
    assert request.headers["authorization"].startswith(f"AWS4-HMAC-SHA256 Credential={who}/")


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
