"""Puts arguments, file and environment together, and checks what comes of it."""

from __future__ import annotations

import difflib
import functools
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

import msgspec

from dspex import checks
from dspex.errors import InvalidOption
from dspex.settings import environment, files
from dspex.settings.layers import ARGUMENT, Layer, of_arguments, of_file
from dspex.settings.options import PoolOptions, RuntimeOptions
from dspex.settings.programs import check
from dspex.types import Budget

_log = logging.getLogger("dspex.settings")


@dataclass(frozen=True)
class Loaded:
    """What holds.

    Attributes:
        options: The options that are in no table.
        lms: LM profiles by name.
        pools: Pools by name.
        programs: Named programs.
        budgets: Budgets by what they are for.
        tenant_budgets: Budgets by tenant.
        layer: All that was set, with where it came from.
        file: The file that was read.
        ignored: Variables and files that were passed over.
    """

    options: RuntimeOptions
    lms: Mapping[str, Mapping[str, Any]]
    pools: Mapping[str, PoolOptions]
    programs: Mapping[str, Mapping[str, Any]]
    budgets: Mapping[str, Budget]
    tenant_budgets: Mapping[str, Budget]
    layer: Layer
    file: File | None
    ignored: tuple[str, ...]


def load(
    given: Mapping[str, Any],
    lms: Mapping[str, Any],
    pools: Mapping[str, Any],
    programs: Mapping[str, Any],
    file: Any,
    *,
    budgets: Mapping[str, Any],
    tenant_budgets: Mapping[str, Any],
) -> Loaded:
    """Read file and environment, and put the arguments over them.

    Args:
        given: The arguments that are in no table.
        lms: Profiles by name.
        pools: Options of pools by name.
        programs: Options of named programs.
        file: The file to read, None to look for one, False for none.
        budgets: Budgets by what they are for.
        tenant_budgets: Budgets by tenant.

    Raises:
        InvalidOption: Something is wrong in one of them.
    """
    arguments = of_arguments(lms, pools, programs, budgets, tenant_budgets)
    for name, value in given.items():
        arguments.values[name,] = value
        arguments.origins[name,] = ARGUMENT
    document, passed = _read(file)
    written = of_file(document) if document else Layer()
    tables = [
        (kind, name)
        for kind in ("lm", "pool", "program", "budgets", "tenant_budgets")
        for name in written.names(kind) + arguments.names(kind)
    ]
    layer, ignored = environment.of_environment(os.environ, tables)
    layer.add(written)
    layer.add(arguments)
    _warn(ignored, passed.values())
    return Loaded(
        options=_checked(layer),
        lms={name: _profile(layer, name) for name in layer.names("lm")},
        pools=pools_of(layer, {}),
        programs={name: _program(layer, name) for name in layer.names("program")},
        budgets=_budgets(layer, "budgets"),
        tenant_budgets=_budgets(layer, "tenant_budgets"),
        layer=layer,
        file=document.file if document else None,
        ignored=(*ignored, *map(str, passed)),
    )


def pools_of(layer: Layer, defaults: Mapping[str, PoolOptions]) -> dict[str, PoolOptions]:
    """The pools that a layer names, each over the default of its name.

    Raises:
        InvalidOption: An option has a value that it does not take.
    """
    found = {}
    for name in layer.names("pool"):
        table = ("pool", name)
        default = defaults.get(name, PoolOptions())
        try:
            found[name] = msgspec.structs.replace(default, **layer.below(table))
        except InvalidOption as error:
            path = (*table, error.details["option"])
            raise layer.origin(path).blame(error, path) from None
    return found


def _read(file: Any) -> tuple[files.Document | None, dict[File, str]]:
    if file is False:
        return None, {}
    if file is None:
        named = os.environ.get(environment.FILE)
        return (files.named(File(named).absolute()), {}) if named else files.search()
    if not isinstance(file, str | os.PathLike) or not os.fspath(file):
        raise checks.refuse("file", "the path of a file, False or None", file, "Settings")
    return files.named(File(file).absolute()), {}


def _checked(layer: Layer) -> RuntimeOptions:
    try:
        return RuntimeOptions(**{path[0]: value for path, value in layer.values.items() if len(path) == 1})
    except InvalidOption as error:
        path = (error.details["option"],)
        raise layer.origin(path).blame(error, path) from None


def _profile(layer: Layer, name: str) -> dict[str, Any]:
    table = ("lm", name)
    options = layer.below(table)
    if "model" not in options:
        wrong = InvalidOption("a profile needs a model, as in model = 'openai/gpt-5-mini'")
        raise layer.origin(table).blame(wrong, table)
    return options


def _program(layer: Layer, name: str) -> dict[str, Any]:
    table = ("program", name)
    try:
        return check(name, layer.below(table))
    except InvalidOption as error:
        path = (*table, error.details["option"])
        raise layer.origin(path).blame(error, path) from None


def _budgets(layer: Layer, kind: str) -> dict[str, Budget]:
    found = {}
    for name in layer.names(kind):
        table = (kind, name)
        try:
            found[name] = checks.budget(Budget(**layer.below(table)))
        except InvalidOption as error:
            path = table if error.details["option"] == "budget" else (*table, error.details["option"])
            raise layer.origin(path).blame(error, path) from None
    return found


def _warn(ignored: Iterable[str], passed: Iterable[str]) -> None:
    for name in ignored:
        if not environment.is_kubernetes(name):
            near = difflib.get_close_matches(name, environment.PLAIN, n=1, cutoff=0.8)
            hint = f"; did you mean {near[0]}?" if near else ""
            _warn_once(f"the variable {name} sets no option of dspex{hint}")
    for sentence in passed:
        _warn_once(sentence)


@functools.cache
def _warn_once(message: str) -> None:
    # A process that makes many runtimes would say it as many times.
    _log.warning("%s", message)
