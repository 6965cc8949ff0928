"""``dspex batch``: a file of rows in, the same rows with their answers out."""

from __future__ import annotations

from typing import Annotated

import typer

import dspex
from dspex.cli.batch.job import Job
from dspex.cli.batch.mapped import pairs
from dspex.cli.batch.rows import form_of
from dspex.cli.run import USAGE
from dspex.cli.show import problem

_FAILED, _BAD_USAGE = 1, 2

#: Shown under ``dspex batch --help``.
EXAMPLES = """\b
Examples:
  dspex batch questions.csv answers.csv Predict "question -> answer"
  dspex batch in.jsonl out.jsonl ChainOfThought "text -> topics: list[str]" --lm openai/gpt-5-mini
  dspex batch mails.csv out.csv triage --map Body=text     # a program of the settings file
  dspex batch in.csv out.csv Predict "question -> answer" --dry-run
  dspex batch in.csv out.csv Predict "question -> answer" --limit 20 --max-cost 0.50
  dspex batch in.csv out.csv Predict "question -> answer" --retry-failed
  cat in.jsonl | dspex batch - - Predict "question -> answer" --format jsonl > out.jsonl
"""


def batch(
    source: Annotated[str, typer.Argument(metavar="IN", help="JSON Lines or CSV; '-' is standard input.")],
    out: Annotated[
        str, typer.Argument(metavar="OUT", help="The same, written whole at the end; '-' is standard output.")
    ],
    module: Annotated[
        str,
        typer.Argument(
            help="As `dspex run` takes it: a module of DSPy's or your own, or a program of the settings."
        ),
    ],
    signature: Annotated[
        str | None,
        typer.Argument(
            help="What goes in and what comes out: 'question -> answer'; only of modules of DSPy's."
        ),
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="COLUMN=FIELD",
            help="A column that fills a field of another name; may be given often.",
        ),
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="jsonl or csv, of both; default: what the names end in.")
    ] = None,
    lm: Annotated[str | None, typer.Option(help="As of `dspex run`.")] = None,
    base_url: Annotated[str | None, typer.Option(help="Server that speaks the provider's protocol.")] = None,
    api_key: Annotated[
        str | None, typer.Option(help="Where the key is: 'env:NAME', 'file:/path', 'keyring:service/user'.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds for each row.")] = 120.0,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Rows at once; default: as many as the workers and the LM take.")
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, help="How often a row that failed for a passing reason is asked again.")
    ] = 0,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Ask rows again that failed in an earlier run.")
    ] = False,
    max_errors: Annotated[int | None, typer.Option(min=1, help="Stop after this many failed rows.")] = None,
    max_cost: Annotated[
        float | None, typer.Option(min=0.0, help="Stop when this many dollars are spent.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows.")] = None,
    journal: Annotated[
        str | None, typer.Option(help="Where each row is recorded as it ends; default: OUT.journal.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an OUT that is there.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check all rows and estimate tokens and price; ask nothing, write nothing."
        ),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Tell how it went as one JSON object (on standard error when OUT is '-')."
        ),
    ] = False,
) -> None:
    """Run a program over the rows of a file.

    Columns fill the input fields of the same names. OUT has all columns of IN, the output fields, and, for
    rows that failed, why. The same command run again goes on where it was stopped: what is recorded in the
    journal beside OUT is not asked again.

    Exit codes: 0 all rows answered, 1 some failed, 2 the command line or the file is wrong and nothing was
    asked, 130 Ctrl-C: what ran was let end; a second Ctrl-C stops at once.
    """
    try:
        job = Job(
            source=source,
            out=out,
            module=module,
            signature=signature,
            given=pairs(mapping or []),
            form_in=form_of(source, form),
            form_out=form_of(out, form),
            lm=(lm, base_url, api_key),
            timeout=timeout,
            limit=limit,
            journal=journal,
            overwrite=overwrite,
            as_json=as_json,
            how={
                "concurrency": concurrency,
                "retries": retries,
                "retry_failed": retry_failed,
                "max_errors": max_errors,
                "max_cost": max_cost,
            },
        )
        code = job.estimate() if dry_run else job.run()
    except dspex.DspexError as error:
        problem(error, as_json=as_json, hints=not isinstance(error, dspex.InvalidInput))
        raise typer.Exit(_BAD_USAGE if isinstance(error, USAGE) else _FAILED) from None
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        lost = dspex.StoreError(
            f"{error.filename or out}: {error.strerror}; make room, and run the same command again: what is "
            "recorded is not asked again"
        )
        problem(lost, as_json=as_json)
        raise typer.Exit(_FAILED) from None
    raise typer.Exit(code)
