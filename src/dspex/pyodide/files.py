"""Pyodide's files: which release, where they are kept, and how they come there.

One archive of the npm registry is fetched, once for a user and a machine, and compared with the hash that
is written here. A process that needs it meanwhile waits.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import os
import shutil
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock
import platformdirs

from dspex.errors import SandboxMissing

_REGISTRY = "https://registry.npmjs.org"
_TIMEOUT = 60.0  # seconds without a byte
_MOST = 64 * 1024 * 1024
#: The command that fetches them.
FETCH = "dspex sandbox"


@dataclass(frozen=True, slots=True)
class Release:
    """One release of Pyodide.

    Attributes:
        version: Its number. DSPy's own sandbox has the same one.
        sha512: Of the archive, as the registry publishes it.
        files: What is taken out of it.
    """

    version: str
    sha512: str
    files: tuple[str, ...] = (
        "pyodide.mjs",
        "pyodide.asm.js",
        "pyodide.asm.wasm",
        "python_stdlib.zip",
        "pyodide-lock.json",
    )

    @property
    def archive(self) -> str:
        """The archive's name."""
        return f"pyodide-{self.version}.tgz"


#: What is used.
PYODIDE = Release(
    "0.29.4",
    "b42b1e4eca94de44b16488e4b9ee735f14cc344c2b299c0e20811044103f5731"
    "f114dd61a02c5ee30e35a617c274777d8adf517023506f92bf45ed089ea320bc",
)


def directory(release: Release = PYODIDE) -> Path:
    """Where the files are kept, if they are."""
    return platformdirs.user_cache_path("dspex") / f"pyodide-{release.version}"


def present(release: Release = PYODIDE) -> bool:
    """Whether they are there; a directory that is, is whole."""
    return directory(release).is_dir()


@contextlib.contextmanager
def alone(release: Release = PYODIDE, timeout: float = -1) -> Iterator[None]:
    """While no other process fetches, or makes a snapshot.

    Raises:
        SandboxMissing: The cache cannot be written to, or another process takes longer than that.
    """
    place = directory(release)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(place.with_name(place.name + ".lock"), timeout=timeout):
            yield
    except filelock.Timeout:
        text = "another process still prepares the sandbox; call again"
        raise SandboxMissing(text, retryable=True) from None
    except OSError as error:
        raise SandboxMissing(
            f"the sandbox is kept in {place.parent}, which cannot be used: {error.strerror or error}; set "
            "XDG_CACHE_HOME to a directory that can be written to",
            details={"variable": "XDG_CACHE_HOME"},
        ) from error


def fetch(archive: Path | None = None, *, release: Release = PYODIDE) -> Path:
    """The directory with the files, which are fetched if they are not there.

    Args:
        archive: The archive, where it has come here by other ways; None asks the registry
            (``NPM_CONFIG_REGISTRY``, else npm's own; ``HTTPS_PROXY`` and ``SSL_CERT_FILE`` hold).
        release: Which release.

    Raises:
        SandboxMissing: It cannot be had, or is not what it has to be.
    """
    place = directory(release)
    if present(release) and archive is None:
        return place
    with alone(release):
        if not present(release) or archive is not None:
            # One that was named is looked at in any case: who names it wants to know.
            found = _download(release) if archive is None else _read(archive)
            if (digest := hashlib.sha512(found).hexdigest()) != release.sha512:
                raise SandboxMissing(
                    f"{archive or release.archive} is not Pyodide {release.version} as it was published: its "
                    f"SHA-512 is {digest[:16]}…, not {release.sha512[:16]}…; fetch it from elsewhere and "
                    f"give the file:  {FETCH} --from {release.archive}",
                    details={"expected": release.sha512, "found": digest},
                )
            if not present(release):
                _unpack(found, place, release)
    return place


def _download(release: Release) -> bytes:
    registry = os.environ.get("NPM_CONFIG_REGISTRY") or _REGISTRY
    address = f"{registry.rstrip('/')}/pyodide/-/{release.archive}"
    try:
        # Wherever it comes from, it is compared with the hash.
        with urllib.request.urlopen(address, timeout=_TIMEOUT) as reply:  # noqa: S310
            found: bytes = reply.read(_MOST)
            return found
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise SandboxMissing(
            f"Pyodide {release.version} cannot be fetched from the npm registry ({reason}); set "
            f"NPM_CONFIG_REGISTRY, or fetch {release.archive} elsewhere and give the file:  "
            f"{FETCH} --from {release.archive}",
            details={"variable": "NPM_CONFIG_REGISTRY", "archive": release.archive},
        ) from error


def _read(archive: Path) -> bytes:
    try:
        return archive.read_bytes()
    except OSError as error:
        raise SandboxMissing(f"{archive} cannot be read: {error.strerror or error}") from error


def _unpack(archive: bytes, place: Path, release: Release) -> None:
    # One name, used under the lock: what a killed process left is removed, and never piles up.
    partial = place.with_name(place.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for name in release.files:
                source = tar.extractfile(f"package/{name}")
                assert source is not None
                (partial / name).write_bytes(source.read())
        partial.rename(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
