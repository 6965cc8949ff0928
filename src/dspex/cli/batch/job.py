"""One batch of the command line, from the check of its rows to the file that it writes."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspex
from dspex.adapter.runtime import Runtime
from dspex.cli import signals
from dspex.cli.batch.bar import Tally
from dspex.cli.batch.checked import Checked, open_input
from dspex.cli.batch.drain import Drain
from dspex.cli.batch.estimate import estimate
from dspex.cli.batch.mapped import Mapped
from dspex.cli.batch.program import Asked, ask, asked, fields
from dspex.cli.batch.rows import Form
from dspex.cli.batch.written import Spool, check_output, replacing, write
from dspex.cli.lms import choose
from dspex.cli.show import Progress

_DONE, _FAILED = 0, 1
_STOPPED = signals.exit_code(2)


@dataclass(frozen=True)
class Job:
    """What the command line says; see ``dspex batch --help`` for each.

    Attributes:
        given: Field by column, as ``--map`` has it.
        lm: The LM, its base URL and its key, as they were written.
        how: What ``adapter.batch`` takes beside.
    """

    source: str
    out: str
    module: str
    signature: str | None
    given: Mapping[str, str]
    form_in: Form
    form_out: Form
    lm: tuple[str | None, str | None, str | None]
    timeout: float
    limit: int | None
    journal: str | None
    overwrite: bool
    as_json: bool
    how: Mapping[str, Any]

    def estimate(self) -> int:
        """Check all rows and tell what they would cost; nothing is asked and nothing is written.

        Raises:
            DspexError: Rows, program or LM are wrong.
        """
        check_output(self.out, self.source, self._journal, overwrite=self.overwrite)
        with self._checked() as (settings, chosen, what, rows, known):
            if known is None:
                with self._open(chosen, settings) as runtime:
                    rows.check(Mapped(fields(what, runtime, self.timeout), self.given, self.form_in))
            found = estimate(rows.count, rows.characters, _model(chosen, settings))
        if self.as_json:
            self._tell(found.to_dict())
        else:
            sys.stderr.write(found.text() + "\n")
        return _DONE

    def run(self) -> int:
        """Ask all rows and write the output; gives the exit code.

        Raises:
            DspexError: Nothing could be asked, or the batch could not go on.
            OSError: The output could not be written.
        """
        journal = self._journal
        path = check_output(self.out, self.source, journal, overwrite=self.overwrite)
        with self._checked() as (settings, chosen, what, rows, known), ExitStack() as stack:
            spool = stack.enter_context(
                closing(Spool(Path(tempfile.gettempdir()) if path is None else path.parent))
            )
            with self._open(chosen, settings) as runtime:
                mapped = known or Mapped(fields(what, runtime, self.timeout), self.given, self.form_in)
                if known is None:
                    rows.check(mapped)
                tally = Tally(rows.count, quiet=self.as_json)
                items = map(mapped.inputs, rows)
                how = {**self.how, "journal": journal}
                try:
                    with tally, Drain(tally) as drain:
                        for outcome in ask(what, runtime, drain.until(items), self.timeout, how):
                            spool.add(outcome)
                            tally.add(outcome)
                except (signals.Interrupted, dspex.DspexError, OSError):
                    self._tell_resume(tally, journal)
                    raise
            stopped = drain.asked and tally.done < tally.total
            if stopped and journal is not None:
                self._tell_resume(tally, journal)
            else:
                # Without a journal the output is all that there is, also of a batch that was stopped.
                with replacing(path) as file:
                    names = write(file, self.form_out, rows, rows.columns, spool)
                for field, name in names.renamed.items():
                    tally.say(f"IN has a column {field!r} already: the output is in {name!r}")
        self._summary(tally, stopped=stopped)
        return _STOPPED if stopped else _FAILED if tally.failed or tally.done < tally.total else _DONE

    @property
    def _journal(self) -> Path | None:
        if self.journal is not None:
            return Path(self.journal)
        to_file = self.out != "-" and (not Path(self.out).exists() or Path(self.out).is_file())
        return Path(f"{self.out}.journal") if to_file else None

    @contextmanager
    def _checked(
        self,
    ) -> Iterator[tuple[dspex.Settings, dspex.LM | str | None, Asked, Checked, Mapped | None]]:
        """All that can be told without a process; the rows are checked already where the inputs are known."""
        settings = dspex.Settings()
        chosen = choose(*self.lm, settings)
        what = asked(self.module, self.signature, settings)
        with tempfile.TemporaryDirectory(prefix="dspex-batch-") as folder:
            name = "standard input" if self.source == "-" else self.source
            rows = Checked(open_input(self.source, Path(folder)), self.form_in, self.limit, name)
            mapped = None
            if what.fields is not None:
                mapped = Mapped(what.fields, self.given, self.form_in)
                rows.check(mapped)
            yield settings, chosen, what, rows, mapped

    @contextmanager
    def _open(self, chosen: dspex.LM | str | None, settings: dspex.Settings) -> Iterator[Runtime]:
        runtime = Runtime(chosen, settings=settings)
        with ExitStack() as stack:
            # Its bar is gone before that of the rows begins.
            with Progress(quiet=self.as_json) as progress:
                runtime.on(dspex.LocalModelProgress, progress.show)
                stack.enter_context(runtime)
            yield runtime

    def _tell_resume(self, tally: Tally, journal: Path | None) -> None:
        left = tally.total - tally.done
        if journal is None:
            tally.say(
                f"{left} of {tally.total} rows were not asked, and without --journal nothing is recorded"
            )
        else:
            tally.say(
                f"{left} of {tally.total} rows are left; run the same command again to go on: what is "
                f"recorded in {journal} is not asked again"
            )

    def _summary(self, tally: Tally, *, stopped: bool) -> None:
        if not self.as_json:
            tally.say(tally.text())
            if tally.failed and not stopped and self._journal is not None:
                tally.say("'error' in the output says why rows failed; --retry-failed asks those again")
            return
        self._tell(
            {
                "rows": tally.total,
                "done": tally.done,
                "ok": tally.ok,
                "failed": tally.failed,
                "tokens": tally.tokens,
                "cost": tally.cost if tally.priced else None,
                "stopped": stopped,
            }
        )

    def _tell(self, summary: Mapping[str, Any]) -> None:
        """One line of JSON, where the output is not."""
        print(json.dumps(summary), file=sys.stderr if self.out == "-" else sys.stdout)


def _model(chosen: dspex.LM | str | None, settings: dspex.Settings) -> str | None:
    """The name of the model that would be asked."""
    named = chosen or settings.default_lm
    if isinstance(named, dspex.LM):
        return named.model
    profile = settings.lms.get(named or "")
    return named if profile is None else str(profile["model"])
