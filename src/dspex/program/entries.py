"""The table of modules: what each is for, what it adds to a signature, and what it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from dspex.program.options import GENERATION, Option, real, text, whole
from dspex.program.rewards import as_sent, with_source

Need = Literal["tools", "completions", "reward", "sandbox"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleEntry:
    """One module of the catalogue.

    Attributes:
        name: Its full name (``"dspy.ChainOfThought"``).
        summary: One line for people.
        adds_outputs: Text outputs that it puts before those of the signature.
        own: Options of its own, by name; DSPy's constructor takes them.
        generation: Options of its LM requests by name.
        takes_generation: Whether DSPy's constructor takes those too; where it does not, the LM of the call
            has them.
        reserved: Names that no field of a signature may have, because the module uses them itself.
        needs: What a call has to bring or the installation to have, beside inputs. ``"completions"`` are
            made by dspex.
        optional: What a call may bring.
        of: The module that it runs inside unless its option ``of`` names another; None for most.
        shared: Whether it may run beside other calls on a worker's loop; else a worker runs it alone, and can
            be ended for it.
        repeatable: Whether running it twice does no more than running it once, so that a call whose
            worker died may simply run again. Tools decide for themselves.
        status: ``"experimental"``, or ``"leaving"`` when DSPy has said that it will go; else empty.
    """

    name: str
    summary: str
    adds_outputs: tuple[str, ...] = ()
    own: Mapping[str, Option] = field(default_factory=dict)
    generation: Mapping[str, Option] = field(default_factory=lambda: GENERATION)
    takes_generation: bool = False
    reserved: frozenset[str] = frozenset()
    needs: frozenset[Need] = frozenset()
    optional: frozenset[Need] = frozenset()
    of: str | None = None
    shared: bool = True
    repeatable: bool = True
    status: Literal["", "experimental", "leaving"] = ""

    @property
    def options(self) -> dict[str, Option]:
        """All its options by name."""
        return {**self.generation, **self.own}

    def around(self, inner: ModuleEntry) -> ModuleEntry:
        """This one with another inside: what holds for both together."""
        return replace(
            self,
            needs=self.needs | inner.needs,
            optional=self.optional | inner.optional,
            shared=self.shared and inner.shared,
            repeatable=self.repeatable and inner.repeatable,
            status=inner.status,
        )


def _own(*options: Option) -> dict[str, Option]:
    return {option.name: option for option in options}


def _max_iters(default: int, of: str) -> Option:
    return Option("max_iters", "a whole number from 1 to 1000", whole(1, 1000), default, f"The most {of}.")


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Modules that make several requests of different kinds: one answer each.
_EACH = {name: option for name, option in GENERATION.items() if name != "n"}
_TOOLS: frozenset[Need] = frozenset({"tools"})
_SANDBOX: frozenset[Need] = frozenset({"sandbox"})

_REWARD = (
    "a function of (inputs, prediction), its import path 'package.module:name', or dspex.Reward.exact_match, "
    ".contains or .json_schema"
)
_MOST_ATTEMPTS = 32


def _attempts(reward: Option) -> dict[str, Option]:
    """The options of what tries several times and keeps the best."""
    most = f"a whole number from 1 to {_MOST_ATTEMPTS}"
    return _own(
        Option(
            "of",
            "the name of a module",
            text,
            "dspy.Predict",
            "The module that is tried; its options are taken, too.",
            parameter="module",
        ),
        reward,
        Option("N", most, whole(1, _MOST_ATTEMPTS), 3, "The most attempts."),
        Option("threshold", "a number", real, 1.0, "A reward that ends the search."),
        Option(
            "fail_count", most, whole(1, _MOST_ATTEMPTS), None, "Attempts that may fail; None is all but one."
        ),
    )


_JUDGE = Option("reward", _REWARD, as_sent, None, "How good an attempt is.", "reward_fn", required=True)

#: Every module by its full name.
MODULES: Mapping[str, ModuleEntry] = {
    entry.name: entry
    for entry in (
        ModuleEntry(
            name="dspy.Predict",
            summary="One request: the inputs go in, the outputs come back.",
            takes_generation=True,
        ),
        ModuleEntry(
            name="dspy.ChainOfThought",
            summary="Predict that reasons before it answers.",
            adds_outputs=("reasoning",),
            takes_generation=True,
        ),
        ModuleEntry(
            name="dspy.ReAct",
            summary="Thinks, calls a tool, looks at what it gave, and again, until it can answer.",
            adds_outputs=("reasoning",),
            own=_own(_max_iters(20, "tool calls")),
            generation=_EACH,
            reserved=_names("trajectory next_thought next_tool_name next_tool_args max_iters"),
            needs=_TOOLS,
        ),
        ModuleEntry(
            name="dspy.ReActV2",
            summary="ReAct by the provider's own tool calls where it has them, several in one turn.",
            own=_own(_max_iters(20, "turns")),
            generation=_EACH,
            reserved=_names("history tools next_thought tool_calls termination_reason max_iters"),
            needs=_TOOLS,
            status="experimental",
        ),
        ModuleEntry(
            name="dspy.ProgramOfThought",
            summary="Writes a Python program, runs it in a sandbox and answers from its output.",
            adds_outputs=("reasoning",),
            own=_own(_max_iters(3, "programs that are tried")),
            generation=_EACH,
            reserved=_names(
                "generated_code previous_code error final_generated_code code_output interpreter"
            ),
            needs=_SANDBOX,
            shared=False,
            status="leaving",
        ),
        ModuleEntry(
            name="dspy.CodeAct",
            summary="Writes Python that calls tools, runs it in a sandbox, and again, until it can answer.",
            adds_outputs=("reasoning",),
            own=_own(_max_iters(5, "programs that are run")),
            generation=_EACH,
            reserved=_names("trajectory generated_code finished interpreter max_iters"),
            needs=_TOOLS | _SANDBOX,
            shared=False,
            status="leaving",
        ),
        ModuleEntry(
            name="dspy.RLM",
            summary="Explores inputs that are too long for a prompt with Python, in a sandbox.",
            adds_outputs=("final_reasoning",),
            own=_own(
                _max_iters(20, "blocks of code that are run"),
                Option(
                    "max_llm_calls",
                    "a whole number from 1 to 1000",
                    whole(1, 1000),
                    50,
                    "The most questions that its code may ask the model.",
                ),
                Option(
                    "max_output_chars",
                    "a whole number from 100 to 1000000",
                    whole(100, 1_000_000),
                    10_000,
                    "The most characters of a block's output that the model is shown.",
                ),
            ),
            generation=_EACH,
            reserved=_names(
                "trajectory final_reasoning interpreter_factory dspy llm_query llm_query_batched SUBMIT print"
            ),
            needs=_SANDBOX,
            optional=_TOOLS,
            shared=False,
            status="experimental",
        ),
        ModuleEntry(
            name="dspy.MultiChainComparison",
            summary="Reasons several times side by side, compares, and answers from the comparison.",
            adds_outputs=("rationale",),
            own=_own(
                Option("M", "a whole number from 2 to 32", whole(2, 32), 3, "How many attempts."),
                replace(GENERATION["temperature"], default=0.7),
            ),
            generation={name: option for name, option in _EACH.items() if name != "temperature"},
            takes_generation=True,
            reserved=_names("reasoning " + " ".join(f"reasoning_attempt_{n}" for n in range(1, 33))),
            needs=frozenset({"completions"}),
        ),
        ModuleEntry(
            name="dspy.BestOfN",
            summary="Tries a module up to N times and gives the attempt with the highest reward.",
            own=_attempts(_JUDGE),
            generation={},
            needs=frozenset({"reward"}),
            of="dspy.Predict",
        ),
        ModuleEntry(
            name="dspy.Refine",
            summary="BestOfN whose model is told after each attempt what to do better.",
            own=_attempts(replace(_JUDGE, check=with_source)),
            generation={},
            reserved=_names("hint_"),
            needs=frozenset({"reward"}),
            of="dspy.Predict",
        ),
    )
}
