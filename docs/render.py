"""Docstrings and signatures as Markdown, for ``generate.py``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from dspex.settings.environment import variable

#: Columns of a line of code.
WIDTH = 100
_NOTE = "<!-- Written by docs/generate.py from the code. Change the docstrings there, not this page. -->"
_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Example):$")
_ENTRY = re.compile(r"^    (\*{0,2}[\w.]+): (.*)$")
_MIB = 1024 * 1024
# The word of an option's meaning that is its unit; "60 seconds" is a number of something else.
_UNIT = re.compile(r"\b(?<!\d )(seconds|bytes|tokens|requests)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Doc:
    """A Google-style docstring, taken apart.

    Attributes:
        text: The paragraphs before the first section.
        entries: Entries of each section, name and words.
        free: The whole text of each section.
    """

    text: str
    entries: dict[str, dict[str, str]]
    free: dict[str, str]


def read(documented: Any) -> Doc:
    """The docstring of a class, function or module."""
    found = vars(documented).get("__doc__") if isinstance(documented, type) else documented.__doc__
    parts: dict[str, list[str]] = {"": []}
    section = ""
    for line in inspect.cleandoc(found or "").splitlines():
        heading = _SECTION.match(line)
        if heading:
            section = heading[1]
            parts[section] = []
        else:
            parts[section].append(line)
    text = markdown("\n".join(parts.pop("")).strip())
    free = {name: inspect.cleandoc("\n" + "\n".join(lines)) for name, lines in parts.items()}
    return Doc(text, {name: dict(_entries(lines)) for name, lines in parts.items()}, free)


def _entries(lines: Iterable[str]) -> Iterable[tuple[str, str]]:
    name, words = "", ""
    for line in lines:
        entry = _ENTRY.match(line)
        if entry:
            if name:
                yield name, words
            name, words = entry[1], entry[2]
        elif line.strip():
            words += " " + line.strip()
    if name:
        yield name, words


def markdown(text: str) -> str:
    """Docstring text as Markdown."""
    return re.sub(r"``(.+?)``", r"`\1`", text, flags=re.DOTALL)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in lines
    )


def code(text: str, language: str = "python") -> str:
    """A block of code."""
    return f"```{language}\n{text}\n```"


def page(title: str, *parts: str) -> str:
    """A whole page."""
    return "\n\n".join([_NOTE, f"# {title}", *(part for part in parts if part)]) + "\n"


def default(value: Any) -> str:
    """A default as a reader would write it."""
    if type(value).__name__ in {"_Unset", "UnsetType"}:
        return "..."
    if isinstance(value, int) and not isinstance(value, bool) and value >= _MIB and value % _MIB == 0:
        return f"{value // _MIB} * 1024 * 1024"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def default_of(field: msgspec.structs.FieldInfo) -> str:
    """The default of a field, or that it has none."""
    if field.default_factory is not msgspec.NODEFAULT:
        return f"`{default(field.default_factory())}`"
    return "required" if field.default is msgspec.NODEFAULT else f"`{default(field.default)}`"


def spelled(annotation: Any) -> str:
    """An annotation as a reader would write it."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    text = re.sub(r"\bPrompt\b", "str | Sequence[Mapping[str, Any]]", text)
    text = re.sub(r"\b(_Unset|UnsetType) \| | \| UnsetType\b", "", text)
    return text.replace("'", '"')


def signature_of(name: str, function: Callable[..., Any]) -> str:
    """How a function is called, one parameter a line when one line is too short."""
    declared = inspect.signature(function)
    shown: list[str] = []
    keyword_only = False
    for parameter in declared.parameters.values():
        if parameter.name == "self" or parameter.name.startswith("_"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            shown.append("*")
            keyword_only = True
        stars = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        text = f"{stars}{parameter.name}: {spelled(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            text += f" = {default(parameter.default)}"
        shown.append(text)
    returns = declared.return_annotation
    after = (
        "" if returns is inspect.Signature.empty or inspect.isclass(function) else f" -> {spelled(returns)}"
    )
    if inspect.iscoroutinefunction(function):
        name = f"await {name}"
    line = f"{name}({', '.join(shown)}){after}"
    if len(line) <= WIDTH:
        return line
    return f"{name}(\n" + "".join(f"    {text},\n" for text in shown) + f"){after}"


def described(name: str, function: Callable[..., Any]) -> str:
    """A function, method or class: its call, its words, its parameters, its errors."""
    doc = read(function)
    parts = [code(signature_of(name, function)), doc.text]
    if "Args" in doc.entries:
        rows = [(f"`{arg}`", markdown(words)) for arg, words in doc.entries["Args"].items()]
        parts.append(table(("Parameter", "Meaning"), rows))
    if "Attributes" in doc.entries:
        rows = [(f"`{name}`", markdown(words)) for name, words in doc.entries["Attributes"].items()]
        parts.append(table(("Attribute", "Meaning"), rows))
    if "Returns" in doc.free:
        parts.append("Returns: " + markdown(" ".join(doc.free["Returns"].split())))
    if "Raises" in doc.entries:
        lines = [f"- `{error}`: {markdown(words)}" for error, words in doc.entries["Raises"].items()]
        parts.append("Raises:\n\n" + "\n".join(lines))
    if "Example" in doc.free:
        parts.append(code(doc.free["Example"], "pycon"))
    return "\n\n".join(parts)


def methods(owner: str, kind: type, names: Iterable[str]) -> list[str]:
    """Methods of a class, each under a heading of its own."""
    return [f"### {name}\n\n{described(f'{owner}.{name}', getattr(kind, name))}" for name in names]


def struct(kind: type[msgspec.Struct]) -> str:
    """A class of plain values: its words and its fields."""
    doc = read(kind)
    known: dict[str, Any] = {}
    words: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        known |= inspect.get_annotations(base)
        words |= read(base).entries.get("Attributes", {})
    rows = [
        (f"`{field.name}`", f"`{spelled(known[field.name])}`", default_of(field), markdown(words[field.name]))
        for field in msgspec.structs.fields(kind)
    ]
    properties = [(name, member) for name, member in vars(kind).items() if isinstance(member, property)]
    more = [f"`.{name}`: {read(member).text}" for name, member in properties]
    fields = table(("Field", "Type", "Default", "Meaning"), rows) if rows else ""
    return "\n\n".join(part for part in (doc.text, fields, *more) if part)


def attributes(kind: type) -> str:
    """The attributes that a class's docstring names."""
    doc = read(kind)
    rows = [(f"`{name}`", markdown(words)) for name, words in doc.entries["Attributes"].items()]
    return f"{doc.text}\n\n{table(('Attribute', 'Meaning'), rows)}"


def option_rows(table_of: tuple[str, ...], kind: type[msgspec.Struct]) -> Iterable[tuple[str, ...]]:
    """The options of one table of a settings file: name, type, default, unit, variable and meaning."""
    words = read(kind).entries["Attributes"]
    types = inspect.get_annotations(kind)
    for field in msgspec.structs.fields(kind):
        path = (*table_of, field.name)
        unit = _UNIT.search(words[field.name].partition(". ")[0])
        yield (
            f"`{'.'.join(path)}`",
            f"`{spelled(types[field.name])}`",
            default_of(field),
            unit[0].lower() if unit else "",
            f"`{variable(path)}`",
            markdown(words[field.name]),
        )
