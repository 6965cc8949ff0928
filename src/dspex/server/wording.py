"""dspex's messages in the words of HTTP: what they say to do next is written for Python."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SESSION = "/v1/sessions/{id}/programs"
#: What messages say to do next, and what that is over HTTP.
_STEPS: Sequence[tuple[re.Pattern[str], str]] = tuple(
    (re.compile(said, re.S), instead)
    for said, instead in (
        (r"adapter\.session\(\.\.\.\) makes one$", f"POST {_SESSION} makes one"),
        (
            r"session\.program\(.*\) gives it, and its change\(\.\.\.\) makes a new version$",
            f"choose another name, or run that one: GET {_SESSION} lists them",
        ),
        (r": create_program\(.*\) takes them$", f"; they are given to POST {_SESSION}"),
        (
            r"(options|sandbox|tools)( and \w+)? of a program with several stages are given to each: .*$",
            r"a program of several modules takes no \1; make one of a single module",
        ),
        (r"give it in inputs=\{.*\}( or as the prompt)?$", r"give it in `inputs`\1"),
        (r"needs tools=\[.*$", "needs `tools`: import paths 'package.module:function'"),
        (
            r"needs (\w+)=\.\.\.: a function of .*$",
            r"needs the option `\1`: an import path 'package.module:name'",
        ),
        (r"give a function, or a path such as", "give an import path such as"),
        (r" A model is written 'provider/name'$", ""),
        (r"; a program of your own is named '.*'$", ""),
    )
)
# A call, or an argument by its name, as Python writes them.
_PYTHON = re.compile(
    r"\b(?:dspex|adapter|session|runtime|program)\.\w|\b[A-Za-z_]\w*\(\w*(?:=|\.\.\.)|\b\w+=[\[{.'\"]"
)
_END = re.compile(r"[;:,.] ")
#: What is told where no more can be.
NOTHING = "something that was sent cannot be taken; /openapi.json says what can be"


def over_http(message: str) -> str:
    """A message without what can only be done in Python.

    Args:
        message: One of dspex's own, about what a caller sent.
    """
    for said, instead in _STEPS:
        message = said.sub(instead, message)
    found = _PYTHON.search(message)
    if found is None:
        return message
    # Whatever speaks of Python still is the next step, which comes last: what is wrong stands before it.
    ends = [end.start() for end in _END.finditer(message, 0, found.start())]
    return message[: ends[-1]] if ends else NOTHING
