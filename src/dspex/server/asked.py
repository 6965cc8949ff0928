"""What remote callers may ask for: the models of requests, and what is refused of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from dspex import types
from dspex.server.problems import Forbidden

N = TypeVar("N", int, float)
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
_QUESTION: Any = {"prompt": "What is the capital of France?", "signature": "question -> answer"}
#: What of a module's options the operator decides, and not who asks.
_OPERATORS = ("state", "shared", "idempotent")


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Message(_Request):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


Prompt = str | list[Message]


class Budget(_Request):
    """How much a call may spend: tokens, US dollars, or both."""

    tokens: int | None = Field(None, strict=True, ge=0, le=10**15, description="Sent and generated together.")
    cost: float | None = Field(
        None, strict=True, ge=0, le=1e9, allow_inf_nan=False, description="US dollars."
    )

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.tokens is None and self.cost is None:
            raise ValueError("a budget has `tokens`, `cost` or both")
        return self


class Call(_Request):
    """What each call takes."""

    prompt: Prompt | None = Field(None, description="Fills the one input that `inputs` does not give.")
    inputs: dict[str, Any] | None = Field(None, description="Inputs by field name.")
    lm: Name | None = Field(None, description="Name of a profile of the server's; its default if left out.")
    timeout: Seconds | None = Field(
        None, description="Seconds after which the work is stopped; the server's own limit holds in any case."
    )
    budget: Budget | None = Field(
        None, description="What the call may spend; the server's own budgets hold in any case."
    )

    def given(self, limits: Limits) -> dict[str, Any]:
        """As the adapter takes it.

        Raises:
            Forbidden: The server does not allow it.
        """
        prompt = self.prompt
        return {
            "prompt": [one.model_dump() for one in prompt] if isinstance(prompt, list) else prompt,
            "inputs": self.inputs,
            "lm": limits.lm(self.lm),
            "timeout": limits.seconds(self.timeout),
            "budget": limits.budget(self.budget),
        }


class _Program(_Request):
    signature: str | dict[str, Any] | None = Field(
        None, description="What goes in and comes out: text, or an object with `inputs` and `outputs`."
    )
    tools: list[Name] | None = Field(
        None, description="Import paths of tools, which whoever runs this has to allow."
    )
    sandbox: Literal["auto", "monty", "deno"] = Field(
        "auto", description="Where code that the model writes is run."
    )
    options: dict[str, Any] | None = Field(None, description="Options of the module (`temperature`, ...).")


class GenerateRequest(Call, _Program):
    """One call of a module."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_QUESTION]})

    module: Name = Field("dspy.Predict", description="A module, as `GET /v1/modules` lists them.")
    session: Name | None = Field(
        None, description="The session whose turn it is; it is made if there is none."
    )
    priority: Literal["interactive", "batch"] = Field(
        "interactive", description="`batch` lets interactive calls go first."
    )

    def given(self, limits: Limits) -> dict[str, Any]:
        """As the adapter takes it."""
        return {
            **super().given(limits),
            "module": self.module,
            "signature": self.signature,
            "session": self.session,
            "tools": self.tools,
            "sandbox": self.sandbox,
            "priority": self.priority,
            "options": options(self.options),
        }


class StreamRequest(GenerateRequest):
    """One call of a module that is listened to."""

    first_token_timeout: Seconds | None = Field(
        None, description="Seconds within which the first piece of an output has to come."
    )
    idle_timeout: Seconds | None = Field(
        None, description="Seconds within which something has to come after what came last."
    )

    def given(self, limits: Limits) -> dict[str, Any]:
        """As the adapter takes it."""
        return {
            **super().given(limits),
            "first_token_timeout": self.first_token_timeout,
            "idle_timeout": self.idle_timeout,
        }


class CreateProgramRequest(_Program):
    """A program to be kept in a session."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"signature": "question -> answer", "modules": ["dspy.Predict"]}]},
    )

    modules: list[Name] = Field(["dspy.Predict"], min_length=1, max_length=32, description="Its stages.")
    name: Name | None = Field(None, description="A name by which the session finds it.")
    instructions: str | None = Field(None, description="The task in words.")
    demos: list[dict[str, Any]] | None = Field(None, description="Examples: inputs and outputs by name.")
    lm: Name | None = Field(None, description="Name of the profile of its calls that name none.")

    def given(self, limits: Limits) -> dict[str, Any]:
        """As the adapter takes it."""
        return {
            "signature": self.signature,
            "modules": self.modules,
            "name": self.name,
            "instructions": self.instructions,
            "demos": self.demos,
            "lm": limits.lm(self.lm),
            "tools": self.tools,
            "options": options(self.options),
            "sandbox": self.sandbox,
        }


class ExecuteRequest(Call):
    """A call of a program."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"inputs": {"question": "Why is the sky blue?"}}]}
    )


class Limits:
    """What the operator allows to remote callers.

    Args:
        timeout: The most seconds that a call may take.
        models: Whether callers may name models, and not only profiles.
        budgets: Gives the budgets of the settings as they are now, by scope.
    """

    def __init__(
        self, timeout: float, models: bool, budgets: Callable[[], Mapping[str, types.Budget]]
    ) -> None:
        self._timeout = timeout
        self._models = models
        self._budgets = budgets

    def seconds(self, asked: float | None) -> float:
        """The deadline of a call."""
        return self._timeout if asked is None else min(asked, self._timeout)

    def budget(self, asked: Budget | None) -> types.Budget | None:
        """What a call may spend: of what was asked for and what every call may the less; None is the latter.

        In Python a call's own budget is in the place of that of every call. Who asks from elsewhere is not
        who pays.
        """
        if asked is None:
            return None
        own = self._budgets().get("call", types.Budget())
        return types.Budget(_less(asked.tokens, own.tokens), _less(asked.cost, own.cost))

    def lm(self, name: str | None) -> str | None:
        """The LM, if it may be named.

        Raises:
            Forbidden: It is a model, or a file of the server's.
        """
        if name is None:
            return None
        if name.startswith("local:") or (not self._models and ("/" in name or name == "local")):
            raise Forbidden(
                "lm is the name of a profile of this server's; models cannot be named here",
                details={"option": "lm"},
            )
        return name


def _less(asked: N | None, own: N | None) -> N | None:
    return min((limit for limit in (asked, own) if limit is not None), default=None)


def options(given: dict[str, Any] | None) -> dict[str, Any] | None:
    """The options of a module, without what only the operator decides.

    Raises:
        Forbidden: One of these is among them.
    """
    for name in _OPERATORS:
        if given and name in given:
            raise Forbidden(
                f"{name!r} is no option for remote callers; leave it out", details={"option": name}
            )
    return given
