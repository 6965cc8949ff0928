"""``dspex session``: the sessions of a store, looked at and deleted."""

from __future__ import annotations

import json as json_
import os
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import RenderableType
from rich.text import Text

import dspex
from dspex.adapter.session.session import as_document
from dspex.cli.chat.transcript import said, shown, text
from dspex.cli.page import as_json, page, table
from dspex.cli.show import problem
from dspex.cli.where import STORE_HELP, ask, store_of
from dspex.session.records import SessionInfo

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from dspex.session.exported import Exported

T = TypeVar("T")
_FAILED, _BAD_USAGE = 1, 2
_LAST_TURNS = 10
_WIDEST = 60

LIST_EXAMPLES = """\b
Examples:
  dspex session list
  dspex session list --tenant acme --json | jq -r '.[].id'
"""
SHOW_EXAMPLES = """\b
Examples:
  dspex session show work
  dspex session show work --store sessions.db --json | jq .variables
"""
EXPORT_EXAMPLES = """\b
Examples:
  dspex session export work > work.json
  dspex session export work --output work.json
"""
DELETE_EXAMPLES = """\b
Examples:
  dspex session delete work
  dspex session delete work --yes
"""

app = typer.Typer(
    name="session",
    help="The sessions of a store: listed, shown, exported, deleted.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_Id = Annotated[str, typer.Argument(metavar="ID", help="The session's id.")]
_Store = Annotated[str | None, typer.Option("--store", metavar="WHERE", help=STORE_HELP)]
_Tenant = Annotated[str, typer.Option("--tenant", help="Whose sessions; those of nobody in particular else.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list", epilog=LIST_EXAMPLES)
def listed(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The most to show.")] = 100,
    store: _Store = None,
    tenant: _Tenant = "",
    json: _Json = False,
) -> None:
    """List the sessions that live, those used last first.

    Exit codes: 0 done, 1 the store cannot be used, 2 usage.
    """

    def work(connection: Connection, now: float) -> list[SessionInfo]:
        from dspex.session import sessions

        return sessions.listed(connection, tenant, now, limit, None)

    found = _ask(store, work, json=json)
    if json:
        as_json(found)
    elif found:
        rows = [
            (one.id, str(one.turns), str(one.programs), _time(one.used), _time(one.expires)) for one in found
        ]
        page(table(("ID", "TURNS#", "PROGRAMS#", "USED", "EXPIRES"), rows))
    else:
        sys.stderr.write("no sessions here; --store and --tenant say where and whose\n")


@app.command("show", epilog=SHOW_EXAMPLES)
def show(id: _Id, store: _Store = None, tenant: _Tenant = "", json: _Json = False) -> None:  # noqa: A002
    """Show a session: what is known of it, its variables, its programs, its last turns.

    Exit codes: 0 done, 1 there is no such session or the store cannot be used, 2 usage.
    """
    found = _ask(store, _everything(tenant, id), json=json)
    if json:
        as_json(as_document(found))
    else:
        page(*_page(found))


@app.command("export", epilog=EXPORT_EXAMPLES)
def export(
    id: _Id,  # noqa: A002
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="A new file; standard output else.")
    ] = None,
    store: _Store = None,
    tenant: _Tenant = "",
    json: Annotated[bool, typer.Option("--json", help="Errors as JSON; the export is JSON anyway.")] = False,
) -> None:
    """Write all that a session has as JSON. No key is in it, for none is stored.

    Exit codes: 0 done, 1 there is no such session or it cannot be written, 2 usage.
    """
    document = as_document(_ask(store, _everything(tenant, id), json=json))
    if output is None:
        as_json(document)
        return
    written = json_.dumps(document, ensure_ascii=False, indent=2) + "\n"
    try:
        made = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(made, "w", encoding="utf-8") as file:
            file.write(written)
    except OSError as error:
        wrong = dspex.InvalidOption(f"--output {output}: {error.strerror}", details={"option": "output"})
        problem(wrong, as_json=json)
        raise typer.Exit(_FAILED) from None


@app.command("delete", epilog=DELETE_EXAMPLES)
def delete(
    id: _Id,  # noqa: A002
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    store: _Store = None,
    tenant: _Tenant = "",
    json: _Json = False,
) -> None:
    """Delete a session with all that it has. On a terminal it is asked for first.

    Exit codes: 0 done, 1 there is no such session, nobody agreed, or the store cannot be used, 2 usage.
    """

    def look(connection: Connection, now: float) -> SessionInfo:
        from dspex.session import sessions

        return sessions.info(connection, tenant, id, now)

    def work(connection: Connection, _: float) -> None:
        from dspex.session import sessions

        sessions.end(connection, tenant, id)

    if not yes and sys.stdin is not None and sys.stdin.isatty():
        info = _ask(store, look, json=json)
        question = f"delete {id} with {info.turns} turns and {info.programs} programs?"
        if not typer.confirm(question, err=True):
            raise typer.Exit(_FAILED)
    _ask(store, work, json=json)
    if json:
        as_json({"deleted": id})
    else:
        sys.stderr.write(f"{id} is deleted\n")


def _ask(store: str | None, work: Callable[[Connection, float], T], *, json: bool) -> T:
    try:
        return ask(store_of(store, dspex.Settings()), work)
    except dspex.DspexError as error:
        problem(_advised(error), as_json=json)
        usage = isinstance(error, dspex.InvalidOption | dspex.InvalidInput)
        raise typer.Exit(_BAD_USAGE if usage else _FAILED) from None


def _advised(error: dspex.DspexError) -> dspex.DspexError:
    """The error with what to do on the command line; what the library advises is for Python."""
    session_id = error.details.get("session_id")
    if isinstance(error, dspex.UnknownSession):
        message = f"no session {session_id!r} here; dspex session list shows those there are"
    elif isinstance(error, dspex.SessionExpired):
        message = f"the session {session_id!r} has expired, and nothing of it is left"
    else:
        return error
    return type(error)(message, details=error.details)


def _everything(tenant: str, session_id: str) -> Callable[[Connection, float], Exported]:
    def work(connection: Connection, now: float) -> Exported:
        from dspex.session import exported

        return exported.everything(connection, tenant, session_id, now)

    return work


def _page(found: Exported) -> Iterator[RenderableType]:
    info, document = found.info, as_document(found)
    yield Text(info.id, style="bold")
    yield Text(
        f"made {_time(info.created)}, used {_time(info.used)}, expires {_time(info.expires)}; "
        f"{info.turns} turns, of which is kept: {info.record}"
    )
    if document["session"]["metadata"]:
        yield Text(f"metadata: {text(document['session']['metadata'])}")
    if document["variables"]:
        rows = [(name, _short(text(value))) for name, value in document["variables"].items()]
        yield Text("")
        yield table(("VARIABLE", "VALUE"), rows)
    if found.programs:
        yield Text("")
        yield table(("PROGRAM", "NAME", "VERSION#", "VERSIONS#"), map(_program, found.programs))
    if found.turns:
        yield Text("")
        yield table(
            ("TURN#", "WHEN", "STATUS", "IN", "OUT"),
            [
                (
                    str(turn.number),
                    _time(turn.started),
                    turn.status,
                    _short(shown(turn.inputs)),
                    _short(shown(turn.outputs) if turn.status == "ok" else said(turn)),
                )
                for turn in found.turns[-_LAST_TURNS:]
            ],
        )


def _program(told: dict[str, Any]) -> tuple[str, str, str, str]:
    return told["id"], told["name"] or "-", str(told["version"]), str(len(told["versions"]))


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _short(whole: str) -> str:
    line = " ".join(whole.split())
    return line if len(line) <= _WIDEST else line[: _WIDEST - 1] + "…"
