"""Programs that the settings name, as they are run by that name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import dspex
from tests.provider import Provider, fields


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    """A provider on this machine."""
    with Provider() as provider:
        provider.reply = lambda _: fields(team="billing", reasoning="money", team_lead="Kim")
        yield provider


@pytest.fixture(scope="module")
def runtime(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dspex.Runtime]:
    """A runtime whose settings name programs."""
    file: Path = tmp_path_factory.mktemp("settings") / "dspex.toml"
    file.write_text(
        """
[program.triage]
signature = "ticket -> team"
modules = [{module = "ChainOfThought", options = {temperature = 0.5}}]
instructions = "Name the team."

[program.wrong]
signature = "a b"

[program.chain]
signature = "ticket -> team"
modules = ["ChainOfThought", {module = "Predict", signature = "team -> team_lead"}]
"""
    )
    lm = dspex.LM("openai/x", api_key="k", base_url=provider.base_url)
    pools = {"general": dspex.PoolOptions(workers=1)}
    with dspex.Runtime(lm, settings=dspex.Settings(file=file), pools=pools) as runtime:
        yield runtime


def test_a_named_program_runs_as_the_settings_say(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a program would run without what its table says of it."""
    program = runtime.adapter().program("triage")
    response = program("I was charged twice")
    assert (response.team, response.reasoning) == ("billing", "money")
    sent = provider.requests[-1].post.body
    assert sent["temperature"] == 0.5
    assert "Name the team." in str(sent["messages"])


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("triag", dspex.ModuleNotFound, "did you mean 'triage'?"),
        ("wrong", dspex.InvalidSignature, "dspex.toml:"),
    ],
)
def test_what_cannot_be_run_is_refused(
    runtime: dspex.Runtime, name: str, kind: type[dspex.DspexError], says: str
) -> None:
    """If this failed, a slip in a name or a table would run something else, or not say where it is."""
    with pytest.raises(kind) as error:
        runtime.adapter().program(name)
    assert says in error.value.message


def test_several_modules_run_one_after_the_other(runtime: dspex.Runtime) -> None:
    """If this failed, a program of several modules could not be named, or would lose a stage."""
    program = runtime.adapter().program("chain")
    response = program(ticket="I was charged twice")
    assert response.team_lead == "Kim"
    assert [stage.module for stage in response.stages] == ["dspy.ChainOfThought", "dspy.Predict"]
    assert response.stages[0].outputs["team"] == "billing"


def test_a_program_cannot_have_a_modules_name() -> None:
    """If this failed, a name would be a program's in the settings, and a module's in a call."""
    settings = dspex.Settings(programs={"ChainOfThought": {"signature": "a -> b"}}, file=False)
    with pytest.raises(dspex.InvalidOption, match="names a module"):
        dspex.Runtime(settings=settings)
