"""Everything that dspex changes inside DSPy, in one place, each with its reason.

DSPy is used and not forked. What follows keeps its behaviour and lowers its cost, and
``tests/test_dspy_compat.py`` compares each change with the stock code.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import functools
import gc
import inspect
import os
import secrets
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

# DSPy would fetch a map of prices from the network in the middle of a process's first call.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
# For providers that open no addresses LiteLLM would fetch an image itself, from whatever address a caller
# names, those of the worker's own network included. `pass_env` may allow it, up to a size in MB.
DOWNLOADS = "MAX_IMAGE_URL_DOWNLOAD_SIZE_MB"
os.environ.setdefault(DOWNLOADS, "0")
# A worker is one of many on its cores: numerical libraries get one thread each.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import dspy  # noqa: E402
import dspy.adapters._legacy_type_markers  # noqa: E402
import dspy.adapters.base  # noqa: E402
import dspy.adapters.types.base_type  # noqa: E402
import dspy.adapters.utils  # noqa: E402
import dspy.clients.capabilities  # noqa: E402
import dspy.clients.costs  # noqa: E402
import dspy.clients.execution  # noqa: E402
import dspy.clients.model_metadata  # noqa: E402
import dspy.predict.react  # noqa: E402
import dspy.predict.react_v2  # noqa: E402
import dspy.signatures.signature  # noqa: E402
import dspy.utils.exceptions  # noqa: E402
import pydantic  # noqa: E402
from dspy.clients._deprecation import warn_openai_messages  # noqa: E402
from dspy.utils.callback import with_callbacks  # noqa: E402

from dspex.worker.threads import side_by_side  # noqa: E402

_TYPES_KEPT = 1024


def prepare() -> None:
    """Load what DSPy loads late, switch its caches off, and put the cheaper parts in. Before any fork."""
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    dspy.clients.model_metadata._load()
    _cache_type_adapters()
    _cache_model_info()
    _cache_fields()
    _price_inline()
    _complete_side_by_side()
    _show_tool_errors()
    _mark_by_secret()
    _warm_up()


def freeze() -> None:
    """Move all that is loaded out of the collector's sight, so that forks keep sharing its memory."""
    gc.collect()
    gc.freeze()


def _cache_type_adapters() -> None:
    """DSPy builds a pydantic ``TypeAdapter`` for each value it formats: a quarter of a call's CPU."""
    stock = pydantic.TypeAdapter
    build = functools.lru_cache(_TYPES_KEPT)(stock)

    @functools.wraps(stock, updated=())
    def cached(annotation: Any) -> pydantic.TypeAdapter[Any]:
        # Literal[1] and Literal[True] are equal and hash alike, so the spelling is part of the key.
        try:
            if isinstance(annotation, type):
                return build(annotation)
            return by_spelling(annotation, repr(annotation))
        except TypeError:  # not hashable
            return stock(annotation)

    @functools.lru_cache(_TYPES_KEPT)
    def by_spelling(annotation: Any, _spelling: str) -> pydantic.TypeAdapter[Any]:
        return stock(annotation)

    dspy.adapters.utils.TypeAdapter = cached


def _cache_model_info() -> None:
    """DSPy searches the whole map of models for each call's price and abilities; the map never changes."""
    stock = dspy.clients.model_metadata.model_info

    @functools.lru_cache(_TYPES_KEPT)
    def cached(provider: str, model: str, namespaces: tuple[str, ...] | None) -> dict[str, Any]:
        found: dict[str, Any] = stock(provider, model, namespaces=namespaces)
        return found

    @functools.wraps(stock)
    def model_info(provider: str, model: str, *, namespaces: Any = None) -> dict[str, Any]:
        return cached(provider, model, None if namespaces is None else tuple(namespaces))

    dspy.clients.costs.model_info = model_info
    dspy.clients.capabilities.model_info = model_info


def _cache_fields() -> None:
    """DSPy sorts a signature's fields into inputs and outputs twenty times a call; they never change."""
    meta = dspy.signatures.signature.SignatureMeta
    stock = meta._get_fields_with_type
    sorted_fields: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    @functools.wraps(stock)
    def cached(cls: Any, field_type: str) -> dict[str, Any]:
        fields = cls.model_fields
        known, kinds = sorted_fields.get(cls, (None, {}))
        if known is not fields:  # new, or rebuilt
            kinds = {}
            sorted_fields[cls] = (fields, kinds)
        if field_type not in kinds:
            kinds[field_type] = stock(cls, field_type)
        return dict(kinds[field_type])

    meta._get_fields_with_type = cached


class _Asyncio:
    """asyncio as ``dspy.clients.execution`` sees it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def to_thread(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        if function is dspy.clients.execution._price_result:
            return function(*args, **kwargs)
        return await asyncio.to_thread(function, *args, **kwargs)


def _price_inline() -> None:
    """DSPy prices each answer in a thread, because its search for a price is slow. Ours is a look in a dict.

    Two hops to threads per call, this and the one that ``WorkerLM`` leaves out, cost as much CPU as all
    the rest of it: without them a worker answers twice as many calls.
    """
    dspy.clients.execution.asyncio = _Asyncio()


class ToolFailed(Exception):
    """A tool raised, and this is what a model is shown of it.

    Attributes:
        text: Its type, its message, and the frames of the tool's own code.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def _show_tool_errors() -> None:
    """DSPy shows a model the first five frames of a failed tool. In a worker these would all be dspex's."""
    stock = dspy.utils.exceptions.format_error_for_lm

    @functools.wraps(stock)
    def shown(error: BaseException, *, traceback_frames: int = 0) -> str:
        if isinstance(error, ToolFailed):
            return f"\n{error.text}" if traceback_frames > 0 else error.text
        return str(stock(error, traceback_frames=traceback_frames))

    for module in (dspy.predict.react, dspy.predict.react_v2):
        module.format_error_for_lm = shown


def _mark_by_secret() -> None:
    """DSPy finds images and files in a request by marks in its text, which anybody could write there.

    What a tool returned, and what a model wrote, come into later requests as text: with DSPy's own marks in
    it, a web page that a tool fetched would become an image or a file of the caller's. So the marks are ones
    that only this process and its forks know. Text that keeps its marks in DSPy has DSPy's own again.
    """
    types, markers = dspy.adapters.types.base_type, dspy.adapters._legacy_type_markers
    names = ("CUSTOM_TYPE_START_IDENTIFIER", "CUSTOM_TYPE_END_IDENTIFIER")
    theirs = {name: getattr(types, name) for name in names}
    ours = {name: f"<<{name}-{secrets.token_hex(16)}>>" for name in names}
    for name in names:
        setattr(types, name, ours[name])
        setattr(markers, name, ours[name])
    to_ours = [(theirs[name], ours[name]) for name in names]
    to_theirs = [(ours[name], theirs[name]) for name in names]
    stock = markers._expand_legacy_custom_type_markers_in_chat_message

    @functools.wraps(stock)
    def expanded(message: dict[str, Any]) -> dict[str, Any]:
        return {name: _replaced(part, to_theirs) for name, part in stock(message).items()}

    load_state, dump_state = dspy.Predict.load_state, dspy.Predict.dump_state

    @functools.wraps(dump_state)
    def dumped(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _replaced(dump_state(self, *args, **kwargs), to_theirs)

    @functools.wraps(load_state)
    def loaded(self: Any, state: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        # A program that was saved has the images of its demos as marked text.
        if isinstance(state, dict) and "demos" in state:
            state = {**state, "demos": _replaced(state["demos"], to_ours)}
        return load_state(self, state, *args, **kwargs)

    dspy.Predict.load_state, dspy.Predict.dump_state = loaded, dumped
    dspy.adapters.base._expand_legacy_custom_type_markers_in_chat_message = expanded


def _replaced(part: Any, texts: list[tuple[str, str]]) -> Any:
    """The same with some texts in it replaced by others."""
    if isinstance(part, str):
        for old, new in texts:
            part = part.replace(old, new)
    elif isinstance(part, list):
        return [_replaced(each, texts) for each in part]
    elif isinstance(part, dict):
        return {key: _replaced(each, texts) for key, each in part.items()}
    return part


def _complete_side_by_side() -> None:
    """For ``n=3`` DSPy's native engines are asked three times in a row; here side by side, in the same order.

    Each request passes the gate and is recorded by itself, as before. A stream is left as it is.
    """
    execution = dspy.clients.execution
    stock, astock = execution.execute, execution.aexecute

    def is_split(lm: Any, call: Any) -> bool:
        several = call.n > 1 and call.request is None and not call.cache
        return several and isinstance(lm, WorkerLM) and dspy.settings.send_stream is None

    @functools.wraps(stock)
    def execute(lm: Any, call: Any) -> Any:
        if not is_split(lm, call):
            return stock(lm, call)
        with ThreadPoolExecutor(call.n, "dspex-completion") as threads:
            going = [
                threads.submit(contextvars.copy_context().run, stock, lm, dataclasses.replace(call, n=1))
                for _ in range(call.n)
            ]
            return execution.combine([each.result() for each in going], model_type=lm.model_type)

    @functools.wraps(astock)
    async def aexecute(lm: Any, call: Any) -> Any:
        if not is_split(lm, call):
            return await astock(lm, call)
        each = (astock(lm, dataclasses.replace(call, n=1)) for _ in range(call.n))
        return execution.combine(await side_by_side(each), model_type=lm.model_type)

    execution.execute, execution.aexecute = execute, aexecute


class WorkerLM(dspy.LM):  # type: ignore[misc]
    """``dspy.LM`` without its hop to a thread before each request.

    The hop is there because an explicit ``Request`` may have files to read. Adapters send messages.
    """

    @with_callbacks  # type: ignore[untyped-decorator]
    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """As in ``dspy.BaseLM``."""
        if messages is None or prompt is not None or "request" in kwargs:
            return await _stock_acall(self, prompt, messages=messages, **kwargs)
        call = dspy.clients.execution.prepare(self, None, messages, kwargs, asynchronous=True)
        warn_openai_messages(self, messages)
        result = await dspy.clients.execution.aexecute(self, call)
        return dspy.clients.execution.finalize(self, call, result)


# Without its own callbacks decorator, which WorkerLM's has done by then.
_stock_acall = inspect.unwrap(dspy.BaseLM.acall)


class _Instant:
    """An engine that answers at once, to build all that a first call builds."""

    def complete(self, request: Any) -> Any:  # noqa: ARG002
        text = "[[ ## answer ## ]]\nyes\n\n[[ ## completed ## ]]"
        return dspy.lm15.Response(
            id=None,
            model="instant",
            message=dspy.lm15.Message.assistant([dspy.lm15.TextPart(text)]),
            finish_reason="stop",
            usage=dspy.lm15.Usage(input_tokens=0, output_tokens=0, total_tokens=0),
        )


class _AsyncInstant:
    async def complete(self, request: Any) -> Any:
        return _Instant().complete(request)


def _warm_up() -> None:
    """Run one throw-away program, so that a forked worker's first answer takes 15 ms and not 50."""
    lm = WorkerLM("dspex/instant", engine=_Instant(), async_engine=_AsyncInstant(), cache=False)

    async def once() -> None:
        with warnings.catch_warnings(), dspy.context(lm=lm, disable_history=True, max_trace_size=0):
            warnings.simplefilter("ignore")
            await dspy.ChainOfThought("question -> answer").acall(question="?")

    # ChainOfThought's reasoning is missing from the answer: the JSON adapter is tried, and warmed, too.
    with contextlib.suppress(dspy.utils.exceptions.AdapterParseError):
        asyncio.run(once())
