"""How good an attempt is: by the caller's function, by one that is loaded here, or by one of dspex's own."""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable
from typing import Any

import dspy
import jsonschema
import msgspec
import referencing
from dspy.evaluate.metrics import EM

from dspex.errors import InvalidOption, ModuleNotFound, PythonError
from dspex.program.importpath import require_allowed, split
from dspex.program.rewards import CALLED, source_of
from dspex.worker import engine, faults
from dspex.worker.allowed import load_allowed
from dspex.worker.callbacks import CallbackFailed
from dspex.worker.threads import in_thread

Judge = Callable[[dict[str, Any], Any], Awaitable[Any]]


class Judged:
    """A reward, as programs ask it.

    Args:
        sent: What the caller sent of it.
        names: Names of the outputs that a caller's function is given.
        allow_modules: Where one by import path may come from.

    Raises:
        NotAllowed: The operator did not allow it.
        ModuleNotFound: There is no such function.
        InvalidOption: It is no function, or no JSON Schema.
        PythonError: Its module failed.
    """

    def __init__(self, sent: dict[str, Any], names: tuple[str, ...], allow_modules: list[str]) -> None:
        self._names = names
        self._judge: Judge
        match sent["kind"]:
            case "caller":
                self._judge, self.source = self._call_back, sent.get("source", "")
            case "path":
                function = load(sent["path"], allow_modules)
                self._judge, self.source = _loaded(function), source_of(function)
            case _:
                if sent["field"] is not None and sent["field"] not in names:
                    raise InvalidOption(
                        f"the reward looks at {sent['field']!r}, which is no output; there are "
                        f"{', '.join(names)}",
                        details={"option": "reward", "known": list(names)},
                    )
                field = names[-1] if sent["field"] is None else sent["field"]
                self._judge, self.source = _built_in(sent["kind"], field, sent["expected"])

    async def __call__(self, inputs: dict[str, Any], prediction: Any) -> bool | int | float:
        """The reward of an attempt, as it was returned: ``Refine`` shows it to the model.

        Raises:
            PythonError: It raised, or gave no number.
        """
        found = await self._judge(inputs, prediction)
        if not isinstance(found, bool | int | float):
            raise PythonError(
                f"the reward has to return a number, not {type(found).__name__}",
                details={"type": "TypeError"},
            )
        return found

    async def _call_back(self, inputs: dict[str, Any], prediction: Any) -> Any:
        scope = engine.scope_of_call()
        assert scope.callbacks is not None
        outputs = {name: prediction[name] for name in self._names}
        sent = {"args": inputs, "prediction": outputs}
        try:
            return (await scope.callbacks.call(scope, CALLED, sent)).value
        except CallbackFailed as failed:
            raise PythonError(
                f"the reward failed: {failed.error.message}", details=failed.error.details
            ) from failed


def load(path: str, allow_modules: list[str]) -> Callable[..., Any]:
    """The function that a path names.

    Raises:
        NotAllowed: The operator did not allow it.
        ModuleNotFound: There is none.
        InvalidOption: It is no function.
        PythonError: Its module failed.
    """
    require_allowed(path, allow_modules)
    try:
        function: Any = load_allowed(path, allow_modules)
    except AttributeError as error:
        module, name = split(path)
        raise ModuleNotFound(f"the module {module} has no {name!r}", details={"module": path}) from error
    except BaseException as error:
        raise faults.python_error(f"importing {path!r} for a reward failed: ", error) from error
    if not callable(function) or isinstance(function, type):
        raise InvalidOption(f"{path} is no function", details={"option": "reward"})
    # What a module imports for its own use is not on offer.
    require_allowed(f"{getattr(function, '__module__', path)}:{split(path)[1]}", allow_modules)
    return function  # type: ignore[no-any-return]


def _loaded(function: Callable[..., Any]) -> Judge:
    async def judge(inputs: dict[str, Any], prediction: Any) -> Any:
        if inspect.iscoroutinefunction(function):
            return await function(inputs, prediction)
        return await in_thread(None, lambda: function(inputs, prediction))

    return judge


def _built_in(kind: str, field: str, expected: Any) -> tuple[Judge, str]:
    fits: Callable[[Any], bool]
    if kind == "exact_match":
        fits, said = _matching(expected), f"return prediction.{field} == {expected!r}"
    elif kind == "contains":
        fits = lambda value: expected.lower() in _text(value).lower()  # noqa: E731
        said = f"return {expected.lower()!r} in str(prediction.{field}).lower()"
    else:
        fits = _fitting(expected)
        said = f"return fits_json_schema(prediction.{field}, {json.dumps(expected)})"

    async def judge(_: dict[str, Any], prediction: Any) -> Any:
        return float(fits(prediction[field]))

    # What ``Refine`` shows the model.
    return judge, f"def {kind}(args, prediction):\n    {said}\n"


def _matching(expected: Any) -> Callable[[Any], bool]:
    texts = [expected] if isinstance(expected, str) else expected
    is_text = isinstance(texts, list) and bool(texts) and all(isinstance(text, str) for text in texts)

    def fits(value: Any) -> bool:
        if is_text and isinstance(value, str | dspy.Reasoning):
            return bool(EM(str(value), texts))
        return bool(_json(value) == expected)

    return fits


def _fitting(schema: dict[str, Any]) -> Callable[[Any], bool]:
    try:
        kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise InvalidOption(
            f"the reward has no valid JSON Schema: {error.message}", details={"option": "reward"}
        ) from None
    # Without a registry of its own it would fetch what a schema refers to.
    validator = kind(schema, registry=referencing.Registry())

    def fits(value: Any) -> bool:
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                return False
        return bool(validator.is_valid(_json(value)))

    return fits


def _json(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    return (
        dump(mode="json") if dump is not None else msgspec.to_builtins(value, str_keys=True, enc_hook=_dumped)
    )


def _dumped(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    return str(value) if dump is None else dump(mode="json")


def _text(value: Any) -> str:
    return (
        str(value)
        if isinstance(value, str | dspy.Reasoning)
        else json.dumps(_json(value), ensure_ascii=False)
    )
