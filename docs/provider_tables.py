"""The providers as tables, for ``generate.py``."""

from __future__ import annotations

from collections.abc import Iterable

from render import table

from dspex.lm.providers import CREDENTIALS, PROVIDERS, Option, Provider

_BEGIN, _END = "<!-- written: providers -->", "<!-- /written -->"


def overview() -> str:
    """A row for each provider: how a model is written, where the key is, which engine asks."""
    rows = [
        (
            row.title,
            f"`{row.name}/{row.model}`" if row.model else f"`{row.name}`",
            _either(row.variables) or ("see below" if row.identity else "needs none"),
            _address(row),
            "the embedded server" if row.name == "local" else "LiteLLM" if row.litellm else "DSPy's own",
        )
        for row in PROVIDERS.values()
    ]
    return table(("Provider", "Model, for example", "Variable with the key", "Address", "Engine"), rows)


def options() -> str:
    """A row for each option of a connection."""
    rows: list[tuple[str, str, str, str]] = []
    for row in PROVIDERS.values():
        more = (CREDENTIALS,) if row.identity else ()
        rows += [_option(row, option) for option in (*row.options, *more)]
    return table(("Provider", "Option of `LM`", "Meaning", "Variable, if it is not given"), rows)


def names() -> str:
    """A row for each provider that has other names, too."""
    rows = []
    for row in PROVIDERS.values():
        others = [name for name in (row.prefix, *row.aliases) if name != row.name]
        if others:
            rows.append((f"`{row.name}`", ", ".join(f"`{name}`" for name in others)))
    return table(("Provider", "Also understood"), rows)


def put_into(page: str) -> str:
    """A page with the overview and the options written between its marks."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{overview()}\n\nOptions of the connection:\n\n{options()}\n{_END}{after}"


def _either(variables: Iterable[str]) -> str:
    return ", else ".join(f"`{name}`" for name in variables)


def _address(row: Provider) -> str:
    if row.base_url_variables:
        return f"`base_url`, else {_either(row.base_url_variables)}"
    if row.needs_base_url:
        return "`base_url`"
    return f"`{row.base_url}`" if row.base_url else "its own"


def _option(row: Provider, option: Option) -> tuple[str, str, str, str]:
    variables = _either(option.variables) or "none"
    return (
        f"`{row.name}`",
        f"`{option.name}`",
        f"{option.meaning}; needed" if option.needed else option.meaning,
        variables,
    )
