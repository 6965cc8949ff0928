"""The ``dspex`` command as a shell sees it: standard output, standard error, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dspex import Response, Timing, Usage
from dspex.cli.show import summary
from tests.processes import alive, descendants, until
from tests.provider import Provider, echo, fault, fields, hanging

SCRIPT = [sys.executable, "-c", "from dspex.cli import main; main()"]


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


@pytest.fixture
def environment() -> dict[str, str]:
    """A shell with a key in it."""
    return {**os.environ, "OPENAI_API_KEY": "canary-key-1234", "NO_COLOR": "1", "COLUMNS": "200"}


def lm(provider: Provider) -> tuple[str, ...]:
    """The options that make the provider of these tests answer."""
    return ("--lm", "openai/x", "--base-url", provider.base_url, "--api-key", "env:OPENAI_API_KEY")


def dspex(environment: dict[str, str], *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run(
        [*SCRIPT, *arguments],
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_answer_is_all_that_is_on_standard_output(
    provider: Provider, environment: dict[str, str]
) -> None:
    """If this failed, `answer=$(dspex run …)` in a script would get more than the answer."""
    provider.reply = lambda _: fields(answer="Paris")
    ran = dspex(environment, "run", "Predict", "question -> answer", "Capital?", *lm(provider))
    assert ran.stdout == "Paris\n"
    assert ran.returncode == 0
    assert "tokens" in ran.stderr
    assert "price unknown" in ran.stderr
    assert "x ·" in ran.stderr


def test_several_outputs_are_named(provider: Provider, environment: dict[str, str]) -> None:
    """If this failed, a reader could not tell the reasoning from the answer."""
    provider.reply = lambda _: fields(reasoning="As taught.", answer="Paris", score="0.5")
    ran = dspex(
        environment,
        "run",
        "ChainOfThought",
        "question -> answer, score: float",
        "?",
        *lm(provider),
    )
    assert ran.stdout == "reasoning: As taught.\nanswer: Paris\nscore: 0.5\n"


def test_a_program_of_the_settings(provider: Provider, environment: dict[str, str], tmp_path: Path) -> None:
    """If this failed, what a deployment names could not be tried from a shell."""
    (tmp_path / "dspex.toml").write_text(
        """
[program.triage]
signature = "ticket, customer -> team"
modules = ["ChainOfThought", {module = "Predict", signature = "team -> letter"}]
"""
    )
    provider.reply = lambda _: fields(reasoning="As taught.", team="billing", letter="Dear all.")
    settings = {**environment, "DSPEX_SETTINGS": str(tmp_path / "dspex.toml")}
    ran = dspex(settings, "run", "triage", "I was charged twice", "customer=Kim", *lm(provider))
    assert (ran.returncode, ran.stdout) == (0, "Dear all.\n"), ran.stderr
    ran = dspex(settings, "run", "triage", "one", "two", *lm(provider))
    assert ran.returncode == 2
    assert "only one of these can be the prompt" in ran.stderr
    ran = dspex(settings, "modules", "--json")
    assert json.loads(ran.stdout)[-1]["name"] == "triage"


def test_json(provider: Provider, environment: dict[str, str]) -> None:
    """If this failed, programs could not read what the command answers."""
    provider.reply = lambda _: fields(answer="Zoë ✓")
    ran = dspex(environment, "run", "Predict", "question -> answer", "?", "--json", *lm(provider))
    found = json.loads(ran.stdout)
    assert found["outputs"] == {"answer": "Zoë ✓"}
    assert found["usage"]["total_tokens"] > 0
    assert ran.stderr == ""


def test_inputs_by_name_and_prompt_from_a_pipe(provider: Provider, environment: dict[str, str]) -> None:
    """If this failed, long or structured inputs could not be given."""
    provider.reply = lambda _: echo()
    ran = dspex(environment, "run", "Predict", "text, n: int, tags: list[str] -> summary",
        "-", "n=3", 'tags=["a", "b"]', *lm(provider), stdin="a long = text\nof two lines",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    prompt = str(provider.requests[-1].body)
    assert "a long = text\\nof two lines" in prompt
    assert '["a", "b"]' in prompt


def test_a_prompt_may_contain_an_equals_sign(provider: Provider, environment: dict[str, str]) -> None:
    """If this failed, asking about `x=5` would be taken for an input."""
    provider.reply = lambda _: echo()
    ran = dspex(environment, "run", "Predict", "question -> answer", "x=5", *lm(provider))
    assert ran.stdout == "x=5\n", ran.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["Predikt", "q -> a", "x"], 2, "did you mean 'dspy.Predict'?"),
        (["Predict", "q -> ", "x"], 2, "invalid_signature"),
        (["Predict", "q -> a: os.system", "x"], 2, "os.system"),
        (["Predict", "q, r -> a", "x"], 2, "invalid_input"),
        (["Predict", "q -> a", "x", "y"], 2, "FIELD=VALUE"),
        (["Predict", "q -> a", "x", "--lm", "nope/x"], 2, "unknown_provider"),
        (["Predict", "q -> a", "x", "--lm", "gpt"], 2, "provider/name"),
        (["Predict", "n: int -> a", "n=many", "--lm", "openai/x"], 2, "int"),
        (["Predict"], 2, "signature"),
        (["Predict", "q -> a", "x", "--timeout", "-1"], 2, "timeout"),
        (["Predict", "q -> a", "x", "--lm", "openai/x", "--api-key", "sk-1234"], 2, "env:NAME"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(
    provider: Provider, environment: dict[str, str], arguments: list[str], code: int, says: str
) -> None:
    """If this failed, a script could not tell its own mistake from a failure of the model."""
    before = len(provider.requests)
    ran = dspex(environment, "run", *arguments)
    assert ran.returncode == code, ran.stderr
    assert ran.stdout == ""
    assert says in ran.stderr
    assert "Traceback" not in ran.stderr
    assert len(provider.requests) == before


def test_a_failed_call_is_exit_code_1(provider: Provider, environment: dict[str, str]) -> None:
    """If this failed, a script would take an error for an answer, or read a key in its log."""
    provider.reply = lambda _: fault(401, message="Incorrect API key provided: canary-key-1234")
    command = ("run", "Predict", "question -> answer", "?", *lm(provider))
    ran = dspex(environment, *command)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "lm_auth" in ran.stderr
    assert "canary" not in ran.stderr
    as_json = dspex(environment, *command, "--json")
    assert (as_json.returncode, as_json.stdout) == (1, "")
    error = json.loads(as_json.stderr)["error"]
    assert error["code"] == "lm_auth"
    assert "canary" not in as_json.stderr


def test_no_key_says_which_variable_to_set(environment: dict[str, str]) -> None:
    """If this failed, a new user would not know what is missing."""
    del environment["OPENAI_API_KEY"]
    ran = dspex(environment, "run", "Predict", "q -> a", "x", "--lm", "openai/x")
    assert ran.returncode == 1
    assert "OPENAI_API_KEY" in ran.stderr


def test_a_deadline_ends_the_command(provider: Provider, environment: dict[str, str]) -> None:
    """If this failed, a cron job would hang with its provider."""
    provider.reply = lambda _: hanging()
    ran = dspex(environment, "run", "Predict", "q -> a", "x", *lm(provider), "--timeout", "0.5")
    assert ran.returncode == 1
    assert "python_timeout" in ran.stderr


def test_ctrl_c_stops_at_once_and_leaves_nothing(provider: Provider, environment: dict[str, str]) -> None:
    """If this failed, an impatient user would leave workers and a paid request behind."""
    provider.reply = lambda _: hanging()
    process = subprocess.Popen(
        [*SCRIPT, "run", "Predict", "q -> a", "x", *lm(provider)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: provider.in_flight == 1, 30)
    family = descendants(process.pid)
    assert family
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 130, errors
    assert output == ""
    assert "Traceback" not in errors
    until(lambda: not any(alive(pid) for pid in family), 2.0)
    until(lambda: provider.in_flight == 0)


def test_the_lm_comes_from_the_environment(provider: Provider, environment: dict[str, str]) -> None:
    """If this failed, DSPEX_LM would be documented in vain."""
    provider.reply = lambda _: fields(answer="from the environment")
    environment["DSPEX_LM"] = "openai/from-env"
    base = ("--base-url", provider.base_url)
    ran = dspex(environment, "run", "Predict", "question -> answer", "?", *base)
    assert ran.stdout == "from the environment\n", ran.stderr
    assert provider.requests[-1].model == "from-env"


def test_help_and_version(environment: dict[str, str]) -> None:
    """If this failed, a user could not find out how the command is used."""

    def ask(*arguments: str) -> str:
        ran = subprocess.run(
            [*SCRIPT, *arguments], env=environment, capture_output=True, text=True, timeout=30, check=True
        )
        return ran.stdout

    assert "dspex run Predict" in ask("run", "--help")
    assert "list[str]" in ask("run", "-h"), "types are not eaten as markup"
    assert ask("--version").startswith("dspex 0.")


@pytest.mark.parametrize(("cost", "said"), [(None, "price unknown"), (0.0, "free"), (0.00125, "$0.001250")])
def test_the_price_is_told_or_that_it_is_not_known(
    cost: float | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """If this failed, an answer whose price nobody knows would look as if it had cost nothing."""
    answer = Response(
        {"answer": "yes"},
        completions=None,
        usage=Usage(1, 1),
        cost=cost,
        timing=Timing(0.0, 0.0, 0.0, 0.0, 0.0),
        attempts=1,
        requests=[],
        worker=1,
        request_id="r",
        model="m",
    )
    summary(answer)
    assert said in capsys.readouterr().err


def test_a_program_of_ones_own(provider: Provider, environment: dict[str, str]) -> None:
    """If this failed, a user could not try their own program without writing a script."""
    provider.reply = lambda _: echo()
    allowed = {**environment, "DSPEX_ALLOW_MODULES": "tests.programs"}
    ran = dspex(allowed, "run", "tests.programs:Router", "hello", "tone=short", "--json", *lm(provider))
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["outputs"] == {"team": "hello", "reply": "hello", "tone": "short"}
    ran = dspex(allowed, "run", "tests.programs:Typed", "number=3", 'tags=["a"]', "--json", *lm(provider))
    assert json.loads(ran.stdout)["outputs"]["tags"] == ["a"]
    ran = dspex(allowed, "run", "tests.programs:Rooter", "hello", *lm(provider))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "did you mean 'Router'?" in ran.stderr
    ran = dspex(environment, "run", "tests.programs:Router", "hello", *lm(provider))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "allow_modules" in ran.stderr
    assert dspex(environment, "run", "Predict", *lm(provider)).returncode == 2
