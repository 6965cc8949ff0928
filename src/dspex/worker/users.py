"""Programs of the user's own, by import path: found, described, made."""

from __future__ import annotations

import importlib
import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dspy
import pydantic

from dspex.errors import InvalidInput, InvalidOption, ModuleNotFound
from dspex.program import described
from dspex.program.fieldtypes import HISTORY
from dspex.program.importpath import is_allowed, not_allowed, require_allowed, split
from dspex.program.signature import resolve, type_of
from dspex.program.spec import ProgramSpec
from dspex.program.suggest import nearest
from dspex.types import ModuleTraits
from dspex.wire.values import decode
from dspex.worker import faults, states
from dspex.worker.records import Record, record_of
from dspex.worker.validate import convert, refuse_text

_BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, slots=True)
class UserProgram:
    """A program of the user's own, made.

    Attributes:
        path: Its import path.
        module: The ``dspy.Module``.
        blocking: Whether it has no ``aforward``, which is otherwise what runs.
        parameters: Its parameters by name.
        types: The spelling and the type of each parameter whose type is a simple one.
        records: The types of parameters that are made of classes of the user's.
        takes_any: Whether it takes inputs by any other name.
    """

    path: str
    module: Any
    blocking: bool
    parameters: dict[str, inspect.Parameter]
    types: dict[str, tuple[str, Any]]
    records: dict[str, Record]
    takes_any: bool
    #: What it makes of its predictors' outputs nobody knows, so they are told when it has ended.
    answers: tuple[Any, ...] = ()

    def check(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs as the program gets them.

        Raises:
            InvalidInput: One is missing, unknown or ill-typed.
        """
        known = self.parameters.keys()
        if unknown := [name for name in inputs if name not in known and not self.takes_any]:
            raise InvalidInput(f"unknown inputs: {', '.join(unknown)}", details={"unknown": unknown})
        missing = [
            name
            for name, parameter in self.parameters.items()
            if _is_required(parameter) and name not in inputs
        ]
        if missing:
            raise InvalidInput(f"missing inputs: {', '.join(missing)}", details={"missing": missing})
        checked = {}
        for name, value in inputs.items():
            refuse_text(name, value)
            if name in self.types and type(value) is not self.types[name][1]:
                checked[name] = convert(name, *self.types[name], value)
            elif name in self.records:
                checked[name] = self.records[name].made(name, value)
            else:
                checked[name] = value
        return checked

    def outputs_of(self, prediction: Any) -> tuple[str, ...]:
        """Names of the outputs: the fields of the prediction.

        Raises:
            PythonError: It is no prediction.
        """
        if not isinstance(prediction, dspy.Prediction):
            returned = TypeError(
                f"{self.path} returned {type(prediction).__name__}; it has to return a dspy.Prediction, such "
                "as dspy.Prediction(answer=...)"
            )
            raise faults.python_error("", returned)
        return tuple(prediction.keys())

    def told_by(self, _: Any) -> dict[str, Any]:
        """Nothing but its outputs."""
        return {}


def make(spec: ProgramSpec, allow_modules: list[str]) -> UserProgram:
    """Import a program, make it and load its state; blocks for as long as its code does.

    Raises:
        NotAllowed: The operator did not allow it.
        ModuleNotFound: There is no such program, or not one that can be run.
        InvalidOption: The arguments are not those of its constructor, or the state is not its own.
        PythonError: Its module or its constructor failed.
    """
    path = spec.module
    found = find(path, allow_modules)
    function, is_async = _entry(path, found)
    parameters, takes_any = _parameters(path, function)
    arguments = _arguments(path, found, spec.arguments)
    try:
        module = found(**arguments)
    except BaseException as error:
        raise faults.python_error(f"the constructor of {path} failed: ", error) from error
    if spec.state:
        states.load(path, module, spec.state)
    simple = {name: spelling for name, spelling in _spellings(function, parameters).items() if spelling}
    resolved = {name: (spelling, resolve(spelling)) for name, spelling in simple.items()}
    records = _records(function, parameters)
    return UserProgram(path, module, not is_async, parameters, resolved, records, takes_any)


def describe(path: str, allow_modules: list[str]) -> dict[str, Any]:
    """What is to be said of a program without making it; its module is imported.

    Raises:
        NotAllowed: The operator did not allow it.
        ModuleNotFound: There is no such program, or not one that can be run.
        PythonError: Its module failed.
    """
    found = find(path, allow_modules)
    function, is_async = _entry(path, found)
    parameters, takes_any = _parameters(path, function)
    spellings = _spellings(function, parameters)
    constructor = _constructor(found)
    made_with, any_argument = _parameters(path, constructor)
    typed = _spellings(constructor, made_with)
    # Only what its own class says: a subclass may do what its parent promised not to.
    traits = vars(found).get("__dspex__", ModuleTraits())
    doc = inspect.cleandoc(vars(found).get("__doc__") or "")
    return {
        "module": path,
        "summary": doc.partition("\n")[0],
        "instructions": doc,
        "inputs": {name: _described(parameter, spellings[name]) for name, parameter in parameters.items()},
        "outputs": None,  # they are what it returns
        "arguments": {name: _described(parameter, typed[name]) for name, parameter in made_with.items()},
        "takes_any_argument": any_argument,
        "takes_any": takes_any,
        "is_async": is_async,
        "shared": traits.shared,
        "idempotent": traits.idempotent,
    }


def find(path: str, allow_modules: list[str]) -> Any:
    """The class that a path names.

    Raises:
        NotAllowed: The operator did not allow it, or the class is one from elsewhere.
        ModuleNotFound: There is no such class, or it is no ``dspy.Module`` that can be run.
        PythonError: Its module failed.
    """
    require_allowed(path, allow_modules)
    module, name = split(path)
    loaded = imported(path, module)
    found = getattr(loaded, name, None)
    if found is None:
        known = [
            other
            for other, value in vars(loaded).items()
            if isinstance(value, type) and issubclass(value, dspy.Module) and not other.startswith("_")
        ]
        close = nearest(name, known)
        hint = f"did you mean {close!r}?" if close else f"its programs are {', '.join(known) or 'none'}"
        raise _unfit(path, f"the module {module} has no {name!r}; {hint}", known=known)
    if not isinstance(found, type):
        raise _unfit(path, f"{path} is not a class but {type(found).__name__}; name a class of yours")
    if not issubclass(found, dspy.Module):
        raise _unfit(path, f"{path} is not a subclass of dspy.Module")
    home = found.__module__
    if not is_allowed(home, allow_modules):
        # What a module imports for its own use is not on offer.
        raise not_allowed(f"{home}:{name}", home)
    if inspect.isabstract(found):
        left = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        raise _unfit(path, f"{path} is abstract: it lacks {left}")
    return found


def imported(path: str, module: str) -> types.ModuleType:
    """The module of a path that was found to be allowed.

    Raises:
        ModuleNotFound: There is none.
        PythonError: It failed.
    """
    try:
        return importlib.import_module(module)
    except BaseException as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and (module == missing or module.startswith(f"{missing}.")):
            raise _unfit(
                path, f"there is no module {missing!r}; the workers look where this process would"
            ) from None
        raise faults.python_error(f"importing {module!r} failed: ", error) from error


def _entry(path: str, found: Any) -> tuple[Callable[..., Any], bool]:
    """The function that runs, and whether it is the asynchronous one."""
    asynchronous, synchronous = getattr(found, "aforward", None), getattr(found, "forward", None)
    if callable(asynchronous):
        return asynchronous, True
    if not callable(synchronous):
        raise _unfit(path, f"{path} has neither forward nor aforward")
    if inspect.iscoroutinefunction(synchronous):
        raise _unfit(path, f"the forward of {path} is async; call it aforward")
    return synchronous, False


def _parameters(path: str, function: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """The parameters by name, ``self`` left out, and whether it takes any other."""
    listed = list(inspect.signature(function).parameters.values())[1:]
    if any(parameter.kind is parameter.POSITIONAL_ONLY for parameter in listed):
        raise _unfit(path, f"{function.__name__} of {path} takes inputs by position only; inputs have names")
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in listed)
    return {parameter.name: parameter for parameter in listed if parameter.kind in _BY_KEYWORD}, takes_any


def _constructor(found: Any) -> Callable[..., Any]:
    """The class's own ``__init__``; what DSPy's takes is none of a caller's affairs."""
    own: Callable[..., Any] = getattr(found, "__init__")  # noqa: B009 (mypy)
    return _nothing if own in (dspy.Module.__init__, dspy.Predict.__init__) else own


def _nothing(_self: object) -> None:
    """Takes nothing."""


def _arguments(path: str, found: Any, encoded: bytes) -> dict[str, Any]:
    """What the constructor is called with: names are checked, and types as strictly as an input's.

    Raises:
        InvalidOption: Something is missing, unknown or ill-typed.
    """
    given = decode(encoded) if encoded else {}
    constructor = _constructor(found)
    parameters, takes_any = _parameters(path, constructor)
    described.check_arguments(
        path, [(name, _is_required(one)) for name, one in parameters.items()], given, takes_any=takes_any
    )
    spellings, records = _spellings(constructor, parameters), _records(constructor, parameters)
    checked = {}
    for name, value in given.items():
        spelling = spellings.get(name)
        try:
            refuse_text(name, value)
            if spelling:
                checked[name] = convert(name, spelling, resolve(spelling), value)
            else:
                checked[name] = records[name].made(name, value) if name in records else value
        except InvalidInput as refusal:
            reason = refusal.message.replace("the input", "the argument", 1)
            raise InvalidOption(
                f"{reason}, for the constructor of {path}",
                details={**refusal.details, "module": path, "option": "arguments"},
            ) from None
    return checked


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty


def _described(parameter: inspect.Parameter, spelling: str | None) -> dict[str, Any]:
    required = _is_required(parameter)
    schema = {} if spelling is None else pydantic.TypeAdapter(resolve(spelling)).json_schema()
    said = {"type": spelling, "schema": schema, "required": required}
    return said if required else {**said, "default": parameter.default}


def _spellings(
    function: Callable[..., Any], parameters: dict[str, inspect.Parameter]
) -> dict[str, str | None]:
    """The type of each parameter as a signature would spell it; None where it could not."""
    hints = _hints(function)
    return {name: _simple(hints[name]) if name in hints else None for name in parameters}


def _records(function: Callable[..., Any], parameters: dict[str, inspect.Parameter]) -> dict[str, Record]:
    """The types of those parameters that are models, dataclasses or enums, or made of some."""
    hints = _hints(function)
    found = {name: record_of(hints[name]) for name in parameters if name in hints}
    return {name: record for name, record in found.items() if record is not None}


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(inspect.unwrap(function))
    except Exception:  # noqa: BLE001 (a name that is only there for a type checker, or worse)
        return {}


def _simple(annotation: Any) -> str | None:
    try:
        node = type_of(_spelled(annotation))
    except Exception:  # noqa: BLE001 (it is then not one of the types that are checked)
        return None
    # DSPy's own type, and what takes anything, need no check.
    return None if node.mentions(HISTORY) or node.name == "Any" else node.spelled()


def _spelled(annotation: Any) -> str:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is ...:
        return "..."
    if annotation is None or annotation is type(None):
        return "None"
    if annotation is Any:
        return "Any"
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_spelled(arg) for arg in args)
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, args))}]"
    named = origin or annotation
    whole = (
        named.__qualname__ if named.__module__ == "builtins" else f"{named.__module__}.{named.__qualname__}"
    )
    return f"{whole}[{', '.join(map(_spelled, args))}]" if args else str(whole)


def _unfit(path: str, reason: str, **details: Any) -> ModuleNotFound:
    return ModuleNotFound(reason, details={"module": path, **details})
