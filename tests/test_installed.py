"""The table of modules beside the DSPy that is installed."""

from __future__ import annotations

import dspy
import msgspec
import pytest

import dspex
from dspex.program.entries import MODULES
from dspex.program.installed import Catalogue, Installed, merged
from dspex.wire.messages import NOTHING
from dspex.worker.build import can_build
from dspex.worker.installed import installed, look_at

pytestmark = pytest.mark.filterwarnings("ignore")
# What DSPy's constructor does not take, because dspex makes it or the call brings it.
OURS = {"signature", "tools", "interpreter_factory", "module", "reward_fn", "verbose", "sub_lm", "callbacks"}


@pytest.mark.parametrize("name", MODULES)
def test_the_table_agrees_with_dspy(name: str) -> None:
    """If this failed, an option would be taken that DSPy lacks, or another default be shown than holds."""
    entry, found = MODULES[name], look_at(getattr(dspy, name.removeprefix("dspy.")))
    parameters = {each.name: each for each in found.parameters}
    for option in entry.own.values():
        parameter = parameters[option.parameter or option.name]
        if not parameter.required:
            assert option.default == parameter.default, option.name
    assert entry.takes_generation == found.takes_any
    assert entry.status == found.status
    taken = {option.parameter or option.name for option in entry.own.values()}
    left = {name for name in parameters if name not in taken} - OURS
    assert left <= {"rationale_field", "rationale_field_type"}, "DSPy has an option that the table lacks"


def test_workers_tell_what_they_have() -> None:
    """If this failed, what a worker cannot build would be tried, and fail there with a KeyError."""
    found = installed()
    assert found.dspy == dspy.__version__
    assert list(found.modules) == [name for name in MODULES if can_build(name)]
    assert found.modules["dspy.Predict"].awaits
    assert not found.modules["dspy.BestOfN"].awaits


def test_what_this_dspy_lacks_is_refused() -> None:
    """If this failed, a module of another DSPy would fail in a worker, or not be told apart from a slip."""
    every = installed()
    fewer = Installed("3.9", {name: f for name, f in every.modules.items() if name != "dspy.BestOfN"})
    catalogue = Catalogue()
    assert dict(catalogue.modules) == dict(MODULES)
    catalogue.learn(NOTHING)
    catalogue.require(MODULES["dspy.BestOfN"])  # before a worker has told, the table holds
    catalogue.learn(msgspec.Raw(msgspec.msgpack.encode(fewer)))
    assert list(catalogue.modules) == list(fewer.modules)
    with pytest.raises(dspex.ModuleNotFound, match=r"DSPy 3.9 lacks dspy.BestOfN; it has dspy.Predict, "):
        catalogue.require(MODULES["dspy.BestOfN"])


def test_defaults_are_those_of_the_installed_dspy() -> None:
    """If this failed, another DSPy's default would hold than the one that is shown."""
    found = installed().modules["dspy.MultiChainComparison"]
    parameters = [msgspec.structs.replace(p, default=7) if p.name == "M" else p for p in found.parameters]
    other = msgspec.structs.replace(found, parameters=tuple(parameters))
    entry = MODULES["dspy.MultiChainComparison"]
    assert merged(entry, found).own == entry.own
    assert merged(entry, other).own["M"].default == 7


def test_a_runtime_says_what_it_can_do() -> None:
    """If this failed, a caller would have to try what there is, or be promised what there is not."""
    before = dspex.DSPyAdapter().capabilities()
    assert list(before.modules) == list(MODULES)
    with dspex.Runtime(pools={"general": dspex.PoolOptions(workers=1)}) as runtime:
        now = runtime.adapter().capabilities()
    assert list(now.modules) == list(installed().modules)
    assert now.modules == {name: before.modules[name] for name in now.modules}
    assert (now.streaming, now.batch, now.structured_output, now.tools) == (True, True, True, True)
    assert set(now.sandbox) <= {"monty", "deno"}
