"""What a check has found."""

from __future__ import annotations

from typing import Literal

import msgspec

Status = Literal["ok", "warning", "missing", "broken"]


class Finding(msgspec.Struct, frozen=True):
    """The outcome of one check.

    Attributes:
        status: ``ok``; ``warning``: it works with less, or an optional part does not; ``missing``: an
            optional part is not there; ``broken``: dspex cannot be used like this.
        found: What is there, in words.
        mend: The command, or the step, that mends it; None when nothing needs to be mended.
    """

    status: Status
    found: str
    mend: str | None = None
