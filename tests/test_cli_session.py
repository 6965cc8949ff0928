"""``dspex session``: the sessions of a store as a shell sees them."""

from __future__ import annotations

import datetime as dt
import json
import stat
from pathlib import Path

import pytest

from dspex.testing import InProcessRuntime, ScriptedLM
from tests.shell import dspex
from tests.terminals import Terminal


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with sessions: one with all that there is, another tenant's, one that has expired."""
    file = tmp_path_factory.mktemp("store") / "sessions.db"
    with InProcessRuntime(ScriptedLM([{"reply": "Paris"}]), store=file) as runtime:
        adapter = runtime.adapter()
        session = adapter.session("work", metadata={"plan": "gold"})
        session.set("since", dt.date(2026, 1, 2))
        session.create_program("question -> answer", name="asks")
        session.chat("Capital of France?")
        runtime.adapter(tenant="acme").session("theirs")
        adapter.session("gone", ttl=0.001)
        adapter.session("brief")
    return str(file)


def test_a_list(store: str) -> None:
    """If this failed, nobody could tell which sessions there are, or would see those of another tenant."""
    ran = dspex("session", "list", "--store", store)
    assert ran.returncode == 0, ran.stderr
    head, *rows = ran.stdout.splitlines()
    assert head.split() == ["ID", "TURNS", "PROGRAMS", "USED", "EXPIRES"]
    assert [row.split()[0] for row in rows] == ["brief", "work"]
    found = json.loads(dspex("session", "list", "--store", store, "--tenant", "acme", "--json").stdout)
    assert [one["id"] for one in found] == ["theirs"]


def test_one_is_shown(store: str) -> None:
    """If this failed, nobody could see what a session has without writing Python."""
    ran = dspex("session", "show", "work", "--store", store)
    assert ran.returncode == 0, ran.stderr
    for text in ("gold", "2026-01-02", "asks", "Capital of France?", "Paris"):
        assert text in ran.stdout


def test_an_export(store: str, tmp_path: Path) -> None:
    """If this failed, an export would lack something, be readable by others, or write over a file."""
    ran = dspex("session", "export", "work", "--store", store)
    told = json.loads(ran.stdout)
    assert told["variables"] == {"since": "2026-01-02"}
    assert [one["name"] for one in told["programs"]] == ["asks"]
    assert told["turns"][0]["outputs"] == {"reply": "Paris"}
    file = tmp_path / "work.json"
    again = ("session", "export", "work", "--store", store, "--output", str(file))
    assert dspex(*again).returncode == 0
    assert json.loads(file.read_text()) == told
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    second = dspex(*again)
    assert second.returncode == 1
    assert "exists" in second.stderr


@pytest.mark.parametrize(
    ("command", "name", "code"),
    [
        ("show", "nope", "unknown_session"),
        ("export", "gone", "session_expired"),
        ("delete", "theirs", "unknown_session"),
    ],
)
def test_what_is_not_there_is_said(store: str, command: str, name: str, code: str) -> None:
    """If this failed, a script would go on with a session that is not there, or with another tenant's."""
    ran = dspex("session", command, name, "--store", store)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(code)
    assert "adapter" not in ran.stderr


def test_a_store_that_is_none(tmp_path: Path) -> None:
    """If this failed, a mistyped URL would show a traceback, and perhaps a password."""
    ran = dspex("session", "list", "--store", "mysql://me:secret@host/x")
    assert ran.returncode == 2
    assert "secret" not in ran.stderr
    (tmp_path / "text").write_text("no database")
    ran = dspex("session", "list", "--store", str(tmp_path / "text"))
    assert ran.returncode == 1
    assert ran.stderr.startswith("store_error")


def test_deleting_asks_first(tmp_path: Path) -> None:
    """If this failed, a slip of the finger would lose a conversation, or a script would wait for ever."""
    file = str(tmp_path / "s.db")
    with InProcessRuntime(ScriptedLM([]), store=file) as runtime:
        for name in ("a", "b"):
            runtime.adapter().session(name)
    with Terminal("session", "delete", "a", "--store", file) as terminal:
        terminal.shows("delete a with 0 turns and 0 programs? [y/N]")
        terminal.type("n\n")
        assert terminal.ends() == 1
    with Terminal("session", "delete", "a", "--store", file) as terminal:
        terminal.shows("[y/N]")
        terminal.type("y\n")
        assert terminal.ends() == 0
    assert dspex("session", "delete", "b", "--store", file).returncode == 0
    assert dspex("session", "list", "--store", file).stdout == ""
