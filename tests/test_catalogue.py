"""Modules, their options, and the fingerprint of the program that they make."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from dspex.errors import InvalidOption, InvalidSignature, ModuleNotFound
from dspex.program import catalogue, spec
from dspex.program.catalogue import find, fit
from dspex.program.fingerprint import fingerprint
from dspex.program.options import GENERATION, check
from dspex.program.signature import Field, parse
from dspex.program.spec import ProgramSpec

PREDICT = find("dspy.Predict")
CHAIN = find("ChainOfThought")
KNOWN = ", ".join(catalogue.MODULES)

GOOD: list[tuple[str, Any, Any]] = [
    ("temperature", 0, 0.0),
    ("temperature", 2, 2.0),
    ("temperature", -0.0, 0.0),
    ("max_tokens", 1, 1),
    ("top_p", 1, 1.0),
    ("n", 32, 32),
    ("stop", "END", ["END"]),
    ("stop", ("a", "b"), ["a", "b"]),
    ("stop", ["x"] * 16, ["x"] * 16),
    ("seed", -5, -5),
    ("presence_penalty", -2, -2.0),
    ("frequency_penalty", 2, 2.0),
    ("reasoning_effort", "minimal", "minimal"),
]
BAD: list[tuple[str, Any]] = [
    ("temperature", 2.1),
    ("temperature", -0.1),
    ("temperature", True),
    ("temperature", "0.5"),
    ("temperature", math.nan),
    ("temperature", math.inf),
    ("temperature", 10**400),
    ("max_tokens", 0),
    ("max_tokens", 1.0),
    ("max_tokens", True),
    ("max_tokens", 2**31),
    ("top_p", 1.1),
    ("n", 0),
    ("n", 33),
    ("stop", ""),
    ("stop", []),
    ("stop", ["x"] * 17),
    ("stop", ["a", 1]),
    ("stop", ["\ud800"]),
    ("stop", {"a"}),
    ("seed", 2**63),
    ("seed", 1.5),
    ("presence_penalty", 3),
    ("frequency_penalty", [1]),
    ("reasoning_effort", "extreme"),
    ("reasoning_effort", ["low"]),
]


def test_modules_are_found_with_and_without_prefix() -> None:
    """If this failed, one of the two ways to name a module would not work."""
    assert find("Predict") is find("dspy.Predict")
    assert find("ChainOfThought").name == "dspy.ChainOfThought"
    assert all(find(name) is entry and entry.name == name for name, entry in catalogue.MODULES.items())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dspy.Predikt", "unknown module 'dspy.Predikt'; did you mean 'dspy.Predict'?"),
        ("chain_of_thought", "unknown module 'chain_of_thought'; did you mean 'dspy.ChainOfThought'?"),
        (
            "os.system",
            f"unknown module 'os.system'; known are {KNOWN}; a program of your own "
            "is named 'package.module:Class'",
        ),
        ("__class__", f"unknown module '__class__'; known are {KNOWN}"),
        ("dspy.dspy.Predict", "unknown module 'dspy.dspy.Predict'; did you mean 'dspy.Predict'?"),
        ("", f"unknown module ''; known are {KNOWN}"),
    ],
)
def test_an_unknown_module_is_named_with_the_nearest(name: str, said: str) -> None:
    """If this failed, a typing error would not be explained, or a name would be looked up on DSPy itself."""
    with pytest.raises(ModuleNotFound) as caught:
        find(name)
    assert caught.value.message == said
    assert caught.value.details == {"module": name, "known": list(catalogue.MODULES)}


@pytest.mark.parametrize("name", [None, 3, ["Predict"], "x" * 100_000, "\ud800"])
def test_an_odd_module_name_is_refused_in_the_same_way(name: Any) -> None:
    """If this failed, a wrong argument would be a TypeError, or an error too long or odd to send."""
    with pytest.raises(ModuleNotFound) as caught:
        find(name)
    assert len(caught.value.message) < 300
    msgspec.json.encode(caught.value.to_wire())


def test_fit_adds_reasoning_before_the_outputs() -> None:
    """If this failed, `describe` would not show what ChainOfThought answers."""
    assert [field.name for field in fit(CHAIN, parse("q -> a, b")).outputs] == ["reasoning", "a", "b"]
    assert fit(PREDICT, parse("q -> a")) == parse("q -> a")
    own = fit(CHAIN, parse("q -> a, reasoning: list[str]"))
    assert own.outputs == (Field("reasoning", "list[str]"), Field("a"))


def test_an_input_named_reasoning_is_refused_for_chain_of_thought() -> None:
    """If this failed, DSPy would turn that input into an output and lose its value without a word."""
    with pytest.raises(InvalidSignature, match="adds an output 'reasoning'") as caught:
        spec.make("ChainOfThought", "question, reasoning -> verdict")
    place = caught.value.details["position"]
    assert caught.value.details["signature"][place:].startswith("reasoning ->")
    assert spec.make("Predict", "question, reasoning -> verdict").module == "dspy.Predict"


@pytest.mark.parametrize(("name", "value", "sent"), GOOD)
def test_options_take_what_they_say(name: str, value: Any, sent: Any) -> None:
    """If this failed, a fair option would be refused or sent as something else."""
    checked = check(PREDICT, {name: value})
    assert checked == {name: sent}
    assert type(checked[name]) is type(sent)
    assert str(checked[name]) == str(sent)  # -0.0 is not 0.0


@pytest.mark.parametrize(("name", "value"), BAD, ids=str)
def test_options_refuse_what_they_do_not_take(name: str, value: Any) -> None:
    """If this failed, a wrong value would travel to a worker and fail at the provider, billed or not."""
    with pytest.raises(InvalidOption) as caught:
        check(CHAIN, {name: value})
    assert f"option {name!r} of dspy.ChainOfThought takes {GENERATION[name].type}" in caught.value.message
    assert caught.value.details["option"] == name
    assert caught.value.details["expected"] == GENERATION[name].type
    assert len(caught.value.message) < 300


def test_an_option_that_the_module_lacks_is_refused_by_name() -> None:
    """If this failed, `max_hops` on ChainOfThought would be passed on, or refused without a hint."""
    with pytest.raises(InvalidOption) as caught:
        check(CHAIN, {"temperature": 1, "max_hops": 3})
    known = ", ".join(sorted(GENERATION))
    assert caught.value.message == f"dspy.ChainOfThought has no option 'max_hops'; it has {known}"
    assert caught.value.details == {
        "module": "dspy.ChainOfThought",
        "option": "max_hops",
        "known": sorted(GENERATION),
    }
    with pytest.raises(InvalidOption, match="did you mean 'temperature'"):
        check(CHAIN, {"temprature": 1})


@pytest.mark.parametrize("options", [[("n", 1)], "n=1", {1: 2}, {None: 1}, {"\ud800": 1}])
def test_odd_options_are_refused_in_the_same_way(options: Any) -> None:
    """If this failed, options of a wrong shape would be a TypeError, or an error that cannot be sent."""
    with pytest.raises(InvalidOption) as caught:
        check(PREDICT, options)
    msgspec.json.encode(caught.value.to_wire())


def test_no_options_and_none_are_the_same() -> None:
    """If this failed, an option left at None would reach the LM as null."""
    assert check(PREDICT, None) == check(PREDICT, {}) == check(PREDICT, {"seed": None}) == {}


def test_equal_programs_have_equal_fingerprints() -> None:
    """If this failed, a worker would build again what it has, for each way to write the same thing."""
    one = spec.make("Predict", "q: Optional[int] -> a", {"temperature": 0, "n": 1, "stop": "x"})
    two = spec.make("dspy.Predict", " q:int|None->a: str", {"stop": ["x"], "n": 1, "temperature": 0.0})
    assert one == two
    assert fingerprint(one) == fingerprint(two)
    assert len(fingerprint(one)) == 16


def test_different_programs_have_different_fingerprints() -> None:
    """If this failed, a caller would get another program's answer."""
    signature = parse("q -> a")
    described = msgspec.structs.replace(signature, inputs=(Field("q", "str", "the question"),))
    specs = [
        ProgramSpec("dspy.Predict", signature),
        ProgramSpec("dspy.ChainOfThought", signature),
        ProgramSpec("dspy.Predict", parse("q, a -> b")),
        ProgramSpec("dspy.Predict", parse("q -> a, b")),
        ProgramSpec("dspy.Predict", parse("q: int -> a")),
        ProgramSpec("dspy.Predict", parse("q: Literal[1] -> a")),
        ProgramSpec("dspy.Predict", parse("q: Literal[True] -> a")),
        ProgramSpec("dspy.Predict", parse("q: Literal['1'] -> a")),
        ProgramSpec("dspy.Predict", described),
        ProgramSpec("dspy.Predict", signature.with_instructions("x")),
        *(ProgramSpec("dspy.Predict", signature, {"x": value}) for value in (1, 1.0, True, "1", [1], None)),
        ProgramSpec("dspy.Predict", signature, {"y": 1}),
    ]
    assert len({fingerprint(each) for each in specs}) == len(specs)


FINGERPRINT = """
from dspex.program import spec
from dspex.program.fingerprint import fingerprint
made = spec.make("ChainOfThought", "q: Literal['é', \\"it's\\"] | None, d: date -> a: dict[str, float]",
                 {"temperature": 1, "seed": 3, "stop": ["x"], "n": 2})
print(fingerprint(made).hex())
"""


@pytest.mark.parametrize("seed", ["0", "1"])
def test_a_fingerprint_is_the_same_in_every_process(seed: str) -> None:
    """If this failed, a program stored yesterday or by another Python version would not be recognized."""
    ran = subprocess.run(
        [sys.executable, "-c", FINGERPRINT],
        env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == "956c238817d34c12e660026949eaded1"


def test_nothing_heavy_is_imported() -> None:
    """If this failed, the caller's process would load DSPy, pydantic or asyncio to check a signature."""
    rooms = ["catalogue", "fieldtypes", "fingerprint", "options", "prompt", "scan", "signature", "spec"]
    imports = "; ".join(f"import dspex.program.{room}" for room in rooms)
    heavy = "{'dspy', 'pydantic', 'asyncio', 'litellm'} & set(sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", f"{imports}; import sys; print({heavy})"],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == "set()"
