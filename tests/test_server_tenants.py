"""The server's tenants, and budgets that callers set: whose money it is, and who may say so."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from fastapi import HTTPException, Request
from fastapi.testclient import TestClient

import dspex
from dspex.server.app import create_app
from tests.http_scene import Scene, events, serving
from tests.processes import until
from tests.provider import echo, hanging

#: Tokens: of each call, and of a tenant in a day.
OWN, ALL = 20_000, 600
NAMES = ("ada", "bob", "eve", "few", "max", "pat")


@pytest.fixture(scope="module")
def served() -> Iterator[Scene]:
    settings = dspex.Settings(
        file=False,
        budgets={"call": dspex.Budget(tokens=OWN)},
        tenant_budgets={name: dspex.Budget(tokens=ALL) for name in ("few", "pat")},
        programs={"triage": {"signature": "question -> answer"}},
    )
    with serving(
        settings=settings,
        key="key-of-operator",
        tenant_keys={name: f"key-of-{name}" for name in NAMES},
        limits=dspex.Limits(in_flight=2),
    ) as scene:
        yield scene


@pytest.fixture
def scene(served: Scene) -> Scene:
    served.provider.reply = lambda _: echo()
    return served


def ask(scene: Scene, who: str, path: str = "/v1/generate", **body: Any) -> httpx.Response:
    """A request with the key of a tenant."""
    if path in {"/v1/generate", "/v1/stream"}:
        body = {"signature": "question -> answer"} | body
    headers = {"Authorization": f"Bearer key-of-{who}"}
    return scene.client.post(path, json={"prompt": "hi"} | body, headers=headers)


def refused(answer: httpx.Response) -> dict[str, Any]:
    """The details of an answer that says that a budget is spent."""
    assert (answer.status_code, answer.json()["code"]) == (429, "budget_exceeded"), answer.text
    assert "retry-after" not in answer.headers, "it would be tried again all day"
    details: dict[str, Any] = answer.json()["details"]
    return details


def until_refused(scene: Scene, who: str, path: str = "/v1/generate") -> int:
    """Ask again and again: how many were answered before one was refused, for its tenant's budget."""
    for answered in range(20):
        answer = ask(scene, who, path)
        if answer.status_code != 200:
            assert refused(answer) == {"scope": "tenant", "unit": "tokens"}
            return answered
    raise AssertionError("nothing was refused")


# Budgets that callers set


def test_a_budget_of_every_kind_of_call(scene: Scene) -> None:
    """If this failed, a remote caller could not say what a call may cost, or only for some calls."""
    program = ask(scene, "ada", "/v1/sessions/s/programs", prompt=None, signature="question -> answer")
    assert program.status_code == 422, "a program is no call, and has no prompt"
    headers = {"Authorization": "Bearer key-of-ada"}
    body = {"signature": "question -> answer"}
    made = scene.client.post("/v1/sessions/s/programs", json=body, headers=headers).json()["id"]
    before = len(scene.provider.requests)
    paths = ("/v1/generate", "/v1/programs/triage", f"/v1/sessions/s/programs/{made}/execute")
    for path in paths:
        said = refused(ask(scene, "ada", path, budget={"tokens": 20}))
        assert said == {"scope": "call", "unit": "tokens", "limit": 20, "spent": 0}
        said = refused(ask(scene, "ada", path, budget={"cost": 0.5, "tokens": 0}))
        assert said == {"scope": "call", "unit": "tokens", "limit": 0, "spent": 0}
    stream = ask(scene, "ada", "/v1/stream", budget={"tokens": 20})
    name, problem = events(stream)[-1]
    assert (name, problem["code"]) == ("error", "budget_exceeded")
    assert (problem["details"]["limit"], problem["retry_after"]) == (20, None)
    assert len(scene.provider.requests) == before
    for path in (*paths, "/v1/stream"):
        assert ask(scene, "ada", path, budget={"tokens": 1000}).status_code == 200
    assert len(scene.provider.requests) == before + 4


def test_a_callers_budget_only_narrows(scene: Scene) -> None:
    """If this failed, whoever asks could lift what the operator allows to each call."""
    long = "word " * OWN
    before = len(scene.provider.requests)
    for budget in (None, {"tokens": 10**9}, {"cost": 1e6}, {"tokens": OWN + 1, "cost": 1.0}):
        said = refused(ask(scene, "ada", prompt=long, budget=budget))
        assert said["limit"] == OWN, budget
    assert len(scene.provider.requests) == before


@pytest.mark.parametrize(
    "budget",
    [
        {},
        {"tokens": -1},
        {"tokens": 1.5},
        {"cost": -0.1},
        {"cost": "NaN"},
        {"dollars": 1},
        5,
        {"tokens": True},
    ],
)
def test_what_is_no_budget(scene: Scene, budget: Any) -> None:
    """If this failed, a slip in a budget would be no budget."""
    answer = ask(scene, "ada", budget=budget)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert "budget" in answer.json()["detail"]


def test_the_document_tells_of_budgets(scene: Scene) -> None:
    """If this failed, a client that is made from the document could set none."""
    schemas = scene.app.openapi()["components"]["schemas"]
    assert schemas["Budget"]["properties"].keys() == {"tokens", "cost"}
    for name in ("GenerateRequest", "StreamRequest", "ExecuteRequest"):
        assert "#/components/schemas/Budget" in str(schemas[name]["properties"]["budget"])


# Tenants


def test_a_key_that_is_none(scene: Scene) -> None:
    """If this failed, who has no key would spend somebody's money."""
    for headers in (
        {},
        *({"Authorization": f"{said}"} for said in ("Bearer", "Bearer ada", "Basic key-of-ada")),
    ):
        for path in ("/v1/programs", "/v1/modules", "/v1/sessions/s/programs", "/metrics", "/openapi.json"):
            assert scene.client.get(path, headers=headers).status_code == 401, (path, headers)
    assert ask(scene, "nobody").status_code == 401


def test_what_is_of_all_tenants_is_the_operators(scene: Scene) -> None:
    """If this failed, one customer would read how much the others do."""
    for who, status in (("ada", 403), ("operator", 200)):
        answer = scene.client.get("/metrics", headers={"Authorization": f"bearer key-of-{who}"})
        assert answer.status_code == status
        assert ask(scene, who).status_code == 200


def test_a_session_is_its_tenants(scene: Scene) -> None:
    """If this failed, one customer would find and run the programs of another."""
    body = {"signature": "question -> answer", "name": "mine"}
    for who in ("ada", "bob"):
        headers = {"Authorization": f"Bearer key-of-{who}"}
        made = scene.client.post("/v1/sessions/shared/programs", json=body, headers=headers)
        assert made.status_code == 201
        listed = scene.client.get("/v1/sessions/shared/programs", headers=headers).json()["programs"]
        assert [one["id"] for one in listed] == [made.json()["id"]]
    path = f"/v1/sessions/shared/programs/{made.json()['id']}/execute"
    assert ask(scene, "ada", path).json()["code"] == "unknown_program"
    assert ask(scene, "bob", path).status_code == 200


@pytest.mark.parametrize(
    ("own", "tenants"),
    [
        ("same", {"ada": "same"}),
        (None, {"ada": "same", "bob": "same"}),
        ("", {}),
        (None, {"ada": " "}),
        (None, {"": "k"}),
    ],
)
def test_keys_that_are_none_are_refused(own: str | None, tenants: dict[str, str]) -> None:
    """If this failed, a slip in a key would make one customer another, or let everybody in."""
    runtime = dspex.Runtime(settings=dspex.Settings(file=False))
    with pytest.raises(dspex.InvalidOption) as refused:
        create_app(runtime, key=own, tenant_keys=tenants)
    assert "same'" not in repr(refused.value)


def test_a_function_may_say_whose_a_request_is(scene: Scene) -> None:
    """If this failed, a service with accounts of its own could not say which customer calls."""

    def tenant_of(request: Request) -> str:
        if request.headers.get("x-account") != "ada":
            raise HTTPException(401, "no such account")
        return "ada"

    app = create_app(scene.runtime, tenant_of=tenant_of, opens=False)
    client = TestClient(app)
    for account, status in (("ada", 200), ("nobody", 401)):
        answer = client.get("/v1/programs", headers={"x-account": account})
        assert answer.status_code == status


def test_each_key_spends_its_own_tenants_budget(scene: Scene) -> None:
    """If this failed, one customer would spend what another pays for."""
    assert 3 <= until_refused(scene, "few") <= 6
    assert ask(scene, "bob").status_code == 200
    stats = {one.name: one for one in scene.runtime.stats().budgets if one.scope == "tenant"}
    assert 0 < stats["few"].tokens <= ALL
    assert "bob" not in stats, "he has no budget"


def test_a_program_of_the_settings_is_run_for_who_asks(scene: Scene) -> None:
    """If this failed, whoever was first to run a program would pay for all who run it after him."""
    path = "/v1/programs/triage"
    assert ask(scene, "bob", path).status_code == 200
    assert 3 <= until_refused(scene, "pat", path) <= 6
    assert ask(scene, "bob", path).status_code == 200


def test_each_tenant_has_its_own_answers(scene: Scene) -> None:
    """If this failed, a cached answer of one customer would reach another."""
    for path in ("/v1/generate", "/v1/stream"):
        before = len(scene.provider.requests)
        asked = {"prompt": f"the same by {path}", "options": {"temperature": 0}}
        seen: set[str] = set()
        for who, more in (("ada", 1), ("bob", 2), ("ada", 2), ("bob", 2)):
            answer = ask(scene, who, path, **asked)
            assert answer.status_code == 200, answer.text
            assert len(scene.provider.requests) == before + more, (path, who)
            said = events(answer)[-1][1] if path == "/v1/stream" else answer.json()
            assert said["cached"] is (who in seen)
            seen.add(who)


def test_each_tenant_has_its_own_limits(scene: Scene) -> None:
    """If this failed, one customer's load would use up another's limits."""
    scene.provider.reply = lambda request: hanging() if "slow" in request.prompt.user else echo()
    with ThreadPoolExecutor(5) as threads:
        waiting = [threads.submit(ask, scene, "eve", prompt="slow", timeout=3) for _ in range(5)]
        until(lambda: scene.provider.in_flight == 2)
        assert ask(scene, "max", prompt="quick").json()["outputs"] == {"answer": "quick"}
        assert {one.result().status_code for one in waiting} == {504}
    assert scene.provider.peak_in_flight <= 3
