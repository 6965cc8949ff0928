"""Arguments, file and environment: which of them holds, and where a value came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as options
from hypothesis import strategies as st

from dspex.errors import InvalidOption
from dspex.settings import PoolOptions, Settings
from dspex.settings.environment import variable
from dspex.settings.options import RuntimeOptions
from dspex.types import Retry
from tests.settings_files import folder, refused, write

__all__ = ["folder"]  # a fixture, which each test of this file has


# Which one holds


@given(st.lists(st.sampled_from(["argument", "file", "environment"]), unique=True))
@options(deadline=None, suppress_health_check=list(HealthCheck))
def test_the_strongest_place_holds(places: list[str]) -> None:
    """A value would come from another place than the documentation says."""
    arguments: dict[str, Any] = {}
    if "argument" in places:
        arguments = {
            "max_payload": 3001,
            "lms": {"a": {"model": "openai/argument"}},
            "pools": {"b": {"slots": 31}},
        }
    lines = (
        ['max_payload = 3002\nlm.a.model = "openai/file"\npool.b.slots = 32\n'] if "file" in places else [""]
    )
    write(lines[0])
    with pytest.MonkeyPatch.context() as patch:
        if "environment" in places:
            patch.setenv("DSPEX_MAX_PAYLOAD", "3003")
            patch.setenv("DSPEX_LM__A__MODEL", "openai/environment")
            patch.setenv("DSPEX_POOL__B__SLOTS", "33")
        settings = Settings(**arguments)
    order = ["argument", "file", "environment"]
    winner = next((place for place in order if place in places), None)
    sources = settings.sources()
    if winner is None:
        assert (settings.max_payload, settings.lms, settings.pools) == (512 * 1024 * 1024, {}, {})
        assert sources["max_payload"].origin == "default"
        return
    number = order.index(winner) + 1
    assert settings.max_payload == 3000 + number
    assert settings.lms["a"]["model"] == f"openai/{winner}"
    assert settings.pools["b"] == PoolOptions(slots=30 + number)
    names = [("max_payload", 1), ("lm.a.model", 2), ("pool.b.slots", 3)]
    for name, line in names:
        where = {"argument": "argument", "file": f"dspex.toml:{line}"}.get(winner)
        assert sources[name].origin == (where or variable(tuple(name.split("."))))


def test_each_option_of_a_table_has_its_own_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable for one option of a pool would undo what the file says of the others."""
    write("[pool.a]\nslots = 2\n[lm.b]\nmodel = 'openai/x'\n[lm.b.retry]\nattempts = 5\n")
    monkeypatch.setenv("DSPEX_POOL__A__GRACE", "2.5")
    monkeypatch.setenv("DSPEX_LM__B__RETRY__WAIT", "0.25")
    settings = Settings(pools={"a": {"max_queue": 7}}, lms={"b": {"temperature": 0.0}})
    assert settings.pools == {"a": PoolOptions(slots=2, grace=2.5, max_queue=7)}
    assert settings.lms == {
        "b": {"model": "openai/x", "retry": {"wait": 0.25, "attempts": 5}, "temperature": 0.0}
    }


def test_pool_options_are_taken_as_a_whole() -> None:
    """What a caller wrote as a whole value would be changed by a file that he does not know of."""
    write("[pool.a]\nslots = 2\nworkers = 3\n")
    given_whole = PoolOptions(slots=5)
    assert Settings(pools={"a": given_whole}).pools["a"] == given_whole
    assert Settings(lms={"b": {"model": "openai/x", "retry": Retry(attempts=9)}}).lms["b"]["retry"] == {
        "attempts": 9,
        "wait": 0.5,
        "max_wait": 30.0,
    }


def test_zero_false_and_nothing_hold() -> None:
    """`x or default` would eat what somebody wrote."""
    write(
        "default_lm = 'openai/x'\nallow_modules = ['a']\n"
        "[pool.a]\nmax_queue = 0\ngrace = 0\nmax_reruns = 0\nqueue_timeout = 0\n"
        "[lm.b]\nmodel = 'openai/x'\nschema = false\ntemperature = 0\n"
    )
    pool = Settings().pools["a"]
    assert (pool.max_queue, pool.grace, pool.max_reruns, pool.queue_timeout) == (0, 0, 0, 0)
    assert Settings().lms["b"]["schema"] is False
    assert Settings().lms["b"]["temperature"] == 0
    settings = Settings(default_lm=None, allow_modules=[], pools={"a": {"queue_timeout": None}})
    assert (settings.default_lm, settings.allow_modules) == (None, ())
    assert settings.pools["a"].queue_timeout is None
    assert settings.sources()["default_lm"].origin == "argument"


def test_the_pools_of_a_runtime() -> None:
    """A pool of the file could not be changed in one thing, replaced, or left out."""
    write("[pool.a]\nslots = 2\n[pool.b]\nslots = 3\n[pool.c]\nslots = 4\n[pool.d]\nslots = 5\n")
    defaults = {"a": PoolOptions(workers=7), "z": PoolOptions(workers=8)}
    found = Settings().pools_over(
        defaults, {"b": {"workers": 1}, "c": PoolOptions(workers=2), "d": None, "e": PoolOptions()}
    )
    assert found == {
        "a": PoolOptions(workers=7, slots=2),
        "z": PoolOptions(workers=8),
        "b": PoolOptions(workers=1, slots=3),
        "c": PoolOptions(workers=2),
        "e": PoolOptions(),
    }
    assert Settings().pools_over(defaults, {"a": None, "z": None})["a"] == PoolOptions(workers=7)
    wrong: Any
    for wrong in ({"a": {"slot": 1}}, {"a": {"slots": 0}}, {"a": 5}, ["a"], {"a": "general"}):
        with pytest.raises(InvalidOption):
            Settings().pools_over(defaults, wrong)


def test_reading_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process would have to be restarted for each change, or would lose what its code says."""
    write("max_payload = 2048\nmax_result = 2048\n")
    first = Settings(max_result=4096, allow_modules=iter(["shop"]), pools={"a": {"slots": 2}})
    write("max_payload = 8192\nmax_result = 8192\n[pool.a]\ngrace = 1\n")
    monkeypatch.setenv("DSPEX_LM", "openai/x")
    again = first.reloaded()
    assert (again.max_payload, again.max_result, again.allow_modules) == (8192, 4096, ("shop",))
    assert (again.default_lm, again.pools["a"]) == ("openai/x", PoolOptions(slots=2, grace=1))
    assert (first.max_payload, first.default_lm) == (2048, None)
    assert Settings(file=False, max_result=4096).reloaded().file is None
    write("what = 1")
    with pytest.raises(InvalidOption):
        again.reloaded()


WRONG_ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"lms": ["a"]}, "lms has to be a table of options by name, not list"),
    ({"pools": None}, "pools has to be a table of options by name, not NoneType"),
    ({"lms": {"a": "openai/x"}}, "lm.a has to be a table of options by name, not str"),
    ({"lms": {"a": {"model": 5}}}, "lm.a.model has to be text, not 5"),
    ({"lms": {"a": {}}}, "lm.a: a profile needs a model, as in model = 'openai/gpt-5-mini'"),
    ({"lms": {"a": {"modle": "x/y"}}}, "[lm.a] has no option 'modle'; did you mean 'model'?"),
    ({"pools": {"a": {"slots": 0}}}, "pool.a.slots has to be a whole number of at least 1, not 0"),
    ({"pools": {"a": {"slots": "4"}}}, "pool.a.slots has to be a whole number, not '4'"),
    ({"pools": {"a": {"slotz": 4}}}, "[pool.a] has no option 'slotz'; did you mean 'slots'?"),
    ({"max_payload": 5}, "Settings.max_payload has to be a whole number of at least 1024, not 5"),
    ({"default_lm": ""}, "Settings.default_lm has to be text, not ''"),
]


@pytest.mark.parametrize(("keywords", "message"), WRONG_ARGUMENTS)
def test_wrong_arguments(keywords: dict[str, Any], message: str) -> None:
    """What code says would be checked less than what a file says."""
    assert refused(**keywords).message == message


# Where it came from


def test_sources_and_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """`dspex doctor` could not tell why a value is what it is."""
    write('max_payload = 2048\n[lm."gpt-5.1"]\nmodel = "openai/x"\n[pool.a]\nslots = 2\n')
    monkeypatch.setenv("DSPEX_LM", "local")
    settings = Settings(allow_modules=["shop"])
    sources = settings.sources()
    assert list(sources) == [
        *RuntimeOptions.__struct_fields__,
        'lm."gpt-5.1".model',
        *(f"pool.a.{name}" for name in PoolOptions.__struct_fields__),
    ]
    assert sources["default_lm"] == ("local", "DSPEX_LM")
    assert sources["allow_modules"] == (("shop",), "argument")
    assert sources["max_payload"] == (2048, "dspex.toml:1")
    assert sources['lm."gpt-5.1".model'] == ("openai/x", "dspex.toml:3")
    assert sources["pool.a.slots"] == (2, "dspex.toml:5")
    assert sources["pool.a.grace"] == (0.5, "default")
    places = {
        "default_lm": "DSPEX_LM",
        'lm."gpt-5.1".model': "dspex.toml:3",
        'lm."gpt-5.1".timeout': "dspex.toml:2",
        'lm."gpt-5.1"': "dspex.toml:2",
        "pool.a.slots": "dspex.toml:5",
        "allow_modules": None,
        "max_result": None,
        "pool_of_mine": None,
        "lm.other.model": None,
    }
    assert {name: settings.place(name) for name in places} == places


def test_settings_are_values() -> None:
    """Two runtimes of the same settings could not be told to be alike."""
    write("max_payload = 2048\n")
    one = Settings()
    assert one == Settings(max_payload=2048, file=False)
    assert one != Settings(file=False)
    assert hash(one) == hash(Settings())
    with pytest.raises(AttributeError):
        one.max_payload = 1  # type: ignore[misc]
    changed: Any = Settings(lms={"a": {"model": "openai/x"}}).lms
    with pytest.raises(TypeError):
        changed["a"]["model"] = "openai/y"


def test_to_dict_is_json_ready_and_has_the_form_of_a_file() -> None:
    """What is shown could not be logged, or would be no example to copy."""
    write(
        "allow_modules = ['shop']\n[lm.a]\nmodel = 'openai/x'\nsince = 1979-05-27\n"
        "[pool.b]\npreload = ['m']\n"
    )
    shown = Settings().to_dict()
    assert json.loads(json.dumps(shown)) == shown
    assert shown["allow_modules"] == ["shop"]
    assert shown["lm"] == {"a": {"model": "openai/x", "since": "1979-05-27"}}
    assert shown["pool"]["b"]["preload"] == ["m"]


def test_the_example_loads() -> None:
    """The first file that anybody copies would be refused."""
    example = Path(__file__).parents[1] / "examples" / "settings" / "dspex.toml"
    settings = Settings(file=example)
    assert list(settings.lms) == ["fast", "careful", "house"]
    assert settings.pools["general"].preload == ("shop.logs",)
    assert settings.ignored == ()
