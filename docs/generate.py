"""Writes docs/reference/, and tables of other pages, from the code: ``uv run python docs/generate.py``.

With ``--check`` nothing is written; the exit code is 1 when a page on disk differs from what the code says.
Words come from docstrings. What a docstring cannot know (which commands a worker answers, what the command
line prints) is asked of the real thing.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import get_args

import provider_tables
from render import WIDTH, attributes, code, described, option_rows, page, read, spelled, struct, table
from typer.testing import CliRunner

import dspex
from dspex import errors, testing
from dspex.cli.app import app
from dspex.program import catalogue, fieldtypes, signature
from dspex.runtime import bridge, call
from dspex.settings.options import LMOptions, RuntimeOptions

HERE = Path(__file__).parent
REFERENCE = HERE / "reference"
SOURCE = Path(dspex.__file__).parent
EXAMPLE = SOURCE.parents[1] / "examples" / "settings" / "dspex.toml"

# What each command of a worker takes and answers; the names are compared with those of a running worker.
_COMMANDS = {
    "ping": ("nothing", "`pong`."),
    "echo": ("anything", "The arguments. The worker does nothing else with them."),
    "describe": (
        "nothing, or `signature` and perhaps `module`",
        "Without arguments: the commands, the modules, the version of DSPy. The commands of your own "
        "modules are among them once the worker has imported these. With a signature: its instructions, and "
        "for each field its JSON schema and description. No language model is asked.",
    ),
    "execute_module": (
        ", ".join(f"`{name}`" for name in bridge._MODULE_ARGUMENTS),
        "The outputs, as a dict.",
    ),
    "run": ("as `execute_module`", "The same command by its short name."),
    "get_stats": ("nothing", "Facts about the worker that answers: {stats}."),
    "shutdown": (
        "nothing",
        "None, and that worker exits and is replaced. What else it was running is lost: programs are run "
        "again on another worker, commands end with `worker_lost`.",
    ),
}
# Those that the supervisor answers.
_OWN_COMMANDS = {
    "configure_lm": (
        "`model` and whatever else `LM` takes, and perhaps `name`",
        "The profile's name and its model. From then on the profile of that name, or without one the "
        "runtime's default, is this LM.",
    ),
}


def errors_page() -> str:
    """Every error, as a tree and as tables."""
    tree = (errors.__doc__ or "").partition("::\n\n")[2].partition("\n\n")[0]
    raised = _raised()
    groups = []
    silent = []
    for group in errors.DspexError.__subclasses__():
        rows = []
        for kind in group.__subclasses__():
            rows.append(
                (
                    f"`{kind.code}`",
                    f"`{kind.__name__}`",
                    "yes" if kind.retryable else "no",
                    read(kind).text,
                )
            )
            if kind.__name__ not in raised:
                silent.append(f"`{kind.code}`")
        head = table(("Code", "Class", "Retryable", "Meaning"), rows)
        groups.append(f"## {group.__name__}\n\n{read(group).text}\n\n{head}")
    return page(
        "Errors",
        "Every failure that dspex reports is a `dspex.DspexError`. There is one class for each code, and "
        "all of them import from `dspex`.",
        code(inspect.cleandoc("\n" + tree), "text"),
        "## DspexError",
        attributes(errors.DspexError),
        described("error.to_wire", errors.DspexError.to_wire),
        *groups,
        "## Codes that nothing raises",
        f"These codes have their class and their place, and nothing in this version raises them: "
        f"{', '.join(silent)}.",
        "## Other exceptions",
        "`RuntimeError` is raised for wrong use of the library itself: a runtime that is opened twice, an "
        "adapter without a runtime, a sync method called on the event loop that the runtime lives on. An "
        "awaited call whose task is cancelled raises `asyncio.CancelledError`, as anything awaited does.",
    )


def _raised() -> set[str]:
    """Names of error classes that something in the package makes, or that a failure is translated to."""
    found = set()
    for file in SOURCE.rglob("*.py"):
        if file in {SOURCE / "errors.py", SOURCE / "__init__.py"}:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id=name)):
                    found.add(name)
                case ast.Attribute(value=ast.Name(id="errors"), attr=name):
                    found.add(name)
    return found


def settings_page() -> str:
    """Every option of a settings file, and the classes that code has for them."""
    rows = [
        *option_rows((), RuntimeOptions),
        *option_rows(("lm", "NAME"), LMOptions),
        *option_rows(("lm", "NAME", "retry"), dspex.Retry),
        *option_rows(("lm", "NAME", "limits"), dspex.Limits),
        *option_rows(("pool", "NAME"), dspex.PoolOptions),
    ]
    return page(
        "Settings",
        "How options are set, and which place is stronger, is told in [Settings](../how-to/settings.md).",
        "## Every option",
        "The name is that of a file: `pool.general.workers` is `workers` in the table `[pool.general]`. "
        "`NAME` is a name of yours, which a variable has in upper case. In `lm.NAME` any further key is a "
        "request parameter, and goes to the provider under its own name.",
        table(("Option", "Type", "Default", "Unit", "Variable", "Meaning"), rows),
        "`DSPEX_SETTINGS` names the settings file.",
        "## A file",
        code(EXAMPLE.read_text(encoding="utf-8").strip(), "toml"),
        "## Settings",
        described("Settings", dspex.Settings),
        *_methods("settings", dspex.Settings, ("sources", "place", "to_dict", "reloaded")),
        "## PoolOptions",
        read(dspex.PoolOptions).text,
        "Its fields are the options of `pool.NAME` above. A wrong name is a `TypeError`, a value that an "
        'option does not take is an `InvalidOption` with `details["option"]`.',
    )


def lm_page() -> str:
    """Language models: profiles, retries, providers."""
    return page(
        "Language models",
        "How they are used is told in [Providers](../how-to/providers.md) and "
        "[The embedded model](../how-to/local-model.md).",
        "## LM",
        described("LM", dspex.LM),
        "Two LMs with equal options are equal and have equal hashes. The `repr` of an LM shows no key.",
        "## Limits",
        struct(dspex.Limits),
        "## Retry",
        struct(dspex.Retry),
        "## Providers",
        provider_tables.overview(),
        "Options of the connection, beside `extra_headers` and `extra_query`, which every provider that is "
        "not `local` takes (through LiteLLM only the former):",
        provider_tables.options(),
        "Other names of providers:",
        provider_tables.names(),
        "## LMSpec",
        "What an `LM` becomes for the workers. Callers make an `LM`.",
        struct(dspex.LMSpec),
    )


def adapter_page() -> str:
    """The runtime, the adapter, what they answer, modules and signatures."""
    runtime, adapter, response = dspex.Runtime, dspex.DSPyAdapter, dspex.Response
    properties = [(name, member) for name, member in vars(response).items() if isinstance(member, property)]
    return page(
        "Runtime and adapter",
        "## Runtime",
        described("Runtime", runtime),
        *_methods("runtime", runtime, ("open", "aopen", "close", "aclose", "adapter", "pool", "stats", "on")),
        "## DSPyAdapter",
        described("DSPyAdapter", adapter),
        *_methods("adapter", adapter, ("generate", "agenerate", "configure")),
        "## Response",
        attributes(response),
        *[f"`.{name}`: {read(member).text}" for name, member in properties],
        described("response.to_dict", response.to_dict),
        "This version has no cache of answers, so `cached` is always False.",
        "### Timing",
        struct(dspex.Timing),
        "### Usage",
        struct(dspex.Usage),
        "### LMRequest",
        struct(dspex.LMRequest),
        "## Modules",
        *_modules(),
        "## Signatures",
        *_signatures(),
        "## Statistics",
        "`runtime.stats()` gives a `RuntimeStats`.",
        *[
            f"### {kind.__name__}\n\n{struct(kind)}"
            for kind in (dspex.RuntimeStats, dspex.PoolStats, dspex.WorkerStats, dspex.LMStats)
        ],
        "## Events",
        "`runtime.on(type, function)` has a function called with each event of a type.",
        *[f"### {kind.__name__}\n\n{struct(kind)}" for kind in (dspex.Event, dspex.LocalModelProgress)],
    )


def _methods(owner: str, kind: type, names: Iterable[str]) -> list[str]:
    return [f"### {name}\n\n{described(f'{owner}.{name}', getattr(kind, name))}" for name in names]


def _modules() -> Iterable[str]:
    rows = [
        (
            f"`{entry.name}`",
            entry.summary,
            ", ".join(f"`{name}`" for name in entry.adds_outputs) or "none",
            "yes" if entry.repeatable else "no",
        )
        for entry in catalogue.MODULES.values()
    ]
    yield (
        "A module is named with or without its `dspy.`. A module that is repeatable may be run again when "
        "the worker that ran it is lost."
    )
    yield table(("Module", "What it does", "Outputs it adds", "Repeatable"), rows)
    groups: dict[tuple[str, ...], list[str]] = {}
    for entry in catalogue.MODULES.values():
        groups.setdefault(tuple(entry.options), []).append(entry.name)
    for owners in groups.values():
        options = catalogue.find(owners[0]).options.values()
        yield f"Options of {' and '.join(f'`{name}`' for name in owners)}:"
        yield table(
            ("Option", "Takes", "Meaning"),
            [(f"`{option.name}`", option.type, option.summary) for option in options],
        )
    yield (
        "An option that is None, or not given, is left to the LM. Any other option is refused by name with "
        "`invalid_option`."
    )


def _signatures() -> Iterable[str]:
    yield (
        "A signature is text in DSPy's form, or a `Signature` made by hand, which may also hold instructions "
        f"and descriptions. A call without one has `{call.DEFAULT_SIGNATURE}`. A field without a type is "
        "`str`; as an input it takes any value."
    )
    yield code("question, context: list[str] -> answer: Literal['yes', 'no'], reasons: list[str]", "text")
    limits = f"{signature.MAX_FIELDS} fields and {signature.MAX_CHARACTERS:,} characters"
    yield f"A signature has at most {limits}."
    yield f"### Signature\n\n{struct(dspex.Signature)}"
    yield described("signature.with_instructions", dspex.Signature.with_instructions)
    yield f"### Field\n\n{struct(dspex.Field)}"
    aliases: dict[str, list[str]] = {}
    for alias, name in fieldtypes._ALIASES.items():
        aliases.setdefault(name, []).append(f"`{alias}`")
    named = [*fieldtypes._PLAIN, *fieldtypes._FORMS, "Optional", fieldtypes.HISTORY]
    rows = []
    for name in named:
        others = ", ".join(alias for alias in aliases.get(name, []) if alias != f"`{name}`")
        rows.append((f"`{name}`", others, _brackets(name)))
    yield "### Types"
    yield "A field has one of these types, or a union of them (`int | None`). Any other name is refused."
    yield table(("Type", "Also written", "In brackets"), rows)
    yield (
        f"Brackets nest at most {fieldtypes.MAX_NESTING} deep. A key of a dict, or a member of a set, cannot "
        f"be a list, dict or set. `{fieldtypes.HISTORY}` is the whole type of one input and of no output. An "
        "input that may be None may be left out."
    )
    yield "### Names that a field cannot have"
    yield (
        "A name is made of letters, digits and underscores. It does not begin with a digit or an underscore, "
        "is no keyword of Python, and is used once. DSPy uses these names for itself:"
    )
    both = signature.RESERVED_INPUTS & signature.RESERVED_OUTPUTS
    yield table(
        ("Fields", "Names"),
        [
            (kind, ", ".join(f"`{name}`" for name in sorted(names)))
            for kind, names in (
                ("inputs and outputs", both),
                ("inputs", signature.RESERVED_INPUTS - both),
                ("outputs", signature.RESERVED_OUTPUTS - both),
            )
        ],
    )
    yield (
        f"An input `{signature._NO_DICT}` cannot be a `dict` or `Any`. The outputs that a module adds are "
        "names that no input of it can have."
    )


def _brackets(name: str) -> str:
    if name == "tuple":
        return "optional: `tuple[int, str]`, `tuple[int, ...]`"
    if name not in fieldtypes._TAKES:
        return "none"
    example = f"`{fieldtypes._TAKES[name][1]}`"
    return f"needed: {example}" if name in {"Optional", "Union", "Literal"} else f"optional: {example}"


def commands_page() -> str:
    """Commands of the workers, and how to add some."""
    names, stats = _asked()
    if set(names) != set(_COMMANDS):
        raise SystemExit(
            f"docs/generate.py describes {sorted(_COMMANDS)}, and a worker answers {sorted(names)}"
        )
    shown = ", ".join(f"`{name}`" for name in stats)
    rows = [(f"`{name}`", takes, answer.format(stats=shown)) for name, (takes, answer) in _COMMANDS.items()]
    own = [(f"`{name}`", takes, answer) for name, (takes, answer) in _OWN_COMMANDS.items()]
    return page(
        "Commands",
        "`runtime.pool(name)` is the way to one pool by command. How to add commands is told in "
        "[Your own commands](../how-to/commands.md).",
        "## execute",
        described("pool.execute", bridge.Bridge.execute),
        "## aexecute",
        described("pool.aexecute", bridge.Bridge.aexecute),
        "## Built-in commands",
        table(("Command", "Arguments", "Answer"), rows),
        "The supervisor answers these, and no worker is asked:",
        table(("Command", "Arguments", "Answer"), own),
        "A command of your own that has one of these names is never called.",
        "## command",
        described("dspex.command", dspex.command),
        "## Unsendable",
        struct(dspex.Unsendable),
    )


def _asked() -> tuple[list[str], list[str]]:
    """The commands that a worker answers, and the facts it tells about itself."""
    one = {"general": dspex.PoolOptions(workers=1)}
    with dspex.Runtime(pools=one) as runtime:
        pool = runtime.pool()
        return pool.execute("describe")["commands"], list(pool.execute("get_stats"))


def testing_page() -> str:
    """What ``dspex.testing`` has."""
    lm = testing.ScriptedLM
    properties = [(name, member) for name, member in vars(lm).items() if isinstance(member, property)]
    shown = page(
        "Testing",
        "How it is used is told in [Tests of your own programs](../how-to/testing.md). All of it imports "
        "from `dspex.testing`.",
        "## ScriptedLM",
        described("ScriptedLM", lm),
        *[f"`.{name}`: {read(member).text}" for name, member in properties],
        *_methods("lm", lm, ("assert_exhausted", "close")),
        "## Scripted",
        "What a script may reply. A text, and outputs by name, are short for a `Reply` of them.",
        code(f"Scripted = {' | '.join(spelled(kind) for kind in get_args(testing.Scripted))}"),
        *[f"## {kind.__name__}\n\n{struct(kind)}" for kind in (testing.Reply, testing.Failure, testing.Drop)],
        "## raw",
        described("raw", testing.raw),
        "## Request",
        attributes(testing.Request),
        "## InProcessRuntime",
        described("InProcessRuntime", testing.InProcessRuntime),
    )
    if missing := [name for name in testing.__all__ if f"## {name}\n" not in shown]:
        raise SystemExit(f"the page about testing has no {', '.join(missing)}")
    return shown


def cli_page() -> str:
    """What the command line prints about itself."""
    commands = [[], *([info.name or ""] for info in app.registered_commands)]
    parts = []
    for command in commands:
        name = " ".join(["dspex", *command])
        shown = CliRunner().invoke(app, [*command, "--help"], prog_name="dspex", terminal_width=WIDTH)
        if shown.exit_code != 0:
            raise SystemExit(f"{name} --help failed: {shown.output}")
        lines = [line.rstrip() for line in shown.output.strip().splitlines()]
        parts.append(f"## {name}\n\n{code(chr(10).join(lines), 'text')}")
    return page(
        "Command line",
        "The answer goes to standard output. Progress, a line with model, tokens and seconds, and errors go "
        "to standard error. Any command ends with exit code 1 when its output cannot be written, and with "
        "130 when it is interrupted by Ctrl-C.",
        *parts,
        "## Environment",
        table(
            ("Variable", "Meaning"),
            [
                (
                    "`DSPEX_LM`",
                    "The LM when `--lm` is not given. Here it comes before the file's `default_lm`.",
                ),
                ("`DSPEX_SETTINGS`", "The settings file."),
            ],
        ),
    )


PAGES: Mapping[str, Callable[[], str]] = {
    "errors": errors_page,
    "settings": settings_page,
    "lm": lm_page,
    "adapter": adapter_page,
    "commands": commands_page,
    "cli": cli_page,
    "testing": testing_page,
}


def main() -> int:
    """Write the pages, or compare them; the exit code."""
    options = argparse.ArgumentParser(description="Write docs/reference/ from the code.")
    options.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page differs")
    check = options.parse_args().check
    made = {REFERENCE / f"{name}.md": make() for name, make in PAGES.items()}
    together = "".join(made.values())
    providers = HERE / "how-to" / "providers.md"
    made[providers] = provider_tables.put_into(providers.read_text(encoding="utf-8"))
    if missing := [name for name in dspex.__all__ if not re.search(rf"\b{name}\b", together)]:
        raise SystemExit(f"no page of the reference has {', '.join(missing)}")
    changed = [
        path for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    strangers = [path for path in REFERENCE.glob("*.md") if path not in made]
    for path in changed:
        sys.stderr.write(
            f"{path.relative_to(HERE.parent)} {'differs from the code' if check else 'written'}\n"
        )
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(made[path], encoding="utf-8")
    for path in strangers:
        sys.stderr.write(f"{path.relative_to(HERE.parent)} is not a page of the reference\n")
    return 1 if strangers or (check and changed) else 0


if __name__ == "__main__":
    sys.exit(main())
