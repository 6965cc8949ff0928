"""``dspex store``: how the tables of a store stand, and their upgrade."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

import typer

from dspex.cli.page import as_json
from dspex.cli.show import problem
from dspex.cli.where import store_of
from dspex.errors import DspexError, InvalidOption
from dspex.settings import Settings

T = TypeVar("T")
_FAILED = 1
_BAD_USAGE = 2

#: Shown under ``dspex store upgrade --help``.
UPGRADE_EXAMPLES = """\b
Examples:
  dspex store upgrade
  dspex store upgrade --store sessions.db
  dspex store upgrade --store env:DATABASE_URL
"""
#: Shown under ``dspex store status --help``.
STATUS_EXAMPLES = """\b
Examples:
  dspex store status
  dspex store status --store sessions.db --json | jq -r .state
"""

app = typer.Typer(
    name="store",
    help="The database in which sessions are kept.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="WHERE",
        help="A file, a database URL, or a reference to one such as env:DATABASE_URL, which keeps its "
        "password out of the list of processes. Default: the settings' store, else the file of your own in "
        "which `dspex chat` keeps its sessions.",
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("status", epilog=STATUS_EXAMPLES)
def status(store: _Store = None, json: _Json = False) -> None:
    """Show where the store is, and whether its tables are those of this dspex.

    Exit codes: 0 they are, or there are none yet; 1 an upgrade has to come first, or the store cannot be
    used; 2 usage.
    """
    shown, found = _run(_look(store), json=json)
    needed = _needed()
    if json:
        as_json({"store": shown, "state": found.state, "version": found.version, "needed": needed})
    else:
        typer.echo(f"{shown}: {_told(found.state, found.version, needed)}")
    if found.state not in {"current", "empty"}:
        raise typer.Exit(_FAILED)


@app.command("upgrade", epilog=UPGRADE_EXAMPLES)
def upgrade(store: _Store = None, json: _Json = False) -> None:
    """Have the tables of an older dspex become those of this one, with all that is in them.

    All of it is done, or nothing. Stop what uses the store before, and make a backup. Where nothing is to be
    done, nothing is.

    Exit codes: 0 the tables are those of this dspex; 1 the store cannot be used; 2 usage.
    """
    steps: list[dict[str, Any]] = []

    def told(before: str | None, after: str, what: str) -> None:
        steps.append({"from": before, "to": after, "what": what})
        if not json:
            typer.echo(f"{before or 'none'} -> {after}: {what}", err=True)

    shown, before, after = _run(_upgrade(store, told), json=json)
    if json:
        as_json({"store": shown, "from": before.version, "to": after.version, "steps": steps})
    elif steps:
        typer.echo(f"{shown}: the tables are those of this dspex now (version {after.version})")
    else:
        typer.echo(f"{shown}: nothing to do, the tables are those of this dspex (version {after.version})")


def _run(work: Coroutine[Any, Any, T], *, json: bool) -> T:
    try:
        return asyncio.run(work)
    except DspexError as error:
        problem(error, as_json=json)
        raise typer.Exit(_BAD_USAGE if isinstance(error, InvalidOption) else _FAILED) from None


async def _look(store: str | None) -> tuple[str, Any]:
    from dspex.session.upgrade import look

    place = await _place(store)
    return place.shown, await look(place)


async def _upgrade(store: str | None, told: Any) -> tuple[str, Any, Any]:
    from dspex.session.upgrade import upgrade as upgraded

    place = await _place(store)
    return place.shown, *(await upgraded(place, told))


async def _place(store: str | None) -> Any:
    from dspex.session.place import place_of
    from dspex.session.reference import resolved

    place = place_of(await resolved(store_of(store, Settings())))
    if not place.outlives:
        raise InvalidOption(
            "the store is this process's memory, which has no tables; name another: --store WHERE, or the "
            "settings' store",
            details={"option": "store"},
        )
    return place


def _needed() -> str:
    from dspex.session.schema import REVISIONS

    return REVISIONS[-1]


def _told(state: str, version: str | None, needed: str) -> str:
    return {
        "current": f"its tables are those of this dspex (version {version})",
        "empty": f"it has no tables yet; a runtime makes them (version {needed})",
        "older": f"its tables are older ({version}, needed is {needed}); run `dspex store upgrade`",
        "newer": f"its tables are newer ({version}, this dspex knows {needed}); run the newer dspex",
        "foreign": "it has tables with dspex's names that dspex has not made; use another database",
    }[state]
