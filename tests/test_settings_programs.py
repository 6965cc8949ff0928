"""Named programs: what a table ``[program.NAME]`` may say, and what is refused with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from dspex.settings import Settings
from tests.settings_files import folder, refused, write

__all__ = ["folder"]  # a fixture, which each test of this file has

TRIAGE = """\
[program.triage]
signature = "ticket -> team"
modules = ["dspy.ChainOfThought", {module = "dspy.Predict", signature = "team -> letter", state = "l.json"}]
lm = "fast"
instructions = "Be brief."

[program.route]
module = "shop.support:Router"
state = "saved/route.json"
"""


def test_a_file_names_programs(folder: Path) -> None:
    """If this failed, a program of the settings file would not be there, or be another."""
    write(TRIAGE)
    programs = Settings().programs
    assert programs["triage"]["signature"] == "ticket -> team"
    assert programs["triage"]["lm"] == "fast"
    assert programs["triage"]["instructions"] == "Be brief."
    first, second = programs["triage"]["modules"]
    assert first == "dspy.ChainOfThought"
    assert second["signature"] == "team -> letter"
    assert programs["route"]["module"] == "shop.support:Router"


def test_states_are_found_from_the_file_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """If this failed, a service started in another directory would run without what was optimized."""
    file = write(TRIAGE)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    programs = Settings(file=file).programs
    assert programs["route"]["state"] == str(folder / "saved/route.json")
    assert programs["triage"]["modules"][1]["state"] == str(folder / "l.json")


def test_a_table_in_pyproject_and_keywords_name_programs() -> None:
    """If this failed, one of the ways to name a program would do nothing."""
    write('[tool.dspex.program.a]\nsignature = "x -> y"\n', "pyproject.toml")
    settings = Settings(programs={"a": {"lm": "fast"}, "b": {"module": "dspy.Predict"}})
    assert dict(settings.programs["a"]) == {"signature": "x -> y", "lm": "fast"}
    assert dict(settings.programs["b"]) == {"module": "dspy.Predict"}
    assert settings.reloaded().programs == settings.programs
    assert settings.to_dict()["program"]["a"]["lm"] == "fast"
    assert settings.sources()["program.a.lm"].origin == "argument"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('[program.a]\nsignatur = "x -> y"', 2, "did you mean 'signature'?"),
        ("[program.a]\nsignature = 5", 2, "program.a.signature has to be text, or a table"),
        ("[program.a]\nmodules = []", 2, "program.a.modules has to be a list of modules"),
        ('[program.a]\nmodule = "Predict"\nmodules = ["Predict"]', 3, "module and modules are both given"),
        ('[program.a]\nlm = "fast"', 1, "needs a signature, or a module"),
        ('[program.a]\nmodule = "a.b:C"\nsignature = "x -> y"', 3, "has its signature in its code"),
        ('[program.a]\nmodules = [{modul = "Predict"}]', 2, "did you mean 'module'?"),
        ('[program.a]\nmodules = [{signature = "x -> y"}]', 2, "module 1 needs module"),
        ('[program.a]\nmodules = ["Predict", "Predict"]\nstate = "a.json"', 3, "go into the table of each"),
        ('[program."a/b"]\nmodule = "Predict"', 2, "no slash, colon or '='"),
        ('program = "a"', 1, "program has to be a table"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, line: int, says: str) -> None:
    """If this failed, a slip in a program's table would run another program, or be hard to find."""
    file = write(text + "\n")
    error = refused()
    assert says in error.message
    assert error.message.startswith(f"dspex.toml:{line}: ")
    assert error.details["file"] == str(file)
    assert error.details["line"] == line


def test_variables_change_a_named_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a deployment could not give a program of the image another LM."""
    write('[program.triage]\nmodule = "dspy.Predict"\n')
    monkeypatch.setenv("DSPEX_PROGRAM__TRIAGE__LM", "slow")
    assert dict(Settings().programs["triage"]) == {"module": "dspy.Predict", "lm": "slow"}
