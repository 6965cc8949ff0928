"""The package's face: one list of names, and nothing loaded before it is used."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dspex

# What a caller's `import dspex` must not pay for; DSPy itself belongs to the workers alone.
HEAVY = ("dspy", "pydantic", "asyncio", "numpy", "litellm", "typer", "rich", "msgspec")
WORKERS_ONLY = ("dspy", "litellm", "pydantic", "numpy", "dspex.worker")


def fresh(code: str, *, seconds: float = 60.0) -> Any:
    """What the code prints as JSON in an interpreter that has loaded nothing yet."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("COV_")},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def loaded(code: str, modules: tuple[str, ...]) -> list[str]:
    """Which of these modules the code has loaded."""
    ask = f"\nimport sys, json; print(json.dumps([m for m in {modules!r} if m in sys.modules]))"
    found = fresh(code + ask)
    assert isinstance(found, list)
    return found


def homes() -> dict[str, list[str]]:
    """`_HOMES`: module → names."""
    return {module: names.split() for module, names in dspex._HOMES.items()}


def type_checking_block() -> dict[str, list[str]]:
    """What type checkers are told: module → names."""
    tree = ast.parse(Path(dspex.__file__).read_text(encoding="utf-8"))
    blocks = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    ]
    assert len(blocks) == 1
    found: dict[str, list[str]] = {}
    for statement in blocks[0].body:
        assert isinstance(statement, ast.ImportFrom)
        assert statement.module is not None
        assert all(alias.asname is None for alias in statement.names)
        found[statement.module] = [alias.name for alias in statement.names]
    return found


def ruffs_order(name: str) -> tuple[int, str]:
    """RUF022: constants, classes, the rest; each in the order of their letters."""
    if len(name) > 1 and name.isupper():
        return 0, name
    return (1 if name[:1].isupper() else 2), name


def test_all_is_sorted_and_has_no_name_twice() -> None:
    """Two people who add a name would conflict, or add it twice."""
    assert dspex.__all__ == sorted(dspex.__all__, key=ruffs_order)
    assert len(set(dspex.__all__)) == len(dspex.__all__)


@pytest.mark.parametrize("name", dspex.__all__)
def test_every_name_imports_from_its_home(name: str) -> None:
    """A documented import would fail, or give something else than its module has."""
    value = getattr(dspex, name)
    home = sys.modules[dspex._HOME_OF[name]]
    assert value is getattr(home, name)
    assert getattr(dspex, name) is value


def test_the_three_lists_agree() -> None:
    """A name would work when run and not when type-checked, or the other way round."""
    lists = (type_checking_block(), homes())
    checked, run = ({home: set(names) for home, names in found.items()} for found in lists)
    assert checked == run
    listed = [name for names in homes().values() for name in names]
    assert sorted(listed) == sorted(dspex.__all__)
    assert sorted(dspex.__dir__()) == sorted(dspex.__all__)
    for names in homes().values():
        assert names == sorted(names, key=ruffs_order)


def test_a_star_import_gives_all_of_it() -> None:
    """`from dspex import *` in a notebook would miss a name."""
    found = fresh("from dspex import *; import json; print(json.dumps(dir()))")
    assert set(dspex.__all__) <= set(found)


def test_importing_loads_nothing_heavy() -> None:
    """`import dspex` would cost a caller seconds before the first call."""
    assert loaded("import dspex", HEAVY) == []


def test_using_the_face_loads_no_dspy() -> None:
    """The caller's process would carry DSPy, which belongs to the workers, or what only a terminal needs."""
    code = "import dspex; dspex.Runtime(lm='openai/gpt-5-mini').adapter(timeout=1.0); dspex.DSPyAdapter()"
    assert loaded(code, (*WORKERS_ONLY, "typer", "rich")) == []
    assert loaded("import dspex; [getattr(dspex, name) for name in dspex.__all__]", WORKERS_ONLY) == []


def test_a_runtime_at_work_loads_no_dspy() -> None:
    """A call would make the caller's process import DSPy after all."""
    code = (
        "import dspex\n"
        "with dspex.Runtime(pools={'general': dspex.PoolOptions(workers=1)}) as runtime:\n"
        "    assert runtime.pool('general').execute('echo', {'a': 1}) == {'a': 1}\n"
    )
    assert loaded(code, WORKERS_ONLY) == []


@pytest.mark.parametrize("name", ["Runtimes", "__wrapped__", "_nothing", "errors_", "Lm"])
def test_an_unknown_attribute_is_an_attribute_error(name: str) -> None:
    """`hasattr`, `inspect` and a typing error would end in something else than Python's own answer."""
    with pytest.raises(AttributeError, match=name):
        getattr(dspex, name)
    assert not hasattr(dspex, name)


def test_the_version_is_that_of_the_distribution() -> None:
    """A bug report would name the wrong version."""
    from importlib.metadata import version

    assert dspex.__version__ == version("dspex")
