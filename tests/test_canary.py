"""No key is found in anything that a load leaves: wherever it was given, and however calls have ended."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, NamedTuple

import pytest

from tests.canary import CANARY, ROOT
from tests.shell import environment

#: How calls have ended, each at least once.
ENDS = {
    *("ok", "lm_auth", "lm_rate_limited", "lm_unavailable", "lm_circuit_open", "parse_error"),
    *("python_timeout", "poison_call", "tool_error", "budget_exceeded", "invalid_option"),
}
#: What is told of a load, and where it lies.
PLACES = (
    *(
        "settings",
        "reprs",
        "events",
        "errors",
        "responses",
        "stream",
        "outcomes",
        "sessions",
        "http",
        "stats",
    ),
    *("metrics", "status", "spans", "log lines as JSON", "standard error"),
    *(f"{kind} files{when}" for kind in ("cache", "store", "journal") for when in ("", ", closed")),
)
#: What has to be in a place, so that it is known to be what it is taken for.
THERE = {
    "events": ("FellBack", "BreakerChanged", "BudgetRefused", "CacheHit", "LMRequestFinished", "WorkerGone"),
    "errors": ("refused: ", "Traceback", "***"),
    "responses": ("FallenBack",),
    "http": ('"code":"lm_auth"', "event: error", "unauthorized", "dspex_lm_requests"),
    "standard error": ("DEBUG:asyncio", "dspex.output:DEBUG", "INFO:dspex.mcp:", "INFO:dspex.server:"),
    "log lines as JSON": ('"logger": "dspex.calls"',),
    "spans": ("chat x", "execute_tool", "lm_circuit_open"),
    "cache files": ("SQLite",),
    "store files": ("CANARY_KEY", "SQLite"),
    "journal files": ("lm_auth",),
}


class Left(NamedTuple):
    """What a load has left.

    Attributes:
        texts: By place.
        codes: How calls have ended.
        unused: Keys that no request has had.
    """

    texts: dict[str, list[str]]
    codes: list[str]
    unused: list[str]


@pytest.fixture(scope="module", params=["content", pytest.param("litellm", marks=[pytest.mark.slow])])
def left(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Left:
    """Of a load whose traces have what was said, and of one whose have not, in part through LiteLLM."""
    folder = tmp_path_factory.mktemp("canary")
    folder.chmod(0o700)
    ran = subprocess.run(
        [sys.executable, "-m", "tests.canary", str(folder), request.param],
        cwd=ROOT,
        env=environment(XDG_RUNTIME_DIR=str(folder)),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-4000:].replace(CANARY, "***")
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return Left(
        {**found["texts"], "standard error": [ran.stderr, ran.stdout]}, found["codes"], found["unused"]
    )


def test_the_load_has_every_key_and_every_end(left: Left) -> None:
    """If this failed, the tests of this file would look where nothing could be."""
    assert left.unused == []
    assert set(left.codes) >= ENDS
    assert set(left.texts) == set(PLACES)


@pytest.mark.parametrize("place", PLACES)
def test_no_key_is_in(place: str, left: Left) -> None:
    """If this failed, whoever reads logs, traces, errors, files or metrics would have a customer's key."""
    texts = left.texts[place]
    assert [said for said in THERE.get(place, ()) if not any(said in text for text in texts)] == []
    assert any(texts)
    leaks = [text[max(0, text.index(CANARY) - 200) :][:400] for text in texts if CANARY in text]
    assert [leak.replace(CANARY, "***") for leak in leaks] == []
