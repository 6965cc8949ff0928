"""``dspex chat``: its options, and what is opened for it."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

import dspex
from dspex.adapter.runtime import Runtime
from dspex.adapter.session.conversation import CHAT
from dspex.cli.chat.lines import Lines
from dspex.cli.chat.talk import Asked, Talk
from dspex.cli.chat.transcript import said, shown
from dspex.cli.lms import choose, one_worker
from dspex.cli.run import USAGE
from dspex.cli.show import Progress, problem
from dspex.cli.where import STORE_HELP, store_of
from dspex.program.fieldtypes import HISTORY
from dspex.program.signature import parse
from dspex.program.spec import make
from dspex.session.names import check

_FAILED, _BAD_USAGE = 1, 2
# Seconds that a conversation without a name is kept after its last turn.
_KEPT = 30 * 24 * 3600.0
# How many earlier turns are read for the arrow keys.
_RECALLED = 200
_LONGEST_NAME = 100

#: Shown under ``dspex chat --help``.
EXAMPLES = """\b
Examples:
  dspex chat
  dspex chat --session work --lm openai/gpt-5-mini
  dspex chat --module ChainOfThought --signature "history: dspy.History, question -> answer"
  dspex chat --session work --program triage.json
  echo "What is the capital of France?" | dspex chat
"""


def chat(
    session: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Go on in this session, or begin it. Default: a new one."),
    ] = None,
    program: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Talk to this program, a document that program.export() gave."),
    ] = None,
    module: Annotated[str, typer.Option(help="DSPy module that answers.")] = "Predict",
    signature: Annotated[
        str, typer.Option(help="What goes in and comes out. Inputs are asked for, but for the history.")
    ] = CHAT,
    lm: Annotated[
        str | None,
        typer.Option(
            help="'openai/gpt-5-mini', 'local', 'local:/path.gguf', or a profile of the settings file. "
            "Default: $DSPEX_LM, else the file's default_lm, else 'local' if it is installed."
        ),
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="Server that speaks the provider's protocol: vLLM, Ollama, a gateway.")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            help="Where the key is: 'env:NAME', 'file:/path', 'keyring:service/user'. Default: the "
            "provider's own variable; none with --base-url."
        ),
    ] = None,
    store: Annotated[str | None, typer.Option(metavar="WHERE", help=STORE_HELP)] = None,
    tenant: Annotated[str | None, typer.Option(help="Whose session it is.")] = None,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds for each answer.")] = 120.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each answer as one JSON object on a line.")
    ] = False,
) -> None:
    """Talk with a model, which knows what was said before.

    On a terminal Ctrl-C stops the answer and not the conversation, Ctrl-D leaves, and /help lists commands.
    From a pipe each line is answered plainly, and nothing but answers goes to standard output.

    Without --session the conversation is kept for 30 days, or not at all when it comes from a pipe.

    Exit codes: 0 done, 1 a call failed (from a pipe), 2 the command line is wrong.
    """
    lines = Lines()
    try:
        if session is not None:
            check("a session's id", session)
        settings = dspex.Settings()
        chosen = choose(lm, base_url, api_key, settings)
        document = None if program is None else _read(program)
        if document is None:
            make(module, parse(signature))
        kept = session is not None or lines.typed
        where = store_of(store, settings) if kept else "memory"
        with Progress(quiet=as_json) as progress:
            runtime = Runtime(chosen, pools=one_worker(settings), settings=settings, store=where)
            runtime.on(dspex.LocalModelProgress, progress.show)
            runtime.open()
        with _closing(runtime):
            adapter = runtime.adapter(timeout=timeout, tenant=tenant)
            found = _session(adapter, session)
            answer, asked = (
                _module(found, module, signature) if document is None else _program(found, document)
            )
            talk = Talk(found, answer, asked, lines, as_json=as_json)
            if kept and not as_json:
                _greet(talk, lines, where)
            with _stopping(lines):
                talk.go_on()
            if kept and session is None and not as_json:
                talk.tell(f"go on with: dspex chat --session {found.id}")
    except dspex.DspexError as error:
        problem(error, as_json=as_json)
        raise typer.Exit(_BAD_USAGE if isinstance(error, USAGE) else _FAILED) from None
    if talk.failed and not lines.typed:
        raise typer.Exit(_FAILED)


def _read(path: Path) -> dict[str, Any]:
    """A program's document.

    Raises:
        InvalidOption: It is none.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise dspex.InvalidOption(
            f"--program {path}: {error.strerror}", details={"option": "program"}
        ) from None
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise dspex.InvalidOption(
            f"--program {path} is not JSON that program.export() gave", details={"option": "program"}
        )
    return document


def _session(adapter: dspex.DSPyAdapter, session_id: str | None) -> dspex.Session:
    if session_id is None:
        return adapter.session(ttl=_KEPT)
    found = adapter.session(session_id)
    info = found.info()
    # A session that has a name is there until it is deleted; one that was there before stays as it was.
    return adapter.session(session_id, ttl=None) if info.created == info.used else found


def _module(
    session: dspex.Session, module: str, signature: str
) -> tuple[Callable[[dict[str, Any]], dspex.Stream], Asked]:
    def answer(inputs: dict[str, Any]) -> dspex.Stream:
        return session.stream(None, module=module, signature=signature, inputs=inputs)

    return answer, _asked(signature)


def _program(
    session: dspex.Session, document: dict[str, Any]
) -> tuple[Callable[[dict[str, Any]], dspex.Stream], Asked]:
    # Under a name that tells its content, so that going on with the same file stores nothing anew, and a file
    # that has changed is another program.
    content = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    name = f"{str(document.get('name') or 'chat')[:_LONGEST_NAME]}-{content[:12]}"
    try:
        program = session.program(name)
    except dspex.UnknownProgram:
        program = session.import_program(document, name=name)
    text = program.info().signature
    asked: Asked = {"prompt": None} if text is None else _asked(text)

    def answer(inputs: dict[str, Any]) -> dspex.Stream:
        return program.stream(**inputs) if text is not None else program.stream(inputs["prompt"])

    return answer, asked


def _asked(signature: str) -> Asked:
    """The inputs that somebody has to type.

    Raises:
        InvalidSignature: There are none.
    """
    asked: Asked = {field.name: field.type for field in parse(signature).inputs if field.type != HISTORY}
    if not asked:
        raise dspex.InvalidSignature(f"{signature!r} has no input that could be typed")
    return asked


def _greet(talk: Talk, lines: Lines, where: str) -> None:
    """Say which session it is, where it is kept, and how it stands."""
    earlier = talk.session.turns(limit=_RECALLED)
    place = "your database" if "://" in where or where.startswith(("env:", "file:", "keyring:")) else where
    talk.tell(f"session {talk.session.id} in {place}")
    if not lines.typed:
        return
    lines.recall(shown(turn.inputs) for turn in earlier if turn.inputs)
    if earlier:
        last = earlier[-1]
        talk.tell(f"turn {last.number} was")
        talk.tell(f"> {shown(last.inputs)}")
        talk.tell(shown(last.outputs) if last.status == "ok" else said(last))
    talk.tell("/help lists commands, Ctrl-D leaves")


@contextmanager
def _closing(runtime: Runtime) -> Iterator[None]:
    try:
        yield
    finally:
        runtime.close()


@contextmanager
def _stopping(lines: Lines) -> Iterator[None]:
    """Have Ctrl-C stop what is going on, and not the command, while a person types."""
    if not lines.typed or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
