"""The page of the typed values, for ``generate.py``."""

from __future__ import annotations

from render import described, methods, page, struct

import dspex

_WAYS = ("from_path", "from_bytes", "from_url", "from_file_id")


def whole() -> str:
    """Every typed value, and the ways to make one."""
    files = (dspex.Image, dspex.Audio, dspex.File, dspex.Document)
    records = (dspex.History, dspex.ToolCall, dspex.ToolCalls, dspex.Citation, dspex.Citations)
    return page(
        "Typed values",
        "How to use them is told in [Files and images](../how-to/files-and-images.md). All import "
        "from `dspex`, and none needs DSPy.",
        *[part for kind in files for part in _file(kind)],
        *[f"## {kind.__name__}\n\n{struct(kind)}" for kind in records],
        f"## Code\n\n{described('Code', dspex.Code)}",
        f"## Reasoning\n\n{described('Reasoning', dspex.Reasoning)}",
        f"## Unsendable\n\n{struct(dspex.Unsendable)}",
    )


def _file(kind: type) -> list[str]:
    ways = [name for name in _WAYS if hasattr(kind, name)]
    return [f"## {kind.__name__}\n\n{struct(kind)}", *methods(kind.__name__, kind, ways)]
