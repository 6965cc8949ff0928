"""``dspex run --stream`` and the answers of ``dspex chat``, at a terminal and through a pipe."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.processes import alive, descendants, until
from tests.provider import Provider, fields, paced
from tests.shell import SCRIPT, environment
from tests.shell import dspex as command
from tests.terminals import Terminal

_TEXT = "Zeile eins\nZeile zwei 日本語 😀 é\n\n  eingerückt\n- punkt"
_LINES = _TEXT.replace("\n", "\r\n")
# It renames the window, clears the screen, and goes back to overwrite.
_HOSTILE = "a\x1b]0;mine\x07b\x1b[2Jc\x08d\x7f\x9b1m\tend"
_SEEN = "a␛]0;mine␇b␛[2Jc␈d␡\ufffd1m"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


def asked(provider: Provider, *more: str, signature: str = "question -> answer") -> tuple[str, ...]:
    lm = ("--lm", "openai/x", "--base-url", provider.base_url)
    return ("run", "Predict", signature, "Why?", *lm, *more)


def shown(*arguments: str) -> tuple[int, str]:
    """What is left of it at a terminal, without colours and movements."""
    with Terminal(*arguments) as terminal:
        code = terminal.ends()
        assert "Traceback" not in terminal.seen
        return code, terminal.seen


def test_a_pipe_gets_what_it_gets_without_stream(provider: Provider) -> None:
    """If this failed, a script that streams would read something else than the answer."""
    provider.reply = lambda _: paced(fields(answer=_TEXT + _HOSTILE), cut=3)
    streamed = command(*asked(provider, "--stream"))
    assert (streamed.returncode, streamed.stdout) == (0, f"{_TEXT}{_HOSTILE}\n")
    assert len(streamed.stderr.splitlines()) == 1
    assert "Ctrl-C" not in streamed.stderr


def test_a_terminal_shows_lines_as_they_are(provider: Provider) -> None:
    """If this failed, each piece would stand on a line of its own, or be wiped away by what spins."""
    provider.reply = lambda _: paced(fields(answer=_TEXT, mood="gut"), cut=4, pause=0.01)
    code, seen = shown(*asked(provider, "--stream", signature="question -> answer, mood"))
    assert code == 0
    assert f"answer: {_LINES}\r\nmood: gut\r\n" in seen


def test_an_error_in_the_middle_has_a_line_of_its_own(provider: Provider) -> None:
    """If this failed, half an answer would look whole, or the error like a part of it."""
    provider.reply = lambda _: paced(fields(answer="eins zwei drei vier fünf " * 4), cut=5, breaks=12)
    piped = command(*asked(provider, "--stream"))
    assert piped.returncode == 1
    assert piped.stdout.startswith("eins ")
    assert piped.stdout.count("\n") == 1
    assert piped.stderr.startswith("lm_unavailable ")
    code, seen = shown(*asked(provider, "--stream"))
    assert code == 1
    assert f"{piped.stdout.rstrip()}\r\nlm_unavailable " in seen

    told = command(*asked(provider, "--stream", "--json"))
    assert told.returncode == 1
    kinds = [json.loads(line)["type"] for line in told.stdout.splitlines()]
    assert set(kinds) >= {"started", "delta"}
    assert "final" not in kinds
    error = json.loads(told.stderr)["error"]
    assert error["details"]["so_far"]["answer"] == piped.stdout.removesuffix("\n")


def test_ctrl_c_in_the_middle(provider: Provider) -> None:
    """If this failed, a stopped answer would go on being paid for, leave workers, or end in a traceback."""
    provider.reply = lambda _: paced(fields(answer="word " * 5000), cut=5, pause=0.02)
    with Terminal(*asked(provider, "--stream")) as terminal:
        terminal.shows("word word")
        family = descendants(terminal.process.pid)
        assert family
        terminal.type("\x03")
        assert terminal.ends() == 130
        assert terminal.seen.endswith("\r\ncancelled stopped by SIGINT\r\n")
        assert "Traceback" not in terminal.seen
    until(lambda: not any(alive(pid) for pid in family))
    until(lambda: provider.in_flight == 0)


@pytest.mark.parametrize("more", [(), ("--stream",)])
def test_a_model_does_not_command_the_terminal(provider: Provider, more: tuple[str, ...]) -> None:
    """If this failed, a page that a model has read could clear the screen, or type for whoever reads."""
    provider.reply = lambda _: paced(fields(answer=_HOSTILE), cut=2)
    code, seen = shown(*asked(provider, *more))
    assert code == 0
    assert _SEEN in seen


def test_chat_goes_on_after_half_an_answer(
    provider: Provider, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """If this failed, one answer that broke off or was stopped would spoil the conversation after it."""
    home = str(tmp_path_factory.mktemp("home"))
    lm = ("--lm", "openai/x", "--base-url", provider.base_url)
    with Terminal("chat", *lm, HOME=home, XDG_DATA_HOME=home) as terminal:
        at = terminal.shows("Ctrl-D leaves\r\n> ")
        provider.reply = lambda _: paced(fields(reply="eins zwei drei vier " * 4), cut=5, breaks=12)
        terminal.type("one\n")
        at = terminal.shows("eins zwei", since=at)
        at = terminal.shows("\r\nlm_unavailable ", since=at)
        at = terminal.shows("\r\n> ", since=at)
        provider.reply = lambda _: paced(fields(reply="word " * 5000), cut=5, pause=0.02)
        terminal.type("two\n")
        at = terminal.shows("word word", since=at)
        terminal.type("\x03")
        at = terminal.shows("\r\nstopped\r\n> ", since=at)
        until(lambda: provider.in_flight == 0)
        provider.reply = lambda _: paced(fields(reply=_TEXT + _HOSTILE), cut=4)
        terminal.type("日本\n")
        at = terminal.shows(_LINES + _SEEN, since=at)
        at = terminal.shows("\r\n> ", since=at)
        terminal.type("\x04")
        assert terminal.ends() == 0
        assert "Traceback" not in terminal.seen


def test_a_reader_that_leaves_a_stream(provider: Provider) -> None:
    """If this failed, `dspex run --stream … | head` would go on being paid for, or end in a traceback."""
    provider.reply = lambda _: paced(fields(answer="word\n" * 5000), cut=5, pause=0.02)
    with subprocess.Popen(
        [*SCRIPT, *asked(provider, "--stream")],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as ran:
        assert ran.stdout is not None
        assert ran.stderr is not None
        assert os.read(ran.stdout.fileno(), 4)
        ran.stdout.close()
        said = ran.stderr.read().decode()
        ran.wait(timeout=60)
    assert (ran.returncode, said) == (1, "")
    until(lambda: provider.in_flight == 0)
