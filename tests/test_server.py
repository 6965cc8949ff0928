"""The server: what it answers when all is well."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import dspex
from dspex.server.answers import body_of
from dspex.server.serving import check_address
from tests.http_scene import Scene, events, serving
from tests.processes import until
from tests.provider import echo, fault
from tests.tracing import kept

GUIDE = (Path(__file__).parents[1] / "docs" / "how-to" / "http.md").read_text()
PROGRAMS = tomllib.loads("".join(re.findall(r"^```toml\n(.*?)^```", GUIDE, re.M | re.S)))["program"]


@pytest.fixture(scope="module")
def served() -> Iterator[Scene]:
    with serving(settings=dspex.Settings(file=False, programs=PROGRAMS)) as scene:
        yield scene


@pytest.fixture
def scene(served: Scene) -> Scene:
    served.provider.reply = lambda _: echo()
    return served


def test_a_call(scene: Scene) -> None:
    """If this failed, another language would get no answer, or one that tells of workers and keys."""
    answer = scene.generate()
    assert answer.status_code == 200
    assert answer.json()["outputs"] == {"answer": "hi"}
    assert answer.json()["content"] == "hi"
    assert answer.headers["x-request-id"] == answer.json()["request_id"]
    assert not {"worker", "requests", "trajectory"} & answer.json().keys()


def test_who_answered_and_why(scene: Scene) -> None:
    """If this failed, a remote caller would not know that another model answered, or read too much."""
    scene.provider.reply = lambda request: fault(500, message="of us") if request.model == "a" else echo()
    second = dspex.LM("openai/b", api_key="k", base_url=scene.provider.base_url)
    once = dspex.Retry(1)
    first = dspex.LM(
        "openai/a", api_key="k", base_url=scene.provider.base_url, retry=once, fallbacks=(second,)
    )
    body = body_of(scene.runtime.adapter().generate("hi", lm=first))
    assert (body["model"], body["cached"]) == ("b", False)
    assert body["fallbacks"] == [{"model": "openai/a", "code": "lm_unavailable"}]
    assert "of us" not in str(body)


def test_a_stream(scene: Scene) -> None:
    """If this failed, events would be missing, in another order, or not those of the answer."""
    body = {"prompt": "In the city of Paris", "signature": "question -> answer", "lm": "pieces"}
    answer = scene.client.post("/v1/stream", json=body)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    came = events(answer)
    assert came[0][0] == "started"
    assert came[-1][0] == "final", came
    pieces = [data["text"] for name, data in came if name == "delta"]
    assert len(pieces) > 2
    assert "".join(pieces) == came[-1][1]["outputs"]["answer"] == "In the city of Paris"


def test_programs_of_a_session(scene: Scene) -> None:
    """If this failed, a program could not be made, found or run over HTTP."""
    made = scene.client.post(
        "/v1/sessions/user 1/programs", json={"signature": "question -> answer", "name": "short"}
    )
    assert made.status_code == 201
    listed = scene.client.get("/v1/sessions/user 1/programs").json()["programs"]
    assert [one["id"] for one in listed] == [made.json()["id"]]
    answer = scene.client.post(
        f"/v1/sessions/user 1/programs/{made.json()['id']}/execute", json={"inputs": {"question": "So?"}}
    )
    assert answer.json()["outputs"] == {"answer": "So?"}
    assert answer.json()["program_version"] == 1


def test_looking_makes_no_session(scene: Scene) -> None:
    """If this failed, whoever asks for any id would fill the store."""
    assert scene.client.get("/v1/sessions/nobody/programs").status_code == 404


def test_programs_of_the_settings(scene: Scene) -> None:
    """If this failed, what the operator set up could not be run by its name."""
    assert scene.client.get("/v1/programs").json() == {"programs": [{"name": "triage"}]}
    answer = scene.client.post("/v1/programs/triage", json={"prompt": "It burns", "timeout": 20})
    assert answer.json()["outputs"] == {"urgency": "It burns"}
    assert scene.client.post("/v1/programs/none", json={}).status_code == 404


def test_modules_and_health(scene: Scene) -> None:
    """If this failed, callers would not know what there is, and load balancers not whether it works."""
    names = [one["name"] for one in scene.client.get("/v1/modules").json()["modules"]]
    assert "dspy.ChainOfThought" in names
    assert scene.client.get("/healthz").json() == {"status": "ok"}
    assert scene.client.get("/readyz").json() == {"status": "ready"}


def test_not_ready_while_it_stops(scene: Scene) -> None:
    """If this failed, a load balancer would send requests to a server that is leaving."""
    scene.app.state.dspex.stopping = True
    try:
        answer = scene.client.get("/readyz")
    finally:
        scene.app.state.dspex.stopping = False
    assert answer.status_code == 503
    assert answer.json()["details"] == {"failing": ["stopping"]}
    assert "retry-after" in answer.headers


def test_the_guides_commands(scene: Scene) -> None:
    """If this failed, what the guide has for the first try would not work."""
    asked = re.findall(r"curl [^\n]*localhost:8000(/[^\s$]+) [^\n]*\\\n  -d '([^']+)'", GUIDE)
    paths = {"/v1/generate", "/v1/stream", "/v1/programs/triage", "/v1/sessions/user-42/programs"}
    assert {path for path, _ in asked} == paths
    for path, body in asked:
        answer = scene.client.post(path, content=body, headers={"content-type": "application/json"})
        assert answer.is_success, answer.text


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_guides_commands_in_a_shell(scene: Scene) -> None:
    """If this failed, what somebody copies from the guide into a terminal would not work there."""
    blocks = re.findall(r"^```bash\n(.*?)^```", GUIDE, re.M | re.S)
    typed = "".join(block for block in blocks if "localhost:8000" in block)
    assert typed.count("curl ") == 8
    url = str(scene.client.base_url).removeprefix("http://").rstrip("/")
    script = "curl() { command curl -w '%{stderr}%{http_code} ' \"$@\"; }\n" + typed.replace(
        "localhost:8000", url
    )
    ran = subprocess.run(["sh", "-euc", script], check=False, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.split() == ["200", "200", "201", "200", "200", "200", "200", "422"]
    assert "event: final" in ran.stdout


def test_the_guides_problem(scene: Scene) -> None:
    """If this failed, the guide would show another error than callers get."""
    (shown,) = re.findall(r"^```json\n(.*?)^```", GUIDE, re.M | re.S)
    problem = scene.client.post("/v1/generate", json={"signature": "question -> answer"}).json()
    assert json.loads(shown) | {"request_id": problem["request_id"]} == problem


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_elsewhere_only_with_a_key(host: str) -> None:
    """If this failed, a server without a key would run programs for everybody who reaches it."""
    with pytest.raises(dspex.InvalidOption, match="--key"):
        check_address(host, None)
    check_address(host, "env:KEY")
    check_address("127.0.0.1", None)


def test_a_request_with_traceparent_is_part_of_that_trace(scene: Scene) -> None:
    """If this failed, calls over HTTP would be traces of their own, apart from their client's."""
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    body = {"prompt": "q", "signature": "question -> answer"}
    with kept() as spans:
        assert scene.client.post("/v1/generate", json=body, headers={"traceparent": parent}).is_success
        with scene.client.stream("POST", "/v1/stream", json=body, headers={"traceparent": parent}) as answer:
            assert answer.read()
        until(lambda: len(spans.named("call dspy.Predict")) == 2)
    for span in spans.named("call dspy.Predict"):
        assert span.parent is not None
        assert f"{span.parent.trace_id:032x}" in parent
