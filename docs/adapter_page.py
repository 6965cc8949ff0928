"""The page of the runtime and the adapter, with modules and signatures, for ``generate.py``."""

from __future__ import annotations

from collections.abc import Iterable

from render import attributes, code, described, methods, page, read, struct, table

import dspex
from dspex.program import catalogue, fieldtypes, schemas, shapes, signature
from dspex.runtime import call

_SESSION = tuple(
    name
    for method in (
        "get",
        "set",
        "update",
        "unset",
        "variables",
        "create_program",
        "program",
        "programs",
        "import_program",
        "chat",
        "stream",
        "turns",
        "undo",
        "insights",
        "info",
        "export",
        "reset",
        "delete",
    )
    for name in (method, f"a{method}")
)

_OF_PROGRAMS = (
    "__call__",
    "acall",
    "stream",
    "astream",
    "batch",
    "abatch",
    *(
        name
        for method in ("change", "rollback", "info", "export", "save", "load", "delete")
        for name in (method, f"a{method}")
    ),
)


def whole() -> str:
    """The runtime, the adapter, what they answer, modules and signatures."""
    runtime, adapter, response = dspex.Runtime, dspex.DSPyAdapter, dspex.Response
    properties = [(name, member) for name, member in vars(response).items() if isinstance(member, property)]
    return page(
        "Runtime and adapter",
        "## Runtime",
        described("Runtime", runtime),
        *methods("runtime", runtime, ("open", "aopen", "close", "aclose", "adapter", "pool", "stats", "on")),
        "## DSPyAdapter",
        described("DSPyAdapter", adapter),
        *methods(
            "adapter",
            adapter,
            (
                "generate",
                "agenerate",
                "stream",
                "astream",
                "batch",
                "abatch",
                "program",
                "aprogram",
                "describe",
                "adescribe",
                "session",
                "asession",
                "sessions",
                "asessions",
                "create_program",
                "acreate_program",
                "execute_program",
                "aexecute_program",
                "stream_program",
                "astream_program",
                "import_program",
                "aimport_program",
                "configure",
                "capabilities",
            ),
        ),
        "### Capabilities",
        struct(dspex.Capabilities),
        "## Program",
        described("Program", dspex.Program),
        *methods("program", dspex.Program, _OF_PROGRAMS),
        "### ProgramInfo",
        struct(dspex.ProgramInfo),
        "### StageResult",
        struct(dspex.StageResult),
        "## Stage",
        described("Stage", dspex.Stage),
        "## LoadedProgram",
        read(dspex.LoadedProgram).text,
        attributes(dspex.LoadedProgram),
        f"`.version`: {read(dspex.LoadedProgram.version).text}",
        *methods("program", dspex.LoadedProgram, ("__call__", "acall", "swap", "aswap", "rollback")),
        "## NamedProgram",
        read(dspex.NamedProgram).text,
        attributes(dspex.NamedProgram),
        *methods("program", dspex.NamedProgram, ("__call__", "acall", "swap", "aswap", "rollback")),
        "## Session",
        read(dspex.Session).text,
        *methods("session", dspex.Session, _SESSION),
        *[
            f"### {kind.__name__}\n\n{struct(kind)}"
            for kind in (dspex.SessionInfo, dspex.Turn, dspex.Insights)
        ],
        "## Response",
        attributes(response),
        *[f"`.{name}`: {read(member).text}" for name, member in properties],
        described("response.to_dict", response.to_dict),
        "This version has no cache of answers, so `cached` is always False.",
        "## Stream",
        read(dspex.Stream).text,
        attributes(dspex.Stream),
        *methods("stream", dspex.Stream, ("text_stream", "is_output", "close")),
        "### AsyncStream",
        read(dspex.AsyncStream).text,
        *methods("stream", dspex.AsyncStream, ("text_stream", "is_output", "aclose")),
        *[
            f"### {kind.__name__}\n\n{struct(kind)}"
            for kind in (dspex.Started, dspex.Delta, dspex.Status, dspex.ToolResult, dspex.Final)
        ],
        "Beside these a stream tells a `ToolCall` when a tool is called, and the `Usage` of each LM request "
        "that has ended.",
        "## Outcome",
        struct(dspex.Outcome),
        f"`.ok`: {read(dspex.Outcome.ok).text}",
        "### BatchProgress",
        struct(dspex.BatchProgress),
        "### Outcomes",
        read(dspex.Outcomes).text,
        *methods("outcomes", dspex.Outcomes, ("drain", "close")),
        "### AsyncOutcomes",
        read(dspex.AsyncOutcomes).text,
        *methods("outcomes", dspex.AsyncOutcomes, ("drain", "aclose")),
        "### Timing",
        struct(dspex.Timing),
        "### Usage",
        struct(dspex.Usage),
        "### FallenBack",
        struct(dspex.FallenBack),
        "### LMRequest",
        struct(dspex.LMRequest),
        "### ToolRecord",
        struct(dspex.ToolRecord),
        "### Described",
        struct(dspex.Described),
        "### DescribedField",
        struct(dspex.DescribedField),
        "### DescribedOption",
        struct(dspex.DescribedOption),
        "## Tools",
        described("Tool", dspex.Tool),
        *[
            f"### {kind.__name__}\n\n{struct(kind)}"
            for kind in (dspex.ToolRequest, dspex.Allow, dspex.Deny, dspex.MCPServer)
        ],
        "## Modules",
        *_modules(),
        "### Reward",
        described("Reward", dspex.Reward),
        *methods("Reward", dspex.Reward, ("exact_match", "contains", "json_schema")),
        "### Prediction",
        described("Prediction", dspex.Prediction),
        "## Signatures",
        *_signatures(),
        "## Statistics",
        "`runtime.stats()` gives a `RuntimeStats`.",
        *[
            f"### {kind.__name__}\n\n{struct(kind)}"
            for kind in (
                dspex.RuntimeStats,
                dspex.PoolStats,
                dspex.WorkerStats,
                dspex.LMStats,
                dspex.BreakerStats,
                dspex.BudgetStats,
            )
        ],
    )


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
        "A signature is text in DSPy's form, a dict (with JSON Schemas for types), a class or an import "
        "path, see [Signatures and types](../how-to/signatures.md); or a `Signature` made by hand. A call "
        f"without one has `{call.DEFAULT_SIGNATURE}`. A field without a type is `str`; as an input it takes "
        "any value."
    )
    yield code("question, context: list[str] -> answer: Literal['yes', 'no'], reasons: list[str]", "text")
    limits = f"{signature.MAX_FIELDS} fields, and as text {signature.MAX_CHARACTERS:,} characters"
    yield (
        f"A signature has at most {limits}. Of types of its own it has up to {shapes.MAX_SHAPES}, whose "
        f"schemas have up to {shapes.MAX_SCHEMAS // 1024} KiB and nest up to {shapes.MAX_DEPTH} deep; an "
        f"`enum` has up to {schemas.MAX_ENUM:,} values."
    )
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
