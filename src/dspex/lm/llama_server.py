"""The child process that serves a GGUF file over HTTP on loopback, in OpenAI's protocol.

It is told what to serve over a socket, because its API key is a secret and arguments are not, and it
answers there with its address or with what went wrong: one line of JSON each way. It lives until it is
killed, until its parent dies, or until the other end of that socket is closed.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import tempfile
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from dspex.errors import Cancelled, DspexError, LMNotConfigured, LMUnavailable
from dspex.process.lifeline import arm
from dspex.process.limits import be_expendable

if TYPE_CHECKING:
    from collections.abc import Callable

_CONTEXT = 4096  # tokens of prompt and answer together that one slot holds
_PREDICT = 512  # tokens that a request may generate when it does not say


class Configuration(msgspec.Struct, frozen=True):
    """What the parent sends.

    Attributes:
        path: The GGUF file.
        model: The name that the server gives it.
        api_key: What a request has to show.
        slots: Requests that are answered side by side.
        threads: Threads that compute.
    """

    path: str
    model: str
    api_key: str
    slots: int
    threads: int

    def __repr__(self) -> str:
        return f"Configuration(path={self.path!r}, slots={self.slots})"


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the child sends back: its address, or an error and what that is about.

    Attributes:
        address: ``http://127.0.0.1:<port>``.
        error: The failure in words.
        about: ``"runtime"``: xllamacpp is missing or cannot be imported; ``"libgomp"``: that system
            library is; ``"model"``: the file could not be served.
    """

    address: str | None = None
    error: str | None = None
    about: Literal["runtime", "libgomp", "model"] | None = None

    def failure(self, path: str) -> DspexError:
        """The error of an answer that has no address, saying what to install or that the file is bad."""
        details = {"cause": self.error}
        if self.about == "libgomp":
            return LMNotConfigured(
                "the local model needs the system library libgomp: run  apt-get install libgomp1  "
                f"(other systems: the package that has libgomp.so.1). {self.error}",
                details={**details, "library": "libgomp.so.1"},
            )
        if self.about == "runtime":
            return LMNotConfigured(
                f"the local model needs xllamacpp: run  pip install 'dspex[local]'  ({self.error})",
                details={**details, "extra": "local"},
            )
        return LMUnavailable(
            f"the local model cannot be served from {path}: {self.error}", details=details, retryable=False
        )


def ask(control: socket.socket, configuration: Configuration, stopped: Callable[[], bool]) -> Answer | None:
    """The parent's side: send the configuration and wait for the answer; blocks while the model loads.

    Args:
        control: The parent's end of the socket.
        configuration: What to serve.
        stopped: Asked ten times a second whether to give up.

    Returns:
        The answer; None when the child ended without one.

    Raises:
        Cancelled: ``stopped`` said so.
    """
    line = b""
    poll = select.poll()
    poll.register(control, select.POLLIN)
    with contextlib.suppress(ConnectionError):
        control.sendall(msgspec.json.encode(configuration) + b"\n")
        while not line.endswith(b"\n"):
            while not poll.poll(100):
                if stopped():
                    raise Cancelled("stopped while the local model was loading")
            if not (more := control.recv(4096)):
                return None
            line += more
        return msgspec.json.decode(line, type=Answer)
    return None


def main(*, lifeline: int, control: int) -> None:
    """Serve one model.

    Args:
        lifeline: Read end of the pipe that this process dies with.
        control: A stream socket: configuration in, answer out, then open for as long as this may live.
    """
    arm(lifeline)
    be_expendable()  # it is the largest process here, and one that can be started again
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    parent = socket.socket(fileno=control)
    with parent.makefile("rb") as lines:
        configuration = msgspec.json.decode(lines.readline(), type=Configuration)
    answer, server = _serve(configuration)
    with contextlib.suppress(ConnectionError):
        parent.sendall(msgspec.json.encode(answer) + b"\n")
        while server is not None and parent.recv(4096):
            pass  # nothing more is said; the end of it is the sign to go
    # Nothing is left to save, and taking the server apart in order would only take time.
    os._exit(0)


def _serve(configuration: Configuration) -> tuple[Answer, Any]:
    """Load the model; the server has threads of its own and serves for as long as it is referenced."""
    try:
        import xllamacpp
    except ImportError as error:
        return Answer(error=str(error), about="libgomp" if "libgomp" in str(error) else "runtime"), None

    # The library raises the same sentence for every cause. The cause is in its log, which is kept while
    # the model loads; after that it could hold parts of prompts, and goes nowhere.
    log = _scratch()
    nowhere = os.dup(2)
    os.dup2(log, 2)
    try:
        server = xllamacpp.Server(_parameters(xllamacpp, configuration))
        return Answer(address=server.listening_address), server
    except Exception as error:  # noqa: BLE001 - the parent raises it
        return Answer(error=_cause(log) or str(error), about="model"), None
    finally:
        os.dup2(nowhere, 2)
        os.close(nowhere)
        os.close(log)


def _scratch() -> int:
    """A descriptor of a file that nobody else has: in memory, or on disk where a sandbox refuses that."""
    try:
        return os.memfd_create("llama-log")
    except OSError:
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())


def _parameters(xllamacpp: Any, configuration: Configuration) -> Any:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = configuration.path
    parameters.model_alias = {configuration.model}
    parameters.api_keys = [configuration.api_key]
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0  # any free one
    parameters.n_parallel = configuration.slots
    parameters.n_ctx = _CONTEXT * configuration.slots
    parameters.n_predict = _PREDICT
    parameters.cpuparams.n_threads = configuration.threads
    parameters.no_extra_bufts = True  # without a repacked copy of the weights: 1.3 GB, not 1.9
    parameters.cache_ram_mib = 0  # by default it keeps up to 8 GB of old prompts
    parameters.ui = False
    parameters.offline = True
    parameters.verbosity = 1  # errors alone
    return parameters


def _cause(log: int) -> str | None:
    """The first error in the library's log, without the names of the functions that report it."""
    text = os.pread(log, 1 << 16, 0).decode(errors="replace")
    found = re.search(r"^\S+ E (?:\w+: )?(?:error loading model: )?(.+)", text, re.MULTILINE)
    return found[1].strip() if found else None
