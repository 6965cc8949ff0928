"""The examples, each run as its reader would run it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agents import as_shown, is_agent
from tests.provider import Provider, Reply, Request, echo, fields, hanging

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def reply(request: Request) -> Reply:
    """What a model might say to the examples."""
    if is_agent(request):
        return as_shown(request)
    said = request.prompt.user
    if "long story" in said:
        return hanging()
    if "capital of France" in said:
        return fields(reasoning="It is known.", answer="Paris")
    if "charged twice" in said:
        return fields(team="billing", reasoning="Money.", reply="We will.", summary="Charged twice.")
    if "below 1000 are prime" in said:
        code = "```python\nn = [p for p in range(2, 1000) if all(p % d for d in range(2, p))]\nlen(n)\n```"
        done = "code_output" in said
        return (
            fields(reasoning="Counted.", answer="168") if done else fields(reasoning="", generated_code=code)
        )
    if "kettle" in said and "products" in said:
        products = [{"name": "kettle", "fault": "it leaks"}, {"name": "toaster"}]
        return fields(kind="complaint", urgent=True, products=products, summary="It leaks.")
    return echo()


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider(reply) as running:
        yield running


def run(*arguments: str, **environment: str) -> tuple[str, str]:
    """What Python writes to standard output and standard error, given these arguments."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DSPEX_")}
    ran = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        cwd=EXAMPLES,
        timeout=110,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout, ran.stderr


def run_there(example: str, provider: Provider) -> tuple[str, str]:
    """What an example writes, with the tests' provider for a model."""
    return run(example, DSPEX_LM="openai/model", LM_BASE_URL=provider.base_url)


def run_tests(example: str) -> tuple[str, str]:
    """What pytest writes about an example of tests, which bring their own model."""
    return run("-m", "pytest", "-p", "no:cacheprovider", example)


def test_every_example_is_tried() -> None:
    """If this failed, an example would be there that no test runs."""
    scripts = {file.relative_to(EXAMPLES).as_posix() for file in EXAMPLES.rglob("*.py")}
    text = Path(__file__).read_text(encoding="utf-8")
    guides = "".join(file.read_text("utf-8") for file in Path(__file__).parent.glob("test_guide_*.py"))
    tried = {one for one in scripts if f'("{one}"' in text or f'{Path(one).name}"' in guides}
    # What the others import, and the application that servers are given by its import path.
    beside = {"own_command/texts.py", "fastapi_app/problems.py", "fastapi_app/watched.py"}
    beside |= {f"own_program/shop/{name}.py" for name in ("__init__", "support")}
    assert scripts - tried == beside | {"fastapi_app/app.py", "celery_app.py"}


def test_quickstart(provider: Provider) -> None:
    """If this failed, the first thing to copy would not give an answer."""
    output, _ = run_there("quickstart.py", provider)
    reasoning, answer, summary = output.splitlines()
    assert reasoning == "reasoning: It is known."
    assert answer == "answer: Paris"
    assert summary.startswith("model, ")


def test_async_many(provider: Provider) -> None:
    """If this failed, many questions at once would lose one, or show no progress."""
    before = len(provider.requests)
    output, _ = run_there("async_many.py", provider)
    assert output.splitlines()[-1] == "20 answers, 0 failures"
    assert "asking" in output
    assert "100%" in output
    assert len(provider.requests) - before == 20


def test_threads(provider: Provider) -> None:
    """If this failed, threads that share an adapter would get each other's answers."""
    output, _ = run_there("threads.py", provider)
    cities = [line.partition(" (worker")[0] for line in output.splitlines()]
    assert cities == [f"{city}: In which country is {city}?" for city in ("Lisbon", "Oslo", "Prague", "Rome")]


def test_typed_outputs(provider: Provider) -> None:
    """If this failed, objects of the caller's own classes would not be what arrives."""
    output, _ = run_there("typed_outputs.py", provider)
    assert output.splitlines() == [
        "kind: <Kind.COMPLAINT: 'complaint'>",
        "urgent: True",
        "products: [Product(name='kettle', fault='it leaks'), Product(name='toaster', fault=None)]",
        "summary: 'It leaks.'",
    ]


@pytest.mark.parametrize("where", ["dot.png", "https://example.org/dot.png"])
def test_photo(provider: Provider, where: str, tmp_path: Path) -> None:
    """If this failed, a reader who sends a picture for the first time would send none."""
    (tmp_path / "dot.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    given = where if where.startswith("https") else str(tmp_path / where)
    provider.requests.clear()
    model = {"DSPEX_LM": "openai/model", "LM_BASE_URL": provider.base_url}
    output, _ = run("photo.py", given, **model)
    assert output.endswith(": What is in this picture? []\n")
    sent = str(provider.requests[-1].body)
    assert (where if given == where else "data:image/png;base64,iVBORw0KGgo=") in sent


def test_batch_example(provider: Provider, tmp_path: Path) -> None:
    """If this failed, whoever starts the example again would pay for its rows again."""
    model = {"DSPEX_LM": "openai/model", "LM_BASE_URL": provider.base_url}
    first, _ = run("batch.py", str(tmp_path / "journal"), **model)
    asked = len(provider.requests)
    again, _ = run("batch.py", str(tmp_path / "journal"), **model)
    assert sorted(first.splitlines()) == sorted(again.splitlines())
    assert len(first.splitlines()) == 20
    assert len(provider.requests) == asked


def test_errors(provider: Provider) -> None:
    """If this failed, the example of errors would show others than those it speaks of."""
    output, _ = run_there("errors.py", provider)
    lines = [line for line in output.splitlines() if not line.startswith(" ")]
    assert lines == [
        "a slip in a type: refused, invalid_signature",
        "a slip in a module: refused, module_not_found",
        "an option there is not: refused, invalid_option",
        "a missing input: refused, invalid_input",
        "no key: refused, lm_not_configured",
        "no time: python_timeout while running",
        "no server: lm_unavailable, try again",
    ]


def test_tools(provider: Provider) -> None:
    """If this failed, the example of tools would not show what an agent did."""
    output, _ = run_there("tools.py", provider)
    assert output.splitlines() == [
        "count({'item': 'toaster'}): ok",
        "order({'item': 'toaster', 'number': 50}): denied at most ten at once",
        "order({'item': 'toaster', 'number': 5}): ok",
        "orders: [('toaster', 5)]",
    ]


def test_sessions(provider: Provider) -> None:
    """If this failed, a desk that was started anew would have forgotten its customers."""
    output, _ = run_there("sessions.py", provider)
    lines = output.splitlines()
    assert lines[:3] == [
        "ada (1): My kettle leaks.",
        "bob (1): Do you sell toasters?",
        "ada (2): What did I say was wrong?",
    ]
    assert [line.partition(",")[0] for line in lines[3:]] == ["ada: 2 answered", "bob: 1 answered"]


def test_programs(provider: Provider) -> None:
    """If this failed, nobody could see how a program of several stages is kept, changed and carried."""
    output, _ = run_there("programs.py", provider)
    first, second, third, fourth, fifth = output.splitlines()
    assert first.endswith("Predict: topic, tone")
    assert second.endswith("ChainOfThought: reasoning, answer")
    assert (third, fourth) == ("now it is version 2", "back at version 1")
    assert fifth.startswith("reply in elsewhere, version 1: ")


def test_own_command(provider: Provider) -> None:
    """If this failed, the workers would not find a module beside a script, or lose what it prints."""
    output, errors = run_there("own_command/main.py", provider)
    frequent, title = output.splitlines()
    assert frequent == "frequent: [('lighthouse', 3), ('night', 2), ('keeper', 2)]"
    assert title == 'title: ["lighthouse", "night", "keeper"]'
    assert errors == "dspex.output: counting 33 words\n"


def test_own_program(provider: Provider) -> None:
    """If this failed, a user's program would not be found beside a script, or not run as it says."""
    output, _ = run_there("own_program/main.py", provider)
    assert output.splitlines() == [
        "takes: message, tone",
        "team: billing",
        "reply: We will.",
        "requests: 2",
        "summary: Charged twice.",
        "signed: We will.",
        "version 2 signed: We will.",
    ]


def test_generated_code(provider: Provider) -> None:
    """If this failed, the first program with a sandbox would not run, or not show what was run."""
    output, _ = run_there("generated_code.py", provider)
    assert "gave 168" in output
    assert output.endswith("answer: 168\n")


def test_testing() -> None:
    """If this failed, the tests that a user would copy would fail at once."""
    output, _ = run_tests("testing/test_support.py")
    assert " 6 passed in " in output


@pytest.mark.slow
def test_quickstart_on_the_embedded_model() -> None:
    """If this failed, a reader without a key would have no first answer."""
    pytest.importorskip("xllamacpp")
    output, _ = run("quickstart.py")
    assert "answer: Paris" in output
