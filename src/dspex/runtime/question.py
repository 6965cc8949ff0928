"""What a caller asks, before anybody has looked at it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dspex.errors import DspexError, InvalidOption
from dspex.lm.budget import Account
from dspex.lm.profile import LM
from dspex.program import described
from dspex.program.importpath import is_path, name_of
from dspex.runtime.caller import Caller
from dspex.telemetry import otel
from dspex.types import Budget

#: The signature of a call that names none.
DEFAULT_SIGNATURE = "prompt -> response"


@dataclass(frozen=True, slots=True)
class PaidSession:
    """The session that a call belongs to.

    Attributes:
        id: Its id.
        key: Its key in the store.
        created: When it was made, in seconds since 1970.
        budget: What it may spend in its life; None is what the settings say.
        spent: Tokens and US dollars that it has spent.
    """

    id: str
    key: int
    created: float
    budget: Budget | None
    spent: tuple[int, float]


class OwnBudget:
    """The budget of one call, whose stages share it."""

    __slots__ = ("_account",)

    def __init__(self) -> None:
        self._account: Account | None = None

    def account(self, limit: Budget) -> Account:
        """What the call has spent of it."""
        if self._account is None:
            self._account = Account("call", "", "", limit)
        return self._account


@dataclass(frozen=True, slots=True)
class Question:
    """What a caller asks.

    Attributes:
        prompt: Text, or a list of messages.
        module: Name of a DSPy module, or the import path of a program of the user's own.
        signature: In any form that ``dspex.program.forms`` reads; None is ``prompt -> response``. A program
            of the user's own has none.
        inputs: Inputs by field name.
        options: Options of the module by name.
        tools: What the module may call: functions, ``Tool``s, import paths.
        sandbox: Where code that the model wrote is run.
        debug: Whether the answer is to have the messages.
        lm: The LM; None is the default.
        deadline: Monotonic second at which the work has to stop; None never.
        caller: Whose it is, and how urgent.
        is_last: Whether its outputs are those of the whole call, and not those of a stage before others.
        asked: Monotonic second at which it was asked.
        request_id: The call's name.
        session: The session that it is a turn of, once that is open; None without one.
        own: What the call spends of its own budget.
        session_id: The session that it is a turn of; None without one.
        stage: Which of several stages it is, from 1 on; 0 of a call that has one only.
        origin: What its spans belong in: whatever was current where it was asked.
    """

    prompt: str | Sequence[Mapping[str, Any]] | None = None
    module: str = "dspy.Predict"
    signature: Any = None
    inputs: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[Any] | None = None
    sandbox: str = "auto"
    debug: bool = False
    lm: LM | str | None = None
    deadline: float | None = None
    caller: Caller = field(default_factory=Caller)
    is_last: bool = True
    asked: float = field(default_factory=time.monotonic)
    request_id: str = field(default_factory=lambda: secrets.token_hex(8))
    session: PaidSession | None = None
    own: OwnBudget = field(default_factory=OwnBudget, compare=False)
    session_id: str | None = None
    stage: int = 0
    origin: Any = field(default_factory=otel.current)

    def with_default(self, lm: LM | str | None) -> Question:
        """It with an LM, if it names none."""
        return self if self.lm is not None or lm is None else replace(self, lm=lm)

    def of_program(self, module: str, signature: Any) -> Question:
        """It as asked of a whole program: its signature, and the module that answers."""
        return replace(self, module=module, signature=signature)

    def left(self) -> float | None:
        """Seconds to its deadline; None without one."""
        return None if self.deadline is None else self.deadline - time.monotonic()

    def path(self) -> str | None:
        """The import path, where it names a program of the user's own.

        What can be refused without knowing more of that program is refused.

        Raises:
            Refused: Something in it is wrong.
        """
        if not is_path(self.module):
            return None
        try:
            described.refuse_signature(name_of(self.module), self.signature)
            described.check_options(self.module, self.options)
        except DspexError as error:
            raise error.for_request(self.request_id)  # noqa: B904 (it is the same error)
        return self.module


def deadline_in(timeout: float | None) -> float | None:
    """The monotonic second at which a timeout ends; None stays None.

    Raises:
        InvalidOption: It is not a positive number of seconds.
    """
    limit = seconds("timeout", timeout)
    return None if limit is None else time.monotonic() + limit


def seconds(option: str, given: float | None) -> float | None:
    """A limit of time as it was given; None is none.

    Raises:
        InvalidOption: It is not a positive number of seconds.
    """
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < 1e9:
        raise InvalidOption(
            f"{option} has to be a positive number of seconds, or None for no "
            f"{'deadline' if option == 'timeout' else 'limit'}, not {given!r}",
            details={"option": option},
        )
    return given
