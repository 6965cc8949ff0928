"""Processes that end without closing a runtime, in many ways and places: quietly, and nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.exits.ends import BEGIN, WAYS
from tests.namespaces import AS_FIRST, need
from tests.processes import alive, descendants, lines, until

ROOT = Path(__file__).parents[1]


def start(command: list[str], folder: Path, **options: object) -> subprocess.Popen[str]:
    """A process whose runtimes have their sockets below a folder."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        command,
        cwd=folder,
        env={**os.environ, "XDG_RUNTIME_DIR": str(folder), "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def python(text: str, folder: Path, *prefix: str, **options: object) -> subprocess.Popen[str]:
    """A program that ends in some way; everything that Python warns of is shown."""
    command = [*prefix, sys.executable, "-W", "default", "-c", BEGIN + text, str(folder / "mark")]
    return start(command, folder, **options)


def finished(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Its output and its errors; one that hangs is killed."""
    try:
        return process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise


def family(output: str) -> list[int]:
    """Whom the program said it had started."""
    told = [line.split()[1:] for line in output.splitlines() if line.startswith("family")]
    assert told, "the program did not come to its end"
    return [int(pid) for pids in told for pid in pids]


def gone(pids: list[int]) -> bool:
    return not any(map(alive, pids))


def sockets(folder: Path) -> list[str]:
    return [path.name for path in (folder / "dspex").glob("*.sock")]


@pytest.mark.parametrize("name", WAYS)
def test_a_program_ends_as_it_would_without_a_runtime(name: str, tmp_path: Path) -> None:
    """If this failed, forgetting to close would hang a program, change its status, make noise or leak."""
    way = WAYS[name]
    process = python(way.text, tmp_path)
    output, errors = finished(process)
    assert process.returncode == way.status, errors
    assert errors.endswith(way.says)
    if not way.says.endswith("\n"):
        assert errors == way.says
    else:
        assert errors.count("Traceback") <= 2  # of a KeyboardInterrupt on a loop, with what it came from
        assert not [word for word in ("Warning", "Task ", "PoolClosed", "ignored") if word in errors], errors
    started = family(output)
    assert started
    until(lambda: gone(started))
    assert not way.tidy or not sockets(tmp_path)


def test_sigterm_to_every_process_of_a_service(tmp_path: Path) -> None:
    """If this failed, systemd's way of stopping would hang a service or leave a part of it."""
    process = python(
        """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
with load.runtime() as runtime:
    load.occupy(runtime, MARK)
    load.tell()
    time.sleep(60)
""",
        tmp_path,
    )
    until(lambda: len(lines(tmp_path / "mark")) == 2, 60)
    started = descendants(process.pid)
    for pid in [*started, process.pid]:
        os.kill(pid, signal.SIGTERM)
    _, errors = finished(process)
    assert process.returncode == 143, errors
    assert "Traceback" not in errors
    until(lambda: gone(started))
    assert not sockets(tmp_path)


DAEMON = """
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
os.chdir("/")
for descriptor in range(3):
    os.close(descriptor)
runtime = load.runtime().open()
pong = runtime.pool().execute("ping")
with open(MARK, "w") as file:
    print(os.getpid(), pong, *load.descendants(os.getpid()), file=file)
os.rename(MARK, MARK + ".done")
"""


def test_a_daemon(tmp_path: Path) -> None:
    """If this failed, a service that makes itself a daemon, with no standard descriptors, would not work."""
    process = python(DAEMON, tmp_path)
    finished(process)
    assert process.returncode == 0
    done = tmp_path / "mark.done"
    until(done.exists, 60)
    daemon, pong, *started = done.read_text().split()
    assert pong == "pong"
    assert len(started) == 3
    until(lambda: gone([int(pid) for pid in (daemon, *started)]), 30)
    assert not sockets(tmp_path)


def test_nohup_without_standard_descriptors(tmp_path: Path) -> None:
    """If this failed, a job that was left running at night would end with its terminal."""
    text = """
runtime = load.runtime().open()
before = load.descendants(os.getpid())
os.killpg(0, signal.SIGHUP)
for pid in before:
    os.kill(pid, signal.SIGHUP)
time.sleep(0.1)
with open(MARK, "w") as file:
    print(runtime.pool().execute("ping"), file=file)
"""
    shell = ["sh", "-c", 'exec nohup "$@" <&- >&- 2>&-', "sh"]
    process = python(text, tmp_path, *shell, start_new_session=True)
    finished(process)
    assert process.returncode == 0
    assert (tmp_path / "mark").read_text() == "pong\n"


XDIST = """
import os, signal
import dspex, pytest
from tests.processes import descendants

@pytest.fixture(scope="session")
def runtime():
    opened = dspex.Runtime(pools={"general": {"workers": 1}}).open()
    with open("families", "a") as file:
        print(*descendants(os.getpid()), file=file)
    return opened  # nobody closes it

@pytest.mark.parametrize("number", range(4))
def test_answers(runtime, number):
    assert runtime.pool().execute("ping") == "pong"

def test_kills(runtime):
    assert runtime.pool().execute("ping") == "pong"
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.chaos
def test_pytest_xdist(tmp_path: Path) -> None:
    """If this failed, a test suite that runs in parallel would hang at its end, or leave workers."""
    (tmp_path / "test_these.py").write_text(textwrap.dedent(XDIST))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "test_these.py"]
    process = start(command, tmp_path)
    output, errors = finished(process)
    assert process.returncode == 1, output + errors
    assert "1 failed, 4 passed" in output
    assert "crashed while running 'test_these.py::test_kills'" in output
    families = [int(pid) for line in lines(tmp_path / "families") for pid in line.split()]
    assert len(families) >= 4
    until(lambda: gone(families))


@pytest.mark.chaos
def test_a_first_process_has_no_corpses(tmp_path: Path) -> None:
    """If this failed, a container without an init would fill with zombies."""
    need(AS_FIRST)
    process = start([*AS_FIRST, sys.executable, "-m", "tests.exits.first", str(tmp_path)], tmp_path)
    output, errors = finished(process)
    assert process.returncode == 0, errors
    assert json.loads(output) == {"pid": 1, "corpses": [], "left": []}


@pytest.mark.chaos
@pytest.mark.parametrize("name", ["end of the script", "os._exit", "SIGTERM"])
def test_below_an_init_nothing_is_left(name: str, tmp_path: Path) -> None:
    """If this failed, a job in a container whose first process is an init would leave workers there."""
    need(AS_FIRST)
    after = 'sleep 0.5; for stat in /proc/[0-9]*/stat; do read -r pid rest <"$stat"; echo "pid $pid"; done'
    init = [*AS_FIRST, "sh", "-c", f'"$@"; echo "status $?"; {after}', "sh"]
    process = python(WAYS[name].text, tmp_path, *init)
    output, errors = finished(process)
    status = WAYS[name].status
    assert f"status {status if status >= 0 else 128 - status}" in output, errors
    assert [line for line in output.splitlines() if line.startswith("pid")] == ["pid 1"]
