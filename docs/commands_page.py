"""The page of the workers' commands, for ``generate.py``."""

from __future__ import annotations

from render import described, page, struct, table

import dspex
from dspex.runtime import bridge

# What each command of a worker takes and answers; the names are compared with those of a running worker.
_COMMANDS = {
    "ping": ("nothing", "`pong`."),
    "echo": ("anything", "The arguments. The worker does nothing else with them."),
    "describe": (
        "nothing, or `signature` and perhaps `module`",
        "Without arguments: the commands, the modules, the version of DSPy. The commands of your own "
        "modules are among them once the worker has imported these. With a signature: its instructions, and "
        "for each field its JSON schema and description. With a `module` of your own "
        "(`package.module:Class`): its documentation, its inputs with their schemas and defaults, whether "
        "it is `shared` and `idempotent`. No language model is asked.",
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
    "create_program": (
        "`signature`, `modules`, `session_id`, `name`, `instructions`, `demos`, `lm`, `options`, `sandbox`, "
        "`tools` (import paths)",
        "`program_id`, `session_id`, `name`, `version`.",
    ),
    "execute_program": ("`program_id`, `inputs` or `prompt`, `session_id`, `lm`", "The outputs, as a dict."),
    "list_programs": ("`session_id`", "What `get_program_info` gives, of each program of the session."),
    "get_program_info": (
        "`program_id`, `session_id`",
        "`id`, `name`, `session_id`, `version`, `versions`, `created`, `modules`, `signature`.",
    ),
    "delete_program": ("`program_id`, `session_id`", "`deleted`: its id."),
    "cleanup_session": ("`session_id`", "`deleted`: its id. Nothing of the session is left."),
}


def whole() -> str:
    """Commands of the workers, and how to add some."""
    names, stats = _asked()
    if set(names) != set(_COMMANDS):
        raise SystemExit(
            f"docs/commands_page.py describes {sorted(_COMMANDS)}, and a worker answers {sorted(names)}"
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
        "## execute_in_session",
        described("pool.execute_in_session", bridge.Bridge.execute_in_session),
        "## aexecute",
        described("pool.aexecute", bridge.Bridge.aexecute),
        "## Built-in commands",
        table(("Command", "Arguments", "Answer"), rows),
        "The supervisor answers these, and no worker is asked:",
        table(("Command", "Arguments", "Answer"), own),
        "A command of your own that has one of these names is never called.",
        "## command",
        described("dspex.command", dspex.command),
        described("dspex.module", dspex.module),
        "## Unsendable",
        struct(dspex.Unsendable),
    )


def _asked() -> tuple[list[str], list[str]]:
    """The commands that a worker answers, and the facts it tells about itself."""
    one = {"general": dspex.PoolOptions(workers=1)}
    with dspex.Runtime(pools=one) as runtime:
        pool = runtime.pool()
        return pool.execute("describe")["commands"], list(pool.execute("get_stats"))
