"""Addresses that are refused, and that no password in one is repeated."""

from __future__ import annotations

import pytest

from dspex import LM
from dspex.errors import InvalidOption, LMNotConfigured

KEY = "canary-key-4711"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://h/v1/chat/completions", "'https://h/v1', not"),
        ("https://h/v1/messages/", "'https://h/v1', not"),
        ("https://h/v1beta/models/x:generateContent", "not 'https://h"),
        ("https://h/openai/deployments/x?api-version=1", r"api_version=\.\.\."),
    ],
)
def test_an_endpoint_is_no_base_url(url: str, said: str) -> None:
    """Requests would go to `/chat/completions/chat/completions`, and be refused in the provider's words."""
    with pytest.raises(InvalidOption, match=said) as caught:
        LM("openai/x", base_url=url)
    assert caught.value.details == {"option": "base_url"}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"https://shop:{KEY}@h/v1", "extra_headers"),
        (f"https://{KEY}@h/v1", "extra_headers"),
        (f"https://shop:{KEY}@h/v1/chat/completions", "extra_headers"),
        (f"shop:{KEY}@h/v1", "a URL such as"),
        (f"ftp://shop:{KEY}@h/v1", "a URL such as"),
        (f"http://[{KEY}", "a URL such as"),
        (f"http://shop:{KEY}", "a port"),
        ("http://", "a host"),
        ("http:///v1", "a host"),
        ("http://:80/v1", "a host"),
        ("http://h:99999/v1", "a port"),
        ("http://h:0/v1", "a port"),
        ("http://a b/v1", "no blanks"),
        ("http://h\n/v1", "no blanks"),
    ],
)
def test_what_is_no_address_is_refused_and_not_repeated(url: str, said: str) -> None:
    """A password would be shown wherever the address is, or a `ValueError` say nothing of `base_url`."""
    with pytest.raises(InvalidOption, match=said) as caught:
        LM("openai/x", base_url=url)
    assert caught.value.details == {"option": "base_url"}
    assert KEY not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_a_wrong_address_in_a_variable_is_told_with_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The password of an address that the environment has would be sent nowhere, and shown."""
    monkeypatch.setenv("AZURE_API_BASE", f"https://shop:{KEY}@h")
    with pytest.raises(LMNotConfigured, match="AZURE_API_BASE: base_url holds no user") as caught:
        LM("azure/x", api_key="k").fetch_base_url()
    assert caught.value.details == {"variable": "AZURE_API_BASE"}
    assert KEY not in repr(caught.value)
