"""How Deno is started: what it may do, which is next to nothing, and the snapshot that makes it quick."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
from pathlib import Path

from dspex.errors import SandboxMissing
from dspex.pyodide.files import FETCH, PYODIDE, alone, directory, fetch, present

_HERE = Path(__file__).parent
_RUNNER = _HERE / "runner.mjs"
_INSIDE = _HERE / "inside.py"
_SNAPSHOT_LIMIT = 120.0  # seconds; it takes 2 to 7
_INSTALL = "pip install 'dspex[deno]'"
# A module of a program may be fetched in many ways; every one of them is shut.
_FLAGS = (
    "run",
    "--quiet",
    "--no-prompt",
    "--no-config",
    "--no-lock",
    "--no-remote",
    "--no-npm",
    "--cached-only",
    "--deny-import",
    "--deny-net",
    "--deny-env",
    "--deny-run",
    "--deny-ffi",
    "--deny-sys",
)


def installed() -> Path | None:
    """Deno's binary, if the extra is installed."""
    if importlib.util.find_spec("deno") is None:
        return None
    from deno import find_deno_bin

    try:
        return Path(find_deno_bin())
    except FileNotFoundError:
        return None


def binary() -> Path:
    """Deno's binary.

    Raises:
        SandboxMissing: It is not installed.
    """
    found = installed()
    if found is None:
        raise SandboxMissing(
            f"the sandbox 'deno' is not installed: run  {_INSTALL}  and then  {FETCH}",
            details={"extra": "deno"},
        )
    return found


def snapshot() -> Path:
    """The file of the snapshot that these files make, if it is there."""
    digest = hashlib.sha256(PYODIDE.sha512.encode())
    for part in (_RUNNER, _INSIDE):
        digest.update(part.read_bytes())
    return directory() / f"snapshot-{digest.hexdigest()[:16]}.bin"


def ready() -> bool:
    """Whether a sandbox can be started at once."""
    return installed() is not None and present() and snapshot().is_file()


def prepare(archive: Path | None = None) -> Path:
    """Have everything that a sandbox needs: what is missing is fetched and made.

    Args:
        archive: Pyodide's archive, where it has come here by other ways than the registry.

    Returns:
        The snapshot.

    Raises:
        SandboxMissing: Something cannot be had; the message says what to do.
    """
    deno = binary()
    fetch(archive)
    return _make(deno)


def needed() -> Path:
    """Deno's binary, if all is there that a call does not make itself.

    Raises:
        SandboxMissing: Deno or Pyodide is not there; the message names the command that gets it.
    """
    deno = binary()
    if not present():
        raise SandboxMissing(
            f"the sandbox 'deno' needs Pyodide {PYODIDE.version}, which is fetched once: run  {FETCH}",
            details={"command": FETCH, "cache_dir": str(directory().parent)},
        )
    return deno


def found(timeout: float) -> tuple[Path, Path]:
    """Deno's binary and the snapshot, for a call, which fetches nothing.

    Args:
        timeout: Seconds that the call has left.

    Raises:
        SandboxMissing: Deno or Pyodide is not there; the message names the command that gets it.
    """
    deno = needed()
    return deno, _make(deno, timeout)


def _make(deno: Path, timeout: float = _SNAPSHOT_LIMIT) -> Path:
    target = snapshot()
    if target.is_file():
        return target
    with alone(timeout=timeout):
        if target.is_file():
            return target
        for old in directory().glob("snapshot-*"):
            old.unlink(missing_ok=True)
        partial = target.with_suffix(".partial")
        writable = [f"--allow-read={directory()},{_HERE}", f"--allow-write={directory()}"]
        command = [str(deno), *_FLAGS, *writable, str(_RUNNER), "snapshot", str(directory()), str(partial)]
        try:
            subprocess.run(  # noqa: S603 (our own command)
                [*command, str(_INSIDE)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=True,
                timeout=min(timeout, _SNAPSHOT_LIMIT),
                env=environment(),
                cwd="/",
            )
            partial.rename(target)
        except subprocess.TimeoutExpired:
            raise SandboxMissing(
                f"the sandbox's snapshot, which is made once, took longer than the call had: run  {FETCH}",
                details={"command": FETCH},
            ) from None
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode(errors="replace").strip()[-2000:]
            raise SandboxMissing(
                f"the sandbox's snapshot cannot be made: Deno ended with {error.returncode}; {said}"
            ) from error
    return target


def command(deno: Path, taken: Path) -> list[str]:
    """The command line of one sandbox, started from that snapshot."""
    readable = f"--allow-read={directory()}"
    return [str(deno), *_FLAGS, readable, str(_RUNNER), "start", str(directory()), str(taken)]


def environment() -> dict[str, str]:
    """All that is in the environment of a sandbox: nothing of this process's."""
    return {
        "DENO_DIR": str(directory() / "deno"),
        "DENO_NO_UPDATE_CHECK": "1",
        "DENO_NO_PACKAGE_JSON": "1",
        "NO_COLOR": "1",
    }
