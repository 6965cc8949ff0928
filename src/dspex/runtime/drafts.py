"""What a caller says of a program, checked as a call would be, and made into a document. No LM is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import msgspec

from dspex.errors import DspexError, InvalidInput, InvalidOption
from dspex.program import forms, stages
from dspex.program.catalogue import find
from dspex.program.classes import named
from dspex.program.document import Document, Made, Stage, StageDocument, names
from dspex.program.importpath import is_path
from dspex.program.saved import LONGEST, Saved
from dspex.program.signature import Signature
from dspex.program.spec import Demos
from dspex.runtime.question import DEFAULT_SIGNATURE, Question
from dspex.runtime.specify import specify
from dspex.runtime.steps import Find, Steps
from dspex.types import LMReference
from dspex.wire.values import decode, encode

if TYPE_CHECKING:
    from dspex.lm.profile import LM
    from dspex.runtime.core import Core
    from dspex.runtime.route import Found

_MOST_STAGES = 32
# Outputs that modules add, which an example may have as well.
_OF_STAGE = ("options", "tools", "state", "sandbox", "demos")
_ALSO = frozenset({"reasoning", "rationale", "trajectory"})


@dataclass(frozen=True)
class Draft:
    """What a caller says of a program; see ``adapter.create_program``."""

    signature: Any = None
    modules: Any = ("dspy.Predict",)
    instructions: str | None = None
    demos: Sequence[Mapping[str, Any]] | None = None
    lm: LM | LMReference | str | None = None
    tools: Sequence[Any] | None = None
    options: Mapping[str, Any] | None = None
    state: Any = None
    sandbox: str = "auto"


def make(core: Core, draft: Draft) -> Steps[Made]:
    """Check what a caller says of a program.

    Raises:
        Refused: Something in it is wrong.
    """
    listed = _stages(draft)
    whole = yield from _whole(draft, listed[0])
    if draft.instructions is not None:
        _check_words(draft.instructions)
        if whole is None:
            raise InvalidOption(
                "a program of your own has its instructions in its code, or in its state",
                details={"option": "instructions"},
            )
        whole = whole.with_instructions(draft.instructions)
    document = Document(whole, (), _reference(core, draft.lm))
    held: dict[str, Any] = {}
    for number, stage in enumerate(listed):
        try:
            made = yield from _stage(core, document, stage, held)
            document = msgspec.structs.replace(document, stages=(*document.stages, made))
        except DspexError as error:
            if len(listed) > 1:
                error.details["stage"] = number + 1
            raise
    stages.check(document)
    for number in range(len(listed)):  # what a stage is given besides may not fit its module
        yield from _tried(core, document, number, held)
    return Made(document, held)


def _stages(draft: Draft) -> list[Stage]:
    modules = draft.modules
    if isinstance(modules, str | type | Stage | Mapping):
        modules = (modules,)
    if not isinstance(modules, Sequence) or not 0 < len(modules) <= _MOST_STAGES:
        raise InvalidOption(
            f"modules is a list of 1 to {_MOST_STAGES} names, import paths or dspex.Stage",
            details={"option": "modules"},
        )
    made = [_as_stage(module) for module in modules]
    for name in ("options", "tools", "state"):
        given = getattr(draft, name)
        if given is not None:
            made = _spread(name, given, made)
    if draft.demos is not None:
        made = [
            one if one.demos is not None or one.signature is not None else replace(one, demos=draft.demos)
            for one in made
        ]
    if draft.sandbox != "auto":
        made = [replace(one, sandbox=draft.sandbox) if one.sandbox == "auto" else one for one in made]
    return made


def _as_stage(module: Any) -> Stage:
    if isinstance(module, Stage):
        return module
    if isinstance(module, Mapping):
        known = [one.name for one in fields(Stage)]
        if unknown := [str(name) for name in module if name not in known]:
            raise InvalidOption(
                f"a stage has no {', '.join(unknown)}; it has {', '.join(known)}",
                details={"option": "modules", "unknown": unknown, "known": known},
            )
        return Stage(**module)
    return Stage(module)


def _spread(name: str, value: Any, made: list[Stage]) -> list[Stage]:
    """What was said of the program as a whole, said of its one stage."""
    if len(made) > 1:
        raise InvalidOption(
            f"{name} of a program with several stages are given to each: "
            f"modules=[dspex.Stage({made[0].module!r}, {name}=...), ...]",
            details={"option": name},
        )
    if getattr(made[0], name):
        raise InvalidOption(f"{name} are given to the program and to its stage", details={"option": name})
    return [replace(made[0], **{name: value})]


def _whole(draft: Draft, first: Stage) -> Steps[Signature | None]:
    """The signature of the program; None where its first stage has its fields in its code."""
    given = draft.signature
    if given is None:
        if is_path(named(first.module)):
            return None
        given = DEFAULT_SIGNATURE if first.signature is None else first.signature
    if not forms.is_path(given):
        return forms.read(given).signature
    found: Found = yield Find(Question(signature=given))
    assert found.declared is not None
    return found.declared


def _stage(core: Core, document: Document, stage: Stage, held: dict[str, Any]) -> Steps[StageDocument]:
    module, own = named(stage.module), stage.signature
    if not is_path(module):
        module = find(module).name
    if own is not None and forms.is_path(own):
        found: Found = yield Find(Question(signature=own))
        own = found.declared
    elif own is not None:
        own = forms.read(own).signature
    options = dict(stage.options or {})
    if stage.state is not None:
        options["state"] = stage.state
    asked: Found = yield Find(Question(module=module, options=options))
    options = dict(asked.question.options)
    saved = options.pop("state", None)
    if stage.instructions is not None:
        _check_words(stage.instructions)
    signature = own or document.signature
    return StageDocument(
        module,
        own,
        stage.instructions,
        _options(module, options),
        None if stage.tools is None else names(stage.tools, module, held),
        stage.sandbox,
        _reference(core, stage.lm),
        b"" if stage.demos is None else _demos(stage.demos, None if is_path(module) else signature),
        saved.encoded if isinstance(saved, Saved) else b"",
    )


def _reference(core: Core, lm: LM | LMReference | str | None) -> LMReference | None:
    # One that is stored already stays as it is, for it may be of no use here.
    return lm if lm is None or isinstance(lm, LMReference) else core.models.stored(lm)


def _tried(core: Core, document: Document, number: int, held: dict[str, Any]) -> Steps[None]:
    """Have a stage checked as its call would be."""
    from dspex.runtime.stages import options_of

    stage = document.stages[number]
    before = stages.outputs_of(document, number - 1) or [] if number else []
    tools = None if stage.tools is None else [held.get(tool, tool) for tool in stage.tools]
    signature = stages.signature_of(document, number, before)
    question = Question(
        module=stage.module,
        signature=signature,
        options=options_of(stage),
        tools=tools,
        sandbox=stage.sandbox,
    )
    found: Found = yield Find(question)
    declared = found.declared or signature
    settings = core.settings
    specify(found.question, declared, found.users, settings.allow_modules, core.catalogue)


def _check_words(instructions: Any) -> None:
    if not isinstance(instructions, str) or not instructions.strip():
        raise InvalidOption("instructions are a text", details={"option": "instructions"})


def _options(module: str, options: dict[str, Any]) -> bytes:
    if not options:
        return b""
    for name, value in options.items():
        if callable(value):
            raise InvalidOption(
                f"option {name!r} of {module} is a function, which cannot be stored; give its import path "
                "('package.module:function'), or one that is built in",
                details={"module": module, "option": name},
            )
    return b"".join(encode(options, where="options")[0])


def _demos(demos: Any, signature: Signature | None) -> bytes:
    if signature is None:
        raise InvalidOption(
            "examples for a program of your own are given in its state", details={"option": "demos"}
        )
    if isinstance(demos, Mapping | str) or not isinstance(demos, Sequence):
        raise InvalidOption("demos are a list of dicts", details={"option": "demos"})
    inputs = {one.name for one in signature.inputs}
    outputs = {one.name for one in signature.outputs}
    for number, demo in enumerate(demos):
        if not isinstance(demo, Mapping):
            raise InvalidOption(f"demo {number} is no dict", details={"option": "demos", "demo": number})
        names = set(demo)
        if unknown := sorted(map(str, names - inputs - outputs - _ALSO)):
            raise InvalidOption(
                f"demo {number} has {', '.join(unknown)}; the signature has "
                f"{', '.join(sorted(inputs | outputs))}",
                details={"option": "demos", "demo": number, "unknown": unknown},
            )
        if not (names & inputs and names & outputs):
            raise InvalidOption(
                f"demo {number} needs at least one input and one output of the signature",
                details={"option": "demos", "demo": number},
            )
    try:
        made = Demos(b"".join(encode([dict(demo) for demo in demos], where="demos")[0])) if demos else None
    except InvalidInput as error:
        raise InvalidOption(error.message, details={"option": "demos"}) from None
    if made is not None and len(made.encoded) > LONGEST:
        raise InvalidOption(
            f"demos of {len(made.encoded):,} bytes; they go with each call, and may have {LONGEST:,}",
            details={"option": "demos"},
        )
    return b"" if made is None else made.encoded


def changed(core: Core, before: Made, changes: Mapping[str, Any]) -> Steps[Made]:
    """A program with some of it said anew.

    Args:
        core: The runtime's core.
        before: The program.
        changes: What is said anew, by the names of ``Draft``.

    Raises:
        Refused: Something in it is wrong.
    """
    known = [one.name for one in fields(Draft)]
    if not changes:
        raise InvalidOption(f"nothing to change; there are {', '.join(known)}")
    old = as_draft(before)
    if "modules" not in changes:
        changes = _of_stages(old.modules, dict(changes))
    made: Made = yield from make(core, replace(old, **changes))
    return made


def _of_stages(listed: list[Stage], changes: dict[str, Any]) -> dict[str, Any]:
    """The changes, those that are of a stage made to it."""
    told = {name: changes.pop(name) for name in _OF_STAGE if name in changes}
    if not told:
        return changes
    if len(listed) > 1 and told.keys() - {"demos"}:
        raise InvalidOption(
            f"{', '.join(sorted(told))} of a program with several stages are changed by "
            "modules=[dspex.Stage(...), ...]",
            details={"option": sorted(told)[0]},
        )
    of_whole = [one.signature is None or len(listed) == 1 for one in listed]
    stages_ = [replace(one, **told) if own else one for one, own in zip(listed, of_whole, strict=True)]
    return {**changes, "modules": stages_}


def as_draft(made: Made) -> Draft:
    """What a caller would have to say to make this program."""
    document = made.document
    listed = [_said(stage, made.tools) for stage in document.stages]
    return Draft(document.signature, listed, lm=document.lm)


def check_lms(core: Core, document: Document) -> None:
    """Refuse LMs of a document from elsewhere that are none here.

    Raises:
        InvalidOption: One is not known, or makes no LM.
    """
    for lm in (document.lm, *(stage.lm for stage in document.stages)):
        if lm is not None:
            _refuse_keys(lm.options)
            core.models.find(core.models.references.found(lm))


def _refuse_keys(options: Mapping[str, Any] | None) -> None:
    """A document that says where a key of this machine goes could send it anywhere."""
    while isinstance(options, Mapping):
        if wrong := {"api_key", "base_url"} & options.keys():
            raise InvalidOption(
                f"the document cannot be imported: its LM has {' and '.join(sorted(wrong))}, with which it "
                "could send a key of this machine anywhere; have it name a profile of the settings: "
                "'lm': {'name': 'fast'}",
                details={"option": "lm"},
            )
        options = options.get("extraction_lm")


def _said(stage: StageDocument, tools: Mapping[str, Any]) -> Stage:
    options = decode(stage.options) if stage.options else {}
    return Stage(
        stage.module,
        stage.signature,
        options,
        None if stage.tools is None else [tools.get(tool, tool) for tool in stage.tools],
        stage.lm,
        stage.sandbox,
        stage.instructions,
        decode(stage.demos) if stage.demos else None,
        Saved(stage.state) if stage.state else None,
    )
