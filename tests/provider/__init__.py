"""A language-model provider on the loopback interface, whose replies a test scripts.

It speaks OpenAI chat completions, Anthropic messages and Gemini ``generateContent`` over HTTP/1.1::

    with Provider() as provider:
        provider.reply = sequence(fault(429, retry_after=0.1), fields(answer="Paris"))
        lm = dspy.LM("openai/x", api_base=provider.base_url, api_key="k", engine="lm15")

Left alone it answers every output field that a DSPy prompt asks for. ``python tests/provider --delay 0.2``
runs it in a process of its own, so that its CPU is not in the measured one.
"""

from tests.provider.replies import (
    Reply,
    Script,
    delayed,
    dropped,
    echo,
    fault,
    fields,
    garbage,
    hanging,
    html,
    paced,
    redirected,
    sequence,
    text,
    truncated,
)
from tests.provider.request import Request
from tests.provider.server import Provider

__all__ = [
    "Provider",
    "Reply",
    "Request",
    "Script",
    "delayed",
    "dropped",
    "echo",
    "fault",
    "fields",
    "garbage",
    "hanging",
    "html",
    "paced",
    "redirected",
    "sequence",
    "text",
    "truncated",
]
