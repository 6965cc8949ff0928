"""The commands of a conversation, which begin with a slash."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dspex.cli.chat.transcript import markdown, shown

if TYPE_CHECKING:
    from dspex.cli.chat.talk import Talk

_LONGEST = 60


class Leave(Exception):
    """The conversation is over."""


class Command(NamedTuple):
    """One command.

    Attributes:
        takes: What follows its name, as the help shows it.
        what: What it does.
        do: Does it, given what followed.
    """

    takes: str
    what: str
    do: Callable[[Talk, str], None]


def run(talk: Talk, line: str) -> None:
    """Do what a line that begins with a slash asks for.

    Raises:
        Leave: The conversation is over.
        DspexError: It cannot be done.
    """
    name, _, rest = line[1:].partition(" ")
    command = COMMANDS.get(name)
    if command is not None:
        command.do(talk, rest.strip())
        return
    near = difflib.get_close_matches(name, COMMANDS, 1)
    talk.tell(f"no command /{name}" + (f"; did you mean /{near[0]}?" if near else "; /help lists them"))


def _help(talk: Talk, _: str) -> None:
    width = max(len(f"/{name} {one.takes}") for name, one in COMMANDS.items())
    for name, one in COMMANDS.items():
        talk.tell(f"{f'/{name} {one.takes}':{width}}  {one.what}")
    talk.tell("Ctrl-C stops an answer, Ctrl-D leaves. A line that ends in \\ goes on in the next one;")
    talk.tell("what is to begin with a slash is typed with two: //like this.")


def _undo(talk: Talk, _: str) -> None:
    last = talk.session.turns(limit=1)
    undone = talk.session.undo()
    if undone is None:
        talk.tell("there is nothing to undo")
        return
    said = " ".join(shown(last[0].inputs).split()) if last else ""
    said = said if len(said) <= _LONGEST else said[: _LONGEST - 1] + "…"
    talk.tell(f"turn {undone} is undone: {said}" if said else f"turn {undone} is undone")


def _save(talk: Talk, rest: str) -> None:
    if not rest:
        talk.tell("name a file: /save talk.md, or /save talk.json for all of the session")
        return
    path = Path(rest).expanduser()
    if path.suffix == ".json":
        text = json.dumps(talk.session.export(), ensure_ascii=False, indent=2) + "\n"
    else:
        text = markdown(talk.session.id, talk.session.turns())
    try:
        if path.exists() and not talk.agrees(f"{path} is there already; overwrite it?"):
            talk.tell("not saved")
            return
        # What was said may be nobody else's business.
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(opened, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        talk.tell(f"{path} cannot be written: {error.strerror}")
        return
    talk.tell(f"saved to {path}")


def _cost(talk: Talk, _: str) -> None:
    came = talk.session.insights()
    usage = came.usage
    turns = f"{came.turns} turn" + ("" if came.turns == 1 else "s")
    failed = f" ({came.failed} not answered)" if came.failed else ""
    talk.tell(
        f"{turns}{failed} · {usage.prompt_tokens:,} + {usage.completion_tokens:,} tokens · {_price(came)}"
    )
    if came.p50 is not None and came.slowest is not None:
        talk.tell(
            f"{came.seconds:.1f} s in all · half within {came.p50:.1f} s · slowest {came.slowest:.1f} s"
        )


def _price(came: object) -> str:
    cost, unpriced = getattr(came, "cost", None), getattr(came, "unpriced", 0)
    if cost is None:
        return "price unknown"
    told = f"${cost:.6f}" if cost else "free"
    return f"{told}, and {unpriced} turns of unknown price" if unpriced else told


def _quit(_talk: Talk, _: str) -> None:
    raise Leave


COMMANDS = {
    "help": Command("", "what can be typed", _help),
    "undo": Command("", "forget the last turn", _undo),
    "save": Command("FILE", "write the conversation: .json all of the session, else text", _save),
    "cost": Command("", "turns, tokens, dollars and times so far", _cost),
    "quit": Command("", "leave; the session stays", _quit),
}
