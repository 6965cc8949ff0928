"""Which language model a call gets: profiles by name, keys looked up, the embedded model started."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from dspex.errors import InvalidOption, LMNotConfigured
from dspex.lm.gate import Gate
from dspex.lm.gates import Gates
from dspex.lm.local import LocalModel
from dspex.lm.profile import LM, LOCAL_SLOTS
from dspex.lm.reference import References
from dspex.lm.secrets import Keys
from dspex.lm.weights import Progress
from dspex.telemetry.bus import Bus
from dspex.telemetry.events import LocalModelProgress
from dspex.types import Connection, LMReference, LMSpec

_RESOLVED_KEPT = 1024


@dataclass(frozen=True, slots=True)
class Resolved:
    """An LM that a call can be sent with.

    Attributes:
        number: Its number in this runtime; another key makes another number.
        spec: The LM as a worker needs it.
        gate: Where its requests ask.
    """

    number: int
    spec: LMSpec
    gate: Gate


class Models:
    """The language models of one runtime, on its loop.

    Args:
        local_model: File of the embedded model; None is the packaged one.
        bus: Told of the embedded model's progress.
    """

    def __init__(self, local_model: str | None, bus: Bus) -> None:
        self._default: LM | str | None = None
        self._named: dict[str, LM] = {}
        self._configured: dict[str, LM] = {}
        self._configured_default: LM | None = None
        self._local_model = local_model
        self._bus = bus
        self.gates = Gates()
        self.references = References()
        self._locals: dict[str | None, LocalModel] = {}
        self._numbers: OrderedDict[tuple[LM, str, str | None, str | None, Connection], Resolved] = (
            OrderedDict()
        )
        self._next = 1
        self._keys = Keys()

    def replace(self, default: LM | str | None, named: dict[str, LM]) -> None:
        """Have these profiles from now on; those that ``configure`` made stay.

        Args:
            default: The LM of calls that name none; a name stays one, so that it follows its profile.
            named: Profiles by name.
        """
        self._default, self._named = default, named

    def find(self, lm: LM | str | None) -> LM:
        """The LM that a caller means: an ``LM``, a profile's name, a model's name, or None for the default.

        Raises:
            InvalidOption: It is none of these.
            LMNotConfigured: None was given and there is no default.
        """
        if isinstance(lm, LM):
            return lm
        if lm is not None:
            return find(lm, self._named | self._configured)
        default = self._configured_default or self._default
        if default is None:
            raise LMNotConfigured(
                "no language model: pass lm='openai/gpt-5-mini', or lm='local' for a model on this "
                "machine, to Runtime, adapter or call",
                details={"variable": "DSPEX_LM"},
            )
        return self.find(default)

    def in_turn(self, lm: LM | str | None) -> list[LM]:
        """The LM that a caller means, and those that are asked when it does not answer.

        Raises:
            InvalidOption: One of them is none.
            LMNotConfigured: None was given and there is no default.
        """
        first = self.find(lm)
        return [first, *(self.find(other) for other in first.fallbacks)]

    def stored(self, lm: LM | str) -> LMReference:
        """An LM as a session or a program stores it.

        Raises:
            InvalidOption: It is neither an LM nor the name of one.
        """
        self.find(lm)
        return self.references.stored(lm, self._named | self._configured)

    def configure(self, name: str | None, lm: LM) -> None:
        """Have a profile, or the default, be this LM from now on; calls that run keep theirs.

        Args:
            name: The profile's name; None is the default.
            lm: The LM.
        """
        if name is None:
            self._configured_default = lm
        else:
            self._configured[name] = lm

    def may_wait(self, lm: LM | str | None) -> bool:
        """Whether ``resolve`` may take time: the embedded model may have to start, a key to be fetched."""
        profile = self.find(lm)
        both = (profile, profile.extraction_lm or profile)
        return any(one.is_local or one.slow_references for one in both)

    async def resolve(
        self, lm: LM | str | None, tenant: str = "", *, refused: Collection[str] = ()
    ) -> Resolved:
        """The LM as a worker needs it.

        Args:
            lm: What the caller named.
            tenant: Whose call it is.
            refused: Keys that a provider has just refused; those that can be fetched again are.

        Raises:
            LMNotConfigured: Its key, or what the embedded model needs, is not there.
            LMUnavailable: The embedded model does not start.
        """
        profile = self.find(lm)
        second = None
        if profile.extraction_lm is not None:
            second = (await self.resolve(profile.extraction_lm, tenant, refused=refused)).spec
        if profile.is_local:
            endpoint = await self._local(profile).endpoint()
            return self._numbered(profile, tenant, endpoint.api_key, endpoint.base_url, second)
        found = {
            secret: await self._keys.fetch(secret, refused=refused) for secret in profile.slow_references
        }
        key = profile.fetch_key(found)
        connection = profile.fetch_connection(key, found)
        return self._numbered(profile, tenant, key, profile.fetch_base_url(), second, connection)

    def _numbered(
        self,
        profile: LM,
        tenant: str,
        key: str | None,
        base_url: str | None,
        second: LMSpec | None,
        connection: Connection = Connection(),  # noqa: B008 (it is frozen)
    ) -> Resolved:
        """What this profile resolved to before, or a new number: another key is another LM."""
        gate = self.gates.of(profile, tenant)
        resolved = (profile, gate.tenant, key, base_url, connection)
        known = self._numbers.get(resolved)
        if known is None or known.spec.extraction != second or known.gate is not gate:
            spec = profile.spec(key, base_url, second, connection, gate=gate.number, limited=gate.limited)
            known = Resolved(self._next, spec, gate)
            self._next += 1
            self._numbers[resolved] = known
            if len(self._numbers) > _RESOLVED_KEPT:
                self._numbers.popitem(last=False)
        return known

    @property
    def _has_default(self) -> bool:
        return self._configured_default is not None or self._default is not None

    @property
    def needs_litellm(self) -> bool:
        """Whether the default or a named profile goes through LiteLLM."""
        known = [*self._named.values(), *([self.find(None)] if self._has_default else [])]
        return any(lm.needs_litellm for lm in known)

    async def warm_up(self) -> None:
        """Start the embedded model if it is the default, so that no deadline pays for it.

        Raises:
            LMNotConfigured: What it needs is not there.
            LMUnavailable: It does not start.
        """
        if not self._has_default:
            return
        default = self.find(None)
        if default.is_local:
            await self._local(default).endpoint()

    def _local(self, lm: LM) -> LocalModel:
        path = lm.local_path or self._local_model
        if path not in self._locals:
            self._locals[path] = LocalModel(path, slots=LOCAL_SLOTS, on_progress=self._tell)
        return self._locals[path]

    def _tell(self, progress: Progress) -> None:
        self._bus.emit(LocalModelProgress(step=progress.step, done=progress.done, total=progress.total))

    async def aclose(self) -> None:
        """Stop the embedded models, and looking for keys."""
        self._keys.close()
        for model in self._locals.values():
            await model.aclose()


def find(lm: LM | str, named: Mapping[str, LM]) -> LM:
    """The LM that a caller means by an ``LM``, a profile's name or a model's name.

    Raises:
        InvalidOption: It is none of these.
    """
    if isinstance(lm, str) and lm in named:
        return named[lm]
    if isinstance(lm, str) and "/" not in lm and not lm.startswith("local"):
        known = ", ".join(named) or "none"
        raise InvalidOption(
            f"no LM profile {lm!r}; profiles: {known}. A model is written 'provider/name'",
            details={"option": "lm", "known": list(named)},
        )
    return as_lm(lm)


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
