"""What an exception means, by the full name of its class: one table for DSPy, its engines and LiteLLM.

By name, because nothing imports LiteLLM in order to look up an error of its; where one was raised, it is
loaded. A class that is not here means what its nearest parent that is here means.
``tests/test_fault_table.py`` finds every exception class in the installed DSPy and LiteLLM, and fails on one
without a row.
"""

from __future__ import annotations

from dspex import errors

#: A class, or the end of its search: ``PYTHON`` is an exception of the user's code, whatever raised it, and
#: ``BY_STATUS`` goes by the HTTP status that the exception carries.
Row = type[errors.DspexError] | str
PYTHON = "python"
BY_STATUS = "status"


def _in(module: str, meanings: dict[Row, str]) -> dict[str, Row]:
    return {f"{module}.{name}": row for row, names in meanings.items() for name in names.split()}


#: A class's full name → what it means.
CLASSES: dict[str, Row] = {
    **_in(
        "dspy.utils.exceptions",
        {
            errors.LMContextWindow: "ContextWindowExceededError",
            errors.LMAuth: "LMAuthError",
            errors.LMBilling: "LMBillingError",
            errors.LMRateLimited: "LMRateLimitError",
            errors.LMTimeout: "LMTimeoutError",
            errors.LMUnsupported: "LMUnsupportedModelError LMUnsupportedFeatureError",
            # A request, or an LM's settings, that the same call would only repeat.
            errors.LMInvalidRequest: "LMInvalidRequestError LMConfigurationError",
            errors.LMNotConfigured: "LMNotConfiguredError",
            # Not reached, broken, or said nothing that could be understood: another time it may work.
            errors.LMUnavailable: (
                "LMError LMProviderError LMServerError LMTransportError LMLockTimeoutError "
                "LMCollectionLimitError LMStreamAssemblyError LMUnexpectedError"
            ),
            errors.ParseError: "AdapterParseError",
            # The root says nothing of whose fault it was; a program may derive its own from it.
            PYTHON: "DSPyError",
        },
    ),
    **_in(
        "dspy.primitives.code_interpreter",
        {errors.SandboxError: "CodeInterpreterError CodeExecutionError"},
    ),
    # What ends the process in which LocalInterpreter runs code; the caller never sees it.
    **_in("dspy.primitives.local_interpreter_worker", {PYTHON: "Submission"}),
    # A damaged entry of DSPy's disk cache, which is off in a worker: a program has switched it on.
    **_in("dspy.clients.disk_serialization", {PYTHON: "DeserializationError"}),
    # Of DSPy's own HTTP engine. DSPy makes the classes above of them, unless a program uses it by itself.
    **_in(
        "dspy._vendor.lm15.errors",
        {
            errors.LMContextWindow: "ContextLengthError",
            errors.LMAuth: "AuthError",
            errors.LMBilling: "BillingError",
            errors.LMRateLimited: "RateLimitError",
            errors.LMTimeout: "TimeoutError",
            errors.LMUnsupported: "UnsupportedModelError UnsupportedFeatureError CapabilityError",
            errors.LMInvalidRequest: (
                "InvalidRequestError ConfigurationError UnknownModelError AmbiguousModelError"
            ),
            errors.LMNotConfigured: "NotConfiguredError",
            errors.LMUnavailable: (
                "LM15Error ProviderError ServerError TransportError LockTimeoutError CollectionLimitError "
                "StreamAssemblyError"
            ),
            # A connection that could not be closed well; as an error only where warnings are errors.
            PYTHON: "StreamCleanupWarning",
        },
    ),
    **_in("dspy._vendor.lm15._authlock", {errors.LMUnavailable: "CredentialLockTimeout"}),
    **_in("dspy._vendor.lm15.authkit", {errors.LMAuth: "DeviceCodeExpiredError"}),
    **_in("dspy._vendor.lm15.router", {errors.LMNotConfigured: "MissingCredentialError"}),
    **_in("dspy._vendor.lm15.tools", {errors.LMInvalidRequest: "ToolDerivationError"}),
    **_in("dspy._vendor.lm15.video_jobs", {errors.LMTimeout: "VideoWaitTimeout"}),
    # Of a command that checks a table of models by hand.
    **_in("dspy._vendor.lm15.vet", {PYTHON: "_OpFailure"}),
    **_in(
        "dspy._vendor.lm15.transports._exceptions",
        {
            errors.LMUnavailable: (
                "TransportError ConnectError ConnectTimeout ReadError ReadTimeout WriteError WriteTimeout "
                "ProtocolError"
            )
        },
    ),
    # DSPy's engine for LiteLLM makes classes of DSPy of most of them. They come as they are where a program
    # asks LiteLLM by itself, and as the cause of an unexpected error where DSPy does not know them.
    **_in(
        "litellm.exceptions",
        {
            errors.LMContextWindow: "ContextWindowExceededError",
            errors.LMAuth: "AuthenticationError PermissionDeniedError",
            # LiteLLM's own budget, too: only somebody who pays can lift it.
            errors.LMBilling: "PaymentRequiredError BudgetExceededError",
            errors.LMRateLimited: "RateLimitError",
            errors.LMTimeout: "Timeout",
            errors.LMUnsupported: "NotFoundError UnsupportedParamsError ModelNotMappedError",
            # The last four are refusals of a guardrail: the same words would be refused again.
            errors.LMInvalidRequest: (
                "BadRequestError InvalidRequestError UnprocessableEntityError ImageFetchError "
                "VectorStoreSearchError RejectedRequestError ContentPolicyViolationError "
                "LiteLLMUnknownProvider GuardrailRaisedException BlockedPiiEntityError "
                "ModifyResponseException SensitiveDataRouteException"
            ),
            # An answer that is not what it has to be (validation) may be another one next time.
            errors.LMUnavailable: (
                "OpenAIError APIError APIConnectionError APIResponseValidationError "
                "JSONSchemaValidationError InternalServerError ServiceUnavailableError "
                "MidStreamFallbackError BadGatewayError MockException"
            ),
        },
    ),
    # Of a program that spreads its requests with LiteLLM's router: all its deployments are cooling down.
    **_in(
        "litellm.types.router",
        {errors.LMRateLimited: "RouterRateLimitError RouterRateLimitErrorBasic"},
    ),
    # Values, schemas and HTTP of the user's own code: an LM's were turned into the classes above before.
    "pydantic_core._pydantic_core.ValidationError": PYTHON,
    "pydantic.errors.PydanticUserError": PYTHON,
    "httpx.HTTPError": PYTHON,
    "httpx.InvalidURL": PYTHON,
    "httpx.StreamError": PYTHON,
    "httpx.CookieConflict": PYTHON,
    "jsonschema.exceptions._Error": PYTHON,
}

#: A package's name → what those of its classes mean that neither are in the table nor have a parent there.
#: There is none for DSPy, nor for ``litellm.exceptions``: a new class there needs a row.
PACKAGES: dict[str, Row] = {
    # What the provider said, before LiteLLM has made one of its own classes of it.
    "litellm.llms": BY_STATUS,
    # All else of LiteLLM is of its gateway, its callbacks and its tools. No request for a worker goes there.
    "litellm.a2a_protocol": PYTHON,
    "litellm.caching": PYTHON,
    "litellm.harness": PYTHON,
    "litellm.integrations": PYTHON,
    "litellm.litellm_core_utils": PYTHON,
    "litellm.proxy": PYTHON,
    "litellm.repositories": PYTHON,
    "litellm.rust_bridge": PYTHON,
    "litellm.secret_managers": PYTHON,
    "litellm.tool_loop": PYTHON,
    "litellm.tracing": PYTHON,
    "litellm.types": PYTHON,
}


def full_name(kind: type) -> str:
    """The name by which a class is in the table."""
    return f"{kind.__module__}.{kind.__qualname__}"


def find(kind: type[BaseException]) -> Row:
    """What exceptions of a class mean; ``PYTHON`` also for those that nobody knows."""
    names = [full_name(parent) for parent in kind.__mro__]
    return find_by_name(names) or PYTHON


def find_by_name(names: list[str]) -> Row | None:
    """What exceptions of a class mean whose name, and those of its parents, are these, nearest first."""
    for name in names:
        if name in CLASSES:
            return CLASSES[name]
    for name in names:
        package, _, rest = name.partition(".")
        below = f"{package}.{rest.partition('.')[0]}"
        if below in PACKAGES:
            return PACKAGES[below]
    return None
