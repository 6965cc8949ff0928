"""The guide for those who come from ``dspy.asyncify``: both sides are run, and differ as it says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.provider import Provider, delayed, echo, fault, fields
from tests.servers import EXAMPLES, Server, model

BEFORE, AFTER = "from_asyncify/before.py", "from_asyncify/after.py"


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


def run(example: str, what: str, provider: Provider, folder: Path) -> list[str]:
    """The lines that one side prints; DSPy's cache is empty."""
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / example), what],
        env={**os.environ, **model(provider), "DSPY_CACHEDIR": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


@pytest.mark.parametrize(("example", "dropped"), [(BEFORE, 0), (AFTER, 1)])
def test_a_timeout(example: str, dropped: int, provider: Provider, tmp_path: Path) -> None:
    """If this failed, the guide would be wrong about what goes on after a timeout."""
    provider.reply = lambda _: delayed(2, echo())
    assert run(example, "timeout", provider, tmp_path) == ["timed out"]
    assert (len(provider.requests), provider.disconnects) == (1, dropped)


@pytest.mark.parametrize(("example", "at_once"), [(BEFORE, 8), (AFTER, 100)])
def test_a_hundred_at_once(example: str, at_once: int, provider: Provider, tmp_path: Path) -> None:
    """If this failed, the guide would be wrong about how many calls run side by side."""
    provider.reply = lambda _: delayed(0.2 if example == BEFORE else 3.0, echo())
    assert run(example, "many", provider, tmp_path) == ["100 answers"]
    assert provider.peak_in_flight == at_once


@pytest.mark.parametrize(("example", "answers"), [(BEFORE, ["1", "1"]), (AFTER, ["1", "2"])])
def test_a_key_for_each_customer(
    example: str, answers: list[str], provider: Provider, tmp_path: Path
) -> None:
    """If this failed, the guide would be wrong about whose answer a customer gets."""
    provider.reply = lambda request: fields(answer=str(request.number))
    assert run(example, "keys", provider, tmp_path) == answers
    keys = [request.headers["authorization"] for request in provider.requests]
    assert keys == ["Bearer key-of-anna", "Bearer key-of-bert"][: len(set(answers))]


@pytest.mark.parametrize(("example", "told"), [(BEFORE, "LMAuthError"), (AFTER, "lm_auth False")])
def test_an_error(example: str, told: str, provider: Provider, tmp_path: Path) -> None:
    """If this failed, the guide would be wrong about what a failure looks like."""
    provider.reply = lambda _: fault(401)
    assert run(example, "errors", provider, tmp_path) == [told]


@pytest.mark.parametrize("example", ["service_before.py", "service_after.py"])
def test_an_endpoint(example: str, provider: Provider, tmp_path: Path) -> None:
    """If this failed, a service would not answer as the guide shows it."""
    application = f"from_asyncify.{example.removesuffix('.py')}:app"
    command = ["-m", "uvicorn", "--app-dir", str(EXAMPLES), application, "--port", "0"]
    with Server(command, tmp_path / "log", provider, DSPY_CACHEDIR=str(tmp_path)) as server:
        asked = httpx.get(f"{server.url}/answer", params={"question": "hi"}, timeout=60)
        assert asked.json() == {"answer": "hi"}
