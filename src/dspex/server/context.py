"""What the routes share: the runtime, its adapter, and what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Request

from dspex.adapter.named import NamedProgram
from dspex.server.asked import Limits
from dspex.server.problems import MEDIA_TYPE

if TYPE_CHECKING:
    from dspex.adapter.adapter import DSPyAdapter
    from dspex.adapter.runtime import Runtime

_TITLES = {
    401: "The key is missing or wrong.",
    403: "Whoever runs the server does not allow it.",
    404: "There is no such module, program or session.",
    408: "The body did not come in time.",
    409: "Somebody else changed the same thing at the same time.",
    413: "The body is larger than the limit, or the prompt than the model's context window.",
    422: "Something in the request is wrong.",
    429: "Too many requests, here or at the model's provider.",
    500: "The program failed.",
    502: "The model's provider failed, or its answer made no sense.",
    503: "Not now: workers, the store or the provider cannot be used.",
    504: "The deadline passed.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Statuses for the OpenAPI document, each of which answers with problem details."""
    schema = {"$ref": "#/components/schemas/Problem"}
    wait = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
    return {
        status: {
            "description": _TITLES[status],
            "content": {MEDIA_TYPE: {"schema": schema}},
            **({"headers": wait} if status in {429, 503} else {}),
        }
        for status in statuses
    }


#: What a call may be answered with, besides its result.
OF_CALLS = problems(*(status for status in _TITLES))


class Context:
    """What the routes share.

    Args:
        runtime: Runs the calls.
        limits: What remote callers may ask for.
        tenant_of: Gives the tenant of a request.

    Attributes:
        runtime: Runs the calls.
        limits: What remote callers may ask for.
        stopping: Whether the server takes no more requests.
    """

    def __init__(self, runtime: Runtime, limits: Limits, tenant_of: Callable[[Request], str | None]) -> None:
        self.runtime = runtime
        self.limits = limits
        self.stopping = False
        self._tenant_of = tenant_of
        self._adapters: dict[str | None, DSPyAdapter] = {}
        self._named: dict[str, NamedProgram] = {}

    def adapter(self, request: Request) -> DSPyAdapter:
        """The adapter of a request's tenant."""
        return self._adapter(self.tenant(request))

    def _adapter(self, tenant: str | None) -> DSPyAdapter:
        found = self._adapters.get(tenant)
        if found is None:
            found = self._adapters[tenant] = self.runtime.adapter(
                timeout=self.limits.seconds(None), tenant=tenant, serialization_format="json"
            )
        return found

    def tenant(self, request: Request) -> str | None:
        """Whose request it is."""
        return self._tenant_of(request)

    async def named(self, request: Request, name: str) -> NamedProgram | None:
        """A program of the settings, for a request's tenant; None where they name none of that name."""
        if name not in self.runtime.core.settings.programs:
            return None
        found = self._named.get(name)
        if found is None:
            made = await self._adapter(None).aprogram(name)
            assert isinstance(made, NamedProgram)
            found = self._named.setdefault(name, made)  # two may have come at once
        return found.having(tenant=self.tenant(request))


def _context(request: Request) -> Context:
    context: Context = request.app.state.dspex
    return context


#: What a route asks for to have it.
Shared = Annotated[Context, Depends(_context)]
