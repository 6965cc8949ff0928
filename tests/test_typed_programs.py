"""Typed values in and out of programs, through a real runtime: a model is sent what DSPy would send it."""

from __future__ import annotations

import itertools
import json
import os
import threading
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

import dspex
from tests.provider import Provider, echo, fields

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # before DSPy, which would download it

import dspy
from dspy.adapters.types.citation import Citations

DATA = b64encode(b"\x89PNG\r\n\x1a\n").decode()
WEB = "https://example.org/cat.png"
MARK = "<<CUSTOM-TYPE-START-IDENTIFIER>>"
END = "<<CUSTOM-TYPE-END-IDENTIFIER>>"
MODEL = "openai/gpt-4o-mini"


@pytest.fixture(scope="module")
def serving() -> Iterator[tuple[Provider, dspex.Runtime]]:
    with Provider() as provider:

        def lm(adapter: str) -> dspex.LM:
            return dspex.LM(
                MODEL,
                base_url=provider.base_url,
                api_key="k",
                adapter=adapter,
                retry=dspex.Retry(attempts=1),
            )

        with dspex.Runtime(
            lms={name: lm(name) for name in ("chat", "json", "xml")},
            lm="chat",
            pools={"general": dspex.PoolOptions(workers=1), "isolated": dspex.PoolOptions(isolation="call")},
            settings=dspex.Settings(allow_modules=("tests.typed_programs",)),
        ) as runtime:
            yield provider, runtime


@pytest.fixture
def provider(serving: tuple[Provider, dspex.Runtime]) -> Provider:
    serving[0].reply = lambda _: echo()
    serving[0].requests.clear()
    return serving[0]


@pytest.fixture
def runtime(serving: tuple[Provider, dspex.Runtime], provider: Provider) -> dspex.Runtime:
    return serving[1]


ADAPTERS = {"chat": dspy.ChatAdapter, "json": dspy.JSONAdapter, "xml": dspy.XMLAdapter}
# The signature as dspex and as DSPy spell it, the inputs of each, what the model says.
CALLS: dict[str, tuple[str, Any, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "picture": (
        "image: Image, question -> answer",
        {"image": (dspy.Image, 0), "question": (str, 0), "answer": (str, 1)},
        {"image": dspex.Image(WEB), "question": "What?"},
        {"image": dspy.Image(WEB), "question": "What?"},
        {"answer": "A cat."},
    ),
    "pictures": (
        "images: list[Image], one: Optional[Image], more: dict[str, Image] -> answer",
        {
            "images": (list[dspy.Image], 0),
            "one": (dspy.Image | None, 0),
            "more": (dict[str, dspy.Image], 0),
            "answer": (str, 1),
        },
        {
            "images": [dspex.Image(WEB), {"url": f"data:image/png;base64,{DATA}"}],
            "one": dspex.Image(f"data:image/png;base64,{DATA}"),
            "more": {"a": dspex.Image(WEB)},
        },
        {
            "images": [dspy.Image(WEB), dspy.Image(f"data:image/png;base64,{DATA}")],
            "one": dspy.Image(f"data:image/png;base64,{DATA}"),
            "more": {"a": dspy.Image(WEB)},
        },
        {"answer": "Cats."},
    ),
    "picture out": (
        "question -> image: Image, thumbs: list[Image]",
        {"question": (str, 0), "image": (dspy.Image, 1), "thumbs": (list[dspy.Image], 1)},
        {"question": "?"},
        {"question": "?"},
        {"image": {"url": WEB}, "thumbs": [{"url": WEB}]},
    ),
    "code": (
        "source: Code['java'], plain: Code -> code: Code['go'], why: Reasoning",
        {
            "source": (dspy.Code["java"], 0),
            "plain": (dspy.Code, 0),
            "code": (dspy.Code["go"], 1),
            "why": (dspy.Reasoning, 1),
        },
        {"source": dspex.Code("class A {}", "java"), "plain": "print(1)"},
        {"source": dspy.Code["java"](code="class A {}"), "plain": dspy.Code(code="print(1)")},
        {"code": "func main() {}", "why": "Since."},
    ),
    "history": (
        "question, history: History -> answer, sources: Citations",
        {
            "question": (str, 0),
            "history": (dspy.History, 0),
            "answer": (str, 1),
            "sources": (Citations, 1),
        },
        {"question": "And?", "history": dspex.History([{"question": "What?", "answer": "Cat."}])},
        {"question": "And?", "history": dspy.History(messages=[{"question": "What?", "answer": "Cat."}])},
        {
            "answer": "Dog.",
            "sources": [{"cited_text": "x", "document_index": 0, "start_char_index": 0, "end_char_index": 1}],
        },
    ),
    "untyped": (
        "thing, question -> answer",
        {"thing": (Any, 0), "question": (str, 0), "answer": (str, 1)},
        {"thing": [dspex.Image(WEB), dspex.Code("x = 1")], "question": "?"},
        {"thing": [dspy.Image(WEB), dspy.Code(code="x = 1")], "question": "?"},
        {"answer": "Both."},
    ),
    "calls": (
        "earlier: ToolCalls, question -> wanted: ToolCalls",
        {"earlier": (dspy.ToolCalls, 0), "question": (str, 0), "wanted": (dspy.ToolCalls, 1)},
        {"earlier": dspex.ToolCalls([dspex.ToolCall("a", {"x": 1}, "c-1")], ["one"]), "question": "?"},
        {
            "earlier": dspy.ToolCalls(
                tool_calls=[dspy.ToolCalls.ToolCall(name="a", args={"x": 1}, id="c-1")],
                tool_call_results=["one"],
            ),
            "question": "?",
        },
        {"wanted": {"tool_calls": [{"name": "b", "args": {"y": [2]}}]}},
    ),
}


def stock(provider: Provider, adapter: str, declared: Any, inputs: dict[str, Any]) -> Any:
    """What plain DSPy makes of it, in this process."""
    made = {
        name: (kind, (dspy.OutputField if out else dspy.InputField)())
        for name, (kind, out) in declared.items()
    }
    lm = dspy.LM(MODEL, api_base=provider.base_url, api_key="k", engine="lm15", cache=False, num_retries=0)
    with dspy.context(lm=lm, adapter=ADAPTERS[adapter](), warn_on_type_mismatch=False):
        return dspy.Predict(dspy.make_signature(made))(**inputs)


def sent(provider: Provider) -> list[Any]:
    return [[request.path, json.dumps(request.body)] for request in provider.requests]


@pytest.mark.parametrize(
    ("adapter", "name"),
    # DSPy's JSONAdapter takes an output of tool calls only beside tools.
    [pair for pair in itertools.product(ADAPTERS, CALLS) if pair != ("json", "calls")],
)
def test_a_model_is_sent_what_dspy_would_send(
    runtime: dspex.Runtime, provider: Provider, adapter: str, name: str
) -> None:
    """If this failed, a model would see another picture, or another question, than with DSPy alone."""
    signature, declared, ours, theirs, said = CALLS[name]
    provider.reply = lambda _: fields(**said)
    expected = stock(provider, adapter, declared, theirs)
    wanted = sent(provider)
    provider.requests.clear()
    if name == "untyped":
        signature = "thing: Any, question -> answer"
    got = runtime.adapter(lm=adapter).generate(signature=signature, inputs=ours)
    assert sent(provider) == wanted
    assert len(wanted) == 1
    assert dict(got.outputs) == {field: plain(expected[field]) for field in expected.keys()}  # noqa: SIM118


def plain(value: Any) -> Any:
    """One of DSPy's values as dspex has it."""
    from dspex.wire import own

    if isinstance(value, list):
        return [plain(part) for part in value]
    return value if (found := own.plain(value)) is None else found


def test_outputs_are_dspexs_own(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a caller without DSPy could not use what a program gives."""
    provider.reply = lambda _: fields(
        code="```go\nx\n```", why="Since.", pic={"url": WEB}, wants=[{"name": "a", "args": {}}]
    )
    signature = "q -> code: Code['go'], why: Reasoning, pic: Image, wants: ToolCalls"
    got = runtime.adapter().generate("?", signature=signature)
    assert (type(got.code), got.code, got.code.language) == (dspex.Code, "x", "go")
    assert (type(got.why), got.why) == (dspex.Reasoning, "Since.")
    assert got.pic == dspex.Image(WEB)
    assert got.wants.tool_calls == [dspex.ToolCall("a", {})]
    as_json = runtime.adapter(serialization_format="json").generate("?", signature=signature)
    assert (
        as_json.outputs
        == got.to_dict()["outputs"]
        == {
            "code": "x",
            "why": "Since.",
            "pic": {"url": WEB},
            "wants": {"tool_calls": [{"name": "a", "args": {}}]},
        }
    )


def test_the_reasoning_that_a_module_adds_is_text(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, every caller of ChainOfThought would meet a type that he never asked for."""
    provider.reply = lambda _: fields(reasoning="Since.", answer="Yes.")
    got = runtime.adapter().generate("?", module="ChainOfThought", signature="q -> answer")
    assert (type(got.reasoning), got.reasoning) == (str, "Since.")
    again = runtime.adapter().generate(
        signature="context: str -> answer", inputs={"context": dspex.Reasoning("Since.")}
    )
    assert again.answer == "Yes."


def test_several_completions_are_typed_as_well(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, the second of two answers would be another kind of value than the first."""
    provider.reply = lambda _: fields(code="x", why="Since.")
    got = runtime.adapter().generate("?", signature="q -> code: Code, why: Reasoning", n=2, temperature=1.0)
    assert got.completions is not None
    for outputs in got.completions:
        assert {name: type(value) for name, value in outputs.items()} == {
            "code": dspex.Code,
            "why": dspex.Reasoning,
        }


def test_a_caller_with_dspy_hands_in_and_gets_dspys(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a program that moves to dspex would have to change every value it has."""
    provider.reply = lambda _: fields(best={"url": WEB}, why="Since.")
    got = runtime.adapter().generate(
        signature="images: list[Image] -> best: Image, why: Reasoning", inputs={"images": [dspy.Image(WEB)]}
    )
    assert type(got.best) is dspy.Image
    assert got.best == dspy.Image(WEB)
    assert type(got.why) is dspex.Reasoning


CANARY = Path(__file__)
STEAL: list[tuple[str, Any]] = [
    *[("Image", value) for value in (str(CANARY), {"url": str(CANARY)}, {"url": f"file://{CANARY}"}, b"x")],
    ("Image", {"url": WEB, "download": True}),
    ("Image", {"url": WEB, "verify": False}),
    ("Image", {"source": str(CANARY)}),
    ("Image", {"url": "data:image/png;base64,!!!"}),
    ("Image", {"url": "data:image/png;base64,"}),
    ("Image", {"url": "data:image/svg+xml,<svg/>"}),
    ("Image", dspex.Audio(DATA, "wav")),
    ("list[Image]", [str(CANARY)]),
    ("list[Image]", [{"url": str(CANARY)}]),
    ("Optional[Image]", {"url": str(CANARY)}),
    ("Audio", str(CANARY)),
    ("Audio", {"data": str(CANARY), "audio_format": "wav"}),
    ("Audio", {"path": str(CANARY)}),
    ("File", str(CANARY)),
    ("File", {"file_data": str(CANARY)}),
    ("File", {"path": str(CANARY)}),
    ("Document", {"path": str(CANARY)}),
    ("Code", 5),
    ("ToolCalls", "x"),
    ("Citations", 5),
]


@pytest.mark.parametrize(("kind", "value"), STEAL, ids=lambda part: repr(part)[:40])
def test_no_text_of_a_caller_is_read_as_a_file(
    runtime: dspex.Runtime, provider: Provider, kind: str, value: Any
) -> None:
    """If this failed, a client could have a worker read its files, or be charged for what cannot be sent."""
    with pytest.raises(dspex.InvalidInput, match=r"the input .thing") as caught:
        runtime.adapter().generate(signature=f"thing: {kind} -> answer", inputs={"thing": value})
    assert provider.requests == []
    assert "canary" not in str(caught.value)
    assert len(str(caught.value)) < 300


class _Web(BaseHTTPRequestHandler):
    """Counts who comes."""

    came = 0

    def do_GET(self) -> None:
        _Web.came += 1
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def web() -> Iterator[str]:
    _Web.came = 0
    with HTTPServer(("127.0.0.1", 0), _Web) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/cat.png"
        server.shutdown()
        thread.join()


def test_no_worker_opens_an_address(runtime: dspex.Runtime, provider: Provider, web: str) -> None:
    """If this failed, a client could have a worker ask the servers inside our network."""
    provider.reply = lambda _: fields(answer="A cat.", back={"url": web})
    for value in (dspex.Image(web), {"url": web}, dspy.Image(web)):
        got = runtime.adapter().generate(signature="i: Image -> answer, back: Image", inputs={"i": value})
        assert got.back.url == web
    assert web in json.dumps(provider.requests[-1].body)
    with pytest.raises(dspex.InvalidInput):
        runtime.adapter().generate(
            signature="i: Image -> answer", inputs={"i": {"url": web, "download": True}}
        )
    assert _Web.came == 0


@pytest.mark.parametrize("mark", [MARK, END])
@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("Image", lambda text: dspex.Image(f"https://example.org/{text}")),
        ("Audio", lambda text: dspex.Audio(DATA, text)),
        ("File", lambda text: dspex.File(file_id="x", filename=text)),
        ("Document", lambda text: dspex.Document("x", title=text)),
        ("list[Document]", lambda text: [dspex.Document("x", context=text)]),
        ("ToolCalls", lambda text: dspex.ToolCalls([dspex.ToolCall("a", {"x": [text]})])),
        (
            "Citations",
            lambda text: [
                {"cited_text": text, "document_index": 0, "start_char_index": 0, "end_char_index": 1}
            ],
        ),
    ],
    ids=lambda part: str(part)[:12],
)
def test_no_text_ends_a_value_and_begins_another(
    runtime: dspex.Runtime, provider: Provider, mark: str, kind: str, make: Any
) -> None:
    """If this failed, the title of a document could put pictures of a stranger's into the request."""
    with pytest.raises(dspex.InvalidInput, match="CUSTOM-TYPE"):
        runtime.adapter().generate(signature=f"x: {kind} -> answer", inputs={"x": make(f"a{mark}b")})
    assert provider.requests == []


def test_turns_of_a_history_are_checked_whoever_made_it(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, turns that name no field would be dropped without a word."""
    for history in (
        dspex.History([{"role": "user", "content": "x"}]),
        dspy.History(messages=[{"role": "user"}]),
        [{"role": "user"}],
    ):
        with pytest.raises(dspex.InvalidInput, match="names none of the fields"):
            runtime.adapter().generate("?", signature="q, h: History -> answer", inputs={"h": history})
    history = dspex.History([{"q": MARK, "answer": "x"}])
    with pytest.raises(dspex.InvalidInput, match="CUSTOM-TYPE"):
        runtime.adapter().generate("?", signature="q, h: History -> answer", inputs={"h": history})
    with_picture = dspex.History([{"q": dspex.Image(WEB), "answer": "Cat."}])
    runtime.adapter().generate("?", signature="q, h: History -> answer", inputs={"h": with_picture})
    assert provider.requests[-1].body["messages"][1]["content"][1]["image_url"]["url"] == WEB


def test_programs_of_the_users_own_get_dspys_values(runtime: dspex.Runtime) -> None:
    """If this failed, a module that is written for DSPy would meet types that it does not know."""
    got = runtime.adapter().generate(
        module="tests.typed_programs:Kinds",
        inputs={"image": dspex.Image(WEB), "many": [dspex.Audio(DATA, "wav")], "code": dspex.Code("x", "go")},
    )
    assert got.kinds == [
        "dspy.adapters.types.image.Image",
        "dspy.adapters.types.audio.Audio",
        "dspex.media.text.Code",
    ]
    assert got.image == dspex.Image(WEB)
    assert got.nested == {"a": (dspex.Code("y", "java"), dspex.Document("t"))}
    assert got.nested["a"][0].language == "java"
    assert got.why == "Since."


def test_descriptions_name_the_types(runtime: dspex.Runtime) -> None:
    """If this failed, nobody could find out over the bridge what a picture field takes."""
    said = runtime.pool().execute("describe", {"signature": "i: Image, c: Code['go'] -> r: Reasoning"})
    assert said["inputs"]["i"]["schema"]["properties"]["url"]["type"] == "string"
    assert set(said["inputs"]) == {"i", "c"}
