"""A prompt becomes inputs, and a conversation a history."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dspex.errors import InvalidInput
from dspex.program.prompt import fill
from dspex.program.signature import Field, parse

QA = parse("question -> answer")
RAG = parse("context, question -> reason, answer")
CHAT = parse("question, past: dspy.History -> answer")


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def system(content: Any) -> dict[str, Any]:
    return {"role": "system", "content": content}


def refusal_of(signature: str, prompt: Any, inputs: Any = None) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        fill(parse(signature), prompt, inputs)
    msgspec.json.encode(caught.value.to_wire())
    return caught.value


def test_a_prompt_fills_the_one_input() -> None:
    """If this failed, the simplest call of all would not run."""
    assert fill(QA, "Why?", None) == (QA, {"question": "Why?"})
    assert fill(QA, "", {}) == (QA, {"question": ""})


def test_a_prompt_fills_the_input_that_is_missing() -> None:
    """If this failed, a prompt with `inputs` beside it would land in the wrong field."""
    assert fill(RAG, "Why?", {"context": "Because."}) == (RAG, {"context": "Because.", "question": "Why?"})
    assert fill(RAG, "Because.", {"question": "Why?"})[1] == {"context": "Because.", "question": "Why?"}


def test_inputs_alone_are_enough_and_come_in_the_order_of_the_fields() -> None:
    """If this failed, equal calls would travel as different ones, or a prompt would be demanded."""
    given = {"question": "Why?", "context": None}
    filled = fill(RAG, None, given)[1]
    assert list(filled.items()) == [("context", None), ("question", "Why?")]
    assert list(given) == ["question", "context"]


def test_missing_inputs_are_all_named() -> None:
    """If this failed, DSPy would call the LM with half of its inputs and only log a warning."""
    refused = refusal_of("a, b, c: int -> d", None, {"b": 1})
    assert refused.details == {"missing": ["a", "c"]}
    assert "'a', 'c'" in refused.message
    refused = refusal_of("a, b, c -> d", "x", {"b": 1})
    assert refused.details == {"missing": ["a", "c"]}
    assert "'a', 'c'" in refused.message


def test_a_prompt_too_many_is_refused() -> None:
    """If this failed, a prompt would silently overwrite an input, or be dropped."""
    assert "'question'" in refusal_of("question -> answer", "x", {"question": "y"}).message


def test_unknown_inputs_are_refused_with_the_nearest_name() -> None:
    """If this failed, a mistyped input would be ignored and the LM asked without it."""
    refused = refusal_of("question, context -> answer", None, {"qestion": 1, "zzz": 2, 3: 4})
    assert refused.details == {"unknown": ["qestion", "zzz", "3"], "known": ["question", "context"]}
    assert refused.message.startswith("unknown input 'qestion' (did you mean 'question'?), 'zzz', '3'")


@pytest.mark.parametrize("inputs", ["question", [("question", "x")], 3])
def test_inputs_of_another_shape_are_refused(inputs: Any) -> None:
    """If this failed, a list of inputs would surface as a TypeError from within."""
    assert type(inputs).__name__ in refusal_of("question -> answer", None, inputs).message


@pytest.mark.parametrize("prompt", [3, b"x", {"role": "user", "content": "x"}, {"x"}])
def test_a_prompt_of_another_shape_is_refused(prompt: Any) -> None:
    """If this failed, one message without its list would surface as an error from within."""
    assert "a text or a list of messages" in refusal_of("question -> answer", prompt).message


def test_an_optional_input_may_be_missing() -> None:
    """If this failed, `hint: str | None` would have to be given although it says that it need not."""
    hinted = parse("question, hint: Optional[str] -> answer")
    assert fill(hinted, "Why?", None)[1] == {"question": "Why?"}
    assert fill(hinted, None, {"question": "Why?"})[1] == {"question": "Why?"}
    assert fill(hinted, "think", {"question": "Why?"})[1] == {"question": "Why?", "hint": "think"}
    assert refusal_of("a: str | None, b: None -> c", "x").details == {"missing": ["a", "b"]}
    assert refusal_of("a: list[str | None] -> c", None).details == {"missing": ["a"]}
    assert refusal_of("a: Literal[' | None'] -> c", None).details == {"missing": ["a"]}


def test_a_history_is_never_filled_by_a_prompt_and_empty_when_missing() -> None:
    """If this failed, the first call of a conversation would need an empty history, or fill it with text."""
    assert fill(CHAT, "Why?", None) == (CHAT, {"question": "Why?", "past": []})
    assert fill(CHAT, None, {"question": "Why?", "past": None})[1] == {"question": "Why?", "past": []}
    turns = [{"question": "a", "answer": "b"}]
    assert fill(CHAT, "Why?", {"past": turns})[1] == {"question": "Why?", "past": turns}
    assert "none for the prompt" in refusal_of("past: History -> a", "x").message


def test_one_user_message_is_as_its_text() -> None:
    """If this failed, a list of one message would change the program."""
    assert fill(QA, [user("Why?")], None) == (QA, {"question": "Why?"})


def test_earlier_messages_become_turns_of_an_added_history() -> None:
    """If this failed, a chat's earlier turns would be lost, which DSPy does without a word."""
    messages = [user("1"), assistant("one"), user("2"), assistant("two"), user("3")]
    signature, inputs = fill(RAG, messages, {"context": "c"})
    assert signature.inputs == (*RAG.inputs, Field("history", "dspy.History"))
    assert signature.outputs == RAG.outputs
    assert signature.instructions is None
    assert inputs == {
        "context": "c",
        "question": "3",
        "history": [{"question": "1", "answer": "one"}, {"question": "2", "answer": "two"}],
    }


def test_a_history_of_the_signature_is_used_by_its_name() -> None:
    """If this failed, a second history would be added, of which DSPy reads only the first."""
    signature, inputs = fill(CHAT, (user("1"), assistant("one"), user("2")), None)
    assert signature is CHAT
    assert inputs == {"question": "2", "past": [{"question": "1", "answer": "one"}]}


def test_two_histories_are_refused() -> None:
    """If this failed, one of the two conversations that the caller gave would be dropped."""
    messages = [user("1"), assistant("one"), user("2")]
    assert "both" in refusal_of(CHAT.text, messages, {"past": []}).message


@pytest.mark.parametrize("signature", ["question, history -> answer", "question -> history"])
def test_a_field_named_history_of_another_type_is_refused(signature: str) -> None:
    """If this failed, the conversation would overwrite the caller's own field."""
    inputs = {"history": "x"} if "history ->" in signature else None
    assert "'history'" in refusal_of(signature, [user("1"), assistant("2"), user("3")], inputs).message
    assert fill(parse(signature), [user("3")], inputs)[1]["question"] == "3"


def test_system_texts_join_the_instructions() -> None:
    """If this failed, the system message of a chat would be dropped, or replace the task."""
    messages = [system("Be brief."), user("Why?")]
    assert fill(QA.with_instructions("Answer."), messages, None)[0].instructions == "Answer.\n\nBe brief."
    default = "Given the fields `context`, `question`, produce the fields `reason`, `answer`."
    talk = [system("A."), user("1"), assistant("2"), system("B."), user("3")]
    assert fill(RAG, messages, {"context": "c"})[0].instructions == f"{default}\n\nBe brief."
    both = fill(RAG, talk, {"context": "c"})[0].instructions or ""
    assert both.endswith("`question`, `history`, produce the fields `reason`, `answer`.\n\nA.\n\nB.")


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "the last message has to be the user's"),
        ([system("x")], "the last message has to be the user's"),
        ([user("x"), assistant("y")], "the last message has to be the user's"),
        ([user("x"), system("y")], "the last message has to be the user's"),
        ([assistant("x"), user("y")], "message 0 is the assistant's"),
        ([user("x"), user("y")], "message 1 is the user's"),
        ([system("s"), user("x"), assistant("y"), assistant("z"), user("q")], "message 3 is the assistant's"),
        (["x"], "message 0 is not a dict"),
        ([None, user("x")], "message 0 is not a dict"),
        ([{"content": "x"}], "message 0 has the role None"),
        ([{"role": "tool", "content": "x"}, user("y")], "message 0 has the role 'tool'"),
        ([{"role": ["user"], "content": "x"}], "message 0 has the role ['user']"),
        ([{"role": "user"}], "content of type NoneType"),
        ([user(None)], "content of type NoneType"),
        ([user([{"type": "text", "text": "x"}])], "content of type list"),
        ([user("\ud800")], "lone surrogate"),
        ([user("x"), assistant("y") | {"tool_calls": [1]}, user("z")], "message 1 has tool_calls besides"),
    ],
)
def test_a_message_that_cannot_be_used_is_refused(messages: list[Any], said: str) -> None:
    """If this failed, part of a conversation would be dropped or reach the model as something else."""
    assert said in refusal_of("question -> answer", messages).message


def test_empty_extras_of_a_message_do_no_harm() -> None:
    """If this failed, messages as OpenAI's client dumps them, with nulls, would be refused."""
    assert fill(QA, [user("Why?") | {"name": None, "refusal": None}], None)[1] == {"question": "Why?"}
