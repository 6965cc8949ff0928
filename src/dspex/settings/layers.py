"""What arguments, file and environment set, each value with where it came from, and what holds of it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Any

import msgspec

from dspex import checks
from dspex.errors import DspexError, InvalidOption
from dspex.settings.files import Document, shown
from dspex.settings.programs import resolved
from dspex.settings.secrets import is_reference, literals, masked
from dspex.settings.shape import ROOT, Path, Table, dotted


@dataclass(frozen=True)
class Origin:
    """Where a value came from.

    Attributes:
        text: For people: ``"argument"``, ``"dspex.toml:3"``, ``"DSPEX_LM"`` or ``"default"``.
        details: The same for programs: ``file`` and ``line``, or ``variable``.
    """

    text: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def placed(self, error: DspexError) -> DspexError:
        """The error of a value from here, with its place; one from an argument stays as it is."""
        if not self.details:
            return error
        return type(error)(f"{self.text}: {error.message}", details={**error.details, **self.details})

    def blame(self, error: DspexError, path: Path) -> DspexError:
        """The error of a value from here, with its place and the option's whole name."""
        if not self.details and len(path) == 1:
            return error  # an argument, which the error names as its owner does
        option, said = dotted(path), error.details.get("option")
        # The checks name an option as its class does: "PoolOptions.slots has to be …".
        message = _OWNER.sub("", error.message)
        if said == path[-1] and message.startswith(f"{said} "):
            message = option + message.removeprefix(said)
        else:
            message = f"{option}: {message}"
        return self.placed(type(error)(message, details={**error.details, "option": option}))


_OWNER = re.compile(r"^[A-Z]\w+\.(?=\w+ has to be )")
ARGUMENT = Origin("argument")
DEFAULT = Origin("default")


@dataclass
class Layer:
    """Options by their names.

    Attributes:
        values: The value of each option.
        origins: Where each came from, and each table.
    """

    values: dict[Path, Any] = field(default_factory=dict)
    origins: dict[Path, Origin] = field(default_factory=dict)

    def add(self, stronger: Layer) -> None:
        """Let another layer's values hold where it has any."""
        self.values.update(stronger.values)
        self.origins.update(stronger.origins)

    def without(self, tables: Iterable[Path]) -> Layer:
        """A copy that does not have these tables."""
        dropped = set(tables)
        return Layer(
            {path: value for path, value in self.values.items() if path[:2] not in dropped},
            {path: origin for path, origin in self.origins.items() if path[:2] not in dropped},
        )

    def origin(self, path: Path) -> Origin:
        """Where an option came from, or the innermost of its tables that is written down."""
        found = (self.origins.get(path[:length]) for length in range(len(path), 0, -1))
        return next((origin for origin in found if origin is not None), DEFAULT)

    def below(self, table: Path) -> dict[str, Any]:
        """The options of a table, with those of its own tables as dicts."""
        found: dict[str, Any] = {}
        for path, value in self.values.items():
            if path[: len(table)] == table:
                *tables, name = path[len(table) :]
                inner = found
                for part in tables:
                    inner = inner.setdefault(part, {})
                inner[name] = value
        return found

    def names(self, kind: str) -> list[str]:
        """The names of the tables of one kind (``"lm"``, ``"pool"``, ``"program"``)."""
        return [path[1] for path in self.origins if len(path) == 2 and path[0] == kind]


def of_file(document: Document) -> Layer:
    """What a settings file says.

    Raises:
        InvalidOption: It has an option that there is not, or a value of another kind.
    """
    name = shown(document.file)

    def origin(path: Path) -> Origin:
        line = document.line(path)
        details = {"file": str(document.file), **({"line": line} if line is not None else {})}
        return Origin(name if line is None else f"{name}:{line}", details)

    layer = Layer()
    _walk(document.table, ROOT, (), origin, layer)
    _resolve(layer, document.file.parent)
    for option, value in layer.values.items():
        for path in literals(option, value):
            raise origin(path).placed(_literal(path))
    return layer


def of_arguments(
    lms: Mapping[str, Any],
    pools: Mapping[str, Any],
    programs: Mapping[str, Any] | None = None,
    budgets: Mapping[str, Any] | None = None,
    tenant_budgets: Mapping[str, Any] | None = None,
) -> Layer:
    """What keyword arguments say of profiles, pools, programs and budgets.

    Raises:
        InvalidOption: They have an option that there is not, or a value of another kind.
    """
    layer = Layer()
    for option, key, given in (
        ("lms", "lm", lms),
        ("pools", "pool", pools),
        ("programs", "program", programs or {}),
        ("budgets", "budgets", budgets or {}),
        ("tenant_budgets", "tenant_budgets", tenant_budgets or {}),
    ):
        if not isinstance(given, Mapping):
            raise _no_table(option, given)
        _walk({key: given}, ROOT, (), lambda _: ARGUMENT, layer)
    return layer


def _literal(path: Path) -> InvalidOption:
    option = dotted(path)
    if option == "store":
        return InvalidOption(
            "store holds a password, and a file is copied and committed. Write where the URL is instead: "
            "'env:DATABASE_URL' for a variable, 'file:/run/secrets/store', or 'keyring:service/user'",
            details={"option": option},
        )
    how = "'env:OPENAI_API_KEY' for a variable, 'file:/run/secrets/openai', or 'keyring:service/user'"
    return InvalidOption(
        f"{option} holds a key, and a file is copied and committed. Write where the key is instead: {how}",
        details={"option": option},
    )


def _resolve(layer: Layer, folder: File) -> None:
    """Make paths of a file go from its own directory on; a bare program name is looked up as ever."""
    for name in layer.names("program"):
        for key, value in resolved(layer.below(("program", name)), folder).items():
            layer.values["program", name, key] = value
    for name in ("python", "local_model"):
        path = layer.values.get((name,))
        if path and (name == "local_model" or "/" in path):
            layer.values[name,] = str(folder / os.path.expanduser(path))  # noqa: PTH111 (it never fails)
    store = layer.values.get(("store",))
    if store and store != "memory" and "://" not in store and not is_reference(store):
        layer.values["store",] = str(folder / os.path.expanduser(store))  # noqa: PTH111


def _walk(
    table: Mapping[Any, Any], shape: Table, path: Path, origin: Callable[[Path], Origin], layer: Layer
) -> None:
    for key, value in table.items():
        here = (*path, str(key))
        kind = shape.find(here[-1])
        if kind is None:
            raise origin(here).placed(_unknown(here, shape))
        if isinstance(kind, Table):
            # An object, ``PoolOptions(...)`` or ``Retry(...)``, sets all of its fields.
            inner = msgspec.structs.asdict(value) if isinstance(value, msgspec.Struct) else value
            if not isinstance(inner, Mapping):
                raise origin(here).placed(_no_table(dotted(here), value))
            layer.origins[here] = origin(here)
            _walk(inner, kind, here, origin, layer)
        elif kind.fits(value) or (here[-1] == "api_key" and callable(value)):
            layer.values[here] = value
            layer.origins[here] = origin(here)
        else:
            raise origin(here).placed(checks.refuse(dotted(here), kind.wants, masked(here, value)))


def _no_table(option: str, value: object) -> InvalidOption:
    # Without the value: who leaves the name of a profile out has his key there.
    wrong = f"{option} has to be a table of options by name, not {type(value).__name__}"
    return InvalidOption(wrong, details={"option": option})


def _unknown(path: Path, shape: Table) -> InvalidOption:
    table = f"[{dotted(path[:-1])}] has no option" if path[1:] else "there is no option"
    near = shape.nearest(path[-1])
    hint = f"did you mean {near!r}?" if near else f"known: {', '.join(shape.keys)}"
    return InvalidOption(f"{table} {path[-1]!r}; {hint}", details={"option": dotted(path)})
