"""Checks of what lies around a program: keys by name, the sandbox, folders that are written to."""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import platformdirs

from dspex.cli.doctor.finding import Finding
from dspex.lm.providers import PROVIDERS
from dspex.lm.weights import QWEN
from dspex.pyodide import start
from dspex.pyodide.files import FETCH, PYODIDE, directory
from dspex.runtime.rendezvous import directories, listen, open_directory
from dspex.settings import Settings
from dspex.settings.secrets import variables_in


def keys(settings: Settings) -> Finding:
    """Which variables hold a key, those of providers and those that the settings name.

    Their names are told, and never anything of a value.
    """
    named = [name for profile in settings.lms.values() for name in variables_in(profile)]
    known = [
        name
        for provider in PROVIDERS.values()
        for variables in (provider.variables, *(row.variables for row in provider.options if row.secret))
        for name in variables
    ]
    names = dict.fromkeys([*named, *known])
    there = [name for name in names if os.environ.get(name)]
    absent = [name for name in dict.fromkeys(named) if name not in os.environ]
    empty = [name for name in names if name in os.environ and name not in there]
    found = [f"set: {', '.join(there) or 'none'}"]
    if absent:
        found.append(f"named by the settings and not set: {', '.join(absent)}")
    if empty:
        found.append(f"set but empty: {', '.join(empty)}")
    if not there:
        found.append("docs/how-to/providers.md has each provider's variable")
    if absent:
        return Finding("missing", "; ".join(found), f"export {absent[0]}=...")
    if not there:
        return Finding("missing", "; ".join(found), f'export {known[0]}=...  or use lm="local"')
    return Finding("warning" if empty else "ok", "; ".join(found), f"unset {empty[0]}" if empty else None)


def sandbox() -> Finding:
    """What runs the code that a model wrote: Monty, and Deno with Pyodide."""
    monty = find_spec("pydantic_monty") is not None
    parts = [f"Monty {version('pydantic-monty')}"] if monty else []
    if start.installed() is None:
        if not monty:
            found = "modules that run generated code need a sandbox"
            return Finding("missing", found, "pip install 'dspex[sandbox]'")
        return Finding("ok", f"{parts[0]}; for all of Python there is  pip install 'dspex[deno]'")
    parts.append(f"Deno {version('deno')}")
    if not start.ready():
        found = f"{', '.join(parts)}; Deno needs Pyodide {PYODIDE.version}, which is fetched once"
        return Finding("missing", found, FETCH)
    return Finding("ok", f"{', '.join(parts)} with Pyodide {PYODIDE.version} in {directory()}")


def cache() -> Finding:
    """Whether the weights' folder can be written to, or has what it needs."""
    folder = platformdirs.user_cache_path("dspex")
    there = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return Finding(
            "warning",
            f"{folder} cannot be written to ({error.strerror}); the embedded model's weights are put there",
            "export XDG_CACHE_HOME=/a/folder/of/yours",
        )
    free = shutil.disk_usage(there).free
    found = f"{folder} can be written to, {free / 1e9:.1f} GB free"
    if free < QWEN.size and not (folder / QWEN.file).exists():
        return Finding("warning", f"{found}: too little for the weights", "export XDG_CACHE_HOME=/larger")
    return Finding("ok", found)


def presence() -> Finding:
    """Whether runtimes can be found by ``dspex status``: a socket is made as they make it."""
    reasons = []
    for folder in directories():
        try:
            directory = open_directory(folder, create=True)
        except OSError as error:
            reasons.append(f"{folder} ({error.strerror})")
            continue
        try:
            listener, name = listen(directory)
            listener.close()
            os.unlink(name, dir_fd=directory)
        except OSError as error:
            reasons.append(f"{folder} ({error.strerror})")
            continue
        finally:
            os.close(directory)
        return Finding("ok", f"{folder} takes the sockets that `dspex status` asks")
    return Finding(
        "warning",
        f"no folder for the sockets that `dspex status` asks: {', '.join(reasons)}",
        "export XDG_RUNTIME_DIR=/a/folder/of/yours",
    )


def temporary() -> Finding:
    """Whether temporary files can be written."""
    try:
        with tempfile.TemporaryFile():
            return Finding("ok", f"{Path(tempfile.gettempdir())} can be written to")
    except OSError as error:
        found = f"no temporary file can be written: {error.strerror or error}"
        return Finding("warning", found, "export TMPDIR=/a/folder/of/yours")
