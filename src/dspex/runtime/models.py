"""Which language model a call gets: profiles by name, keys looked up, the embedded model started."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping

from dspex.errors import InvalidOption, LMNotConfigured
from dspex.lm.local import LocalModel
from dspex.lm.profile import LM
from dspex.lm.weights import Progress
from dspex.telemetry.bus import Bus
from dspex.telemetry.events import LocalModelProgress
from dspex.types import Connection, LMSpec

_RESOLVED_KEPT = 1024
# Requests that the embedded model answers side by side; each costs 4,096 tokens of memory.
_LOCAL_SLOTS = 2


class Models:
    """The language models of one runtime, on its loop.

    Args:
        default: The LM of calls that name none; None is what ``DSPEX_LM`` names, if it is set.
        named: Profiles by name.
        local_model: File of the embedded model; None is the packaged one.
        bus: Told of the embedded model's progress.
    """

    def __init__(
        self, default: LM | str | None, named: Mapping[str, LM | str], local_model: str | None, bus: Bus
    ) -> None:
        self._named = {name: as_lm(lm) for name, lm in named.items()}
        default = default if default is not None else os.environ.get("DSPEX_LM") or None
        self._default = None if default is None else self.find(default)
        self._local_model = local_model
        self._bus = bus
        self._locals: dict[str | None, LocalModel] = {}
        self._numbers: OrderedDict[tuple[LM, str | None, str | None, Connection], tuple[int, LMSpec]] = (
            OrderedDict()
        )
        self._next = 1

    def find(self, lm: LM | str | None) -> LM:
        """The LM that a caller means: an ``LM``, a profile's name, a model's name, or None for the default.

        Raises:
            InvalidOption: It is none of these.
            LMNotConfigured: None was given and there is no default.
        """
        if lm is None:
            if self._default is None:
                raise LMNotConfigured(
                    "no language model: pass lm='openai/gpt-5-mini', or lm='local' for a model on this "
                    "machine, to Runtime, adapter or call",
                    details={"variable": "DSPEX_LM"},
                )
            return self._default
        if isinstance(lm, str) and lm in self._named:
            return self._named[lm]
        if isinstance(lm, str) and "/" not in lm and not lm.startswith("local"):
            known = ", ".join(self._named) or "none"
            raise InvalidOption(
                f"no LM profile {lm!r}; profiles: {known}. A model is written 'provider/name'",
                details={"option": "lm", "known": list(self._named)},
            )
        return as_lm(lm)

    def may_wait(self, lm: LM | str | None) -> bool:
        """Whether ``resolve`` may take time: the embedded model may have to start."""
        profile = self.find(lm)
        return profile.is_local or (profile.extraction_lm is not None and profile.extraction_lm.is_local)

    async def resolve(self, lm: LM | str | None) -> tuple[int, LMSpec]:
        """The LM as a worker needs it, and its number in this runtime.

        Raises:
            LMNotConfigured: Its key, or what the embedded model needs, is not there.
            LMUnavailable: The embedded model does not start.
        """
        profile = self.find(lm)
        second = (await self.resolve(profile.extraction_lm))[1] if profile.extraction_lm else None
        if profile.is_local:
            endpoint = await self._local(profile).endpoint()
            return self._numbered(profile, endpoint.api_key, endpoint.base_url, second)
        key = profile.fetch_key()
        connection = profile.fetch_connection(key)
        return self._numbered(profile, key, profile.fetch_base_url(), second, connection)

    def _numbered(
        self,
        profile: LM,
        key: str | None,
        base_url: str | None,
        second: LMSpec | None,
        connection: Connection = Connection(),  # noqa: B008 (it is frozen)
    ) -> tuple[int, LMSpec]:
        """What this profile resolved to before, or a new number: another key is another LM."""
        resolved = (profile, key, base_url, connection)
        known = self._numbers.get(resolved)
        if known is None or known[1].extraction != second:
            known = (self._next, profile.spec(key, base_url, second, connection))
            self._next += 1
            self._numbers[resolved] = known
            if len(self._numbers) > _RESOLVED_KEPT:
                self._numbers.popitem(last=False)
        return known

    @property
    def needs_litellm(self) -> bool:
        """Whether the default or a named profile goes through LiteLLM."""
        known = [*self._named.values(), *([self._default] if self._default else [])]
        return any(lm.needs_litellm for lm in known)

    async def warm_up(self) -> None:
        """Start the embedded model if it is the default, so that no deadline pays for it.

        Raises:
            LMNotConfigured: What it needs is not there.
            LMUnavailable: It does not start.
        """
        if self._default is not None and self._default.is_local:
            await self._local(self._default).endpoint()

    def _local(self, lm: LM) -> LocalModel:
        path = lm.local_path or self._local_model
        if path not in self._locals:
            self._locals[path] = LocalModel(path, slots=_LOCAL_SLOTS, on_progress=self._tell)
        return self._locals[path]

    def _tell(self, progress: Progress) -> None:
        self._bus.emit(LocalModelProgress(step=progress.step, done=progress.done, total=progress.total))

    async def aclose(self) -> None:
        """Stop the embedded models."""
        for model in self._locals.values():
            await model.aclose()


def as_lm(lm: LM | str) -> LM:
    """An ``LM`` from one, or from a model's name.

    Raises:
        InvalidOption: It is neither.
    """
    if isinstance(lm, LM):
        return lm
    if isinstance(lm, str):
        return LM(lm)
    raise InvalidOption(
        "lm has to be an LM, a model such as 'openai/gpt-5-mini', or a profile's name, not "
        f"{type(lm).__name__}",
        details={"option": "lm"},
    )
