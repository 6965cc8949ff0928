"""``dspex chat`` at a terminal and through a pipe."""

from __future__ import annotations

import json
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import until
from tests.provider import Provider, Reply, Request, echo, fault, hanging
from tests.shell import SCRIPT, environment
from tests.terminals import Terminal


def reply(request: Request) -> Reply:
    said = request.prompt.user
    if "take for ever" in said.rpartition("## message ##")[2]:
        return hanging()
    if "fail" in said.rpartition("## message ##")[2]:
        return fault(401, message="Incorrect API key provided: canary-key")
    return echo()


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider(reply) as running:
        yield running


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """A home of its own, and a key."""
    return {"OPENAI_API_KEY": "canary-key", "XDG_DATA_HOME": str(tmp_path / "data"), "HOME": str(tmp_path)}


def chat(provider: Provider, *more: str) -> tuple[str, ...]:
    return (
        "chat",
        "--lm",
        "openai/x",
        "--base-url",
        provider.base_url,
        "--api-key",
        "env:OPENAI_API_KEY",
        *more,
    )


def piped(text: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SCRIPT, *arguments],
        env=environment(**variables),
        input=text,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_a_pipe_is_answered_line_by_line(provider: Provider, shell: dict[str, str], tmp_path: Path) -> None:
    """If this failed, a script would read something else than answers, or leave a database behind."""
    ran = piped("first\n\n/quit\nlast", *chat(provider), **shell)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "first\n/quit\nlast\n", "")
    assert "first" in str(provider.requests[-1].body)
    assert not (tmp_path / "data").exists()


def test_a_failed_line_of_a_pipe_is_exit_code_1(provider: Provider, shell: dict[str, str]) -> None:
    """If this failed, a script would not notice a failure, lose the other lines, or show a key."""
    ran = piped("fail\nfine\n", *chat(provider), **shell)
    assert (ran.returncode, ran.stdout) == (1, "fine\n")
    assert ran.stderr.startswith("lm_auth ")
    assert len(ran.stderr.splitlines()) == 1
    assert "canary-key" not in ran.stderr


def test_json_is_an_object_a_line(provider: Provider, shell: dict[str, str]) -> None:
    """If this failed, programs could not read answers, or tell them from errors."""
    ran = piped("fine\nfail\n", *chat(provider, "--json"), **shell)
    assert json.loads(ran.stdout)["outputs"] == {"reply": "fine"}
    assert json.loads(ran.stderr)["error"]["code"] == "lm_auth"


def test_a_conversation_at_a_terminal(provider: Provider, shell: dict[str, str], tmp_path: Path) -> None:
    """If this failed, one of the things that people do in a conversation would not work."""
    arguments = chat(provider, "--session", "work")
    with Terminal(*arguments, **shell) as terminal:
        at = terminal.shows("Ctrl-D leaves\r\n> ")
        terminal.type("my name is Ada\n")
        at = terminal.shows("tokens", since=at)
        at = terminal.shows("> ", since=at)
        terminal.type("take for ever\n")
        until(lambda: provider.in_flight == 1, 60)
        terminal.type("\x03")
        at = terminal.shows("stopped\r\n> ", since=at)
        until(lambda: provider.in_flight == 0, 60)
        terminal.type("fail\n")
        at = terminal.shows("lm_auth", since=at)
        at = terminal.shows("> ", since=at)
        terminal.type("/undo\n")
        at = terminal.shows("turn 3 is undone: fail\r\n> ", since=at)
        terminal.type("/cots\n")
        at = terminal.shows("no command /cots; did you mean /cost?\r\n> ", since=at)
        terminal.type("/cost\n")
        at = terminal.shows("3 turns (2 not answered)", since=at)
        at = terminal.shows("> ", since=at)
        saved = tmp_path / "talk.md"
        saved.write_text("mine")
        terminal.type(f"/save {saved}\n")
        at = terminal.shows("[y/N] ", since=at)
        terminal.type("n\n")
        at = terminal.shows("not saved\r\n> ", since=at)
        assert saved.read_text() == "mine"
        terminal.type(f"/save {saved}\n")
        at = terminal.shows("[y/N] ", since=at)
        terminal.type("y\n")
        at = terminal.shows("saved to", since=at)
        at = terminal.shows("> ", since=at)
        terminal.type(f"/save {tmp_path}/talk.json\n")
        at = terminal.shows("talk.json\r\n> ", since=at)
        terminal.type("\x1b[200~two\nlines\x1b[201~\n")
        at = terminal.shows("tokens", since=at)
        at = terminal.shows("> ", since=at)
        terminal.type("\x03")
        at = terminal.shows("to leave: Ctrl-C once more, Ctrl-D or /quit\r\n> ", since=at)
        terminal.type("\x04")
        assert terminal.ends() == 0
        assert "Traceback" not in terminal.seen
    text = saved.read_text()
    assert "**You:** my name is Ada" in text
    assert "*stopped*" in text
    told = json.loads((tmp_path / "talk.json").read_text())
    assert [turn["status"] for turn in told["turns"]] == ["ok", "cancelled"]
    assert stat.S_IMODE((tmp_path / "talk.json").stat().st_mode) == 0o600
    kept = tmp_path / "data" / "dspex" / "sessions.db"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700

    with Terminal(*arguments, **shell) as terminal:
        at = terminal.shows("> two\nlines".replace("\n", "\r\n"))
        at = terminal.shows("Ctrl-D leaves\r\n> ", since=at)
        terminal.type("who am I?\n")
        at = terminal.shows("tokens", since=at)
        at = terminal.shows("> ", since=at)
        assert "my name is Ada" in str(provider.requests[-1].body)
        terminal.type("\x03")
        at = terminal.shows("once more", since=at)
        at = terminal.shows("> ", since=at)
        terminal.type("\x03")
        assert terminal.ends() == 0
    assert "canary-key" not in kept.read_bytes().decode("latin-1")


def test_a_program_is_talked_to(provider: Provider, shell: dict[str, str], tmp_path: Path) -> None:
    """If this failed, an exported program could not be tried, or would be stored anew each time."""
    document = tmp_path / "p.json"
    document.write_text(
        json.dumps(
            {
                "dspex_program": 1,
                "name": "adds",
                "signature": "text, n: int -> answer",
                "stages": [{"module": "dspy.Predict"}],
            }
        )
    )
    for _ in range(2):
        ran = piped("hello\n3\n", *chat(provider, "--session", "p", "--program", str(document)), **shell)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout
    shown = piped("", "session", "show", "p", "--json", **shell)
    told = json.loads(shown.stdout)
    assert len(told["programs"]) == 1
    assert told["turns"][-1]["inputs"] == {"text": "hello", "n": 3}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--signature", "history: dspy.History -> reply"], "no input that could be typed"),
        (["--module", "Predikt"], "did you mean"),
        (["--program", "missing.json"], "missing.json"),
        (["--timeout", "-1"], "timeout"),
        (["--session", ""], "id"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(shell: dict[str, str], arguments: list[str], says: str) -> None:
    """If this failed, a mistake would show a traceback or begin a conversation that cannot go on."""
    ran = piped("x", "chat", "--lm", "openai/x", *arguments, **shell)
    assert ran.returncode == 2, ran.stderr
    assert ran.stdout == ""
    assert says in ran.stderr
    assert "Traceback" not in ran.stderr


def test_several_outputs_are_named(provider: Provider, shell: dict[str, str]) -> None:
    """If this failed, a module that gives more than a reply could not be talked to."""
    signature = "history: dspy.History, message -> reply, mood"
    ran = piped("hi", *chat(provider, "--signature", signature), **shell)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("reply: ")
    assert "\nmood: " in ran.stdout
