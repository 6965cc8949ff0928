"""``dspex modules``: the catalogue, as a shell sees it."""

from __future__ import annotations

import json

import pytest

from dspex.program.catalogue import MODULES
from tests.shell import dspex


def test_every_module_is_listed() -> None:
    """If this failed, a module could be used that nobody is told of."""
    ran = dspex("modules")
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(MODULES)
    for line, entry in zip(lines, MODULES.values(), strict=True):
        assert line.endswith(entry.summary)


@pytest.mark.parametrize("name", ["dspy.ChainOfThought", "ChainOfThought"])
def test_one_module_with_its_options(name: str) -> None:
    """If this failed, a user would have to read the source to know an option."""
    ran = dspex("modules", name)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("dspy.ChainOfThought  ")
    assert "Adds outputs: reasoning." in ran.stdout
    assert "Needs: nothing. Runs beside other calls." in ran.stdout
    for option in MODULES["dspy.ChainOfThought"].options.values():
        (line,) = [line for line in ran.stdout.splitlines() if line.startswith(f"{option.name} ")]
        assert option.type in line
        assert option.summary in line


def test_json() -> None:
    """If this failed, programs could not read the catalogue."""
    every = json.loads(dspex("modules", "--json").stdout)
    assert [module["name"] for module in every] == list(MODULES)
    one = json.loads(dspex("modules", "Predict", "--json").stdout)
    assert one == every[list(MODULES).index("dspy.Predict")]
    temperature = next(option for option in one["options"] if option["name"] == "temperature")
    assert temperature == {
        "name": "temperature",
        "type": "a number from 0 to 2",
        "default": None,
        "required": False,
        "summary": MODULES["dspy.Predict"].options["temperature"].summary,
    }


def test_an_unknown_module_is_exit_code_2() -> None:
    """If this failed, a slip would look like a failure, or like an empty answer."""
    ran = dspex("modules", "Predikt")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "module_not_found unknown module 'Predikt'; did you mean 'dspy.Predict'?\n"
    as_json = dspex("modules", "Predikt", "--json")
    assert (as_json.returncode, as_json.stdout) == (2, "")
    error = json.loads(as_json.stderr)["error"]
    assert error["code"] == "module_not_found"
    assert error["details"]["known"] == list(MODULES)
