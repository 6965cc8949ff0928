"""A program as it travels: which module, which signature, which options. Plain values, nothing to look up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from dspex.errors import InvalidOption
from dspex.program import catalogue
from dspex.program import options as options_
from dspex.program import signature as signature_
from dspex.program.saved import Saved
from dspex.types import ToolSpec

if TYPE_CHECKING:
    from collections.abc import Mapping


#: Where code that a model wrote may be run; ``"local"`` is no sandbox and has to be allowed.
SANDBOXES = ("auto", "monty", "deno", "local")


class Demos(msgspec.Struct, frozen=True):
    """Examples that were checked.

    Attributes:
        encoded: A list of dicts, encoded as a value.
    """

    encoded: bytes


class ProgramSpec(msgspec.Struct, frozen=True, array_like=True):
    """Everything that a worker needs to build a program.

    Attributes:
        module: Full name in the catalogue (``"dspy.ChainOfThought"``), or the import path of a program of the
            user's own.
        signature: The signature as the caller gave it, without what the module adds; None for a program of
            the user's own.
        options: Checked options of the module by name.
        tools: What its tools are called and take.
        sandbox: Where code that a model wrote is run: one of ``SANDBOXES``.
        arguments: What the constructor of a program of the user's own is given, by parameter name, encoded as
            a value (``dspex.wire.values``); empty for none.
        state: What was saved of it (``dspex.program.saved``); empty for none.
        demos: Examples for its predictors, encoded as a value: a list of dicts; empty for none.
    """

    module: str
    signature: signature_.Signature | None
    options: dict[str, Any] = {}
    tools: tuple[ToolSpec, ...] = ()
    sandbox: str = "auto"
    arguments: bytes = b""
    state: bytes = b""
    demos: bytes = b""

    @property
    def declared(self) -> signature_.Signature:
        """The signature, which a module of the catalogue has."""
        assert self.signature is not None
        return self.signature


def make(
    module: str,
    signature: str | signature_.Signature,
    options: Mapping[str, Any] | None = None,
    tools: tuple[ToolSpec, ...] = (),
    sandbox: str = "auto",
) -> ProgramSpec:
    """A checked spec from what a caller wrote; a state that was read may be among the options.

    Args:
        module: Name of the module.
        signature: Text, or a signature that was checked already.
        options: Options of the module by name.

    Raises:
        ModuleNotFound: No module has that name.
        InvalidSignature: The signature is malformed, or does not fit the module.
        InvalidOption: The module does not have that option, or not with that value; or it takes no tools.
    """
    entry = catalogue.find(module)
    checked = signature_.parse(signature) if isinstance(signature, str) else signature
    catalogue.fit(entry, checked)
    own, state, demos = _apart(entry, options)
    wanted = options_.check(entry, own)
    if entry.of is not None:
        inner = options_.inside(entry, wanted.get("of"))
        catalogue.fit(inner, checked)
        wanted["of"] = inner.name
        entry = entry.around(inner)
    if tools and "tools" not in entry.needs | entry.optional:
        able = ", ".join(
            name for name, other in catalogue.MODULES.items() if "tools" in other.needs | other.optional
        )
        raise InvalidOption(
            f"{entry.name} calls no tools; modules that do: {able}",
            details={"module": entry.name, "option": "tools"},
        )
    check_sandbox(entry.name, sandbox, needed="sandbox" in entry.needs)
    return ProgramSpec(entry.name, checked, wanted, tools, sandbox, state=state, demos=demos)


def _apart(
    entry: catalogue.ModuleEntry, options: Mapping[str, Any] | None
) -> tuple[Mapping[str, Any] | None, bytes, bytes]:
    """The options of the module itself, and the state and the demos that were given beside them."""
    if not isinstance(options, dict) or not ("state" in options or "demos" in options):
        return options, b"", b""
    state, demos = options.get("state"), options.get("demos")
    if demos is not None and not isinstance(demos, Demos):
        raise InvalidOption(
            f"{entry.name} has no option 'demos': create_program(..., demos=[...]) takes them",
            details={"module": entry.name, "option": "demos"},
        )
    if state is not None and not isinstance(state, Saved):
        raise InvalidOption(
            f"option 'state' of {entry.name} takes a path to a JSON file, or a dict",
            details={"module": entry.name, "option": "state"},
        )
    own = {name: value for name, value in options.items() if name not in {"state", "demos"}}
    return own, b"" if state is None else state.encoded, b"" if demos is None else demos.encoded


def check_sandbox(module: str, sandbox: str, *, needed: bool) -> None:
    """Refuse what is no sandbox, and one for a module that runs no code of the model's.

    Raises:
        InvalidOption: It is one of these.
    """
    if sandbox not in SANDBOXES:
        known = ", ".join(map(repr, SANDBOXES))
        raise InvalidOption(f"sandbox is one of {known}, not {sandbox!r}", details={"option": "sandbox"})
    if sandbox != "auto" and not needed:
        able = ", ".join(name for name, other in catalogue.MODULES.items() if "sandbox" in other.needs)
        raise InvalidOption(
            f"{module} runs no code that a model wrote; modules that do: {able}",
            details={"module": module, "option": "sandbox"},
        )
