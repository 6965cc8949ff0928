"""A working directory with a settings file, for the tests of settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dspex.errors import InvalidOption
from dspex.settings import Settings
from dspex.settings.load import _warn_once


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, in which a search ends, and an environment without variables of ours."""
    for name in [name for name in os.environ if name.startswith("DSPEX_")]:
        monkeypatch.delenv(name)
    _warn_once.cache_clear()
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str | bytes, name: str = "dspex.toml") -> Path:
    """Write a file below the working directory."""
    file = Path(name).absolute()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def refused(**keywords: Any) -> InvalidOption:
    """The error of settings that are refused."""
    with pytest.raises(InvalidOption) as error:
        Settings(**keywords)
    return error.value
