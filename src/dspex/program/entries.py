"""The table of modules: what each is for, what it adds to a signature, and what it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from dspex.program.options import GENERATION, Option, whole

Need = Literal["tools", "sandbox", "reward"]


@dataclass(frozen=True, slots=True)
class ModuleEntry:
    """One module of the catalogue.

    Attributes:
        name: Its full name (``"dspy.ChainOfThought"``).
        summary: One line for people.
        adds_outputs: Text outputs that it puts before those of the signature.
        own: Options of its own, by name; DSPy's constructor takes them.
        generation: Options of its LM requests by name.
        reserved: Names that no field of a signature may have, because the module uses them itself.
        needs: What a call has to bring or the installation to have, beside inputs.
        shared: Whether it may run beside other calls on a worker's loop; else a worker runs it alone, and can
            be ended for it.
        repeatable: Whether running it twice does no more than running it once, so that a call whose
            worker died may simply run again. Tools decide for themselves.
        may_have_tools: Whether a call may bring tools that it need not.
        status: ``"experimental"``, or ``"leaving"`` when DSPy has said that it will go; else empty.
    """

    name: str
    summary: str
    adds_outputs: tuple[str, ...] = ()
    own: Mapping[str, Option] = field(default_factory=dict)
    generation: Mapping[str, Option] = field(default_factory=lambda: GENERATION)
    reserved: frozenset[str] = frozenset()
    needs: frozenset[Need] = frozenset()
    shared: bool = True
    repeatable: bool = True
    may_have_tools: bool = False
    status: Literal["", "experimental", "leaving"] = ""

    @property
    def options(self) -> dict[str, Option]:
        """All its options by name."""
        return {**self.own, **self.generation}

    @property
    def takes_tools(self) -> bool:
        """Whether a call may bring tools."""
        return self.may_have_tools or "tools" in self.needs


def _own(*options: Option) -> dict[str, Option]:
    return {option.name: option for option in options}


def _max_iters(default: int, of: str) -> Option:
    return Option("max_iters", "a whole number from 1 to 1000", whole(1, 1000), default, f"The most {of}.")


# Modules that make several requests of different kinds: one answer each.
_EACH = {name: option for name, option in GENERATION.items() if name != "n"}
_TOOLS: frozenset[Need] = frozenset({"tools"})
_SANDBOX: frozenset[Need] = frozenset({"sandbox"})

#: Every module by its full name.
MODULES: Mapping[str, ModuleEntry] = {
    entry.name: entry
    for entry in (
        ModuleEntry("dspy.Predict", "One request: the inputs go in, the outputs come back."),
        ModuleEntry("dspy.ChainOfThought", "Predict that reasons before it answers.", ("reasoning",)),
        ModuleEntry(
            "dspy.ReAct",
            "Thinks, calls a tool, looks at what it gave, and again, until it can answer.",
            ("reasoning",),
            _own(_max_iters(20, "tool calls")),
            _EACH,
            frozenset({"trajectory", "next_thought", "next_tool_name", "next_tool_args", "max_iters"}),
            _TOOLS,
        ),
        ModuleEntry(
            "dspy.ReActV2",
            "ReAct by the provider's own tool calls where it has them, several in one turn.",
            (),
            _own(_max_iters(20, "turns")),
            _EACH,
            frozenset({"history", "tools", "next_thought", "tool_calls", "termination_reason", "max_iters"}),
            _TOOLS,
            status="experimental",
        ),
        ModuleEntry(
            "dspy.ProgramOfThought",
            "Writes a Python program, runs it in a sandbox and answers from its output.",
            ("reasoning",),
            _own(_max_iters(3, "programs that are tried")),
            _EACH,
            frozenset(
                {
                    "generated_code",
                    "previous_code",
                    "error",
                    "final_generated_code",
                    "code_output",
                    "interpreter",
                }
            ),
            _SANDBOX,
            shared=False,
            status="leaving",
        ),
        ModuleEntry(
            "dspy.CodeAct",
            "Writes code that calls tools, runs it in a sandbox, looks at what it gave, and again.",
            ("reasoning",),
            _own(_max_iters(5, "programs that are run")),
            _EACH,
            frozenset({"trajectory", "generated_code", "finished", "interpreter", "max_iters"}),
            _TOOLS | _SANDBOX,
            shared=False,
            status="leaving",
        ),
        ModuleEntry(
            "dspy.RLM",
            "Explores inputs of any length by code in a sandbox, which may ask the model about parts.",
            (),
            _own(
                _max_iters(20, "blocks of code"),
                Option(
                    "max_llm_calls",
                    "a whole number from 1 to 10000",
                    whole(1, 10_000),
                    50,
                    "The most requests that the code itself may make.",
                ),
                Option(
                    "max_output_chars",
                    "a whole number from 100 to 1000000",
                    whole(100, 1_000_000),
                    10_000,
                    "How much of what a block printed the model is shown.",
                ),
            ),
            _EACH,
            frozenset(
                {
                    "trajectory",
                    "final_reasoning",
                    "interpreter_factory",
                    "dspy",
                    "llm_query",
                    "llm_query_batched",
                    "SUBMIT",
                    "print",
                }
            ),
            _SANDBOX,
            shared=False,
            may_have_tools=True,
            status="experimental",
        ),
        ModuleEntry(
            "dspy.MultiChainComparison",
            "Reasons several times side by side, compares, and answers from the comparison.",
            ("rationale",),
            _own(Option("M", "a whole number from 2 to 32", whole(2, 32), 3, "How many attempts.")),
            _EACH,
        ),
    )
}
