"""The embedded model runs every kind of module for real. It is small, so what is asked is easy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import dspex

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
#: Seconds: one thread writes some eight tokens each.
PATIENCE = 400.0


@pytest.fixture(scope="module")
def adapter() -> Iterator[dspex.DSPyAdapter]:
    pytest.importorskip("xllamacpp")
    with dspex.Runtime("local", pools={"general": dspex.PoolOptions(workers=1)}) as runtime:
        yield runtime.adapter(timeout=PATIENCE)


def test_react_calls_a_function_of_the_callers(adapter: dspex.DSPyAdapter) -> None:
    """If this failed, a model that is not scripted could not use a tool."""
    asked: list[str] = []

    def capital(country: str) -> str:
        """Look up the capital of a country."""
        asked.append(country)
        return "The capital of Zubrowka is Lutz."

    answer = adapter.generate(
        "What is the capital of Zubrowka? Use the tool.",
        module="ReAct",
        signature="question -> answer",
        tools=[capital],
        max_iters=3,
    )
    assert any("zubrowka" in country.lower() for country in asked)
    assert "Lutz" in answer.answer
    assert "Lutz" in str(answer.trajectory)


def test_program_of_thought_runs_what_it_writes(adapter: dspex.DSPyAdapter) -> None:
    """If this failed, a program that a real model writes would not run in the sandbox."""
    answer = adapter.generate(
        "What is 1234 * 5678?", module="ProgramOfThought", signature="question -> answer: int"
    )
    assert answer.answer == 7_006_652
    assert "7006652" in str(answer.trajectory)


def test_several_attempts_are_compared(adapter: dspex.DSPyAdapter) -> None:
    """If this failed, attempts of a real model could not be compared."""
    answer = adapter.generate(
        "What is the capital of France?", module="MultiChainComparison", signature="question -> answer", M=2
    )
    assert "Paris" in answer.answer
    assert len(answer.trajectory or ()) == 2
    assert len(answer.requests) >= 3
