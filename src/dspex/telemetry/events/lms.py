"""What becomes of language models, of what is asked of them, and of what that may cost."""

from __future__ import annotations

from dspex.telemetry.events.base import Event


class LMRequestFinished(Event, frozen=True, kw_only=True):
    """A request to a model has ended, with all its retries.

    Attributes:
        model: The model that was asked, as its LM is named.
        status: ``ok``, or the code of its error.
        seconds: How long it took.
        prompt_tokens: Tokens sent.
        completion_tokens: Tokens generated.
        cost: US dollars; None when the price is not known.
        retries: How often it was tried again.
        pool: The pool of the call that made it.
    """

    model: str
    status: str
    seconds: float
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    retries: int
    pool: str


class FellBack(Event, frozen=True, kw_only=True):
    """An LM did not answer a call, and the next one of its fallbacks is asked.

    Attributes:
        model: The model that did not answer.
        code: The code of its error.
        next_model: The model that is asked now.
        request_id: The call's name.
    """

    model: str
    code: str
    next_model: str
    request_id: str


class BreakerChanged(Event, frozen=True, kw_only=True):
    """The circuit breaker of an endpoint has changed its state.

    Attributes:
        endpoint: The address, or the provider's name.
        model: The model.
        state: ``closed``, ``open`` or ``half_open``.
        cause: Why, for people.
    """

    endpoint: str
    model: str
    state: str
    cause: str


class BudgetRefused(Event, frozen=True, kw_only=True):
    """A call or an LM request was refused with ``budget_exceeded``.

    Attributes:
        scope: ``call``, ``session``, ``tenant`` or ``day``.
        name: Whose budget: the tenant, or the session's id; empty for none.
        unit: What it would go over: ``tokens`` or ``cost``.
        limit: How much of that may be spent.
        spent: How much was.
        reserved: What requests under way are expected to cost.
    """

    scope: str
    name: str
    unit: str
    limit: float
    spent: float
    reserved: float


class LocalModelProgress(Event, frozen=True, kw_only=True):
    """The embedded model is being made ready.

    Attributes:
        step: ``joining`` or ``downloading`` its weights, or ``loading`` it.
        done: Bytes so far.
        total: Bytes in all; None when unknown.
    """

    step: str
    done: int
    total: int | None
