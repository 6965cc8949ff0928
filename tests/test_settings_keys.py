"""Secrets in settings: which are refused in a file, and what is never shown."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest

from dspex.lm.profile import LM
from dspex.lm.providers import PROVIDERS
from dspex.settings import Settings
from dspex.settings.secrets import CREDENTIALS
from dspex.settings.shape import CONNECTION
from tests.settings_files import folder, refused, write

__all__ = ["folder"]  # a fixture, which each test of this file has

CANARY = "sk-canary-7d1f"


def everything_shown(settings: Settings) -> str:
    return f"{settings!r} {settings} {settings.to_dict()} {settings.sources()}"


def test_a_reference_is_shown_and_a_key_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key would reach a log or the output of `dspex doctor`."""
    monkeypatch.setenv("DSPEX_LM__C__API_KEY", CANARY)
    write('[lm.a]\nmodel = "openai/x"\napi_key = "env:SHOP_KEY"\n')
    settings = Settings(
        lms={
            "b": {
                "model": "openai/x",
                "api_key": CANARY,
                "base_url": f"https://zoe:{CANARY}@example.com/v1",
                "extra_headers": {"Authorization": CANARY},
                "extra_body": {"access_token": CANARY, "deep": [{"client_secret": CANARY}]},
                "max_tokens": 7,
            },
            "c": {"model": "openai/x"},
            "d": {"model": "openai/x", "api_key": lambda: CANARY},
        }
    )
    shown = everything_shown(settings)
    assert CANARY not in shown
    sources = settings.sources()
    assert sources["lm.a.api_key"] == ("env:SHOP_KEY", "dspex.toml:3")
    assert sources["lm.b.api_key"] == ("***", "argument")
    assert sources["lm.c.api_key"] == ("***", "DSPEX_LM__C__API_KEY")
    assert sources["lm.d.api_key"] == ("***", "argument")
    assert sources["lm.b.base_url"].value == "https://***@example.com/v1"
    assert sources["lm.b.max_tokens"].value == 7
    assert settings.lms["b"]["api_key"] == settings.lms["c"]["api_key"] == CANARY, "they are there to be used"


@pytest.mark.parametrize(
    "options",
    [
        *(
            {"extra_body": {name: CANARY}}
            for name in (
                "apikey",
                "apiKey",
                "subscriptionKey",
                "accessToken",
                "auth",
                "bearer",
                "code",
                "sig",
            )
        ),
        {"extra_query": {"anything": CANARY}},
        {"extra_headers": {"anything": CANARY}},
        {"base_url": f"https://h/v1?key={CANARY}"},
        {"mirrors": [f"https://zoe:{CANARY}@h/v1?page=1&key={CANARY}"]},
    ],
)
def test_a_key_by_any_name_is_not_shown(options: dict[str, Any]) -> None:
    """The key of a gateway that calls it otherwise would be in the output of `dspex doctor`."""
    shown = everything_shown(Settings(lms={"a": {"model": "openai/x", "max_tokens": 7, **options}}))
    assert CANARY not in shown
    assert "7" in shown


@pytest.mark.parametrize(
    "line",
    [
        f'api_key = "{CANARY}"',
        f'api_key = ["{CANARY}"]',
        f'api_key = {{ value = "{CANARY}" }}',
        f'apikey = "{CANARY}"',
        f'"api-key" = "{CANARY}"',
        f"""api_key = '''
{CANARY}'''""",
        f'api_key = "{CANARY}',
        f"api_key = {CANARY}",
        f'base_url = ["https://zoe:{CANARY}@x/v1"]',
        f'[lm]\napi_key = "{CANARY}"',
        f'[[lm.b]]\napi_key = "{CANARY}"',
        f'[lm.b]\nretry = ["{CANARY}"]',
        f'[tool]\napi_key = "{CANARY}"',
        f'[pool.general]\napi_key = "{CANARY}"',
    ],
)
def test_a_key_in_a_file_is_refused_and_not_repeated(line: str, caplog: pytest.LogCaptureFixture) -> None:
    """A key would be committed with the file, or be copied from an error into a bug report."""
    caplog.set_level(logging.DEBUG)
    write(f'[lm.a]\nmodel = "openai/x"\n{line}\n')
    error = refused()
    assert error.details["line"] >= 3
    assert CANARY not in f"{error} {error!r} {error.to_wire()} {error.__cause__!r} {caplog.text}"


def test_a_key_in_the_wrong_argument_is_not_repeated() -> None:
    """A key would be copied from a traceback."""
    wrong: Any
    for wrong in (
        [{"api_key": CANARY}],
        CANARY,
        {"api_key": CANARY},
        {"a": [CANARY]},
        {"a": {"api_key": [CANARY]}},
    ):
        error = refused(lms=wrong)
        assert CANARY not in f"{error} {error.to_wire()}"


def test_who_wrote_a_key_is_told_how_to_refer_to_it() -> None:
    """He would know only that it is wrong."""
    write(f'[lm.a]\nmodel = "openai/x"\napi_key = "{CANARY}"\n')
    error = refused()
    assert error.message.startswith("dspex.toml:3: lm.a.api_key holds a key")
    assert "env:OPENAI_API_KEY" in error.message
    assert error.details["option"] == "lm.a.api_key"


@pytest.mark.parametrize(
    ("line", "option"),
    [
        (f'api_key = "keyring:{CANARY}"', "api_key"),
        (f'aws_secret_access_key = "{CANARY}"', "aws_secret_access_key"),
        (f'aws_session_token = "{CANARY}"', "aws_session_token"),
        (f"""vertex_credentials = '{{"private_key": "{CANARY}"}}'""", "vertex_credentials"),
        (f'extra_headers = {{ Authorization = "Bearer {CANARY}" }}', "extra_headers.Authorization"),
        (f'extra_headers.x-api-key = "{CANARY}"', "extra_headers.x-api-key"),
        (f'extra_query = {{ subscriptionKey = "{CANARY}" }}', "extra_query.subscriptionKey"),
    ],
)
def test_a_credential_of_any_kind_in_a_file_is_refused(line: str, option: str) -> None:
    """The secret of a cloud or of a gateway would be committed, while the key of a provider is not."""
    write(f'[lm.a]\nmodel = "openai/x"\n{line}\n')
    error = refused()
    assert error.message.startswith(f"dspex.toml:3: lm.a.{option} holds a key")
    assert "'env:" in error.message
    assert error.details["option"] == f"lm.a.{option}"
    assert CANARY not in str(error.to_wire())


def test_what_refers_to_a_credential_or_is_none_may_be_in_a_file() -> None:
    """A profile of a cloud or of a gateway could not be written down at all."""
    text = """
        [lm.a]
        model = "vertex/x"
        vertex_credentials = "/run/secrets/google.json"
        credentials = "ambient"
        prompt_cache_key = "shop"
        extra_headers = { Authorization = "env:GATEWAY", x-title = "shop", x-portkey-provider = "openai" }
        [lm.b]
        model = "openai/x"
        api_key = "keyring:openai/shop"
        """
    write(text)
    assert Settings().lms["b"]["api_key"] == "keyring:openai/shop"


def test_the_form_of_a_reference_that_is_told_is_one() -> None:
    """Who follows the advice would be refused again."""
    write(f'[lm.a]\nmodel = "openai/x"\napi_key = "{CANARY}"\n')
    told = re.findall(r"'((?:env|file|keyring):.+?)'", refused().message)
    assert [kind.partition(":")[0] for kind in told] == ["env", "file", "keyring"]
    for reference in told:
        write(f'[lm.a]\nmodel = "openai/x"\napi_key = "{reference}"\n')
        assert LM(**Settings().lms["a"]).api_key == reference


def test_every_option_of_a_connection_and_every_secret_is_known_here() -> None:
    """A provider's new option would be read as JSON, or its secret be accepted in a file."""
    options = {option for row in PROVIDERS.values() for option in row.options}
    assert set(CONNECTION) == {option.name for option in options} | {"credentials"}
    assert {option.name for option in options if option.secret} | {"api_key"} == CREDENTIALS
