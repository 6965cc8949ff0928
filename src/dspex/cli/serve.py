"""``dspex serve``: programs over HTTP."""

from __future__ import annotations

import asyncio
import logging
from importlib.util import find_spec
from typing import Annotated, Any

import typer

import dspex
from dspex.adapter.runtime import Runtime
from dspex.cli import signals
from dspex.cli.lms import choose
from dspex.cli.run import USAGE
from dspex.cli.show import problem
from dspex.lm import secrets
from dspex.telemetry.logs import FORMS, Lines

_FAILED, _BAD_USAGE = 1, 2
_LEVELS = frozenset({"debug", "info", "warning", "error"})
_FORMS = frozenset(FORMS)
#: Shown under ``dspex serve --help``.
EXAMPLES = """\b
Examples:
  dspex serve --lm openai/gpt-5-mini
  dspex serve --port 8080 --workers 4 --store sessions.db
  dspex serve --host 0.0.0.0 --key env:DSPEX_SERVER_KEY
  dspex serve --tenant-key acme=env:ACME_KEY --tenant-key globex=file:/run/secrets/globex
  curl localhost:8000/v1/generate -H 'content-type: application/json' -d '{"prompt": "Why is the sky blue?"}'
"""


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; one that others can reach needs --key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 is any that is free.")] = 8000,
    lm: Annotated[
        str | None,
        typer.Option(help="LM of calls that name none, as of `dspex run`."),
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="Server that speaks the provider's protocol: vLLM, Ollama, a gateway.")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(help="Where the provider's key is: 'env:NAME', 'file:/path', 'keyring:service/user'."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(help="Where the key is that callers have to show: 'env:NAME', 'file:/path', ..."),
    ] = None,
    tenant_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TENANT=REFERENCE",
            help="A tenant, and where the key is by which it is known: 'acme=env:ACME_KEY'; repeatable.",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Workers of the pool 'general'. Default: one per core.")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            help="Where sessions are kept: 'memory', a file, a database URL. Default: the settings'."
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.001, help="The most seconds that a call may take.")] = 120.0,
    drain: Annotated[
        float, typer.Option(min=1, help="Seconds that requests have to end on SIGTERM and Ctrl-C.")
    ] = 30.0,
    allow_models: Annotated[
        bool, typer.Option("--allow-models", help="Let callers name models, and not only profiles.")
    ] = False,
    max_body: Annotated[int, typer.Option(min=1, help="MiB that the body of a request may have.")] = 64,
    log: Annotated[
        str,
        typer.Option(
            help="What is logged to standard error: debug, info, warning or error; and how: text or json; "
            "both as debug,json. Default: info, as the settings' log says, or text."
        ),
    ] = "info",
    quiet: Annotated[bool, typer.Option("--quiet", help="No line for each request.")] = False,
) -> None:
    """Serve programs over HTTP, until SIGTERM, SIGHUP or Ctrl-C.

    Settings are read from dspex.toml, or [tool.dspex] in pyproject.toml, here or above; $DSPEX_SETTINGS names
    another file. The OpenAPI document is at /openapi.json.

    Exit codes: 0 stopped by a signal, 1 it could not start, 2 the command line is wrong.
    """
    try:
        if find_spec("fastapi") is None or find_spec("uvicorn") is None:
            raise dspex.InvalidOption(
                "dspex serve needs the extra 'server': pip install 'dspex[server]'",
                details={"extra": "server"},
            )
        from dspex.server.serving import check_address

        lines = _log_to_stderr(log, quiet=quiet)
        check_address(host, key or tenant_key or None)
        keys = {"": _reference(key)} if key is not None else {}
        keys |= _tenants(tenant_key or [])
        settings = dspex.Settings()
        if settings.log is not None and not _FORMS & _words(log):
            lines.setFormatter(FORMS[settings.log]())
        chosen = choose(lm, base_url, api_key, settings)
        pools: dict[str, Any] = {} if workers is None else {"general": {"workers": workers}}
        runtime = Runtime(chosen, pools=pools, store=store, settings=settings)
        options = {"timeout": timeout, "allow_models": allow_models, "max_body": max_body * 2**20}
        asyncio.run(_serve(runtime, host, port, keys, drain, options))
    except signals.Interrupted:  # before anything was open
        raise typer.Exit from None
    except dspex.DspexError as error:
        problem(error, as_json=False)
        raise typer.Exit(_BAD_USAGE if isinstance(error, USAGE) else _FAILED) from None


async def _serve(
    runtime: Runtime,
    host: str,
    port: int,
    keys: dict[str, str],
    drain: float,
    options: dict[str, Any],
) -> None:
    from dspex.server.app import create_app
    from dspex.server.serving import Server, leaving_on_signals

    with leaving_on_signals():
        shown = {name: await _fetched(reference) for name, reference in keys.items()}
        own = shown.pop("", None)
        async with runtime:
            app = create_app(runtime, key=own, tenant_keys=shown, opens=False, **options)
            server = Server(app, host, port, drain)
            try:
                await server.serve()
            except SystemExit:  # uvicorn's end when the address is taken; it has logged why
                raise typer.Exit(_FAILED) from None


def _reference(key: str, option: str = "key", tenant: str = "") -> str:
    if not secrets.is_reference(key):
        raise dspex.InvalidOption(
            "a key on a command line can be read by everybody on this machine; put it in a variable and "
            f"pass --{option} {tenant}env:NAME, or into a file: --{option} {tenant}file:/path",
            details={"option": option},
        )
    return key


def _tenants(given: list[str]) -> dict[str, str]:
    """Where the keys of tenants are, by tenant."""
    found: dict[str, str] = {}
    for one in given:
        name, equals, reference = one.partition("=")
        if not equals or not name or name in found:
            why = f"{name!r} is there twice" if name in found else "as in acme=env:ACME_KEY"
            raise dspex.InvalidOption(
                f"--tenant-key is a tenant and where its key is, {why}", details={"option": "tenant-key"}
            )
        found[name] = _reference(reference, "tenant-key", f"{name}=")
    return found


async def _fetched(reference: str) -> str:
    key = (
        await secrets.Keys().fetch(reference) if secrets.takes_time(reference) else secrets.fetch(reference)
    ).strip()
    if not key:
        raise dspex.InvalidOption(f"the key at {reference} is empty", details={"option": "key"})
    return key


def _words(log: str) -> set[str]:
    return {word.strip() for word in log.split(",")}


def _log_to_stderr(log: str, *, quiet: bool) -> Lines:
    words = _words(log)
    levels, forms = words & _LEVELS, words & _FORMS
    if words - levels - forms or len(levels) > 1 or len(forms) > 1:
        raise dspex.InvalidOption(
            "--log is debug, info, warning or error, with text or json after a comma where that is wanted, "
            f"not {log!r}",
            details={"option": "log"},
        )
    lines = Lines(next(iter(forms), "text"))
    for name in ("dspex", "uvicorn"):
        logging.getLogger(name).addHandler(lines)
        logging.getLogger(name).setLevel(next(iter(levels), "info").upper())
    if quiet:
        logging.getLogger("dspex.server").setLevel(logging.WARNING)
    return lines
