"""``dspex run``: one question, one answer."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import typer

import dspex
from dspex.adapter.named import NamedProgram
from dspex.adapter.runtime import Runtime
from dspex.cli.lms import choose, one_worker
from dspex.cli.show import Progress, outputs, problem, summary
from dspex.cli.telling import tell
from dspex.program.catalogue import find
from dspex.program.importpath import is_path, require_allowed
from dspex.program.prompt import fill
from dspex.program.signature import parse
from dspex.program.spec import make

# What is wrong with the command line itself, and not with the call.
USAGE = (
    dspex.ModuleNotFound,
    dspex.InvalidSignature,
    dspex.InvalidInput,
    dspex.InvalidOption,
    dspex.NotAllowed,
    dspex.UnknownProvider,
)
_FAILED, _BAD_USAGE = 1, 2

_NAMED = re.compile(r"(\w+)=(.*)", re.DOTALL)
#: Shown under ``dspex run --help``.
EXAMPLES = """\b
Examples:
  dspex run Predict "question -> answer" "What is the capital of France?"
  dspex run ChainOfThought "question -> answer" "Why is the sky blue?" --lm openai/gpt-5-mini
  dspex run Predict "text, words: int -> summary" words=20 text="A long text ..."
  dspex run shop.support:Router "Where is my parcel?"
  dspex run triage "My parcel is late."      # a program of the settings file: [program.triage]
  dspex run ChainOfThought "question -> answer" "Why is the sky blue?" --stream
  cat report.txt | dspex run Predict "report -> summary, topics: list[str]" - --json
"""


def run(
    module: Annotated[
        str,
        typer.Argument(
            help="DSPy module, as `dspex modules` lists them; 'package.module:Class' of your own, which "
            "the settings have to allow; or a program of the settings file by its name."
        ),
    ],
    signature: Annotated[
        str | None,
        typer.Argument(
            help="What goes in and what comes out: 'question -> answer'. A module of your own, and a program "
            "of the settings, have none, and the prompt follows at once."
        ),
    ] = None,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PROMPT] [FIELD=VALUE]...",
            help="The prompt ('-' reads it from standard input), and inputs by name. A value for a field "
            "that is not text is read as JSON.",
        ),
    ] = None,
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
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds for the answer; starting workers and model not counted.")
    ] = 120.0,
    stream: Annotated[
        bool, typer.Option("--stream", help="Print outputs as they come; with --json each event on a line.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Run a program once and print its outputs.

    Nothing but the answer goes to standard output.

    Settings are read from dspex.toml, or [tool.dspex] in pyproject.toml, here or above; $DSPEX_SETTINGS names
    another file.

    Exit codes: 0 done, 1 the call failed, 2 the command line is wrong, 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP:
    the work was stopped, and nothing is left.
    """
    try:
        settings = dspex.Settings()
        chosen = choose(lm, base_url, api_key, settings)
        how = _How(timeout, stream, as_json)
        response = _ask(module, signature, arguments or [], chosen, settings, how)
    except dspex.DspexError as error:
        problem(error, as_json=as_json)
        raise typer.Exit(_BAD_USAGE if isinstance(error, USAGE) else _FAILED) from None
    if as_json and not stream:
        print(json.dumps(response.to_dict(), ensure_ascii=False))
    elif not as_json:
        if not stream:
            outputs(response)
        summary(response)


class _How(NamedTuple):
    """How it is asked: seconds for the answer, whether it is told as it comes, and whether as JSON."""

    timeout: float
    stream: bool
    as_json: bool


def _ask(
    module: str,
    signature: str | None,
    arguments: list[str],
    lm: dspex.LM | str | None,
    settings: dspex.Settings,
    how: _How,
) -> dspex.Response:
    timeout = how.timeout
    own, named = is_path(module), module in settings.programs
    # What can be refused is refused before a process or a model is started.
    if own:
        require_allowed(module, settings.allow_modules)
        if signature is not None:
            arguments = [signature, *arguments]
        parsed = None
        prompt, inputs = None, dict[str, Any]()
    elif named:
        arguments = arguments if signature is None else [signature, *arguments]
    else:
        parsed = parse(_signature_of(module, signature))
        prompt, inputs = _inputs({field.name: field.type for field in parsed.inputs}, arguments)
        make(module, fill(parsed, prompt, inputs)[0])
    with Progress(quiet=how.as_json) as progress:
        runtime = Runtime(lm, pools=one_worker(settings), settings=settings)
        runtime.on(dspex.LocalModelProgress, progress.show)
        with runtime:
            if how.stream:
                progress.end()  # from here on the terminal is the answer's
            if named:
                program = runtime.adapter(timeout=timeout).program(module)
                assert isinstance(program, NamedProgram)
                prompt, inputs = _inputs(program.inputs or {}, arguments, takes_any=program.inputs is None)
                if how.stream:
                    return tell(program.stream(prompt, **inputs), as_json=how.as_json)
                return program(prompt, **inputs)
            if own:
                said = runtime.pool().execute("describe", {"module": module}, timeout=timeout)
                types = {name: one["type"] for name, one in said["inputs"].items()}
                prompt, inputs = _inputs(types, arguments, takes_any=said["takes_any"])
            adapter = runtime.adapter(timeout=timeout)
            if how.stream:
                live = adapter.stream(prompt, module=module, signature=parsed, inputs=inputs)
                return tell(live, as_json=how.as_json)
            return adapter.generate(prompt, module=module, signature=parsed, inputs=inputs)


def _signature_of(module: str, signature: str | None) -> str:
    """The signature, which a module of DSPy's needs.

    Raises:
        InvalidSignature: There is none.
        ModuleNotFound: There is no such module.
    """
    if signature is None:
        raise dspex.InvalidSignature(f"{find(module).name} needs a signature: 'question -> answer'")
    return signature


def _inputs(
    types: Mapping[str, str | None], arguments: list[str], *, takes_any: bool = False
) -> tuple[str | None, dict[str, Any]]:
    """Tell the prompt from the inputs by name.

    Args:
        types: The type of each input, where it is known.
        arguments: What was written.
        takes_any: Whether there may be inputs by other names.

    Raises:
        InvalidInput: There are two prompts, an input that the signature does not have, or no standard input.
    """
    prompts: list[str] = []
    inputs: dict[str, Any] = {}
    for argument in arguments:
        named = _NAMED.fullmatch(argument)
        if named is not None and (named[1] in types or takes_any):
            inputs[named[1]] = named[2] if types.get(named[1]) == "str" else value_of(named[2])
        else:
            prompts.append(_standard_input() if argument == "-" else argument)
    if len(prompts) > 1:
        names = ", ".join(types)
        raise dspex.InvalidInput(
            f"only one of these can be the prompt: {', '.join(map(repr, prompts))}; write inputs as "
            f"FIELD=VALUE with the fields {names}, and text with spaces in quotes",
            details={"known": list(types)},
        )
    left = [name for name in types if name not in inputs]
    if prompts and len(left) == 1 and types[left[0]] != "str":
        inputs[left[0]] = value_of(prompts.pop())
    return (prompts[0] if prompts else None), inputs


def _standard_input() -> str:
    if sys.stdin is None:  # the shell closed it
        raise dspex.InvalidInput("'-' reads standard input, which is closed; pipe a prompt in, or write it")
    return sys.stdin.read()


def value_of(text: str) -> Any:
    """What was typed for an input that is not text: JSON, else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
