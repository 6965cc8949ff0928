"""LiteLLM, for the providers that only it speaks.

Importing this imports LiteLLM, which takes seconds and 130 MB. A zygote of its own does it, before its first
fork; other workers never do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx
from dspy.clients._http import retry_after_seconds
from dspy.clients._litellm import get_litellm
from dspy.clients.engines import AsyncLiteLLMEngine, LiteLLMEngine
from dspy.lm15 import LM15Error

from dspex.types import LMSpec
from dspex.worker import dspy_compat  # noqa: F401 (what LiteLLM reads at its import has to be set before)

litellm = get_litellm(feature="dspex")

from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler, HTTPHandler  # noqa: E402

_UNLIMITED = httpx.Limits(max_connections=None, max_keepalive_connections=None)


def _options(spec: LMSpec) -> dict[str, Any]:
    """What goes with every request, beside what the request itself says."""
    connection = spec.connection
    said: dict[str, Any] = {**dict(connection.options), **dict(connection.credentials)}
    # LiteLLM looks for the machine's own identity when it is given none.
    said.pop("credentials", None)
    said |= {"api_key": spec.api_key, "api_base": spec.base_url, "timeout": spec.timeout}
    said |= {"extra_headers": dict(connection.headers), "extra_query": dict(connection.query)}
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
    litellm.client_session = httpx.Client(follow_redirects=False, limits=_UNLIMITED)
    litellm.aclient_session = httpx.AsyncClient(follow_redirects=False, limits=_UNLIMITED)
    for handler in (HTTPHandler, AsyncHTTPHandler):
        _without_redirects(handler)


def _without_redirects(handler: Any) -> None:
    stock = handler.__init__

    def init(self: Any, *args: Any, **options: Any) -> None:
        stock(self, *args, **options)
        self.client.follow_redirects = False

    handler.__init__ = init


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
_warm_up()
