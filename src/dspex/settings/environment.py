"""Options from variables of the environment."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from dspex import checks
from dspex.settings.kinds import Kind
from dspex.settings.layers import Layer, Origin
from dspex.settings.secrets import masked
from dspex.settings.shape import ROOT, Path, Table

PREFIX = "DSPEX_"
#: Names the settings file.
FILE = "DSPEX_SETTINGS"
#: Where a server's key is by custom, which is no option.
KEY = "DSPEX_SERVER_KEY"
# What Kubernetes puts into each container when a service is called "dspex", or "dspex-" and something.
_KUBERNETES = re.compile(
    r"DSPEX_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
_SHORT = {"default_lm": "LM"}


def _upper(name: str) -> str:
    return re.sub(r"\W", "_", name).upper()


def variable(path: Path) -> str:
    """The variable that sets an option: ``DSPEX_POOL__GENERAL__WORKERS``."""
    return PREFIX + "__".join(_upper(_SHORT.get(name, name) if len(path) == 1 else name) for name in path)


#: The variables of options that are in no table.
PLAIN = {variable((name,)): (name,) for name, kind in ROOT.keys.items() if isinstance(kind, Kind)}


def is_kubernetes(name: str) -> bool:
    """Whether the variable is one that Kubernetes sets for a service."""
    return _KUBERNETES.fullmatch(name) is not None


def of_environment(environ: Mapping[str, str], names: Iterable[Path]) -> tuple[Layer, list[str]]:
    """What the environment sets. A variable that is empty sets nothing.

    Args:
        environ: The variables.
        names: Tables that other layers have, as ``("lm", "fast")``. A variable that fits one belongs to it;
            else the name is that of the variable in lower case.

    Returns:
        The options, and the variables that begin as ours do and are none of them.

    Raises:
        InvalidOption: A value is not of the kind that its option takes.
    """
    tables = {variable(path): path for path in names}
    layer, ignored = Layer(), []
    for name, text in sorted(environ.items()):
        if not name.startswith(PREFIX) or name in (FILE, KEY) or not text:
            continue
        path = PLAIN.get(name) or _path(name, tables)
        kind = _kind(path) if len(path) > 1 or name in PLAIN else None
        if kind is None:
            ignored.append(name)
            continue
        origin = Origin(name, {"variable": name})
        try:
            value = kind.parse(text)
        except ValueError:
            wrong = checks.refuse(path[-1], kind.wants, masked(path, text))
            raise origin.blame(wrong, path) from None
        layer.values[path] = value
        layer.origins[path] = origin
        for length in range(2, len(path)):
            layer.origins.setdefault(path[:length], origin)
    return layer, ignored


def _path(name: str, tables: Mapping[str, Path]) -> Path:
    parts = name.removeprefix(PREFIX).split("__")
    table = tables.get(PREFIX + "__".join(parts[:2]), tuple(part.lower() for part in parts[:2]))
    return (*table, *(part.lower() for part in parts[2:]))


def _kind(path: Path) -> Kind | None:
    """What the option of a variable takes; None if there is no such option."""
    found: Kind | Table | None = ROOT
    for name in path:
        if not isinstance(found, Table) or not name:
            return None
        found = found.find(name)
    return found if isinstance(found, Kind) else None
