"""An agent of the embedded model's, with a tool of its caller's."""

from __future__ import annotations

import pytest

import dspex


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_embedded_model_calls_a_function() -> None:
    """If this failed, agents would work with a scripted model alone."""
    pytest.importorskip("xllamacpp")
    asked: list[str] = []

    def count(item: str) -> int:
        """How many of an item are in stock."""
        asked.append(item)
        return 7

    with dspex.Runtime(lm="local", pools={"general": {"workers": 1}}) as runtime:
        response = runtime.adapter(timeout=280.0).generate(
            "How many kettles are in stock?",
            module="ReAct",
            signature="question -> answer",
            tools=[count],
            max_iters=3,
        )
    assert asked
    assert response.tool_calls[0].status == "ok"
    assert "7" in response.answer
