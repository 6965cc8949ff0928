"""The providers that dspex knows, and what each needs: one row each."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from dspex.errors import UnknownProvider


@dataclass(frozen=True)
class Option:
    """One thing that a connection to a provider needs besides key and address.

    Attributes:
        name: The keyword of ``LM``, as LiteLLM and DSPy call it.
        meaning: What it is.
        variables: Environment variables that may hold it, in order.
        secret: Whether it is a credential: never shown, and never read from a variable for a ``base_url``.
        needed: Whether there is no connection without it.
        half: Whether it is no credential without its other half.
        header: The header that it is sent as.
    """

    name: str
    meaning: str
    variables: tuple[str, ...] = ()
    secret: bool = False
    needed: bool = False
    half: bool = False
    header: str | None = None


@dataclass(frozen=True)
class Provider:
    """One provider of language models.

    Attributes:
        name: What users call it, and what model names begin with.
        title: Its own name, and what is meant by a model.
        model: The name of a model there, for example.
        variables: Environment variables that may hold its key, in order; none if it needs no key.
        dspy: What DSPy's model names begin with; None is ``name``.
        aliases: Other names that are understood.
        base_url: Its address, where DSPy does not know it.
        base_url_variables: Variables that may hold its address; with any, there is no address of its own.
        needs_base_url: Whether only the user knows its address.
        options: What else a connection takes.
        identity: Whether it may know the machine or a file of credentials in place of a key.
        litellm: Whether requests go through LiteLLM. All others go through DSPy's own HTTP engine, which
            costs a fraction of the CPU.
    """

    name: str
    title: str
    model: str
    variables: tuple[str, ...] = ()
    dspy: str | None = None
    aliases: tuple[str, ...] = ()
    base_url: str | None = None
    base_url_variables: tuple[str, ...] = ()
    needs_base_url: bool = False
    options: tuple[Option, ...] = ()
    identity: bool = False
    litellm: bool = False

    @property
    def prefix(self) -> str:
        """What DSPy's model names begin with."""
        return self.dspy or self.name


_AZURE = (
    Option(
        "api_version", "asks the deployment's classic address with this `api-version`; None asks `/openai/v1`"
    ),
)
_OPENAI = (
    Option("organization", "sent as `OpenAI-Organization`", header="OpenAI-Organization"),
    Option("project", "sent as `OpenAI-Project`", header="OpenAI-Project"),
)
_BEDROCK = (
    Option("aws_region_name", "region", ("AWS_REGION_NAME", "AWS_REGION", "AWS_DEFAULT_REGION"), needed=True),
    Option("aws_access_key_id", "an access key", ("AWS_ACCESS_KEY_ID",), secret=True, half=True),
    Option("aws_secret_access_key", "its secret", ("AWS_SECRET_ACCESS_KEY",), secret=True, half=True),
    Option("aws_session_token", "its token, if it is temporary", ("AWS_SESSION_TOKEN",), secret=True),
    Option("aws_profile_name", "a profile of the workers' `~/.aws`"),
    Option("aws_role_name", "ARN of a role to assume"),
    Option("aws_session_name", "name of the session with that role"),
)
_VERTEX = (
    Option("vertex_project", "project", ("VERTEXAI_PROJECT", "GOOGLE_CLOUD_PROJECT"), needed=True),
    Option("vertex_location", "location; None is `global`", ("VERTEXAI_LOCATION", "GOOGLE_CLOUD_LOCATION")),
    Option(
        "vertex_credentials",
        "credentials file of a service account or a user: its path or its JSON",
        ("GOOGLE_APPLICATION_CREDENTIALS",),
        secret=True,
    ),
)
#: Names the machine's own identity in place of a key: a role of the instance, a signed-in developer.
CREDENTIALS = Option("credentials", '`"ambient"`: the identity that the workers find by themselves')

_ALL = (
    Provider("openai", "OpenAI", "gpt-5-mini", ("OPENAI_API_KEY",), options=_OPENAI),
    Provider("anthropic", "Anthropic", "claude-haiku-4-5", ("ANTHROPIC_API_KEY",)),
    Provider("gemini", "Gemini", "gemini-2.5-flash", ("GEMINI_API_KEY", "GOOGLE_API_KEY")),
    Provider(
        "azure",
        "Azure OpenAI; the model is the deployment",
        "my-deployment",
        ("AZURE_API_KEY", "AZURE_OPENAI_API_KEY"),
        base_url_variables=("AZURE_API_BASE", "AZURE_OPENAI_ENDPOINT"),
        options=_AZURE,
    ),
    Provider("groq", "Groq", "openai/gpt-oss-120b", ("GROQ_API_KEY",)),
    Provider("deepseek", "DeepSeek", "deepseek-chat", ("DEEPSEEK_API_KEY",)),
    Provider("openrouter", "OpenRouter", "meta-llama/llama-3.3-70b-instruct", ("OPENROUTER_API_KEY",)),
    Provider("xai", "xAI", "grok-4.3", ("XAI_API_KEY",)),
    Provider(
        "mistral",
        "Mistral",
        "mistral-small-latest",
        ("MISTRAL_API_KEY",),
        base_url="https://api.mistral.ai/v1",
    ),
    Provider(
        "together",
        "Together AI",
        "meta-llama/Llama-3.3-70B-Instruct-Turbo",
        ("TOGETHER_API_KEY", "TOGETHERAI_API_KEY", "TOGETHER_AI_API_KEY"),
        dspy="together_ai",
        base_url="https://api.together.xyz/v1",
    ),
    Provider(
        "fireworks",
        "Fireworks AI",
        "accounts/fireworks/models/llama-v3p3-70b-instruct",
        ("FIREWORKS_API_KEY", "FIREWORKS_AI_API_KEY"),
        dspy="fireworks_ai",
        base_url="https://api.fireworks.ai/inference/v1",
    ),
    Provider(
        "bedrock",
        "Amazon Bedrock",
        "us.anthropic.claude-haiku-4-5-20251001-v1:0",
        ("AWS_BEARER_TOKEN_BEDROCK",),
        options=_BEDROCK,
        identity=True,
        litellm=True,
    ),
    Provider(
        "vertex",
        "Vertex AI; Gemini and Claude models",
        "gemini-2.5-flash",
        dspy="vertex_ai",
        options=_VERTEX,
        identity=True,
    ),
    Provider("ollama", "Ollama", "llama3.2", dspy="ollama_chat", base_url="http://localhost:11434/v1"),
    Provider("vllm", "vLLM", "qwen3", dspy="hosted_vllm", base_url="http://localhost:8000/v1"),
    Provider("lm_studio", "LM Studio", "qwen3", base_url="http://localhost:1234/v1"),
    Provider(
        "openai_compatible",
        "any other server that speaks OpenAI's chat completions",
        "my-model",
        dspy="custom_openai",
        aliases=("openai_like",),
        needs_base_url=True,
    ),
    Provider("local", "the embedded model", ""),
)
PROVIDERS = {provider.name: provider for provider in _ALL}
_BY_ANY_NAME = {name: row for row in _ALL for name in (row.name, row.prefix, *row.aliases)}


def find(name: object) -> Provider:
    """The provider of that name, its own, DSPy's or another that is understood.

    Raises:
        UnknownProvider: There is none; the message lists those there are.
    """
    name = str(name)
    if name in _BY_ANY_NAME:
        return _BY_ANY_NAME[name]
    near = difflib.get_close_matches(name, _BY_ANY_NAME, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UnknownProvider(
        f"unknown provider {name!r}; {hint}Known: {', '.join(PROVIDERS)}. Any other server that speaks "
        "OpenAI's protocol: LM('openai_compatible/<model>', base_url='https://...'). Any other provider that "
        "LiteLLM knows: LM('<provider>/<model>', engine='litellm')",
        details={"provider": name, "known": list(PROVIDERS)},
    )
