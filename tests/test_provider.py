"""Proves the scripted provider over raw HTTP; ``test_provider_dspy.py`` does so with DSPy's own clients."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.provider import (
    Provider,
    Request,
    Script,
    delayed,
    dropped,
    echo,
    fault,
    fields,
    garbage,
    hanging,
    html,
    sequence,
    text,
    truncated,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
GENERATE = "/v1beta/models/gemini-2.5-flash:generateContent"
PROMPTS: dict[str, dict[str, Any]] = {
    CHAT: {"model": "m", "messages": [{"role": "user", "content": "one two three"}]},
    MESSAGES: {"model": "m", "messages": [{"role": "user", "content": [{"text": "one two three"}]}]},
    GENERATE: {"contents": [{"role": "user", "parts": [{"text": "one two three"}]}]},
}


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


@contextmanager
def connected(provider: Provider) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", port_of(provider), timeout=5)
    try:
        yield connection
    finally:
        connection.close()


def port_of(provider: Provider) -> int:
    return int(provider.base_url.split(":")[2].split("/")[0])


def post(provider: Provider, path: str = CHAT, body: Any = None) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own: status, headers in lower case, body."""
    with connected(provider) as connection:
        connection.request("POST", path, json.dumps(PROMPTS.get(path, {}) if body is None else body))
        got = connection.getresponse()
        return got.status, {name.lower(): value for name, value in got.getheaders()}, got.read()


def always(reply: Any) -> Script:
    return lambda _: reply


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.002)


def raw(path: str = CHAT) -> bytes:
    body = json.dumps(PROMPTS[path]).encode()
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def test_an_openai_answer_has_the_shape_and_the_counts_of_the_real_one(provider: Provider) -> None:
    """Usage in tests and benchmarks would be wrong, or a client would not find the text."""
    provider.reply = always(text("four five"))
    status, headers, body = post(provider)
    got = json.loads(body)
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert got["model"] == "m"
    assert got["choices"][0]["message"] == {"role": "assistant", "content": "four five"}
    assert got["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def test_an_anthropic_answer_has_the_shape_of_the_real_one(provider: Provider) -> None:
    """An Anthropic client would not find the text or the usage."""
    provider.reply = always(text("four five"))
    got = json.loads(post(provider, MESSAGES)[2])
    assert got["content"] == [{"type": "text", "text": "four five"}]
    assert got["usage"] == {"input_tokens": 3, "output_tokens": 2}
    assert got["model"] == "m"


def test_a_gemini_answer_has_the_shape_of_the_real_one(provider: Provider) -> None:
    """A Gemini client would not find the text or the usage, or the model of the path would be lost."""
    provider.reply = always(text("four five"))
    got = json.loads(post(provider, GENERATE)[2])
    assert got["candidates"][0]["content"]["parts"] == [{"text": "four five"}]
    assert got["usageMetadata"]["promptTokenCount"] == 3
    assert got["usageMetadata"]["candidatesTokenCount"] == 2
    assert got["modelVersion"] == provider.requests[0].model == "gemini-2.5-flash"


def test_requests_are_recorded_as_they_came(provider: Provider) -> None:
    """Tests could not tell what a worker really sent, or when."""
    before = time.monotonic()
    with connected(provider) as connection:
        connection.request("POST", CHAT, json.dumps(PROMPTS[CHAT]), {"X-Tenant": "Acme"})
        connection.getresponse().read()
    [request] = provider.requests
    assert request.path == CHAT
    assert request.headers["x-tenant"] == "Acme"
    assert request.body == PROMPTS[CHAT]
    assert before <= request.at <= time.monotonic()
    assert not request.closed


def test_a_connection_serves_many_requests_even_when_they_come_together(provider: Provider) -> None:
    """Keep-alive or the cutting of the byte stream would be broken, and replies would mix."""
    provider.reply = sequence(*(text(f"number {i}") for i in range(3)))
    with socket.create_connection(("127.0.0.1", port_of(provider)), timeout=5) as client:
        stream = raw() * 3
        client.sendall(stream[:50])
        client.sendall(stream[50:])
        eventually(lambda: len(provider.requests) == 3)
        got = b""
        while b"number 2" not in got:
            got += client.recv(65536)
    assert [got.count(b"number %d" % i) for i in range(3)] == [1, 1, 1]
    assert provider.connections == 1


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /v1/models HTTP/1.1\r\n\r\n", 405),
        (b"POST /v1/embeddings HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", 404),
        (b"POST /v1/messages HTTP/1.1\r\nContent-Length: 2\r\n\r\n{,", 400),
        (b"POST /v1/messages HTTP/1.1\r\nContent-Length: 2\r\n\r\n[]", 400),
        (b"POST /v1/messages HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b'POST /model/x/converse HTTP/1.1\r\nContent-Length: 15\r\n\r\n{"stream":true}', 501),
        (b"nonsense\r\n\r\n", 400),
    ],
)
def test_what_it_does_not_serve_is_refused(provider: Provider, request_bytes: bytes, status: int) -> None:
    """A client with a wrong address or body would hang, or would eat a scripted reply."""
    with socket.create_connection(("127.0.0.1", port_of(provider)), timeout=5) as client:
        client.sendall(request_bytes)
        assert client.recv(65536).startswith(b"HTTP/1.1 %d " % status)
    assert provider.requests == []


@pytest.mark.parametrize("path", [CHAT, MESSAGES, GENERATE])
@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
def test_a_fault_has_its_status_and_a_json_error(provider: Provider, path: str, status: int) -> None:
    """Errors would not be recognised by the client of that provider."""
    provider.reply = always(fault(status, retry_after=1.5))
    got, headers, body = post(provider, path)
    assert got == status
    assert headers["retry-after"] == "1.5"
    assert json.loads(body)["error"]["message"]


def test_a_faults_message_and_code_can_be_given(provider: Provider) -> None:
    """A test could not imitate one particular error."""
    provider.reply = always(fault(429, message="no money left", code="insufficient_quota"))
    error = json.loads(post(provider)[2])["error"]
    assert (error["message"], error["code"]) == ("no money left", "insufficient_quota")


def test_html_and_garbage_are_not_json(provider: Provider) -> None:
    """A client that trusts the status or the content type would not be caught."""
    provider.reply = sequence(html(502), garbage())
    status, headers, page = post(provider)
    assert (status, headers["content-type"]) == (502, "text/html")
    assert b"<html>" in page
    status, _, body = post(provider)
    assert status == 200
    with pytest.raises(json.JSONDecodeError):
        json.loads(body)


def test_a_truncated_reply_ends_inside_its_body(provider: Provider) -> None:
    """A connection lost half-way would look like a whole answer."""
    provider.reply = always(truncated())
    with pytest.raises(http.client.IncompleteRead) as caught:
        post(provider)
    assert caught.value.partial
    assert caught.value.expected


def test_a_dropped_connection_gives_no_byte(provider: Provider) -> None:
    """A server that dies before it answers could not be imitated."""
    provider.reply = always(dropped())
    with pytest.raises(http.client.RemoteDisconnected):
        post(provider)
    assert (provider.in_flight, provider.disconnects) == (0, 0)


@pytest.mark.parametrize("reply", [hanging(), delayed(30, text("late"))])
def test_a_client_that_leaves_is_noticed(provider: Provider, reply: Any) -> None:
    """Nobody could prove that a cancelled or killed call stops its request."""
    provider.reply = always(reply)
    with socket.create_connection(("127.0.0.1", port_of(provider)), timeout=5) as client:
        client.sendall(raw())
        eventually(lambda: provider.in_flight == 1)
        assert [request.closed for request in provider.requests] == [False]
    eventually(lambda: provider.disconnects == 1)
    assert [request.closed for request in provider.requests] == [True]
    eventually(lambda: provider.in_flight == 0)


def test_stopping_the_server_ends_what_hangs_and_blames_no_client() -> None:
    """A test with a hanging reply would never end, or would count a client that did not leave."""
    with ExitStack() as clients:
        with Provider(always(hanging())) as provider:
            client = clients.enter_context(
                socket.create_connection(("127.0.0.1", port_of(provider)), timeout=5)
            )
            client.sendall(raw())
            eventually(lambda: provider.in_flight == 1)
        assert client.recv(1) == b""
    assert provider.disconnects == 0


def test_a_delay_holds_one_reply_and_no_other(provider: Provider) -> None:
    """Waiting replies would block one another, and benchmarks would measure the server."""
    provider.reply = always(delayed(0.2, delayed(0.1, echo())))
    started = time.monotonic()
    clients = [socket.create_connection(("127.0.0.1", port_of(provider)), timeout=5) for _ in range(512)]
    for client in clients:
        client.sendall(raw())
    assert all(client.recv(65536).startswith(b"HTTP/1.1 200 ") for client in clients)
    took = time.monotonic() - started
    for client in clients:
        client.close()
    assert 0.3 <= took < 3
    assert provider.peak_in_flight > 256
    assert (provider.connections, provider.in_flight, len(provider.requests)) == (512, 0, 512)


def test_a_sequence_that_ran_out_says_so(provider: Provider) -> None:
    """An unexpected extra request would go unnoticed."""
    provider.reply = sequence(text("one"))
    assert post(provider)[0] == 200
    status, _, body = post(provider)
    assert status == 500
    assert json.loads(body)["error"]["message"] == "script ran out"


def test_a_script_that_fails_is_told_to_the_client(provider: Provider) -> None:
    """A mistake in a test's script would show as a hang."""

    def wrong(request: Request) -> Any:
        raise KeyError(request.body["model"])

    for script in (wrong, always(fields(answer=object()))):
        provider.reply = script
        status, _, body = post(provider)
        assert status == 500
        assert "script failed" in json.loads(body)["error"]["message"]


@pytest.mark.parametrize("start", [["tests/provider"], ["-m", "tests.provider"]])
def test_it_runs_in_a_process_of_its_own_until_stdin_closes(start: list[str]) -> None:
    """Benchmarks could not start it, or would leave it behind."""
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, *start, "--delay", "0.05", "--port", "0"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=root, stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        port = int(child.stdout.readline().split(":")[2].split("/")[0])
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            started = time.monotonic()
            client.sendall(raw())
            assert b"one two three" in client.recv(65536)
            assert time.monotonic() - started >= 0.05
        child.stdin.close()
        assert child.wait(timeout=5) == 0
