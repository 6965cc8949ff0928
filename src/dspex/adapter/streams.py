"""What an adapter streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dspex.adapter.base import UNSET, GivenSignature, Prompt, Sandbox, Unset
from dspex.adapter.programs import Programs
from dspex.adapter.stream import AsyncStream, Stream
from dspex.lm.profile import LM
from dspex.runtime.caller import Priority, caller
from dspex.types import Budget

if TYPE_CHECKING:
    from dspex.adapter.session.session import Session


class Streams(Programs):
    """Calls that are listened to; see ``DSPyAdapter``."""

    def stream(
        self,
        prompt: Prompt | None = None,
        *,
        module: str | type[Any] = "dspy.Predict",
        signature: GivenSignature | None = None,
        inputs: Mapping[str, Any] | None = None,
        lm: LM | str | None = None,
        timeout: float | Unset | None = UNSET,
        first_token_timeout: float | None = None,
        idle_timeout: float | None = None,
        session: Session | str | None = None,
        tools: Sequence[Any] | None = None,
        sandbox: Sandbox = "auto",
        debug: bool = False,
        tenant: str | None = None,
        priority: Priority = "interactive",
        budget: Budget | None = None,
        options: Mapping[str, Any] | None = None,
        **more_options: Any,
    ) -> Stream:
        """Run a program and hear what happens while it runs: its outputs as they come, and more.

        Nothing happens until the first event is asked for. The end is ``Final``, with the response that
        ``generate`` would have given, or an error, raised where the stream is read: that of ``generate``,
        with what had come of each output in ``details["so_far"]``. After the first piece of an output
        nothing is tried again.

        Args:
            prompt: This and all that is not named here: as of ``generate``.
            module: As of ``generate``.
            signature: As of ``generate``.
            inputs: As of ``generate``.
            lm: As of ``generate``.
            timeout: Seconds after which the work is stopped, from now on, for the whole stream.
            first_token_timeout: Seconds from the first step within which the first piece of an output has to
                come; None is no limit.
            idle_timeout: Seconds within which something has to come after what came last, while it is read;
                None is no limit.
            session: As of ``generate``.
            tools: As of ``generate``.
            sandbox: As of ``generate``.
            debug: As of ``generate``.
            tenant: As of ``generate``.
            priority: As of ``generate``.
            budget: As of ``generate``.
            options: As of ``generate``.
            **more_options: As of ``generate``.

        Raises:
            InvalidOption: A timeout is no number of seconds.
        """
        question = self._question(
            prompt,
            module,
            signature,
            inputs,
            lm,
            timeout,
            caller(self._tenant if tenant is None else tenant, priority, budget),
            {**(options or {}), **more_options},
            tools,
            sandbox,
            debug,
        )
        return Stream(self, self._run(question, session), first_token_timeout, idle_timeout)

    def astream(
        self,
        prompt: Prompt | None = None,
        *,
        module: str | type[Any] = "dspy.Predict",
        signature: GivenSignature | None = None,
        inputs: Mapping[str, Any] | None = None,
        lm: LM | str | None = None,
        timeout: float | Unset | None = UNSET,
        first_token_timeout: float | None = None,
        idle_timeout: float | None = None,
        session: Session | str | None = None,
        tools: Sequence[Any] | None = None,
        sandbox: Sandbox = "auto",
        debug: bool = False,
        tenant: str | None = None,
        priority: Priority = "interactive",
        budget: Budget | None = None,
        options: Mapping[str, Any] | None = None,
        **more_options: Any,
    ) -> AsyncStream:
        """``stream`` for event loops: ``async for event in adapter.astream(...)``. Not a coroutine."""
        question = self._question(
            prompt,
            module,
            signature,
            inputs,
            lm,
            timeout,
            caller(self._tenant if tenant is None else tenant, priority, budget),
            {**(options or {}), **more_options},
            tools,
            sandbox,
            debug,
        )
        return AsyncStream(self, self._run(question, session), first_token_timeout, idle_timeout)

    def stream_program(
        self,
        program_id: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        prompt: Prompt | None = None,
        session_id: str | None = None,
        timeout: float | Unset | None = UNSET,
        first_token_timeout: float | None = None,
        idle_timeout: float | None = None,
        lm: LM | str | None = None,
        debug: bool = False,
        tenant: str | None = None,
        priority: Priority = "interactive",
        budget: Budget | None = None,
    ) -> Stream:
        """Run a stored program and hear what happens; see ``stream`` and ``execute_program``."""
        question = self._asked(inputs, prompt, timeout, lm, debug, tenant, priority, budget)
        steps = self._execute(program_id, session_id, question)
        return Stream(self, steps, first_token_timeout, idle_timeout)

    def astream_program(
        self,
        program_id: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        prompt: Prompt | None = None,
        session_id: str | None = None,
        timeout: float | Unset | None = UNSET,
        first_token_timeout: float | None = None,
        idle_timeout: float | None = None,
        lm: LM | str | None = None,
        debug: bool = False,
        tenant: str | None = None,
        priority: Priority = "interactive",
        budget: Budget | None = None,
    ) -> AsyncStream:
        """``stream_program`` for event loops. Not a coroutine."""
        question = self._asked(inputs, prompt, timeout, lm, debug, tenant, priority, budget)
        steps = self._execute(program_id, session_id, question)
        return AsyncStream(self, steps, first_token_timeout, idle_timeout)
