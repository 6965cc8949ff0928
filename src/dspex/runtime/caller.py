"""Whose call it is, and how urgent: what decides who goes next when calls have to wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dspex import checks
from dspex.types import Budget

Priority = Literal["interactive", "batch"]
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls.

    Attributes:
        tenant: The tenant's name; empty when nobody said.
        batch: Whether interactive calls go first.
        budget: What the call may spend; None is what the settings say.
    """

    tenant: str = ""
    batch: bool = False
    budget: Budget | None = None


def caller(tenant: str | None, priority: Priority, budget: Budget | None = None) -> Caller:
    """The caller that these options of a call name.

    Raises:
        InvalidOption: One of them is not what it has to be.
    """
    if priority not in {"interactive", "batch"}:
        raise checks.refuse("priority", "'interactive' or 'batch'", priority)
    check_tenant(tenant)
    return Caller(tenant or "", priority == "batch", None if budget is None else checks.budget(budget))


def check_tenant(tenant: str | None) -> None:
    """Refuse what cannot be a tenant's name; None is none.

    Raises:
        InvalidOption: It is empty, longer than 200 characters, or no valid text, or it holds
            U+0000.
    """
    if tenant is None:
        return
    if isinstance(tenant, str) and 0 < len(tenant) <= _LONGEST and "\0" not in tenant:
        try:
            tenant.encode()
        except UnicodeEncodeError:
            pass
        else:
            return
    shown = tenant if not isinstance(tenant, str) else f"{tenant[:40]!a} of {len(tenant)} characters"
    raise checks.refuse("tenant", f"text of 1 to {_LONGEST} characters without U+0000, or None", shown)
