"""The keys that callers show: which are known, and whose they are."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from dspex.errors import InvalidOption
from dspex.runtime.caller import check_tenant


class Keys:
    """What is asked of callers.

    Args:
        own: The key of whoever runs the server, whose calls are no tenant's; None is none.
        tenants: Keys by tenant.

    Raises:
        InvalidOption: A tenant's name is none, a key is empty, or two are the same.
    """

    def __init__(self, own: str | None, tenants: Mapping[str, str]) -> None:
        if own is not None and not own.strip():
            raise _refused("the key that callers have to show is empty", "key")
        for name, key in tenants.items():
            check_tenant(name)
            if not key.strip():
                raise _refused(f"the key of the tenant {name!r} is empty")
        pairs = [(None, own)] if own is not None else []
        self._known = [(name, key.encode()) for name, key in (*pairs, *tenants.items())]
        if len({key for _, key in self._known}) < len(self._known):
            raise _refused("two of the keys that callers may show are the same; each has to be one's own")

    def __bool__(self) -> bool:
        """Whether a key is asked for."""
        return bool(self._known)

    def find(self, authorization: bytes) -> tuple[bool, str | None]:
        """Whether the key in a header is known, and whose it is; None of nobody in particular."""
        scheme, _, shown = authorization.partition(b" ")
        shown, known, whose = shown.strip(), False, None
        for name, key in self._known:  # all of them, so that the time says nothing
            # On bytes: text that is not ASCII cannot be compared in constant time.
            if hmac.compare_digest(shown, key):
                known, whose = True, name
        return known and scheme.lower() == b"bearer", whose


def _refused(why: str, option: str = "tenant_keys") -> InvalidOption:
    return InvalidOption(why, details={"option": option})
