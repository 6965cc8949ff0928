"""Settings at work: the models, pools and keys of a file in a runtime and on the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dspex
from tests.provider import Provider, fields
from tests.settings_files import folder, write

__all__ = ["folder"]  # a fixture, which each test of this file has

CANARY = "sk-canary-7d1f"
SCRIPT = [sys.executable, "-c", "from dspex.cli import main; main()"]


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider(lambda _: fields(response="Paris")) as running:
        yield running


def default(runtime: dspex.Runtime) -> dspex.LM:
    return runtime.core.models.find(None)


def test_a_file_is_all_that_a_runtime_needs(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written in a file would not reach the workers or the provider."""
    monkeypatch.setenv("SHOP_KEY", CANARY)
    write(
        f"""
        default_lm = "fast"
        [lm.fast]
        model = "openai/small"
        api_key = "env:SHOP_KEY"
        base_url = "{provider.base_url}"
        temperature = 0.25
        seed = 7
        [pool.general]
        workers = 2
        """
    )
    with dspex.Runtime() as runtime:
        response = runtime.adapter().generate("Capital of France?")
        assert len(runtime.stats().pools["general"].workers) == 2
    assert response.response == "Paris"
    request = provider.requests[-1]
    assert request.model == "small"
    assert (request.body["temperature"], request.body["seed"]) == (0.25, 7)
    assert CANARY in str(request.headers)


def test_which_lm_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls would go to another model than the one that was chosen, and be billed there."""
    monkeypatch.setenv("DSPEX_LM", "openai/environment")
    assert default(dspex.Runtime()).model == "openai/environment"
    write('default_lm = "a"\nlm.a.model = "openai/file"\n')
    assert default(dspex.Runtime()).model == "openai/file"
    settings = dspex.Settings(default_lm="openai/settings")
    assert default(dspex.Runtime(settings=settings)).model == "openai/settings"
    assert default(dspex.Runtime("openai/argument", settings=settings)).model == "openai/argument"
    assert default(dspex.Runtime("a")).model == "openai/file"
    with pytest.raises(dspex.LMNotConfigured):
        default(dspex.Runtime(settings=dspex.Settings(default_lm=None)))


def test_profiles_of_an_argument_are_over_those_of_the_settings() -> None:
    """Code could not change what a name means, or would lose the other names."""
    write('[lm]\na.model = "openai/file"\nb.model = "openai/other"\n')
    runtime = dspex.Runtime("a", lms={"a": "openai/argument"})
    assert default(runtime).model == "openai/argument"
    assert runtime.core.models.find("b").model == "openai/other"


def test_a_profile_is_the_lm_that_code_would_make() -> None:
    """An option of a file would mean something else than the same option in code."""
    write(
        """
        [lm.a]
        model = "openai/x"
        api_key = "env:SHOP_KEY"
        base_url = "http://127.0.0.1:8000/v1"
        temperature = 0.5
        max_tokens = 9
        timeout = 2.5
        adapter = "two_step"
        extraction_lm = "b"
        schema = true
        retry = { attempts = 7, wait = 0.125 }
        top_p = 0.5
        [lm.b]
        model = "anthropic/y"
        extraction_lm = "openai/z"
        """
    )
    second = dspex.LM("anthropic/y", extraction_lm=dspex.LM("openai/z"))
    assert dspex.Runtime().core.models.find("a") == dspex.LM(
        "openai/x",
        api_key="env:SHOP_KEY",
        base_url="http://127.0.0.1:8000/v1",
        temperature=0.5,
        max_tokens=9,
        timeout=2.5,
        adapter="two_step",
        extraction_lm=second,
        schema=True,
        retry=dspex.Retry(attempts=7, wait=0.125),
        top_p=0.5,
    )


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('model = "opnai/x"', 3, "lm.a.model: unknown provider 'opnai'; did you mean 'openai'?"),
        ('model = "gpt-5"', 3, "lm.a.model: did you mean 'openai/gpt-5'? a model is written"),
        ('model = "openai/x"\ntemperature = -1', 4, "lm.a.temperature has to be a number, not -1"),
        ('model = "openai/x"\ntimeout = 0', 4, "lm.a.timeout has to be a number of at least 0.001, not 0"),
        ('model = "openai/x"\nadapter = "yaml"', 4, "lm.a.adapter has to be one of auto, chat, json"),
        ('model = "openai/x"\nbase_url = "localhost"', 4, "lm.a.base_url has to be a URL such as"),
        ('model = "openai/x"\nretry = {wait = 1.0,attempts = 0}', 4, "lm.a.retry.attempts has to be a whole"),
        ('model = "openai/x"\n[lm.a.retry]\n\nwait = -1', 6, "lm.a.retry.wait has to be a number of seconds"),
        ('model = "openai/x"\nnum_retries = 3', 4, "lm.a.num_retries: LM does not take num_retries"),
        ('model = "openai/x"\nextraction_lm = "b"', 4, "lm.a.extraction_lm: a model is written"),
        (
            'model = "openai/x"\nextraction_lm = "a"',
            4,
            "lm.a.extraction_lm has to be another LM; a → a comes",
        ),
        (
            'model = "openai/x"\nextraction_lm = "b"\n[lm.b]\nmodel = "openai/x"\nextraction_lm = "a"',
            7,
            "lm.b.extraction_lm has to be another LM; a → b → a comes back to itself",
        ),
        (
            'model = "openai/x"\nextraction_lm = "b"\n[lm.b]\nmodel = "openai/x"\nmax_tokens = 0',
            7,
            "lm.b.max_tokens has to be a whole number of at least 1, not 0",
        ),
    ],
)
def test_what_only_an_lm_can_know_is_told_with_its_place_too(text: str, line: int, says: str) -> None:
    """A slip in a profile would be told without the place, or when the first call is paid for."""
    file = write(f"# The models.\n[lm.a]\n{text}\n")
    with pytest.raises((dspex.InvalidOption, dspex.UnknownProvider)) as error:
        dspex.Runtime()
    assert error.value.message.startswith(f"dspex.toml:{line}: {says}")
    assert (error.value.details["file"], error.value.details["line"]) == (str(file), line)


def test_a_default_that_there_is_not_is_told_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slip in the default would be looked for in the code."""
    write('\ndefault_lm = "fst"\nlm.fast.model = "openai/x"\n')
    with pytest.raises(
        dspex.InvalidOption, match=r"^dspex.toml:2: default_lm: no LM profile 'fst'; profiles: fast"
    ):
        dspex.Runtime()
    write("")
    monkeypatch.setenv("DSPEX_LM", "opnai/x")
    with pytest.raises(dspex.UnknownProvider, match=r"^DSPEX_LM: default_lm: unknown provider 'opnai'"):
        dspex.Runtime()
    monkeypatch.delenv("DSPEX_LM")
    with pytest.raises(dspex.UnknownProvider, match=r"^unknown provider 'opnai'"):
        dspex.Runtime(settings=dspex.Settings(default_lm="openai/x"), lms={"a": "opnai/x"})


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`dspex run Predict …` in the working directory."""
    return subprocess.run(
        [*SCRIPT, "run", "Predict", "question -> response", "Capital?", *arguments],
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_line_reads_the_file(provider: Provider) -> None:
    """A profile could not be used in a shell, or a shell could not choose another model."""
    table = f'base_url = "{provider.base_url}"\napi_key = "env:SHOP_KEY"\n'
    write(
        f'default_lm = "fast"\n[lm.fast]\nmodel = "openai/fast"\n{table}'
        f'[lm.slow]\nmodel = "openai/slow"\n{table}'
        # What one question does not need is not started.
        '[pool.batch]\npreload = ["no_such_module"]\n'
    )
    asked = []
    for arguments, environment in (
        ((), {}),
        ((), {"DSPEX_LM": "slow"}),
        (("--lm", "fast"), {"DSPEX_LM": "slow"}),
    ):
        ran = run(*arguments, SHOP_KEY=CANARY, **environment)
        assert ran.stdout == "Paris\n", ran.stderr
        asked.append(provider.requests[-1].model)
    assert asked == ["fast", "slow", "fast"]


def test_the_command_line_tells_what_is_wrong_in_the_file() -> None:
    """A slip in a file would be a traceback, or would look like a failure of the model."""
    write(f'[lm.fast]\nmodel = "openai/fast"\napi_key = "{CANARY}"\n')
    ran = run()
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "dspex.toml:3: lm.fast.api_key holds a key" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert CANARY not in ran.stderr
    write('[lm.fast]\nmodel = "openai/fast"\n')
    ran = run("--lm", "fast", "--base-url", "http://127.0.0.1:1/v1")
    assert ran.returncode == 2
    assert "'fast' is a profile with its own; name the model with --lm" in ran.stderr
    Path("dspex.toml").unlink()
    ran = run("--lm", "fast")
    assert ran.returncode == 2
    assert "no LM profile 'fast'; profiles: none" in ran.stderr


def test_a_pool_that_is_nearly_general_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    """A slip in the file would leave the pool that is meant with its defaults, and start another one."""
    write("[pool.genral]\nworkers = 3\n")
    dspex.Runtime()
    assert "'genral'" in caplog.text
    caplog.clear()
    write("[pool.general]\nworkers = 3\n[pool.mails]\nworkers = 1\n")
    dspex.Runtime()
    assert caplog.text == ""
