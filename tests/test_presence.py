"""The socket of an open runtime: who may ask it, what it tells, and that it never stands in the way."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import dspex
from dspex.pool.stats import PoolStats, RuntimeStats, WorkerStats
from dspex.runtime import presence
from dspex.runtime.portal import Portal
from dspex.runtime.presence import Presence, ask
from dspex.runtime.rendezvous import directories

ME = os.getpid()
ROOT = Path(__file__).parents[1]
NO_STATS = RuntimeStats({})
ONE = {"general": dspex.PoolOptions(workers=1)}
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for another user")
forking = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the sockets of this test are, and those of nobody else."""
    monkeypatch.setattr(presence, "directories", lambda: iter([tmp_path / "dspex"]))
    return tmp_path / "dspex"


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dspex.Runtime]:
    folder = tmp_path_factory.mktemp("run")
    folder.chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        with dspex.Runtime(pools=ONE) as opened:
            yield opened


@contextlib.contextmanager
def present(stats: RuntimeStats = NO_STATS) -> Iterator[None]:
    """The presence of a runtime that has no workers, on a loop of its own."""
    portal = Portal()
    portal.start_thread()
    made = Presence(lambda: stats, list, None)

    async def opened() -> None:
        made.open()

    try:
        portal.run(opened, "")
        yield
        portal.run(made.aclose, "")
    finally:
        portal.stop_thread()


def left_behind(place: Path, name: str, *, age: float = 3600.0) -> Path:
    """The socket of a process that was killed so many seconds ago."""
    place.mkdir(mode=0o700, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(place / name))
    os.utime(place / name, (time.time() - age, time.time() - age))
    return place / name


def dead_pid() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_only_this_user_can_reach_it(place: Path) -> None:
    """If this failed, other users of the machine could see what runs."""
    with present():
        (found,) = place.iterdir()
        assert found.name == f"{ME}.sock"
        assert stat.S_ISSOCK(found.stat().st_mode)
        assert stat.S_IMODE(found.stat().st_mode) == 0o600
        assert stat.S_IMODE(place.stat().st_mode) == 0o700


def test_it_tells_how_the_runtime_stands(place: Path) -> None:
    """If this failed, `dspex status` would show something else than `runtime.stats()`."""
    stats = RuntimeStats(
        {
            "general": PoolStats(
                [WorkerStats(1, 42, "busy", 8_000_000, 3, 4)], 5, 4, {"ok": 4}, {"deadline": 1}
            )
        }
    )
    before = time.time()
    with present(stats):
        (report,), silent = ask(10.0)
    assert silent == []
    assert (report.pid, report.stats) == (ME, stats)
    assert before <= report.started <= time.time()
    assert report.dspex == dspex.__version__
    assert report.dspy is not None
    assert report.dspy.startswith("3.")


def test_two_runtimes_of_one_process_are_two(place: Path) -> None:
    """If this failed, a process with two runtimes would show one of them."""
    with present(), present():
        assert {found.name for found in place.iterdir()} == {f"{ME}.sock", f"{ME}-2.sock"}
        assert [report.pid for report in ask(10.0).reports] == [ME, ME]
    assert list(place.iterdir()) == []


def test_closing_at_once_leaves_nothing(place: Path) -> None:
    """If this failed, a runtime whose start failed would be listed."""
    with present():
        pass
    assert list(place.iterdir()) == []


def test_a_loop_that_is_torn_down_leaves_nothing(place: Path) -> None:
    """If this failed, a program that never closes its runtime would be listed as one that does not answer."""

    async def forget() -> None:
        Presence(lambda: NO_STATS, list, None).open()
        await asyncio.sleep(0)

    asyncio.run(forget())
    assert list(place.iterdir()) == []


def test_a_path_of_any_length_will_do(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a long runtime directory would hide its runtimes: an address has 108 bytes."""
    long = place.parent / ("long" * 40) / "dspex"
    long.parent.mkdir()
    monkeypatch.setattr(presence, "directories", lambda: iter([long]))
    with present():
        assert [report.pid for report in ask(10.0).reports] == [ME]


# What others left behind


def test_whoever_asks_takes_stale_sockets_away(place: Path) -> None:
    """If this failed, runtimes that were killed would be listed for ever."""
    stale = left_behind(place, f"{ME}.sock")
    assert ask() == ([], [])
    assert not stale.exists()


def test_a_socket_that_may_yet_be_listened_to_stays(place: Path) -> None:
    """If this failed, asking while a runtime opens would make it invisible."""
    young = left_behind(place, f"{ME}.sock", age=0.0)
    assert ask() == ([], [])
    assert young.exists()


def test_whoever_opens_takes_away_what_dead_processes_left(place: Path) -> None:
    """If this failed, a service that is killed now and then would fill the directory."""
    stale = left_behind(place, f"{dead_pid()}.sock")
    with present():
        assert not stale.exists()


def test_a_name_that_is_taken_is_left_alone(place: Path) -> None:
    """If this failed, a container with the same pid and directory would lose its socket."""
    place.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(place / f"{ME}.sock"))
        other.listen()
        with present():
            assert (place / f"{ME}-2.sock").exists()
        assert [found.name for found in place.iterdir()] == [f"{ME}.sock"]


def test_other_files_are_left_alone(place: Path) -> None:
    """If this failed, asking could delete a file of the user."""
    place.mkdir(mode=0o700)
    for name in ("notes.txt", "x.sock", "12.socket"):
        (place / name).write_text("mine")
    assert ask() == ([], [])
    assert len(list(place.iterdir())) == 3


# Who does not answer, and who does not ask


def test_who_does_not_answer_is_named(place: Path) -> None:
    """If this failed, a runtime that hangs would look like none, or hang who asks."""
    place.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as mute, socket.socket(socket.AF_UNIX) as full:
        mute.bind(str(place / "77.sock"))
        mute.listen()
        full.bind(str(place / "78.sock"))
        full.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(place / "78.sock"))
            assert ask(0.1) == ([], [77, 78])


def test_an_answer_that_cannot_be_read_is_no_crash(place: Path) -> None:
    """If this failed, one runtime of another version would end `dspex status` for all others."""
    place.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as other, ThreadPoolExecutor(1) as pool:
        other.bind(str(place / "77.sock"))
        other.listen()
        asked = pool.submit(ask, 10.0)
        with other.accept()[0] as asker:
            asker.sendall(b'{"pid": "of another kind"}')
    assert asked.result() == ([], [77])


def test_who_asks_and_never_reads_keeps_nobody_from_asking(place: Path) -> None:
    """If this failed, one stopped `dspex status` would make all later ones hang."""
    worker = WorkerStats(1, 42, "ready", 8_000_000, 0, 0)
    large = RuntimeStats({"general": PoolStats([worker] * 20_000, 0, 0, {}, {})})  # more than a socket holds
    with present(large):
        with socket.socket(socket.AF_UNIX) as rude, socket.socket(socket.AF_UNIX) as gone:
            rude.connect(str(place / f"{ME}.sock"))
            gone.connect(str(place / f"{ME}.sock"))
            gone.close()
            (report,), silent = ask(30.0)
    assert silent == []
    assert report.stats == large


# Directories that are not trusted


@pytest.mark.parametrize("wrong", ["mode", "link", "file"])
def test_a_directory_that_others_may_enter_is_not_used(
    place: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """If this failed, another user could put sockets there, or read ours."""
    second = place.parent / "second"
    monkeypatch.setattr(presence, "directories", lambda: iter([place, second]))
    match wrong:
        case "mode":
            place.mkdir()
            place.chmod(0o755)
        case "link":
            (place.parent / "elsewhere").mkdir(mode=0o700)
            place.symlink_to(place.parent / "elsewhere")
        case "file":
            place.write_text("")
    with present():
        assert [found.name for found in second.iterdir()] == [f"{ME}.sock"]
        assert len(ask(10.0).reports) == 1
    if wrong == "mode":
        stale = left_behind(place, "77.sock")
        ask()
        assert stale.exists(), "what lies there is not ours to delete"


@as_root
def test_a_directory_of_another_user_is_not_used(place: Path) -> None:
    """If this failed, another user could wait in /tmp for the runtimes of this one."""
    place.mkdir(mode=0o700)
    os.chown(place, 12345, 12345)
    with present():
        assert list(place.iterdir()) == []
        assert ask(10.0) == ([], [])


@as_root
def test_the_runtime_directory_of_another_user_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, `sudo` would leave a directory of root where the user's own belongs."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert tmp_path / "dspex" in directories()
    os.chown(tmp_path, 12345, 12345)
    assert tmp_path / "dspex" not in directories()


@as_root
@forking
def test_another_user_is_told_nothing(place: Path) -> None:
    """If this failed, a mode that somebody loosened would let all users look in."""
    with present():
        place.chmod(0o711)
        (place / f"{ME}.sock").chmod(0o666)
        code = (
            "import os, socket, sys; os.chdir(sys.argv[1]); os.setresuid(12345, 12345, 12345); "
            "s = socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect(sys.argv[2]); print(s.recv(100))"
        )
        command = [sys.executable, "-c", code, str(place), f"{ME}.sock"]
        assert subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout == b"b''\n"


def test_no_place_is_a_line_in_the_debug_log(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If this failed, a runtime would not open on a read-only disk, or would say nothing of it."""
    place.write_text("no directory")
    caplog.set_level("DEBUG", "dspex.presence")
    with present():
        pass
    (record,) = caplog.records
    assert record.levelname == "DEBUG"
    assert str(place) in record.getMessage()


# With a real runtime


def place_of(runtime: dspex.Runtime) -> Path:
    """The socket of an open runtime."""
    (found,) = (Path(os.environ["XDG_RUNTIME_DIR"]) / "dspex").glob(f"{ME}*.sock")
    return found


@forking
def test_a_fork_neither_serves_nor_removes_it(runtime: dspex.Runtime) -> None:
    """If this failed, a prefork server's children would answer for it, or take its socket away."""
    path = place_of(runtime)
    assert any(name.endswith(path.name) for name in listeners())
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            runtime.close()
            gc.collect()
            os.write(writer, json.dumps(listeners()).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert json.loads(pipe.read()) == []
    os.waitpid(pid, 0)
    assert path.exists()
    (report,) = [report for report in ask(10.0).reports if report.pid == ME]
    assert [worker.state for worker in report.stats.pools["general"].workers] == ["ready"]


def listeners() -> list[str]:
    """The names of the sockets for `dspex status` that this process holds open."""
    found = []
    for descriptor in range(1024):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as sock:
            if sock.family == socket.AF_UNIX and (name := sock.getsockname()):
                found.append(os.fsdecode(name))
    return found


def test_nothing_secret_is_told(tmp_path: Path) -> None:
    """If this failed, a key in a variable or an argument could be read at the socket."""
    tmp_path.chmod(0o700)
    code = (
        "import dspex, sys\n"
        "lm = dspex.LM('openai/x', api_key='canary-in-code')\n"
        "with dspex.Runtime(lm, pools={'general': dspex.PoolOptions(workers=1)}):\n"
        "    print('open', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    script = tmp_path / "canary-free.py"
    script.write_text(code)
    program = subprocess.Popen(
        [sys.executable, str(script), "--key", "canary-argument"],
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "OPENAI_API_KEY": "canary-variable"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "open\n"
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(tmp_path / "dspex" / f"{program.pid}.sock"))
        told = b"".join(iter(lambda: asking.recv(65536), b"")).decode()
    program.communicate("")
    assert json.loads(told)["program"] == "canary-free.py"
    assert "canary" not in told.replace("canary-free.py", "")
    assert str(tmp_path) not in told
    assert list((tmp_path / "dspex").iterdir()) == []
