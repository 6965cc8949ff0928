"""The server: what it says when something is wrong, and what it keeps to itself."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import dspex
from dspex.errors import BY_CODE
from dspex.server import problems, wording
from tests.http_scene import Scene, events, serving
from tests.provider import echo, fault, hanging

LIMIT = 100_000
KEY = "schlüssel"
BROKEN = {"broken": {"signature": "secret_field ->"}}


@pytest.fixture(scope="module")
def served() -> Iterator[Scene]:
    with serving(key=KEY, settings=dspex.Settings(file=False, max_payload=LIMIT, programs=BROKEN)) as scene:
        scene.client.headers = httpx.Headers([(b"Authorization", f"Bearer {KEY}".encode())])
        yield scene


@pytest.fixture
def scene(served: Scene) -> Scene:
    served.provider.reply = lambda _: echo()
    return served


def check(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem.keys() == problems.Problem.model_fields.keys()
    assert (problem["status"], problem["code"]) == (status, code)
    assert answer.headers["x-request-id"] == problem["request_id"]
    return problem


def test_every_code_has_a_status() -> None:
    """If this failed, an error that dspex has would be answered with whatever happens to be there."""
    assert problems.STATUS.keys() == BY_CODE.keys()


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_nothing_of_the_inside_is_told(code: str) -> None:
    """If this failed, strangers would read paths, process ids and frames."""
    inside = {"frames": [{"file": "/srv/app.py"}], "pid": 4242, "cause": "/srv", "worker": 3, "path": "/srv"}
    problem = problems.of_error(BY_CODE[code]("at /srv/app.py", details=inside), "/v1/generate", "id")
    assert "/srv" not in str(problem)
    assert "4242" not in str(problem)
    if problem["status"] in {429, 503} and code != "budget_exceeded":
        assert int(problems.response(problem).headers["Retry-After"]) >= 1


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"module": "dspy.Predikt"}, 404, "module_not_found"),
        ({"module": "os.path:join", "signature": None}, 403, "not_allowed"),
        ({"signature": "question ->"}, 422, "invalid_signature"),
        ({"inputs": {"nope": 1}}, 422, "invalid_input"),
        ({"options": {"max_hops": 3}}, 422, "invalid_option"),
        ({"options": {"state": "/etc/passwd"}}, 403, "not_allowed"),
        ({"options": {"api_key": "k"}}, 422, "invalid_option"),
        ({"tools": ["os:system"], "module": "dspy.ReAct"}, 403, "not_allowed"),
        ({"lm": "openai/other"}, 403, "not_allowed"),
        ({"lm": "local:/etc/passwd"}, 403, "not_allowed"),
        ({"lm": "nobody"}, 422, "invalid_option"),
        ({"sandbox": "local"}, 422, "invalid_input"),
        ({"debug": True}, 422, "invalid_input"),
        ({"timeout": 0}, 422, "invalid_input"),
        ({"prompt": "\ud800"}, 422, "invalid_input"),
    ],
)
def test_refusals(scene: Scene, body: dict[str, Any], status: int, code: str) -> None:
    """If this failed, a remote caller would be allowed what is the operator's, or not be told why not."""
    answer = scene.client.post(
        "/v1/generate",
        content=httpx.Request(
            "POST", "http://x", json={"prompt": "hi", "signature": "question -> answer"} | body
        ).content
        if body.get("prompt") != "\ud800"
        else b'{"prompt": "\\ud800"}',
        headers={"Content-Type": "application/json"},
    )
    check(answer, status, code)


def test_the_frameworks_own_refusals(scene: Scene) -> None:
    """If this failed, some errors would have another form than all others."""
    check(scene.client.get("/nope"), 404, "not_found")
    wrong = scene.client.get("/v1/generate")
    check(wrong, 405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"
    check(scene.client.post("/v1/generate", content=b"{not json"), 422, "invalid_input")


def test_the_provider_refuses_the_key(scene: Scene) -> None:
    """If this failed, callers would take the server's key for theirs, or see something of it."""
    scene.provider.reply = lambda _: fault(401, message="bad key sk-secret")
    problem = check(scene.generate(), 502, "lm_auth")
    assert "sk-" not in str(problem)


def test_a_provider_that_limits(scene: Scene) -> None:
    """If this failed, clients would not know when to come again."""
    scene.provider.reply = lambda _: fault(429, retry_after=0.05)
    answer = scene.generate()
    assert check(answer, 429, "lm_rate_limited")["retryable"] is True
    assert int(answer.headers["retry-after"]) >= 1


def test_a_deadline(scene: Scene) -> None:
    """If this failed, callers would wait for longer than they said."""
    scene.provider.reply = lambda _: hanging()
    problem = check(scene.generate(timeout=0.2), 504, "python_timeout")
    assert problem["details"]["phase"] == "running"
    assert "timeout=" not in problem["detail"]  # which is Python


def test_a_program_that_is_not_there(scene: Scene) -> None:
    """If this failed, a caller in another language would be told to call a Python method."""
    made = scene.client.post("/v1/sessions/known/programs", json={"signature": "question -> answer"})
    assert made.status_code == 201
    answer = scene.client.post("/v1/sessions/known/programs/none/execute", json={"prompt": "hi"})
    assert "GET /v1/sessions/" in check(answer, 404, "unknown_program")["detail"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"prompt": None}, "give it in `inputs` or as the prompt"),
        ({"module": "dspy.ReAct"}, "needs `tools`: import paths"),
        ({"module": "dspy.ReAct", "tools": ["nope"]}, "give an import path such as"),
        ({"module": "dspy.BestOfN"}, "needs the option `reward`: an import path"),
        ({"options": {"demos": []}}, "given to POST /v1/sessions/{id}/programs"),
        ({"lm": "nobody"}, "no LM profile 'nobody'; profiles: pieces."),
        ({"lm": "openai/other"}, "the name of a profile of this server's"),
        ({"options": {"state": "x"}}, "'state' is no option for remote callers"),
        (
            {"signature": {"inputs": {"q": "str"}, "outputs": {"a": "strin"}}},
            "outputs.a: unknown type 'strin'",
        ),
    ],
)
def test_next_steps_can_be_taken_over_http(scene: Scene, body: dict[str, Any], told: str) -> None:
    """If this failed, a caller in another language would be told to write Python, or not what to mend."""
    problem = scene.generate(**body).json()
    assert told in problem["detail"]
    for python in ("dspex.", "=[", "=...", "(...", "={"):
        assert python not in str(problem)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            "no session 'a'; adapter.session(...) makes one",
            "no session 'a'; POST /v1/sessions/{id}/programs makes one",
        ),
        ("it is wrong; give it as Something(value=...), please", "it is wrong"),
        ("it is wrong; raise Settings(max_payload=...)", "it is wrong"),
        ("pass tools=[...]", wording.NOTHING),
        (
            "the input 'x' has to be list[str] | None, or (1, 2)",
            "the input 'x' has to be list[str] | None, or (1, 2)",
        ),
    ],
)
def test_python_is_left_out(message: str, told: str) -> None:
    """If this failed, a message that is new would tell of Python, or one that does not would be cut."""
    assert wording.over_http(message) == told


def test_a_programs_own_name_is_taken(scene: Scene) -> None:
    """If this failed, a caller would be told of methods that a session has in Python."""
    body = {"signature": "question -> answer", "name": "short"}
    assert scene.client.post("/v1/sessions/names/programs", json=body).status_code == 201
    problem = check(scene.client.post("/v1/sessions/names/programs", json=body), 422, "invalid_option")
    assert "GET /v1/sessions/{id}/programs lists them" in problem["detail"]
    several = {"signature": "q -> a", "modules": ["dspy.Predict"] * 2, "options": {"temperature": 1}}
    problem = check(scene.client.post("/v1/sessions/names/programs", json=several), 422, "invalid_option")
    assert problem["detail"] == "a program of several modules takes no options; make one of a single module"


def test_what_the_operator_wrote_wrong(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """If this failed, strangers would read the settings, or the operator would not learn what to mend."""
    problem = check(scene.client.post("/v1/programs/broken", json={"prompt": "hi"}), 422, "invalid_signature")
    assert "secret_field" not in str(problem)
    assert problem["request_id"] in caplog.text
    assert "secret_field" in caplog.text


def test_a_stream_that_fails_is_in_the_log(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """If this failed, the log would not have what callers of streams are told that it has."""
    scene.provider.reply = lambda _: fault(401, message="bad key")
    answer = scene.client.post("/v1/stream", json={"prompt": "hi", "signature": "question -> answer"})
    name, problem = events(answer)[-1]
    assert (name, problem["code"]) == ("error", "lm_auth")
    assert f"{problem['request_id']}: lm_auth: " in caplog.text


def test_a_stream_that_is_refused(scene: Scene) -> None:
    """If this failed, clients would have to look for errors in a stream that has status 200."""
    check(
        scene.client.post("/v1/stream", json={"prompt": "hi", "module": "dspy.Nope"}), 404, "module_not_found"
    )


@pytest.mark.parametrize("shown", [None, "Bearer", "Bearer wrong", "Basic " + "a" * 9, "Bearer schl"])
def test_the_key(scene: Scene, shown: str | None) -> None:
    """If this failed, a server would run programs for whoever has no key."""
    headers = {} if shown is None else {"Authorization": shown}
    answer = httpx.get(scene.client.base_url.join("/v1/programs"), headers=headers)
    check(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert httpx.get(scene.client.base_url.join("/readyz")).status_code == 200


def test_a_body_of_a_gigabyte_by_its_length(scene: Scene) -> None:
    """If this failed, one request could take all memory."""
    url = scene.client.base_url
    head = f"POST /v1/generate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    with socket.create_connection((url.host, url.port or 80), timeout=60) as connection:
        connection.sendall(f"{head}Content-Length: {2**30}\r\n\r\n".encode() + b"x")
        answered = b""
        while piece := connection.recv(65536):  # it is answered, and closed, before the rest has come
            answered += piece
    assert answered.startswith(b"HTTP/1.1 413")


def test_a_body_of_a_gigabyte_in_chunks(scene: Scene) -> None:
    """If this failed, a body that does not say its length could take all memory."""
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(2**14):
            sent += 2**16
            yield b" " * 2**16

    check(scene.client.post("/v1/generate", content=chunks()), 413, "payload_too_large")
    assert sent < 2**28
