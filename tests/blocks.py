"""The blocks of code in the documentation: found, and run as a reader would run them.

A comment on the line before a block says what it is::

    <!-- run -->              run it, after those before it on the page, in the same namespace
    <!-- output -->           what the block that ran last has printed; `...` stands for anything
    <!-- file: shop/jobs.py -->  a file that the blocks of the page find when they import
    <!-- from: examples/app.py -->  lines of that file, which has tests of its own

``python -m tests.blocks PAGE --provider URL`` runs one page in the working directory. Each request to a
provider goes to the URL, whatever the page says; a ``ScriptedLM`` answers its own.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import doctest
import functools
import io
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dspex.lm.profile import LM
from dspex.testing import ScriptedLM
from dspex.types import LMSpec

_BLOCK = re.compile(
    r"(?:^<!-- (?P<marker>[^\n]+?) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S
)
_FILE = "file: "


@dataclass(frozen=True)
class Block:
    """One block of a page.

    Attributes:
        page: The file that has it.
        line: Number of its first line there.
        language: As the page says.
        marker: What the comment before it says; empty without one.
        code: Its text.
    """

    page: Path
    line: int
    language: str
    marker: str
    code: str

    def compiled(self) -> Any:
        """Its code, so that an error is shown at its place on the page."""
        awaits = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT if self.marker.endswith(".ipynb") else 0
        return compile("\n" * (self.line - 1) + self.code, str(self.page), "exec", awaits)


def blocks(page: Path) -> list[Block]:
    """All blocks of a page in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, found.start("code")) + 1,
            found["language"],
            found["marker"] or "",
            found["code"],
        )
        for found in _BLOCK.finditer(text)
    ]


def write_files(found: list[Block], folder: Path) -> None:
    """Put the files that a page shows where its blocks will find them."""
    for block in found:
        if block.marker.startswith(_FILE):
            file = folder / block.marker.removeprefix(_FILE)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.code, encoding="utf-8")


def run(found: list[Block]) -> None:
    """Run the blocks that are to be run, in one namespace, and compare what they print.

    Raises:
        AssertionError: A block has printed something else than the page says.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    for block in found:
        if block.marker == "run":
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(block.compiled(), namespace)
            printed = output.getvalue()
            sys.stdout.write(printed)
        elif block.marker == "output":
            place = f"{block.page}:{block.line}"
            same = doctest.OutputChecker().check_output(block.code, printed, doctest.ELLIPSIS)
            assert same, f"{place} shows\n{block.code}\nand the block before it printed\n{printed}"


def redirect(provider: str, *, local: bool) -> None:
    """Send all requests to one server on this machine; with `local` those for the embedded model as well."""
    paths = {"gemini": "/v1beta", "azure": "", "vertex": "", "bedrock": ""}
    stock_init, stock_spec = LM.__init__, LM.spec

    @functools.wraps(stock_init)
    def init(self: LM, model: str, **options: Any) -> None:
        stock_init(self, "openai/local" if local and model == "local" else model, **options)

    @functools.wraps(stock_spec)
    def spec(self: LM, api_key: str | None, base_url: str | None, *more: Any, **gate: Any) -> LMSpec:
        if not self.is_local and self.engine in {None, "litellm"} and not isinstance(self, ScriptedLM):
            base_url = provider + paths.get(self.model.partition("/")[0], "/v1")
        return stock_spec(self, api_key, base_url, *more, **gate)

    LM.__init__ = init  # type: ignore[method-assign]
    LM.spec = spec  # type: ignore[method-assign]


def main() -> None:
    """Run one page."""
    options = argparse.ArgumentParser(description="Run the blocks of a page of the documentation.")
    options.add_argument("page", type=Path)
    options.add_argument("--provider", required=True, help="address of the server that answers requests")
    options.add_argument("--local", action="store_true", help="leave requests to the embedded model to it")
    chosen = options.parse_args()
    found = blocks(chosen.page)
    write_files(found, Path.cwd())
    redirect(chosen.provider, local=not chosen.local)
    # As for a script in the working directory.
    sys.path.insert(0, str(Path.cwd()))
    run(found)


if __name__ == "__main__":
    main()
