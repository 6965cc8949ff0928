"""Variables: each option has one, and what only looks like one is no error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as options
from hypothesis import strategies as st

from dspex.errors import InvalidOption
from dspex.settings import PoolOptions, Settings
from dspex.settings.environment import variable
from dspex.settings.options import LMOptions, RuntimeOptions
from dspex.settings.shape import ROOT, Table
from dspex.types import Breaker, Budget, Retry
from tests.settings_files import folder, refused, write

__all__ = ["folder"]  # a fixture, which each test of this file has

CANARY = "sk-canary-7d1f"


def kinds() -> list[tuple[tuple[str, ...], str]]:
    """Every option, and what it takes."""
    found = []

    def walk(table: Table, path: tuple[str, ...]) -> None:
        for name, kind in table.keys.items():
            if isinstance(kind, Table):
                walk(kind, (*path, name))
            else:
                found.append(((*path, name), kind.wants))
        if isinstance(table.others, Table):
            walk(table.others, (*path, "some"))

    walk(ROOT, ())
    return found


SAMPLES: dict[str, tuple[str, Any]] = {
    "text": ("env:X", "env:X"),
    "a whole number": ("33554432", 33_554_432),
    "a number": ("0.5", 0.5),
    "true or false": ("false", False),
    "a list of names": ("a, b.c,", ("a", "b.c")),
    "a list of modules, each a name or a table with module": ("Predict, ReAct", ["Predict", "ReAct"]),
    "text, or a table": ("a -> b", "a -> b"),
    "a table of options by name": ('{"n": 2}', {"n": 2}),
    "a list of tables": ('[{"a": 1}]', [{"a": 1}]),
    "a list of import paths": ("a.b:c, d:e", ["a.b:c", "d:e"]),
}
PARTICULAR: dict[str, tuple[str, Any]] = {
    "module": ("dspy.Predict", "dspy.Predict"),
    "isolation": ("call", "call"),
    "log": ("json", "json"),
    "max_rss": ("4194304", 4194304),
}


@pytest.mark.parametrize(("path", "wants"), kinds())
def test_each_option_has_its_variable(
    monkeypatch: pytest.MonkeyPatch, path: tuple[str, ...], wants: str
) -> None:
    """A documented variable would do nothing."""
    text, value = PARTICULAR.get(path[-1]) or SAMPLES[wants]
    monkeypatch.setenv("DSPEX_LM__SOME__MODEL", "openai/x")
    monkeypatch.setenv("DSPEX_PROGRAM__SOME__SIGNATURE", "question -> answer")
    monkeypatch.setenv(variable(path), text)
    settings = Settings()
    assert settings.ignored == ()
    assert settings.sources()[".".join(path)].origin == variable(path)
    tables: Any = {
        "lm": settings.lms,
        "pool": settings.pools,
        "program": settings.programs,
        "budgets": settings.budgets,
        "tenant_budgets": settings.tenant_budgets,
    }
    found: Any = tables.get(path[0], settings)
    for name in path[1:] or path:
        found = found[name] if isinstance(found, Mapping) else getattr(found, name)
    assert found == value


def test_no_option_is_without_a_kind() -> None:
    """An option that is added to a class would be missing in file and environment."""
    known = {path[-1] for path, _ in kinds()}
    for struct in (RuntimeOptions, LMOptions, PoolOptions, Retry, Breaker, Budget):
        assert {field.name for field in msgspec.structs.fields(struct)} <= known


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("DSPEX_MAX_PAYLOAD", "1 MB", "max_payload has to be a whole number, not '1 MB'"),
        ("DSPEX_MAX_PAYLOAD", "5", "max_payload has to be a whole number of at least 1024, not 5"),
        ("DSPEX_POOL__A__WORKERS", "0", "pool.a.workers has to be a whole number of at least 1, not 0"),
        ("DSPEX_POOL__A__GRACE", "nan", "pool.a.grace has to be a number of seconds, not nan"),
        ("DSPEX_LM__A__SCHEMA", "maybe", "lm.a.schema has to be true or false, not 'maybe'"),
        ("DSPEX_LM__A__TEMPERATURE", "0", "lm.a: a profile needs a model"),
    ],
)
def test_a_wrong_value_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, says: str
) -> None:
    """Who deploys would have to guess which of his variables is meant."""
    monkeypatch.setenv(name, text)
    error = refused()
    assert error.message.startswith(f"{name}: {says}")
    assert error.details["variable"] == name
    assert "file" not in error.details


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("low", "low"),
        ("0.5", 0.5),
        ("true", True),
        ('["a"]', ["a"]),
        ('"5"', "5"),
        ("{x", "{x"),
        ("[" * 9999, ...),
    ],
)
def test_a_request_parameter_is_json_or_text(monkeypatch: pytest.MonkeyPatch, text: str, value: Any) -> None:
    """`seed` would be sent as text, or every word would need quotes."""
    monkeypatch.setenv("DSPEX_LM__A__MODEL", "openai/x")
    monkeypatch.setenv("DSPEX_LM__A__EFFORT", text)
    assert Settings().lms["a"]["effort"] == (text if value is ... else value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("VERTEX_PROJECT", "123456789012"),
        ("ORGANIZATION", "12345"),
        ("API_VERSION", "1"),
        ("PROJECT", "true"),
    ],
)
def test_an_option_of_the_connection_is_text(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    """A project that is named by its number could not be set by a variable."""
    monkeypatch.setenv("DSPEX_LM__A__MODEL", "openai/x")
    monkeypatch.setenv(f"DSPEX_LM__A__{name}", text)
    assert Settings().lms["a"][name.lower()] == text


def test_a_variable_belongs_to_the_name_that_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile whose name no variable can have could not get its key from the environment."""
    monkeypatch.setenv("DSPEX_LM__GPT_5_1__API_KEY", CANARY)
    monkeypatch.setenv("DSPEX_POOL__GENERAL__SLOTS", "3")
    write('[lm."GPT-5.1"]\nmodel = "openai/x"\n')
    assert Settings().lms == {"GPT-5.1": {"model": "openai/x", "api_key": CANARY}}
    assert list(Settings().pools) == ["general"]


KUBERNETES = [
    "DSPEX_SERVICE_HOST",
    "DSPEX_SERVICE_PORT",
    "DSPEX_SERVICE_PORT_HTTP",
    "DSPEX_PORT",
    "DSPEX_PORT_8080_TCP",
    "DSPEX_PORT_8080_TCP_PROTO",
    "DSPEX_PORT_8080_TCP_PORT",
    "DSPEX_PORT_8080_TCP_ADDR",
    "DSPEX_API_SERVICE_HOST",
    "DSPEX_LM_PORT_80_UDP_ADDR",
]


def test_the_variables_of_kubernetes_are_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A service called dspex would keep every pod of its namespace from starting, or fill its log."""
    for name in KUBERNETES:
        monkeypatch.setenv(name, "tcp://10.0.0.7:80")
    assert Settings().ignored == tuple(sorted(KUBERNETES))
    assert caplog.records == []


def test_an_unknown_variable_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A slip in a variable would go unnoticed, or be repeated with each runtime."""
    names = [
        "DSPEX_",
        "DSPEX_DEFAULT_LM",
        "DSPEX_LM__A",
        "DSPEX_LM__A__APIKEY",
        "DSPEX_LM____MODEL",
        "DSPEX_MAX_PAYLAOD",
        "DSPEX_POOL",
        "DSPEX_POOL__A__SLOTS__X",
        "DSPEX_POOL__A__WOKERS",
        "DSPEX_X__Y__Z",
        "DSPEX__",
    ]
    for name in names:
        monkeypatch.setenv(name, CANARY)
    assert Settings().ignored == tuple(sorted(names))
    assert Settings() == Settings(file=False)
    assert len(caplog.records) == len(names)
    assert "DSPEX_MAX_PAYLAOD sets no option of dspex; did you mean DSPEX_MAX_PAYLOAD?" in caplog.text
    assert CANARY not in caplog.text


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """`DSPEX_LM= dspex run …` would be an error, as would a template that was not filled in."""
    for path, _ in kinds():
        monkeypatch.setenv(variable(path), "")
    assert Settings() == Settings(file=False)
    assert Settings().lms == {}


@given(
    st.sampled_from([variable(path) for path, _ in kinds()]),
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12),
)
@options(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_text_in_a_variable_gives_any_other_error(name: str, text: str) -> None:
    """A variable with a strange text would end in a traceback."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSPEX_LM__SOME__MODEL", "openai/x")
        patch.setenv(name, text)
        try:
            Settings().sources()
        except InvalidOption as error:
            found = error.message
        else:
            found = name
    assert found.startswith(name)
