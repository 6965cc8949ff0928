"""Programs that are called again and again while their state is swapped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dspy
import pytest

import dspex
from tests import learners
from tests.processes import until
from tests.provider import Provider, Reply, Request, delayed, echo
from tests.test_user_states import learned
from tests.user_runtime import ALLOWED


@pytest.fixture(scope="module")
def serving() -> Iterator[tuple[Provider, dspex.Runtime]]:
    with (
        Provider() as provider,
        dspex.Runtime(
            lm=dspex.LM("openai/x", base_url=provider.base_url, retry=dspex.Retry(attempts=1)),
            pools={"general": dspex.PoolOptions(workers=2)},
            settings=dspex.Settings(allow_modules=ALLOWED),
        ) as runtime,
    ):
        yield provider, runtime


@pytest.fixture
def provider(serving: tuple[Provider, dspex.Runtime]) -> Provider:
    serving[0].reply = lambda _: echo()
    serving[0].requests.clear()
    return serving[0]


@pytest.fixture
def adapter(serving: tuple[Provider, dspex.Runtime], provider: Provider) -> dspex.DSPyAdapter:
    return serving[1].adapter(timeout=60)


def state(text: str) -> dict[str, Any]:
    return learned(learners.Pupil(), text)


def test_a_program_is_called_with_its_inputs(adapter: dspex.DSPyAdapter) -> None:
    """If this failed, a program could not be called like a function, or lose what it was made with."""
    program = adapter.program("tests.learners:Sized", arguments={"size": 3})
    got = program(question="x")
    assert (got.size, got.question, got.program_version, program.version) == (3, "x", 1, 1)
    assert program("y").question == "y"
    assert asyncio.run(program.acall("z")).question == "z"
    assert repr(program) == "LoadedProgram('tests.learners:Sized', version=1)"
    assert adapter.generate("x", module=learners.Sized, arguments={"size": 1}).program_version is None
    cot = adapter.program(dspy.ChainOfThought, signature="q, prompt -> a", temperature=0.5)
    assert cot(q="x", prompt="y").outputs.keys() == {"reasoning", "a"}


def test_a_state_is_swapped_and_taken_back(
    adapter: dspex.DSPyAdapter, tmp_path: Path, provider: Provider
) -> None:
    """If this failed, a service would have to be started again for each state, or could not go back."""
    file = tmp_path / "pupil.json"
    program = adapter.program(learners.Pupil, state=state("one"))
    assert program("x").told == ["one", "one"]
    module = learners.Pupil()
    module.load_state(state("two"))
    module.save(str(file))
    assert program.swap(file) == program.version == 2
    file.unlink()  # a version is what was read, wherever it came from
    assert (program("x").told[0], program("x").program_version) == ("two", 2)
    assert asyncio.run(program.aswap(state("three"))) == 3
    assert (program("x").told[0], program.version) == ("three", 3)
    assert program.rollback() == 2
    assert program("x").told[0] == "two"
    assert program.swap(None) == 4
    assert program("x").demos == 0
    assert [program.rollback(), program.rollback()] == [2, 1]
    assert (program("x").told[0], program.version) == ("one", 1)
    with pytest.raises(dspex.InvalidOption, match="no version before 1"):
        program.rollback()
    for number in range(12):
        program.swap(state(f"more {number}"))
    assert [program.rollback() for _ in range(7)][-1] == program.version == 9
    with pytest.raises(dspex.InvalidOption, match="no version before 9"):
        program.rollback()


def test_a_load_that_fails_leaves_the_old_state(adapter: dspex.DSPyAdapter, tmp_path: Path) -> None:
    """If this failed, a broken file would take a service down, or leave it with half of two states."""
    program = adapter.program(learners.Pupil, state=state("one"))
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    wrong = learned(learners.Class())
    for given in (broken, tmp_path / "absent.json", wrong, {"predict": 3}):
        with pytest.raises(dspex.InvalidOption):
            program.swap(given)
        with pytest.raises(dspex.InvalidOption):
            asyncio.run(program.aswap(given))
    assert (program.version, program("x").told[0]) == (1, "one")
    assert program.swap(state("two")) == 2


def test_a_program_that_cannot_be_is_known_at_once(adapter: dspex.DSPyAdapter, provider: Provider) -> None:
    """If this failed, a service would start well, and fail at its first call."""
    cases: list[tuple[type[dspex.DspexError], dict[str, Any], str]] = [
        (dspex.InvalidOption, {"module": "tests.learners:Sized"}, "needs 'size'"),
        (dspex.InvalidOption, {"module": learners.Pupil, "temprature": 1}, "no option 'temprature'"),
        (dspex.InvalidOption, {"module": learners.Pupil, "state": {"a": 1}}, "it lacks predict"),
        (dspex.InvalidOption, {"module": "Predict", "temprature": 1}, "did you mean 'temperature'"),
        (dspex.InvalidOption, {"module": "Predict", "inputs": {}}, "inputs is given to the program when"),
        (dspex.InvalidSignature, {"module": "Predict", "signature": "a"}, "->"),
        (dspex.PythonError, {"module": "tests.programs:BadConstructor"}, "nothing there"),
        (dspex.NotAllowed, {"module": "os:system"}, "allow_modules"),
        (dspex.InvalidOption, {"module": "Predict", "timeout": 0}, "timeout"),
    ]
    for kind, given, said in cases:
        with pytest.raises(kind, match=said):
            adapter.program(**given)
        with pytest.raises(kind, match=said):
            asyncio.run(adapter.aprogram(**given))
    assert provider.requests == []


def test_a_call_that_runs_ends_with_the_state_it_began_with(
    adapter: dspex.DSPyAdapter, provider: Provider
) -> None:
    """If this failed, a call would be asked by one state's words, and answered by another's."""
    program = adapter.program(learners.Pupil, state=state("one"))

    def reply(request: Request) -> Reply:
        return delayed(1.0, echo()) if "call-1" in str(request.body) else echo()

    provider.reply = reply
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(program, "call-1")
        until(lambda: len(provider.requests) == 1)
        program.swap(state("two"))
        assert (program("call-2").told, program("call-3").program_version) == (["two", "two"], 2)
        old = running.result(60)
    assert (old.told, old.program_version) == (["one", "one"], 1)


@pytest.mark.parametrize("name", ["Pupil", "Class"])
def test_each_call_under_load_runs_with_exactly_one_version(adapter: dspex.DSPyAdapter, name: str) -> None:
    """If this failed, calls in the moment of a swap would mix two states, or answer for another version."""
    kind = getattr(learners, name)
    texts = {number: f"version {number}" for number in range(1, 6)}
    program = adapter.program(kind, state=learned(kind(), texts[1]))
    got: list[dspex.Response] = []
    done = threading.Event()

    async def ask_on() -> None:
        while not done.is_set():
            got.extend(await asyncio.gather(*(program.acall("x") for _ in range(8))))

    asking = [threading.Thread(target=asyncio.run, args=(ask_on(),)) for _ in range(2)]
    for thread in asking:
        thread.start()
    try:
        for number in list(texts)[1:]:
            before = len(got)
            until(lambda before=before: len(got) > before)  # type: ignore[misc]
            assert program.swap(learned(kind(), texts[number])) == number
        before = len(got)
        until(lambda: len(got) >= before + 40)
    finally:
        done.set()
        for thread in asking:
            thread.join(60)
    for one in got:
        assert one.program_version is not None
        assert set(one.told) == {texts[one.program_version]}
    assert {one.program_version for one in got} >= {1, 5}


def test_swaps_at_once_are_versions_each(adapter: dspex.DSPyAdapter) -> None:
    """If this failed, two operators at once would have one number for two states."""
    program = adapter.program(learners.Pupil)
    with ThreadPoolExecutor(4) as threads:
        numbers = list(threads.map(lambda number: program.swap(state(f"{number}")), range(6)))
    assert sorted(numbers) == list(range(2, 8))
    told = {numbers[number]: f"{number}" for number in range(6)}
    for _ in range(6):
        assert program("x").told[0] == told[program.version]
        program.rollback()
    assert program.version == 1


def test_without_processes() -> None:
    """If this failed, users could not test a swap in milliseconds."""
    from dspex.testing import InProcessRuntime, ScriptedLM

    settings = dspex.Settings(file=False, default_lm=None, allow_modules=ALLOWED)
    with ScriptedLM([{"answer": "a"}] * 2) as model, InProcessRuntime(lm=model, settings=settings) as here:
        program = here.adapter().program(learners.Pupil, state=state("one"))
        assert program("x").told[0] == "one"
        program.swap(state("two"))
        assert program("x").told[0] == "two"


def test_on_the_runtimes_own_loop(provider: Provider) -> None:
    """If this failed, a program could not be used in a service that lives on one loop."""

    async def live() -> None:
        settings = dspex.Settings(allow_modules=ALLOWED)
        lm = dspex.LM("openai/x", base_url=provider.base_url)
        async with dspex.Runtime(lm=lm, pools={"general": {"workers": 1}}, settings=settings) as runtime:
            program = await runtime.adapter().aprogram(learners.Pupil, state=state("one"))
            assert (await program.acall("x")).told[0] == "one"
            assert await program.aswap(state("two")) == 2
            with pytest.raises(RuntimeError, match="aswap"):
                program.swap(None)
            with pytest.raises(RuntimeError, match="aprogram"):
                runtime.adapter().program(learners.Pupil)

    asyncio.run(live())
