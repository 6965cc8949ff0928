"""The list of commands: what it tells without loading any of them."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from dspex.cli import signals
from dspex.cli.commands import COMMANDS, load


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_what_the_command_says(name: str) -> None:
    """If this failed, the list would promise what the command does not do, or name one that is not there."""
    command = load(name)
    assert command.name == name
    assert command.help.split("\n\n")[0].replace("\n", " ") == COMMANDS[name].summary


_HELP = """
import contextlib, io, sys
from dspex.cli import main
sys.argv = ["dspex", "--help"]
with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
    main()
assert "Commands:" in shown.getvalue()
heavy = ("asyncio", "msgspec", "rich", "dspex.adapter", "dspex.runtime", "dspex.settings")
print([name for name in heavy if name in sys.modules])
"""


def test_help_loads_no_command() -> None:
    """If this failed, who asks for help would wait for what only some command needs."""
    ran = subprocess.run(
        [sys.executable, "-c", _HELP], capture_output=True, text=True, timeout=100, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "[]\n", "")


def test_signals_are_as_they_were_when_a_command_is_loaded() -> None:
    """If this failed, a command that another program runs would change how that program ends."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with signals.loading():
        pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
