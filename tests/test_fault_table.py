"""Every exception class in the installed DSPy and LiteLLM has a row, and every row a class."""

from __future__ import annotations

import builtins
import functools
import importlib
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from dspex import errors
from dspex.worker import fault_table
from tests.fresh import fresh

# Read as text: to parse the thousands of files of LiteLLM takes most of a minute.
CLASS = re.compile(r"^[ \t]*class (\w+)\(([^)]*)\)", re.MULTILINE)
#: Classes of other packages from which these two derive theirs.
FOREIGN = {"OpenAIError", "HTTPException", "RequestException", "HTTPError"}
BUILTIN = {
    name
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, BaseException)
}


def classes(package: str) -> Iterator[tuple[str, list[str]]]:
    """Each class that the files of a package define: its full name, and its parents as they are written."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    for file in root.rglob("*.py"):
        module = ".".join((package, *file.relative_to(root).with_suffix("").parts))
        for name, listed in CLASS.findall(file.read_text(encoding="utf-8")):
            parents = [parent.strip().partition("[")[0] for parent in listed.split(",")]
            yield f"{module.removesuffix('.__init__')}.{name}", [one for one in parents if "=" not in one]


@functools.cache
def exceptions(package: str) -> dict[str, list[str]]:
    """Each exception class of a package, with its parents: nothing is imported, so none is missed."""
    found = dict(classes(package))
    raised: dict[str, list[str]] = {}
    while True:
        known = {name.rpartition(".")[2] for name in raised} | BUILTIN | FOREIGN
        more = {
            name: parents
            for name, parents in found.items()
            if name not in raised
            and any(
                parent.startswith(("openai.", "httpx.")) or parent.rpartition(".")[2] in known
                for parent in parents
            )
        }
        if not more:
            return raised
        raised |= more


def lineage(name: str, raised: dict[str, list[str]]) -> list[str]:
    """The full names of a class and of its parents in the same package, nearest first."""
    line = [name]
    for parent in raised[name]:
        short = parent.rpartition(".")[2]
        here = f"{name.rpartition('.')[0]}.{short}"
        for other in [here] if here in raised else [one for one in raised if one.endswith(f".{short}")]:
            if other != name:
                line += lineage(other, raised)
    return line


@pytest.mark.parametrize(("package", "least"), [("dspy", 55), ("litellm", 240)])
def test_every_exception_class_has_a_row(package: str, least: int) -> None:
    """If this failed, a class that a new release adds would be called what nobody has decided."""
    raised = exceptions(package)
    assert len(raised) >= least, "the walk finds less than there was: it may have gone blind"
    assert [name for name in raised if fault_table.find_by_name(lineage(name, raised)) is None] == []


def test_every_class_that_users_may_meet_has_a_row_of_its_own() -> None:
    """If this failed, a new class would silently mean what its parent means."""
    raised = {**exceptions("dspy"), **exceptions("litellm")}
    own = [name for name in raised if name.startswith(("dspy.", "litellm.exceptions."))]
    assert [name for name in own if name not in fault_table.CLASSES] == []


def test_every_row_is_of_a_class_that_there_is() -> None:
    """If this failed, a row would be for a name that was mistyped, or is gone."""
    raised = {**exceptions("dspy"), **exceptions("litellm")}
    ours = [name for name in fault_table.CLASSES if name.startswith(("dspy.", "litellm."))]
    assert [name for name in ours if name not in raised] == []
    others = [name for name in fault_table.CLASSES if name not in ours]
    for name in others:
        module, _, kind = name.rpartition(".")
        assert issubclass(getattr(importlib.import_module(module), kind), BaseException)
    packages = {name.rpartition(".")[0] for name in raised}
    assert [name for name in fault_table.PACKAGES if not any(one.startswith(name) for one in packages)] == []


def test_the_rows_of_other_packages_catch_all_of_theirs() -> None:
    """If this failed, a schema or an HTTP request of the user's own code would be taken for the LM's."""
    import httpx
    import jsonschema
    import pydantic

    kinds = [
        kind
        for module in (httpx, jsonschema, pydantic, pydantic.errors)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, BaseException)
    ]
    assert len(kinds) > 30
    named = {
        fault_table.full_name(kind): [fault_table.full_name(one) for one in kind.__mro__] for kind in kinds
    }
    unknown = {name for name, line in named.items() if fault_table.find_by_name(line) is None}
    # What is raised while a program is written, or by a look-up in a registry of schemas.
    assert {name for name in unknown if name.startswith(("httpx", "jsonschema.exceptions.V"))} == set()
    assert {fault_table.find(kind) for kind in kinds} == {fault_table.PYTHON}


def raw_codes() -> dict[str, Any]:
    """The code and facts of LiteLLM's errors as a program that asks it by itself gets them."""
    import httpx
    from litellm.exceptions import RateLimitError
    from litellm.llms.base_llm.chat.transformation import BaseLLMException

    from dspex.worker import faults

    told: dict[str, Any] = {}
    given: dict[str, Any] = {"message": "said no", "llm_provider": "mistral", "model": "m"}
    response = httpx.Response(429, headers={"retry-after": "7"}, request=httpx.Request("POST", "http://x"))
    busy = faults.translate(RateLimitError(**given, response=response))
    told["busy"] = (busy.code, busy.retryable, busy.retry_after, busy.details)
    for status in (401, 402, 404, 400, 413, 429, 500, 503):
        told[str(status)] = faults.translate(BaseLLMException(status_code=status, message="said no")).code
    return told


def test_litellm_asked_by_a_program_itself_keeps_the_codes() -> None:
    """If this failed, a busy provider would be an error of the program that asked it through LiteLLM."""
    told = fresh(raw_codes)
    code, retryable, retry_after, details = told.pop("busy")
    assert (code, retryable, retry_after) == ("lm_rate_limited", True, 7.0)
    assert details == {"model": "m", "provider": "mistral", "status": 429}
    assert told == {
        "401": "lm_auth",
        "402": "lm_billing",
        "404": "lm_invalid_request",
        "400": "lm_invalid_request",
        "413": "lm_invalid_request",
        "429": "lm_rate_limited",
        "500": "lm_unavailable",
        "503": "lm_unavailable",
    }


def test_what_may_be_tried_again_is_what_may_pass() -> None:
    """If this failed, a caller would repeat what can only fail again, or give up on what would pass."""
    again = {row for row in fault_table.CLASSES.values() if isinstance(row, type) and row.retryable}
    assert again == {errors.LMRateLimited, errors.LMTimeout, errors.LMUnavailable}
