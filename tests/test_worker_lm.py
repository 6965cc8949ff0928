"""``WorkerLM`` and the preparation of a zygote, compared with stock DSPy in processes of their own."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fresh import fresh
from tests.provider import Provider

MODELS = ["openai/x", "openai/gpt-4o-mini", "anthropic/claude-sonnet-4-5"]


def _stock(model: str, url: str) -> Any:
    import dspy

    options = {"temperature": 0.3, "max_tokens": 77}
    return dspy.LM(model, engine="lm15", api_base=url, api_key="k", cache=False, num_retries=0, **options)


def _ours(model: str, url: str) -> Any:
    from dspex.types import LMSpec
    from dspex.worker.routing import build_lm

    return build_lm(LMSpec(model=model, base_url=url, api_key="k", temperature=0.3, max_tokens=77), [])


async def _ask(url: str, make: Callable[[str, str], Any]) -> list[Any]:
    """What some programs answer through LMs that `make` gives, each with what it cost."""
    import dspy

    from dspex.worker.engine import CallScope, current
    from tests.engines import OpenDoor

    typed = dspy.Signature("question, context: list[str] -> answer, count: int, mood: Literal['good', 'bad']")
    given = {"question": "Wo, ä?", "context": ["a", "b"]}
    taken: list[Any] = []
    for model in MODELS:
        lm = make(model, url)
        for adapter in (dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter()):
            for module in (dspy.Predict("question -> answer"), dspy.ChainOfThought(typed, n=2)):
                current.set(CallScope(door := OpenDoor()))
                known = module.predictors()[0].signature.input_fields
                with dspy.context(lm=lm, adapter=adapter, warn_on_type_mismatch=False):
                    got = await module.acall(**{name: given[name] for name in known})
                cost = lm.history[-1]["cost"]
                if door.requests and all(request.cost is not None for request in door.requests):
                    cost = sum(request.cost or 0.0 for request in door.requests)
                taken.append([got.toDict(), len(got.completions), cost])
    return taken


def compare_requests() -> Any:
    """Requests as they come to a provider, and what is made of the replies: first stock, then ours."""
    from dspex.worker import dspy_compat

    result = []
    with Provider() as provider:
        for make in (_stock, _ours):
            provider.requests.clear()
            answers = asyncio.run(_ask(provider.base_url, make))
            # The order of a body's keys and its length are kept: equal here is equal byte for byte.
            sent = [[r.path, r.headers, list(r.headers), json.dumps(r.body)] for r in provider.requests]
            result.append([sent, answers])
            dspy_compat.prepare()
    return result


def test_requests_are_the_same_byte_for_byte() -> None:
    """A model would be asked something else than DSPy asks, or its answers be read or priced otherwise."""
    (stock_sent, stock_answers), (ours_sent, ours_answers) = fresh(compare_requests)
    assert len(stock_sent) == len(MODELS) * 3 * (1 + 2)
    assert ours_sent == stock_sent
    for ours, stock in zip(ours_answers, stock_answers, strict=True):
        assert ours == [stock[0], stock[1], pytest.approx(stock[2]) if stock[2] else stock[2]]
    assert sum(bool(cost) for _, _, cost in ours_answers) == 2 * 3 * 2


def compare_callbacks() -> Any:
    """What callbacks hear of good and failed calls, stock and ours, and the warnings of a direct one."""
    import warnings

    import dspy

    from dspex.worker import dspy_compat
    from dspex.worker.engine import CallScope, current
    from tests.engines import OpenDoor
    from tests.provider import fault

    class Ear(dspy.utils.callback.BaseCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.heard: list[Any] = []

        def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
            self.heard.append(
                ["start", sorted(inputs), sorted(inputs["kwargs"]), isinstance(instance, dspy.LM)]
            )

        def on_lm_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
            self.heard.append(["end", outputs, type(exception).__name__])

    async def listen(make: Callable[[str, str], Any]) -> list[Any]:
        current.set(CallScope(OpenDoor()))
        ear, everywhere = Ear(), Ear()
        with Provider() as provider:
            lm = make("openai/x", provider.base_url)
            lm.callbacks = [ear]
            with dspy.context(lm=lm, callbacks=[everywhere]):
                await dspy.Predict("question -> answer").acall(question="Where?")
                await lm.acall("Say it.")
                provider.reply = lambda _: fault(401)
                try:
                    await dspy.Predict("question -> answer").acall(question="Where?")
                except dspy.LMAuthError as error:
                    ear.heard.append(str(error))
                with warnings.catch_warnings(record=True) as warned:
                    warnings.simplefilter("always")
                    provider.reply = Provider().reply
                    ear.heard.append(await lm.acall(messages=[{"role": "user", "content": "Hi"}]))
                ear.heard.append([w.category.__name__ for w in warned if "OpenAI-style" in str(w.message)])
            return [ear.heard, everywhere.heard, len(lm.history)]

    stock = asyncio.run(listen(_stock))
    dspy_compat.prepare()
    return stock, asyncio.run(listen(_ours))


def test_callbacks_hear_each_request_once_and_as_before() -> None:
    """Tracing (MLflow, Langfuse) would count each request twice, or miss it."""
    stock, ours = fresh(compare_callbacks)
    assert ours == stock
    for heard in ours[:2]:
        assert [what[0] for what in heard if what[0] in ("start", "end")] == ["start", "end"] * 4
    assert ours[0][-1] == ["DeprecationWarning"]


def ask_with_requests() -> Any:
    """What an explicit request gets, in each of the ways to hand it in, and one that is refused."""
    import dspy

    from dspex.worker import dspy_compat
    from dspex.worker.engine import CallScope, current
    from tests.engines import OpenDoor

    dspy_compat.prepare()

    async def ask() -> list[Any]:
        current.set(CallScope(door := OpenDoor()))
        with Provider() as provider:
            lm = _ours("openai/gpt-4o-mini", provider.base_url)
            request = dspy.lm15.Request(model=lm.model, messages=(dspy.lm15.Message.user("Say it."),))
            answers = [await lm.acall(request), await lm.acall(request=request)]
            refused = dspy.lm15.Request(model="openai/other", messages=request.messages)
            try:
                await lm.acall(refused)
            except ValueError as error:
                answers.append(error)
            return [
                [[type(a).__name__, getattr(a, "text", str(a))] for a in answers],
                [r.body["messages"] for r in provider.requests],
                len(door.requests),
            ]

    return asyncio.run(ask())


def test_an_explicit_request_still_works() -> None:
    """A module that speaks DSPy's new request type would fail in a worker."""
    answers, sent, counted = fresh(ask_with_requests)
    assert answers == [
        ["Response", "Say it."],
        ["Response", "Say it."],
        ["ValueError", "Request.model must match LM.model"],
    ]
    assert sent == [[{"role": "user", "content": "Say it."}]] * 2
    assert counted == 2


def hop() -> Any:
    """Which of two functions DSPy's execution runs in another thread."""
    import dspy

    from dspex.worker import dspy_compat

    dspy_compat.prepare()
    execution = dspy.clients.execution
    execution._price_result = threading.get_ident

    async def where() -> list[bool]:
        here = threading.get_ident()
        priced = await execution.asyncio.to_thread(execution._price_result)
        other = await execution.asyncio.to_thread(lambda: threading.get_ident())  # noqa: PLW0108
        return [priced == here, other == here, execution.asyncio.sleep is asyncio.sleep]

    return asyncio.run(where())


def test_only_prices_are_looked_up_without_a_thread() -> None:
    """Slow work of DSPy's would block a worker's loop, or each answer cost a hop to a thread."""
    assert fresh(hop) == [True, False, True]


def prepare() -> Any:
    """What a process is like once it is prepared and frozen."""
    from dspex.worker import dspy_compat

    dspy_compat.prepare()
    before = gc.get_freeze_count()
    dspy_compat.freeze()
    import dspy

    return {
        "threads": len(list(Path("/proc/self/task").iterdir())),
        "caches": [dspy.cache.enable_disk_cache, dspy.cache.enable_memory_cache],
        "frozen": [before, gc.get_freeze_count(), gc.get_count()[2]],
        "litellm": "litellm" in sys.modules,
        "prices": len(dspy.clients.model_metadata._data),
        "history": len(dspy.clients.base_lm.GLOBAL_HISTORY),
        "trace": len(dspy.settings.trace or []),
        "lm": dspy.settings.lm,
        "variables": [os.environ[name] for name in ("LITELLM_LOCAL_MODEL_COST_MAP", "OMP_NUM_THREADS")],
    }


def test_a_prepared_process_can_be_forked(tmp_path: Path) -> None:
    """Forked workers would deadlock, cache one tenant's answers, download prices, or fill the disk."""
    home, cache = tmp_path / "home", tmp_path / "cache"
    home.mkdir()
    state = fresh(prepare, HOME=str(home), DSPY_CACHEDIR=str(cache), OMP_NUM_THREADS="2", XDG_CACHE_HOME="")
    assert state["threads"] == 1
    assert state["caches"] == [False, False]
    before, after, _ = state["frozen"]  # Python 3.12 freezes some at its own start
    assert after > before + 10_000
    assert not state["litellm"]
    assert state["prices"] > 1000
    assert (state["history"], state["trace"], state["lm"]) == (0, 0, None)
    assert state["variables"] == ["True", "2"]
    assert list(home.rglob("*")) == []
    assert not cache.exists()
