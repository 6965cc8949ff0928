"""The embedded model's weights, joined from installed packages."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from pathlib import Path

import pytest

from dspex.errors import Cancelled, LMNotConfigured
from dspex.lm.weights import Progress, find
from tests.local_models import CONTENT, SHA256, cache, files, own_world, weights

__all__ = ["cache", "own_world"]  # fixtures, the latter of each test of this file


@pytest.fixture
def pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Three installed packages that hold the content, for this process and for those it starts."""
    site = tmp_path / "site"
    names = tuple(f"piece_{uuid.uuid4().hex}_{number}" for number in range(3))
    for number, name in enumerate(names):
        package = site / name
        package.mkdir(parents=True)
        (package / "part.bin").write_bytes(CONTENT[number * 1_200_000 : (number + 1) * 1_200_000])
        (package / "__init__.py").write_text(
            "import os\n"
            "def get_part_path():\n"
            "    return os.path.join(os.path.dirname(os.path.abspath(__file__)), 'part.bin')\n"
        )
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))
    return names


def test_pieces_are_joined(cache: Path, pieces: tuple[str, ...]) -> None:
    """Installed pieces would not become the model's file, or its progress would not be told."""
    seen: list[Progress] = []
    found = find(cache_dir=cache, weights=weights(pieces), progress=seen.append)
    assert found == cache / "tiny.gguf"
    assert found.read_bytes() == CONTENT
    assert files(cache) == {"tiny.gguf", "tiny.gguf.verified"}
    assert seen[-1] == Progress("joining", len(CONTENT), len(CONTENT))


def test_pieces_with_a_wrong_hash_are_refused(cache: Path, pieces: tuple[str, ...]) -> None:
    """A tampered or damaged package would be loaded as the model."""
    with pytest.raises(LMNotConfigured, match="SHA-256") as caught:
        find(cache_dir=cache, weights=weights(pieces, sha256="0" * 64))
    assert caught.value.details["found"] == SHA256
    assert files(cache) == set()


def test_two_processes_join_once(cache: Path, pieces: tuple[str, ...], tmp_path: Path) -> None:
    """Workers that start together would write the same gigabyte several times, or into each other."""
    script = f"""
        import pathlib, sys, time
        from dspex.lm.weights import Weights, find
        here, joined = pathlib.Path({str(tmp_path)!r}), []
        def progress(p):
            joined.append(p)
            while len(list(here.glob("ready-*"))) < 2: time.sleep(0.01)
        (here / f"ready-{{sys.argv[1]}}").touch()
        find(cache_dir=pathlib.Path({str(cache)!r}), weights={weights(pieces)!r}, progress=progress)
        print("joined" if joined else "waited")
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    both = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in "ab"]
    said = sorted(process.communicate(timeout=30)[0].strip() for process in both)
    assert said == ["joined", "waited"]
    assert (cache / "tiny.gguf").read_bytes() == CONTENT


def test_a_marker_saves_the_hashing(cache: Path, pieces: tuple[str, ...]) -> None:
    """Each start would hash 1.1 GB; or a file that changed since would be trusted."""
    target = find(cache_dir=cache, weights=weights(pieces))
    stat = target.stat()
    target.write_bytes(bytes(len(CONTENT)))
    os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    # The other content shows that nothing was read; a new time makes it read and put right.
    assert find(cache_dir=cache, weights=weights(pieces)).read_bytes() == bytes(len(CONTENT))
    os.utime(target, (0, 0))
    assert find(cache_dir=cache, weights=weights(pieces)).read_bytes() == CONTENT


def test_a_whole_file_needs_no_writable_cache(cache: Path) -> None:
    """A file that came with a read-only image would be refused because no marker can be written."""
    (cache / "tiny.gguf.verified").mkdir(parents=True)  # a marker that can be neither read nor written
    (cache / "tiny.gguf").write_bytes(CONTENT)
    assert find(cache_dir=cache, weights=weights()) == cache / "tiny.gguf"
    assert not (cache / "tiny.gguf.lock").exists()


def test_an_unusable_cache_is_explained(tmp_path: Path, pieces: tuple[str, ...]) -> None:
    """The user would see a bare OSError and not what to do about it."""
    (tmp_path / "file").touch()
    with pytest.raises(LMNotConfigured, match="XDG_CACHE_HOME") as caught:
        find(cache_dir=tmp_path / "file" / "below", weights=weights(pieces))
    assert caught.value.details["cache_dir"] == str(tmp_path / "file" / "below")


def test_a_full_disk_is_explained_and_left_clean(cache: Path, pieces: tuple[str, ...]) -> None:
    """A full disk would stay full of a part of the model."""
    cache.mkdir()
    (cache / "tiny.gguf.partial").symlink_to("/dev/full")
    with pytest.raises(LMNotConfigured, match="No space left"):
        find(cache_dir=cache, weights=weights(pieces))
    assert files(cache) == set()


def test_ctrl_c_leaves_no_partial_file(cache: Path, pieces: tuple[str, ...]) -> None:
    """Every interrupted start would leave a file of up to 1.1 GB."""
    with pytest.raises(KeyboardInterrupt):
        find(
            cache_dir=cache,
            weights=weights(pieces),
            progress=lambda _: signal.raise_signal(signal.SIGINT),
        )
    assert files(cache) == set()


def test_a_thread_can_be_stopped(cache: Path, pieces: tuple[str, ...]) -> None:
    """Closing a runtime would wait for the whole join, or leave its partial file."""
    seen: list[Progress] = []
    with pytest.raises(Cancelled):
        find(
            cache_dir=cache,
            weights=weights(pieces),
            progress=seen.append,
            stopped=lambda: bool(seen),
        )
    assert seen
    assert files(cache) == set()


def test_waiting_for_another_process_can_be_stopped(cache: Path, pieces: tuple[str, ...]) -> None:
    """A process that hangs while it joins would hang all others, beyond Ctrl-C's reach."""
    cache.mkdir()
    end = time.monotonic() + 0.3
    with (cache / "tiny.gguf.lock").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Cancelled):
            find(cache_dir=cache, weights=weights(pieces), stopped=lambda: time.monotonic() > end)
    assert files(cache) == set()


def test_ctrl_c_in_a_program_stops_the_thread(cache: Path, tmp_path: Path, pieces: tuple[str, ...]) -> None:
    """Ctrl-C would return to the shell only after the join, which goes on in its thread."""
    for name in pieces:  # large and sparse: the join takes longer than it takes the signal to arrive
        os.truncate(tmp_path / "site" / name / "part.bin", 100 << 20)
    script = f"""
        import asyncio, os, pathlib, signal
        from dspex.lm.local import LocalModel
        from dspex.lm.weights import Weights
        seen = []
        def progress(p):
            if not seen: os.kill(os.getpid(), signal.SIGINT)
            seen.append(p.done)
        async def main():
            model = LocalModel(None, slots=1, cache_dir=pathlib.Path({str(cache)!r}),
                               on_progress=progress, weights={weights(pieces)!r})
            await model.endpoint()
        try:
            asyncio.run(main())
        finally:
            print(max(seen))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == -signal.SIGINT, done.stderr
    assert int(done.stdout) < 100 << 20
    assert files(cache) == set()


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    """A user's own GGUF would be compared with the embedded model's hash, or a wrong path accepted."""
    own = tmp_path / "own.gguf"
    own.touch()
    assert find(str(own)) == own
    with pytest.raises(LMNotConfigured, match=r"other\.gguf"):
        find(str(tmp_path / "other.gguf"))
