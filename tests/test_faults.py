"""Every failure of DSPy, its engines or a user's code has one dspex error, and none tells a secret."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import msgspec
import pytest

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # before DSPy, which would download it

import dspy
from dspy.clients.errors import wrap_error
from dspy.utils import exceptions as dspy_errors

from dspex import errors
from dspex.worker import faults
from tests.fresh import fresh


def codes(**names: str) -> dict[str, str]:
    """A class's name → its code, from a code → the names of its classes."""
    return {name: code for code, listed in names.items() for name in listed.split()}


#: DSPy's classes. One that a new DSPy adds is missing here and fails the test.
DSPY = codes(
    lm_unavailable=(
        "LMError LMTransportError LMLockTimeoutError LMCollectionLimitError LMProviderError LMServerError "
        "LMUnexpectedError LMStreamAssemblyError"
    ),
    lm_invalid_request="LMConfigurationError LMInvalidRequestError",
    lm_not_configured="LMNotConfiguredError",
    lm_unsupported="LMUnsupportedFeatureError LMUnsupportedModelError",
    lm_auth="LMAuthError",
    lm_billing="LMBillingError",
    lm_rate_limited="LMRateLimitError",
    lm_context_window="ContextWindowExceededError",
    lm_timeout="LMTimeoutError",
)
#: Those that engines raise, before DSPy wraps them.
LM15 = codes(
    lm_unavailable=(
        "LM15Error TransportError LockTimeoutError CredentialLockTimeout CollectionLimitError "
        "StreamAssemblyError ProviderError ServerError"
    ),
    lm_invalid_request=(
        "ConfigurationError UnknownModelError AmbiguousModelError ToolDerivationError InvalidRequestError"
    ),
    lm_not_configured="NotConfiguredError MissingCredentialError",
    lm_unsupported="CapabilityError UnsupportedFeatureError UnsupportedModelError",
    lm_auth="AuthError DeviceCodeExpiredError",
    lm_billing="BillingError",
    lm_rate_limited="RateLimitError",
    lm_timeout="TimeoutError",
    lm_context_window="ContextLengthError",
)
#: LiteLLM's, through what DSPy's engine for it makes of them; what that does not know is told by the table.
LITELLM = codes(
    lm_auth="AuthenticationError PermissionDeniedError",
    lm_unsupported="NotFoundError UnsupportedParamsError ModelNotMappedError",
    lm_invalid_request=(
        "GuardrailRaisedException BlockedPiiEntityError ModifyResponseException SensitiveDataRouteException "
        "BadRequestError ImageFetchError VectorStoreSearchError PaymentRequiredError RejectedRequestError "
        "LiteLLMUnknownProvider InvalidRequestError UnprocessableEntityError ContentPolicyViolationError"
    ),
    lm_context_window="ContextWindowExceededError",
    lm_rate_limited="RateLimitError",
    lm_billing="BudgetExceededError",
    lm_timeout="Timeout",
    lm_unavailable=(
        "APIConnectionError APIError APIResponseValidationError JSONSchemaValidationError "
        "InternalServerError ServiceUnavailableError MidStreamFallbackError BadGatewayError OpenAIError "
        "MockException"
    ),
)
KEY = "sk-canary-0123456789"


def tree(root: type[Any], package: str) -> Iterator[type[Any]]:
    """The class and all below it that the package itself defines."""
    if root.__module__.startswith(package):
        yield root
    for child in root.__subclasses__():
        yield from tree(child, package)


def checked(error: errors.DspexError) -> errors.DspexError:
    """The same error, as it is after crossing a process boundary."""
    msgspec.json.encode(error.to_wire())
    rebuilt = errors.from_wire(msgspec.msgpack.decode(msgspec.msgpack.encode(error.to_wire())))
    assert type(rebuilt) is type(error)
    assert rebuilt.to_wire() == error.to_wire()
    return rebuilt


def raised(function: Any, *args: Any) -> BaseException:
    try:
        function(*args)
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def parse_error(answer: str) -> Any:
    signature = dspy.Signature("question -> answer, count: int")
    return raised(dspy.ChatAdapter().parse, signature, answer)


@pytest.mark.parametrize("kind", list(tree(dspy_errors.LMError, "dspy")), ids=lambda kind: str(kind.__name__))
def test_each_lm_error_of_dspy_has_a_class_of_ours(kind: type[Any]) -> None:
    """An LM failure would come out under another one's code, or as an error of the user's code."""
    error = kind(message="said no", model="openai/x", provider="openai", status=418, retry_after=1.5)
    ours = checked(faults.translate(error))
    assert ours.code == DSPY[kind.__name__]
    assert type(ours) is errors.BY_CODE[ours.code]
    assert "said no" in ours.message
    assert ours.retry_after == 1.5
    assert ours.details == {"model": "openai/x", "provider": "openai", "status": 418}
    assert ours.retryable or not dspy_errors.is_retryable_lm_error(error)


def test_the_table_names_every_lm_error_of_dspy() -> None:
    """A class that a new DSPy adds would be called whatever its parent is called, and nobody would know."""
    assert {kind.__name__ for kind in tree(dspy_errors.LMError, "dspy")} == DSPY.keys()


def test_each_error_of_an_engine_has_a_class_of_ours() -> None:
    """What DSPy's own HTTP engine raises would lose its meaning on its way through DSPy."""
    import dspy._vendor.lm15._authlock
    import dspy._vendor.lm15.authkit
    import dspy._vendor.lm15.router

    kinds = list(tree(dspy.lm15.LM15Error, "dspy"))
    got = {
        kind.__name__: checked(faults.translate(wrap_error(kind("said no"), model="openai/x"))).code
        for kind in kinds
    }
    assert got == LM15


def test_an_engine_that_breaks_is_unavailable() -> None:
    """A bug in an engine of the operator's own would look like a bug in the user's program."""
    ours = checked(faults.translate(wrap_error(KeyError("choices"), model="own/x")))
    assert (ours.code, ours.details) == ("lm_unavailable", {"model": "own/x"})


@pytest.mark.parametrize("message", ["<html> is not allowed", "Invalid - <html>", "Error code: 301 - no"])
def test_what_the_api_says_of_pages_is_no_page(message: str) -> None:
    """A prompt that the provider refuses would be sent again, and the user told to check his address."""
    error = dspy.LMInvalidRequestError(message, status=400, provider_code="invalid_request_error")
    ours = faults.translate(error)
    assert (ours.code, ours.retryable, ours.message) == ("lm_invalid_request", False, message)


def test_a_page_is_known_by_its_beginning() -> None:
    """Whatever quotes a page would be taken for one."""
    page = "litellm.NotFoundError: NotFoundError: OpenAIException - \n<!DOCTYPE html><html>"
    assert faults.translate(dspy.LMInvalidRequestError(page, status=404)).code == "lm_unavailable"
    quoted = dspy.LMInvalidRequestError("Invalid prompt - <html> not allowed", status=400)
    assert faults.translate(quoted).code == "lm_invalid_request"


@pytest.mark.parametrize(
    ("kind", "message", "status"),
    [
        (dspy.LMInvalidRequestError, "", 404),
        (dspy.LMInvalidRequestError, "HTTP 404", 404),
        (dspy.LMInvalidRequestError, "", 422),
        (dspy.LMUnsupportedModelError, "Error code: 404", 404),
        (dspy.LMProviderError, "", 405),
        (dspy.LMProviderError, "HTTP 405", 405),
    ],
)
def test_an_address_without_its_path_is_told_as_such(kind: Any, message: str, status: int) -> None:
    """The most common wrong address would give an empty message, or be tried again."""
    ours = checked(faults.translate(kind(message, model="openai_compatible/m", status=status)))
    assert "check base_url" in ours.message
    assert "/v1" in ours.message
    assert str(status) in ours.message
    assert ours.code in {"lm_invalid_request", "lm_unsupported"}
    assert not ours.retryable


def test_a_model_that_the_api_does_not_know_is_no_wrong_address() -> None:
    """A user would check his address because of a typing error in a model's name."""
    error = dspy.LMUnsupportedModelError("no model x", status=404, provider_code="model_not_found")
    assert faults.translate(error).message == "no model x"


def codes_of_litellm() -> dict[str, str]:
    """The code of each class that LiteLLM has; to import it takes seconds and changes a process."""
    from dspy.clients.engines.litellm_errors import to_lm15_error

    from litellm import exceptions

    found = {}
    for name, kind in vars(exceptions).items():
        if isinstance(kind, type) and issubclass(kind, Exception):
            error = kind.__new__(kind)  # their constructors take different things
            vars(error).update(message="said no", num_retries=None, max_retries=None)
            wrapped = wrap_error(to_lm15_error(error), model="x/y")
            wrapped.__cause__ = error
            found[name] = faults.translate(wrapped).code
    return found


def test_each_error_of_litellm_has_a_class_of_ours() -> None:
    """Providers that only LiteLLM speaks would fail with codes of their own."""
    assert fresh(codes_of_litellm) == LITELLM


def test_a_reply_that_cannot_be_parsed_comes_with_its_text() -> None:
    """Nobody could see what the model had said instead."""
    ours = checked(faults.translate(parse_error("[[ ## answer ## ]]\nIt depends.")))
    assert type(ours) is errors.ParseError
    assert ours.details == {
        "text": "[[ ## answer ## ]]\nIt depends.",
        "adapter": "ChatAdapter",
        "expected": ["answer", "count"],
        "found": ["answer"],
    }
    assert "the outputs count;" in ours.message


def test_a_long_reply_is_cut() -> None:
    """An error as long as the model's longest reply would travel and be logged."""
    ours = faults.translate(parse_error("word " * 10_000))
    assert len(ours.details["text"]) == 4000


class Greeter(dspy.Module):  # type: ignore[misc]
    """A program of a user, whose code fails below DSPy's frames."""

    def forward(self, name: str) -> Any:
        return self.greet(name)

    def greet(self, name: str) -> Any:
        raise LookupError(f"who is {name}?")


def test_an_exception_of_the_user_is_told_with_the_frames_of_his_code_alone() -> None:
    """A user would search his mistake in the internals of DSPy and dspex."""
    error = raised(lambda: Greeter()(name="Bo"))
    ours = checked(faults.translate(error))
    assert type(ours) is errors.PythonError
    assert ours.message == "LookupError: who is Bo?"
    assert (ours.details["type"], ours.details["message"]) == ("LookupError", "who is Bo?")
    places = [(Path(frame["file"]).name, frame["function"]) for frame in ours.details["frames"]]
    assert places[-2:] == [("test_faults.py", "forward"), ("test_faults.py", "greet")]
    assert {file for file, _ in places} == {"test_faults.py"}
    assert ours.details["frames"][-1]["source"] == 'raise LookupError(f"who is {name}?")'
    assert all(isinstance(frame["line"], int) for frame in ours.details["frames"])


def test_a_users_package_whose_path_begins_like_dspys_keeps_its_frames() -> None:
    """Frames of a package named `dspy_tools`, installed beside DSPy, would be missing."""
    place = str(Path(dspy.__file__).parent) + "_tools/retrieve.py"
    code = compile("def look():\n    raise LookupError('nothing')\n", place, "exec")
    names: dict[str, Any] = {}
    exec(code, names)  # user code, at a path of the test's choice
    found = faults.frames(raised(names["look"]))
    assert (place, "look") in [(frame["file"], frame["function"]) for frame in found]


def test_an_exception_without_users_frames_still_says_where_it_was() -> None:
    """A mistake inside DSPy would be reported with no place at all."""
    ours = faults.translate(raised(dspy.Signature, "no arrow"))
    assert ours.code == "python_error"
    assert ours.details["frames"]


class Mute(Exception):
    """An exception that fails when it is asked what it says."""

    def __str__(self) -> str:
        raise RuntimeError("nothing to say")


def test_an_exception_that_cannot_say_what_it_is_is_still_told() -> None:
    """The call would never be answered, and its worker and neighbours be killed at the deadline."""
    ours = checked(faults.translate(Mute()))
    assert (ours.code, ours.details["type"]) == ("python_error", "Mute")


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), MemoryError(), TimeoutError()])
def test_any_exception_at_all_is_a_python_error(error: BaseException) -> None:
    """`sys.exit()` in a user's program would end the worker, or be called something else."""
    assert checked(faults.translate(error)).code == "python_error"


def test_an_error_of_ours_passes_as_it_is() -> None:
    """A budget or limit error that passes through a user's program would become a python_error."""
    error = errors.BudgetExceeded("too dear", details={"limit": 3}, retry_after=2.0, request_id="r1")
    ours = faults.translate(error)
    assert ours is error
    assert checked(ours).to_wire() == {
        "code": "budget_exceeded",
        "message": "too dear",
        "retryable": False,
        "retry_after": 2.0,
        "details": {"limit": 3},
        "request_id": "r1",
    }


def test_secrets_are_taken_out_wherever_they_stand() -> None:
    """A provider that repeats the key in its message would have it written to logs."""
    details = {"a": KEY, "b": {"c": [f"Bearer {KEY}", {"d": f"{KEY}{KEY}"}], "n": 1}, "none": None}
    error = errors.LMAuth(f"bad key {KEY}.", details=details)
    ours = faults.translate(error, [KEY, "abc"])
    assert ours.message == "bad key ***."
    assert ours.details == {"a": "***", "b": {"c": ["Bearer ***", {"d": "******"}], "n": 1}, "none": None}
    for shown in (str(ours), repr(ours), json.dumps(ours.to_wire()), repr(ours.args)):
        assert KEY not in shown


def test_secrets_in_a_users_own_exception_are_taken_out() -> None:
    """A program that logs its headers as an exception would tell the key."""
    ours = faults.translate(raised({"a": 1}.__getitem__, f"Authorization: {KEY}"), [KEY])
    assert KEY not in json.dumps(ours.to_wire())
    assert "Authorization: ***" in ours.message


def test_a_longer_secret_is_not_half_hidden_by_a_shorter_one() -> None:
    """With one key that begins like another, the rest of the longer one would be told."""
    ours = faults.translate(errors.LMAuth(f"bad key {KEY}-tail"), [KEY, f"{KEY}-tail"])
    assert ours.message == "bad key ***"


def test_a_secret_is_taken_out_before_a_text_is_cut() -> None:
    """A key that stands where a long text is cut off would leave its beginning there."""
    text = "x" * (4000 - len(KEY) // 2) + KEY
    for error in (ValueError(text), dspy.LMServerError(text), parse_error(text)):
        assert KEY[:6] not in json.dumps(faults.translate(error, [KEY]).to_wire())


@pytest.mark.parametrize(
    "written",
    [
        repr,
        ascii,
        json.dumps,
        lambda key: repr(key.encode()),
        quote,
        quote_plus,
        lambda key: quote(key, safe=""),
    ],
)
def test_a_secret_is_taken_out_however_it_is_written(written: Any) -> None:
    """A message that quotes a header, a body or an address would hold the key in another spelling."""
    key = "sk ca\n/n\"\u00e9'y\\+%"
    ours = faults.translate(errors.LMUnavailable(f"forbidden: {written(key)}"), [f"{key}\n"])
    assert re.fullmatch(r"forbidden: b?['\"]?\*\*\*['\"]?", ours.message)


def test_short_words_are_no_secrets() -> None:
    """A key of one letter, as tests have it, would eat that letter everywhere."""
    assert faults.translate(errors.LMAuth("bad key k"), ["k", ""]).message == "bad key k"
