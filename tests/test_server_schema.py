"""The server under requests that are made from its own document, good ones and bad ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks

import dspex
from dspex.server.app import create_app
from tests.http_scene import Scene, serving

_APP = create_app(dspex.Runtime(settings=dspex.Settings(file=False)), opens=False)
_SCHEMA = schemathesis.openapi.from_dict(_APP.openapi())
_SCHEMA.config.generation.modes = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
_CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
# The server is in this process and draws how long its pauses are, also while a request is made up. Hypothesis
# sees that somebody used `random`, and takes the strategies to be who did.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Do not use the .random. module:hypothesis.errors.HypothesisDeprecationWarning"
)
_FAST = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with serving(timeout=20) as scene:
        yield scene


def ask(case: Any, scene: Scene) -> None:
    # A server that is not set up, or a provider that fails, is answered with 502, 503 or 504.
    answer = case.call(base_url=str(scene.client.base_url))
    assert answer.status_code != 500, answer.text
    case.validate_response(answer, checks=_CHECKS)


@_SCHEMA.parametrize()
@_FAST
def test_no_500_and_nothing_undocumented(case: Any, scene: Scene) -> None:
    """If this failed, some request would make the server fail, or answer what its document does not say."""
    ask(case, scene)


@pytest.mark.slow
@_SCHEMA.parametrize()
@settings(_FAST, max_examples=300)
def test_no_500_in_many(case: Any, scene: Scene) -> None:
    """If this failed, some rarer request would do that."""
    ask(case, scene)


def test_every_operation_is_described() -> None:
    """If this failed, a client that is made from the document would lack names, or the form of errors."""
    document = _APP.openapi()
    operations = [one for path in document["paths"].values() for one in path.values()]
    assert len({one["operationId"] for one in operations}) == len(operations) == 11
    for one in operations:
        assert one["tags"]
        for status, said in one["responses"].items():
            if int(status) >= 400:
                assert list(said["content"]) == ["application/problem+json"]
