"""What a settings file may hold, and where in it each option stands."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import msgspec

from dspex.settings.kinds import ANY, NAMES, TEXT, Kind, kind_of
from dspex.settings.options import LMOptions, PoolOptions, RuntimeOptions
from dspex.settings.programs import KINDS
from dspex.types import Breaker, Budget, Limits, Retry

#: The names of an option and of the tables that it is in, outermost first.
Path = tuple[str, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
# Request parameters of providers that look like a slip in a key of ours.
_NO_SLIPS = frozenset({"min_tokens", "models"})


#: What a budget is for.
SCOPES = ("call", "session", "tenant", "day")

#: Options of an LM's connection. They are text whatever they look like: a project's number is no number.
CONNECTION = (
    *("api_version", "organization", "project", "credentials"),
    *("aws_region_name", "aws_access_key_id", "aws_secret_access_key", "aws_session_token"),
    *("aws_profile_name", "aws_role_name", "aws_session_name"),
    *("vertex_project", "vertex_location", "vertex_credentials"),
)


@dataclass(frozen=True)
class Table:
    """What one table may hold.

    Attributes:
        keys: Its own keys.
        others: What any other key is; None refuses them.
    """

    keys: dict[str, Kind | Table] = field(default_factory=dict)
    others: Kind | Table | None = None

    def find(self, key: str) -> Kind | Table | None:
        """What the key is, or None if there is no such key.

        Where any key may be a parameter, one that is nearly a key of ours is a slip: it would be sent to
        the provider, and what was meant would not hold.
        """
        if key in self.keys:
            return self.keys[key]
        if self.others is ANY and key not in _NO_SLIPS and self.nearest(key, 0.8) is not None:
            return None
        return self.others

    def nearest(self, key: str, likeness: float = 0.6) -> str | None:
        """The key that somebody who wrote this one most likely meant."""
        close = difflib.get_close_matches(key[:64].lower(), self.keys, n=1, cutoff=likeness)
        return close[0] if close else None


def _table(struct: type[msgspec.Struct], others: Kind | None = None, **nested: Table) -> Table:
    fields = msgspec.structs.fields(struct)
    return Table({**{field.name: kind_of(field.type) for field in fields}, **nested}, others)


def _profile() -> Table:
    table = _table(LMOptions, ANY, retry=_table(Retry), limits=_table(Limits), breaker=_table(Breaker))
    table.keys["fallbacks"] = NAMES
    table.keys.update(dict.fromkeys(CONNECTION, replace(TEXT, optional=True)))
    return table


#: The whole file.
ROOT = Table(
    {
        **_table(RuntimeOptions).keys,
        "lm": Table(others=_profile()),
        "pool": Table(others=_table(PoolOptions)),
        "program": Table(others=Table(dict(KINDS))),
        "budgets": Table(dict.fromkeys(SCOPES, _table(Budget))),
        "tenant_budgets": Table(others=_table(Budget)),
    }
)


def dotted(path: Iterable[str]) -> str:
    """The option as TOML writes it: ``lm.fast.model``, with quotes where a name needs them."""
    return ".".join(
        name if _BARE.fullmatch(name) else '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
        for name in path
    )
