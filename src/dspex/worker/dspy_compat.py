"""Everything that dspex changes inside DSPy, in one place, each with its reason.

DSPy is used and not forked. What follows keeps its behaviour and lowers its cost, and
``tests/test_dspy_compat.py`` compares each change with the stock code.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import os
import warnings
import weakref
from typing import Any

# DSPy would fetch a map of prices from the network in the middle of a process's first call.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
# A worker is one of many on its cores: numerical libraries get one thread each.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import dspy  # noqa: E402
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

_TYPES_KEPT = 1024


def prepare() -> None:
    """Load what DSPy loads late, switch its caches off, and put the cheaper parts in. Before any fork."""
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    dspy.clients.model_metadata._load()
    _cache_type_adapters()
    _cache_model_info()
    _cache_fields()
    _price_inline()
    _show_tool_errors()
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
