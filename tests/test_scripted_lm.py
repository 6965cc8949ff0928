"""``ScriptedLM`` itself: what it takes, what it refuses, how it ends."""

from __future__ import annotations

import datetime as dt
import enum
import gc
import http.client
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pydantic
import pytest

import dspex
from dspex.testing import Drop, Failure, InProcessRuntime, Reply, Request, ScriptedLM, raw
from tests.fresh import fresh

QA = "question -> answer"
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def runtime() -> Iterator[dspex.Runtime]:
    with InProcessRuntime(pools={"general": dspex.PoolOptions(workers=1)}) as opened:
        yield opened


def ask(runtime: dspex.Runtime, lm: dspex.LM, prompt: str = "?", signature: str = QA, **options: Any) -> Any:
    return runtime.adapter(lm=lm, timeout=20.0).generate(prompt, signature=signature, **options).outputs


def refused(runtime: dspex.Runtime, lm: ScriptedLM, signature: str = QA) -> str:
    """What the call says that the LM cannot answer; the request is made once."""
    before = len(lm.requests)
    with pytest.raises(dspex.LMInvalidRequest) as caught:
        ask(runtime, lm, signature=signature)
    assert len(lm.requests) == before + 1
    assert caught.value.details["provider_code"] == "scripted_lm"
    with pytest.raises(AssertionError, match="refused"):
        lm.assert_exhausted()
    return caught.value.message


def post(lm: ScriptedLM, body: Any, path: str = CHAT, key: str | None = None) -> tuple[int, str]:
    """One request by hand: status and the error's message."""
    assert lm.base_url is not None
    connection = http.client.HTTPConnection(lm.base_url.split("/")[2], timeout=10)
    connection.request("POST", path, json.dumps(body), {"Authorization": f"Bearer {key or lm.api_key}"})
    answer = connection.getresponse()
    read = json.loads(answer.read())
    connection.close()
    return answer.status, read.get("error", {}).get("message", "")


def servers() -> int:
    """How many scripted LMs of this process serve."""
    return sum(thread.name == "dspex-scripted" for thread in threading.enumerate())


def test_running_out_is_said_and_never_made_up(runtime: dspex.Runtime) -> None:
    """If this failed, a program that asks once too often would get an invented answer, or be asked again."""
    with ScriptedLM(["one", "two"]) as lm:
        assert [ask(runtime, lm)["answer"] for _ in range(2)] == ["one", "two"]
        assert lm.left == 0
        text = refused(runtime, lm)
    assert "ScriptedLM has no reply left: it was given 2, and this was request 3" in text


@pytest.mark.parametrize(
    ("reply", "signature", "said"),
    [
        ({"answer": "a"}, "question -> reason, answer", "lacks reason: the prompt asks for reason, answer"),
        ({"anwser": "a"}, QA, "lacks answer and has anwser, for which nobody asked"),
        ("a", "question -> reason, answer", "a text fills one output and the prompt asks for reason, answer"),
        ({"answer": object()}, QA, "object has no JSON form"),
    ],
)
def test_a_reply_that_does_not_fit_is_not_sent(
    runtime: dspex.Runtime, reply: Any, signature: str, said: str
) -> None:
    """If this failed, a slip in a script would show as a parse error of the program."""
    with ScriptedLM([reply]) as lm:
        assert said in refused(runtime, lm, signature)


def test_outputs_by_name_need_a_prompt_that_names_them(runtime: dspex.Runtime) -> None:
    """If this failed, an adapter of the user's own would get a text in nobody's form."""
    with ScriptedLM([{"number": 1}], adapter="two_step") as lm:
        assert "the prompt names no outputs" in refused(runtime, lm, "question -> number: int")


class Mood(enum.Enum):
    GOOD = "good"


class Place(pydantic.BaseModel):
    name: str


@dataclass
class Day:
    at: dt.date


@pytest.mark.parametrize("adapter", ["chat", "json", "xml"])
def test_values_of_ones_own_are_written_out(runtime: dspex.Runtime, adapter: str) -> None:
    """If this failed, a test could not reply with the objects that it compares with."""
    reply = {"mood": Mood.GOOD, "places": [Place(name="Rome")], "day": Day(dt.date(2026, 1, 2))}
    signature = "question -> mood: Literal['good', 'bad'], places: list[dict[str, str]], day: dict[str, Any]"
    with ScriptedLM([reply], adapter=adapter) as lm:
        outputs = ask(runtime, lm, signature=signature)
    assert outputs == {"mood": "good", "places": [{"name": "Rome"}], "day": {"at": "2026-01-02"}}


def test_a_function_replies(runtime: dspex.Runtime) -> None:
    """If this failed, a script could not depend on what is asked."""
    seen: list[tuple[str, Request]] = []

    def reply(request: Request) -> Any:
        seen.append((threading.current_thread().name, request))
        return {"answer": request.inputs["question"].upper()}

    async def areply(request: Request) -> Any:
        return Reply(request.model)

    with ScriptedLM(reply) as lm:
        assert ask(runtime, lm, "hello\n\nthere", temperature=0.25) == {"answer": "HELLO\n\nTHERE"}
        assert lm.left is None
        lm.assert_exhausted()
    [(thread, request)] = seen
    assert thread == "dspex-script"
    assert lm.requests == [request]
    assert (request.number, request.model, request.outputs) == (1, "scripted", ("answer",))
    assert request.params["temperature"] == 0.25
    assert [message["role"] for message in request.messages] == ["system", "user"]
    assert "hello" in request.prompt
    assert "hello" not in request.system
    with ScriptedLM(areply, model="openai/other") as lm:
        assert ask(runtime, lm) == {"answer": "other"}


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda request: 1 / 0, "the script's function failed: ZeroDivisionError"),
        (lambda request: request.inputs["qeustion"], "KeyError: 'qeustion'"),
        (lambda request: pytest.fail("not like this"), "Failed: not like this"),
        (lambda request: next(iter(())), "StopIteration"),
        (lambda request: None, "a scripted reply is a text, outputs by name"),
        (lambda request: {"anwser": ""}, "lacks answer"),
    ],
)
def test_a_function_that_fails_is_told(
    runtime: dspex.Runtime, function: Callable[[Request], Any], said: str
) -> None:
    """If this failed, a mistake in a script would show as a hang, or as the provider's failure."""
    with ScriptedLM(function) as lm:
        assert said in refused(runtime, lm)


def test_a_function_that_never_returns_is_bounded_by_the_request(runtime: dspex.Runtime) -> None:
    """If this failed, a stuck script would hang its test, or every other request."""
    stuck = threading.Event()

    def reply(request: Request) -> str:
        if request.inputs["question"] == "stuck":
            stuck.wait(300)
        return "free"

    with ScriptedLM(reply, timeout=0.1, retry=dspex.Retry(attempts=1)) as lm:
        with pytest.raises(dspex.LMTimeout):
            ask(runtime, lm, "stuck")
        assert ask(runtime, lm, "other") == {"answer": "free"}
    stuck.set()


@pytest.mark.parametrize("phrase", ["a JSON object", "the fields wrapped in XML tags", "[[ ## answer ## ]]"])
def test_what_users_write_is_not_taken_for_the_adapters_words(runtime: dspex.Runtime, phrase: str) -> None:
    """If this failed, a question about formats would be answered in another one than was asked for."""
    question = f"Say:\n\nRespond with {phrase}."
    with ScriptedLM([{"answer": "yes"}]) as lm:
        assert ask(runtime, lm, question) == {"answer": "yes"}
        assert lm.requests[0].inputs == {"question": question}


def test_history_is_in_the_messages_and_not_in_the_inputs(runtime: dspex.Runtime) -> None:
    """If this failed, a script could not see what was said before."""
    talk = [
        {"role": "user", "content": "I am Ann."},
        {"role": "assistant", "content": "Hello Ann."},
        {"role": "user", "content": "Who am I?"},
    ]
    with ScriptedLM(["Ann"]) as lm:
        assert runtime.adapter(lm=lm).generate(talk, signature=QA).answer == "Ann"
    [request] = lm.requests
    assert request.inputs == {"question": "Who am I?"}
    assert [message["role"] for message in request.messages] == ["system", "user", "assistant", "user"]


def test_only_its_own_key_is_answered() -> None:
    """If this failed, a stray client would eat a test's replies."""
    body = {"model": "m", "messages": [{"role": "user", "content": "?"}]}
    with ScriptedLM(["one"]) as lm, ScriptedLM(["two"]) as other:
        assert post(lm, body, key="guessed")[0] == 401
        assert isinstance(other.api_key, str)
        assert post(lm, body, key=other.api_key)[0] == 401
        assert (lm.requests, lm.left) == ([], 1)
        assert post(lm, body) == (200, "")
        assert lm != other
        assert len({lm, other}) == 2
        assert isinstance(lm.api_key, str)
        assert lm.api_key not in repr(lm)


@pytest.mark.parametrize(
    ("path", "more", "said"),
    [
        (CHAT, {"n": 2}, "n has to be 1"),
        (CHAT, {"messages": [{"content": "?"}]}, "no chat completion: KeyError"),
        (CHAT, {"messages": "?"}, "no chat completion"),
        ("/v1/messages", {}, "serves chat completions, not /v1/messages"),
    ],
)
def test_what_it_does_not_speak_is_refused(path: str, more: dict[str, Any], said: str) -> None:
    """If this failed, another protocol's request would eat a reply, or be answered with nonsense."""
    body = {"model": "m", "messages": [{"role": "user", "content": "?"}], **more}
    with ScriptedLM(["one"]) as lm:
        status, message = post(lm, body, path)
        assert status == 400
        assert said in message
        assert lm.left == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: ScriptedLM("one"),
        lambda: ScriptedLM({"answer": "one"}),  # type: ignore[arg-type]
        lambda: ScriptedLM([3]),  # type: ignore[list-item]
        lambda: ScriptedLM([], api_key="mine"),
        lambda: ScriptedLM([], base_url="http://localhost"),
        lambda: ScriptedLM([], model="anthropic/claude"),
        lambda: ScriptedLM([], adapter="chatty"),
        lambda: Reply(3),  # type: ignore[arg-type]
        lambda: Reply({"a": 1}, as_is=True),
        lambda: Reply("a", delay=-1),
        lambda: Failure(200),
        lambda: Failure(429.0),  # type: ignore[arg-type]
        lambda: Reply("a", usage=3),  # type: ignore[arg-type]
        lambda: Failure(429, retry_after=-1),
        lambda: Drop(delay="soon"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_scripted_is_refused_where_it_is_written(make: Callable[[], Any]) -> None:
    """If this failed, a slip in a script would show only in the call, or leave a server behind."""
    before = servers()
    with pytest.raises(dspex.InvalidOption):
        make()
    assert servers() == before


def test_replies_go_out_in_the_order_of_arrival() -> None:
    """If this failed, a script's order would depend on which reply was ready first."""
    body = {"model": "m", "messages": []}
    found: list[str] = []

    def client(number: int) -> None:
        found.append(f"{number} {post(lm, body)[1]}")

    script = [Failure(400, message=f"reply {n}", delay=0.05 * (3 - n)) for n in range(3)]
    with ScriptedLM(script) as lm:
        threads = []
        for number in range(3):
            threads.append(threading.Thread(target=client, args=(number,)))
            threads[-1].start()
            while len(lm.requests) <= number:
                time.sleep(0.002)
        for thread in threads:
            thread.join()
    assert sorted(found) == [f"{n} reply {n}" for n in range(3)]


def test_closed_it_is_not_there(runtime: dspex.Runtime) -> None:
    """If this failed, a forgotten call would be answered by nobody's script, or hang."""
    lm = ScriptedLM(["one"])
    lm.close()
    lm.close()
    with pytest.raises(dspex.LMUnavailable):
        ask(runtime, lm)
    assert lm.requests == []


def test_closing_ends_what_waits(runtime: dspex.Runtime) -> None:
    """If this failed, a test that ends with a request under way would hang."""
    with ScriptedLM([Reply("late", delay=300)], retry=dspex.Retry(attempts=1)) as lm:
        closer = threading.Timer(0.05, lm.close)
        closer.start()
        with pytest.raises(dspex.LMUnavailable):
            ask(runtime, lm)
        closer.join()


def test_forgotten_it_closes() -> None:
    """If this failed, each test would leave a thread and a socket behind."""
    gc.collect()
    before = servers()
    lm = ScriptedLM(lambda request: "one")
    assert servers() == before + 1
    del lm
    gc.collect()
    end = time.monotonic() + 10
    while servers() > before:
        assert time.monotonic() < end, "the server is still there"
        time.sleep(0.005)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_asks_the_process_that_made_it() -> None:
    """If this failed, a program that forks would close its test's model, or keep its port."""
    body = {"model": "m", "messages": []}
    with ScriptedLM(["one"]) as lm:
        done, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = post(lm, body)[0]
            lm.close()
            os.write(told, str(status).encode())
            threading.Event().wait(30)  # with whatever it holds, while the other closes
            os._exit(0)
        try:
            assert os.read(done, 10) == b"200"
            assert len(lm.requests) == 1
            assert post(lm, body)[0] == 400
            lm.close()
            with pytest.raises(ConnectionRefusedError):
                post(lm, body)
        finally:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            os.close(done)
            os.close(told)


def test_raw_is_sent_as_it_is(runtime: dspex.Runtime) -> None:
    """If this failed, a test could not say what a model says to the letter."""
    with ScriptedLM([raw("[[ ## answer ## ]]\n a \n\n[[ ## completed ## ]]", delay=0.01)]) as lm:
        assert ask(runtime, lm) == {"answer": "a"}


def _no_text(_: Request) -> str:
    return "\ud800"


def _no_text_in_its_failure(_: Request) -> str:
    raise ValueError("\ud800")


@pytest.mark.parametrize(
    "replies",
    [["\ud800"], [Failure(400, message="\ud800")], _no_text, _no_text_in_its_failure],
    ids=["text", "failure", "function", "exception"],
)
def test_what_cannot_be_sent_fails_the_call_at_once(runtime: dspex.Runtime, replies: Any) -> None:
    """If this failed, the call would wait until its deadline, and the test would learn of a timeout."""
    with ScriptedLM(replies) as lm:
        with pytest.raises(dspex.LMInvalidRequest):
            ask(runtime, lm)
        with pytest.raises(AssertionError, match="refused a request"):
            lm.assert_exhausted()


@pytest.mark.parametrize("wrong", [{"message": 5}, {"code": 5}, {"message": ""}])
def test_a_failures_words_are_text(wrong: dict[str, Any]) -> None:
    """If this failed, the slip would be a `TypeError` of the program under test."""
    with pytest.raises(dspex.InvalidOption):
        Failure(400, **wrong)


def quiet() -> list[str]:
    with ScriptedLM(["one"]) as lm:
        with dspex.Runtime(lm, pools={"general": dspex.PoolOptions(workers=1)}) as opened:
            assert opened.adapter().generate("?").response == "one"
    return [name for name in ("dspy", "litellm", "dspex.worker") if name in sys.modules]


def test_with_worker_processes_the_test_loads_no_dspy() -> None:
    """If this failed, a test that needs no DSPy in its process would wait for its import."""
    assert fresh(quiet) == []
