"""LiteLLM, for the providers that only it speaks.

Importing this imports LiteLLM, which takes seconds and 130 MB. A zygote of its own does it, before its first
fork; other workers never do.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

import httpx
from dspy.clients._http import retry_after_seconds
from dspy.clients._litellm import get_litellm
from dspy.clients.engines import AsyncLiteLLMEngine, LiteLLMEngine
from dspy.lm15 import LM15Error

from dspex.types import LMSpec
from dspex.worker import dspy_compat  # what LiteLLM reads at its import is set by it

# Far above what one worker has slots for; the slots are the limit.
for _variable in ("AIOHTTP_CONNECTOR_LIMIT", "AIOHTTP_CONNECTOR_LIMIT_PER_HOST"):
    os.environ[_variable] = "4096"
litellm = get_litellm(feature="dspex")

from litellm.litellm_core_utils import token_counter  # noqa: E402
from litellm.litellm_core_utils.prompt_templates import factory, image_handling  # noqa: E402
from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler, HTTPHandler  # noqa: E402
from litellm.llms.openai.common_utils import BaseOpenAILLM  # noqa: E402


def _options(spec: LMSpec) -> dict[str, Any]:
    """What goes with every request, beside what the request itself says."""
    connection = spec.connection
    said: dict[str, Any] = {**dict(connection.options), **dict(connection.credentials)}
    # LiteLLM looks for the machine's own identity when it is given none.
    said.pop("credentials", None)
    said |= {"api_key": spec.api_key, "api_base": spec.base_url, "timeout": spec.timeout}
    said["extra_headers"] = dict(connection.headers)
    return {name: value for name, value in said.items() if value} | {"max_retries": 0}


@contextlib.contextmanager
def _waits_told() -> Iterator[None]:
    """Keep the provider's ``Retry-After``, which LiteLLM puts where DSPy does not look for it."""
    try:
        yield
    except LM15Error as error:
        headers = getattr(error.__cause__, "litellm_response_headers", None) or {}
        if error.retry_after is None:
            error.retry_after = retry_after_seconds(headers.get("retry-after"))
        raise


class Engine(LiteLLMEngine):  # type: ignore[misc]
    """DSPy's engine for LiteLLM, one attempt a request, with any option of a connection."""

    def __init__(self, spec: LMSpec) -> None:
        super().__init__()
        self.client_options = _options(spec)

    def complete(self, request: Any) -> Any:
        with _waits_told():
            return super().complete(request)


class AsyncEngine(AsyncLiteLLMEngine):  # type: ignore[misc]
    """The same for event loops."""

    def __init__(self, spec: LMSpec) -> None:
        super().__init__()
        self.client_options = _options(spec)

    async def complete(self, request: Any) -> Any:
        with _waits_told():
            return await super().complete(request)


def _follow_no_redirects() -> None:
    """A redirect would carry the key, or the prompt, to whatever host an answer names."""
    for handler in (HTTPHandler, AsyncHTTPHandler):
        setattr(handler, "__init__", _without_redirects(vars(handler)["__init__"]))  # noqa: B010 (mypy)
    for name in ("_get_sync_http_client", "_get_async_http_client"):
        setattr(BaseOpenAILLM, name, staticmethod(_without_redirects(getattr(BaseOpenAILLM, name))))


def _without_redirects(makes_client: Any) -> Any:
    """The same function, whose client, returned or kept in its first argument, goes nowhere else."""

    @functools.wraps(makes_client)
    def wrapped(*args: Any, **options: Any) -> Any:
        made = makes_client(*args, **options)
        client = args[0].client if made is None else made
        client.follow_redirects = False
        return made

    return wrapped


def _download_nothing() -> None:
    """For providers that open no addresses LiteLLM would download an image, from wherever a caller says."""
    if os.environ[dspy_compat.DOWNLOADS] != "0":
        return
    for module in (factory, image_handling, token_counter):
        for name, stand_in in (("safe_get", _no_download), ("async_safe_get", _no_async_download)):
            if hasattr(module, name):
                setattr(module, name, stand_in)


def _no_download(*_args: Any, **_options: Any) -> Any:
    raise litellm.ImageFetchError(
        "this provider opens no addresses, and a worker downloads nothing on a caller's word: send the data "
        "(Image.from_path, Image.from_bytes, Image.from_url)"
    )


async def _no_async_download(*_args: Any, **_options: Any) -> Any:
    _no_download()


def _refused(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("nothing is asked before a fork", request=request)


def _warm_up() -> None:
    """Ask nobody once, so that what LiteLLM imports at its first request is loaded before a fork."""
    with contextlib.suppress(Exception):
        litellm.completion(
            model="bedrock/us.anthropic.claude-haiku-4-5-20251001-v1:0",
            messages=[{"role": "user", "content": "?"}],
            aws_access_key_id="none",
            aws_secret_access_key="none",  # noqa: S106 (it is none)
            aws_region_name="us-east-1",
            client=HTTPHandler(client=httpx.Client(transport=httpx.MockTransport(_refused))),
            num_retries=0,
            max_retries=0,
        )


_follow_no_redirects()
_download_nothing()
_warm_up()
